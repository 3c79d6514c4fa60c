"""The self-test: whether a gateway with these settings could do its job here, and what is dangerous about what it would find."""

from __future__ import annotations

import asyncio
import datetime
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx

from discovery.consul import Consul
from discovery.instance import ConsulAgent, ConsulQuery
from discovery.reply import ConsulError
from gateway.admission.heartbeat import Heartbeat
from gateway.assembly import SELF_TEST, with_store_url
from gateway.auth.authenticator import Authenticator
from gateway.config.caution import EXPIRES_SOON_DAYS
from gateway.errors import ConfigError
from gateway.finding import Finding, Level
from gateway.server.serving import bound_socket
from gateway.settings import Settings
from gateway.store.embedded import EmbeddedServer
from gateway.store.error import StoreError
from gateway.store.examination import examine
from gateway.store.redis import Store
from gateway.upstream.tls import client_context

KEYS_SECONDS = 5.0
#: Replicas beat once a second, and say with each beat whom they see.
PEER_SECONDS = 4.0


async def diagnose(settings: Settings) -> list[Finding]:
    """Everything that can be known without serving. Nothing is changed, and nothing stays behind."""
    findings = [*_ports(settings), *_certificates(settings), await _keys(settings)]
    async with _store(settings) as store:
        if isinstance(store, Finding):
            findings.append(store)
        else:
            examined = await examine(store)
            findings += examined
            if not any(finding.what == "store" and finding.level == "problem" for finding in examined):
                findings.append(await _peers(store))
    if settings.consul is not None:
        findings += await _services(settings.consul, settings)
    return findings


def _ports(settings: Settings) -> Iterator[Finding]:
    for what, section in (("server", settings.server), ("admin", settings.admin)):
        try:
            bound_socket(section.host, section.port, what).close()
        except ConfigError as error:
            yield Finding("port", "problem", str(error))
        else:
            yield Finding("port", "good", f"{what}: {section.host}:{section.port} is free")


def _certificates(settings: Settings) -> Iterator[Finding]:
    for key, certificate in settings.certificates.items():
        until = datetime.datetime.fromtimestamp(certificate.not_after, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        level: Level = "warning" if certificate.not_after < time.time() + EXPIRES_SOON_DAYS * 86_400 else "good"
        yield Finding("certificate", level, f"{key}: valid until {until}")
    for name, service in settings.services.items():
        try:
            client_context(service.tls, name)
        except ConfigError as error:
            yield Finding("certificate", "problem", str(error))


async def _keys(settings: Settings) -> Finding:
    """Whether every issuer's keys can be read now."""
    async with httpx.AsyncClient(trust_env=False, timeout=KEYS_SECONDS) as http:
        try:
            authenticator = Authenticator(settings.authentication, http, _NoApiKeys())
        except ConfigError as error:
            return Finding("keys", "problem", str(error))
        try:
            await authenticator.start()
            ready = await authenticator.wait_until_ready(KEYS_SECONDS)
        except ConfigError as error:
            return Finding("keys", "problem", str(error))
        finally:
            await authenticator.close()
    if not ready:
        return Finding("keys", "problem", f"the keys of an issuer can't be fetched within {KEYS_SECONDS:g} s (see the log)")
    return Finding("keys", "good", f"keys of {len(settings.authentication.issuers)} issuers are readable")


class _NoApiKeys:
    """API keys are not looked at here."""

    async def execute_command(self, *args: object, **options: object) -> object:
        raise AssertionError("nobody verifies an API key")


@asynccontextmanager
async def _store(settings: Settings) -> AsyncIterator[Store | Finding]:
    """The store of the settings; an embedded one is started for this."""
    embedded = None
    try:
        if settings.state.url.startswith("embedded:"):
            embedded = EmbeddedServer.from_url(settings.state.url)
            settings = with_store_url(settings, embedded.start())
        store = Store.open(settings.state)
    except ConfigError as error:
        if embedded is not None:
            embedded.stop()
        yield Finding("store", "problem", str(error))
        return
    try:
        yield store
    finally:
        await store.close()
        if embedded is not None:
            embedded.stop()


async def _peers(store: Store) -> Finding:
    """A name that nobody else has, told as a replica would: another replica has to see it."""
    nonce = f"{SELF_TEST}{secrets.token_hex(8)}"
    heartbeat = Heartbeat(store, nonce, dict)
    try:
        await heartbeat.start()
        async with asyncio.timeout(PEER_SECONDS):
            while True:
                peers = [replica for replica in await heartbeat.describe() if not str(replica["name"]).startswith(SELF_TEST)]
                if not peers:
                    return Finding("peers", "good", "no other replica uses the store now")
                if seen := [str(peer["name"]) for peer in peers if nonce in _texts(peer.get("sees"))]:
                    return Finding("peers", "good", f"{seen[0]} read what was written here; {len(peers)} replicas use the store")
                await asyncio.sleep(0.1)
    except ConfigError as error:
        return Finding("peers", "problem", str(error))
    except StoreError as error:
        return Finding("peers", "warning", f"it can't be told who else uses the store: {error}")
    except TimeoutError:
        return Finding("peers", "problem", f"{len(peers)} replicas use the store, and none of them read what was written here")
    finally:
        await heartbeat.close()


def _texts(value: object) -> list[object]:
    return value if isinstance(value, list) else []


async def _services(agent: ConsulAgent, settings: Settings) -> list[Finding]:
    try:
        consul = Consul(agent)
    except ConsulError as error:
        return [Finding("consul", "problem", str(error))]
    try:
        queries = {name: service.consul for name, service in settings.services.items() if service.consul is not None}
        return [await _service(consul, name, query) for name, query in queries.items()]
    finally:
        await consul.close()


async def _service(consul: Consul, name: str, query: ConsulQuery) -> Finding:
    try:
        reply = await consul.health(query, 0)
    except ConsulError as error:
        return Finding("consul", "problem", f"service {name}: {error}")
    if not reply.entries:
        return Finding("consul", "warning", f"service {name}: no instance passes its checks, or the token may not see it")
    return Finding("consul", "good", f"service {name}: {len(reply.entries)} instances")
