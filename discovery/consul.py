"""Consul, spoken through py-consul with a transport of our own, and the source that watches a service there.

py-consul builds the requests and knows the endpoints; it leaves the transport to whoever plugs one in (`consul.base.HTTPClient`). Ours
is httpx: a deadline for each request, cancellation, TLS and Unix sockets, and nothing taken from the environment.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
import orjson
from consul import base
from consul.exceptions import ConsulException

from discovery.catalog import Loopback, Reading, Rules, is_loopback, read
from discovery.instance import ConsulAgent, ConsulQuery
from discovery.pacing import Backoff, TokenBucket
from discovery.source import Failed, Found, Publish

logger = logging.getLogger("discovery.consul")

T = TypeVar("T")

#: A query that does not block. A leaderless agent takes 7 s to say so.
REQUEST_SECONDS = 10.0
#: Connecting is bounded apart, well below every deadline of ours: httpx loses a connection's place when it is cancelled in this phase.
CONNECT_SECONDS = 3.0
#: Consul adds up to a sixteenth of `wait` as jitter; the rest is for the network and a busy agent [blocking.mdx].
WAIT_FACTOR = 17 / 16
WAIT_MARGIN_SECONDS = 5.0
#: A bound against whatever else answers at this address. 10,000 instances take about 10 MiB.
MAXIMUM_REPLY_BYTES = 32 * 1024 * 1024
#: Consul closes further connections of one client address beyond 200 (`http_max_conns_per_client`).
MAXIMUM_CONNECTIONS = 190
#: A service that changes all the time is read four times a second at most, after a burst of two.
BURST = 2
INTERVAL_SECONDS = 0.25


class ConsulError(Exception):
    """Consul could not be asked, or its answer can't be trusted. The message is one line for operators."""


class Transport(base.HTTPClient):  # type: ignore[misc]
    """py-consul's pluggable transport, on one shared httpx client.

    Args:
        agent: where and how to connect.

    Raises:
        ConsulError: the URL or a certificate file can't be used.
    """

    def __init__(self, agent: ConsulAgent) -> None:
        address = _address(agent.url)
        super().__init__(address.host, address.port, address.scheme)
        self._url = f"Consul at {agent.url}"
        limits = httpx.Limits(max_connections=MAXIMUM_CONNECTIONS, max_keepalive_connections=MAXIMUM_CONNECTIONS)
        transport = httpx.AsyncHTTPTransport(verify=_tls(agent), uds=address.socket or None, limits=limits, trust_env=False)
        self._http = httpx.AsyncClient(transport=transport, trust_env=False)

    def get(
        self,
        callback: Callable[[base.Response], T],
        path: str,
        params: Sequence[tuple[str, object]] | None = None,
        headers: Mapping[str, str] | None = None,
        raw: bool = False,
        timeout_seconds: float = REQUEST_SECONDS,
    ) -> Awaitable[T]:
        """GET."""
        return self._request("GET", callback, self.uri(path, params), headers, b"", timeout_seconds)

    def put(
        self,
        callback: Callable[[base.Response], T],
        path: str,
        params: Sequence[tuple[str, object]] | None = None,
        data: str | bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Awaitable[T]:
        """PUT."""
        return self._request("PUT", callback, self.uri(path, params), headers, data, REQUEST_SECONDS)

    def delete(
        self,
        callback: Callable[[base.Response], T],
        path: str,
        params: Sequence[tuple[str, object]] | None = None,
        data: str | bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Awaitable[T]:
        """DELETE."""
        return self._request("DELETE", callback, self.uri(path, params), headers, data, REQUEST_SECONDS)

    def post(
        self,
        callback: Callable[[base.Response], T],
        path: str,
        params: Sequence[tuple[str, object]] | None = None,
        data: str | bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Awaitable[T]:
        """POST."""
        return self._request("POST", callback, self.uri(path, params), headers, data, REQUEST_SECONDS)

    def close(self) -> Awaitable[None]:
        """Close all connections."""
        return self._http.aclose()

    async def _request(
        self,
        method: str,
        callback: Callable[[base.Response], T],
        uri: str,
        headers: Mapping[str, str] | None,
        data: str | bytes,
        timeout_seconds: float,
    ) -> T:
        timeout = httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS)
        try:
            # httpx bounds each step, the outer one bounds their sum: a server that sends a byte now and then must not hold us.
            async with asyncio.timeout(timeout_seconds):
                async with self._http.stream(method, uri, headers=headers, content=data, timeout=timeout) as response:
                    body = await _bounded(response)
        except httpx.ConnectTimeout as exc:
            raise ConsulError(f"{self._url} does not take a connection within {CONNECT_SECONDS} s") from exc
        except (TimeoutError, httpx.TimeoutException) as exc:
            raise ConsulError(f"no answer from {self._url} within {timeout_seconds:.1f} s") from exc
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
            raise ConsulError(f"{self._url} can't be reached: {_one_line(exc) or type(exc).__name__}") from exc
        try:
            return callback(base.Response(response.status_code, response.headers, body))
        except ConsulException as exc:
            raise ConsulError(f"Consul refused: {_one_line(exc)}") from exc


class _Api(base.Consul):  # type: ignore[misc]
    """py-consul on our transport, with our token only: the base class would prefer CONSUL_HTTP_TOKEN to the one it is given."""

    def __init__(self, agent: ConsulAgent) -> None:
        self._agent = agent
        address = _address(agent.url)
        super().__init__(address.host, address.port, scheme=address.scheme, dc=agent.datacenter or None, verify=True)
        self.token = agent.token or None

    def http_connect(self, host: str, port: int, scheme: str, verify: bool | str = True, cert: object = None) -> Transport:
        return Transport(self._agent)


@dataclass(frozen=True, slots=True)
class Reply:
    """A health reply: entries as decoded, and what its header fields say about it."""

    entries: list[object]
    index: int
    known_leader: bool
    last_contact_seconds: float


class Consul:
    """One agent, as the sources and registrations of a process use it. A reload that keeps the object keeps the watches.

    Args:
        agent: where it is and how to speak to it.

    Raises:
        ConsulError: from the constructor when the settings can't be used, from methods when Consul can't be asked or refuses.
    """

    def __init__(self, agent: ConsulAgent) -> None:
        self.agent = agent
        self.rules = Rules(warning=agent.warning, loopback=_loopback(agent))
        self._api = _Api(agent)

    def __repr__(self) -> str:
        return f"<Consul {self.agent.url}>"

    async def close(self) -> None:
        """Close the connections."""
        await self._api.http.close()

    def source(self, query: ConsulQuery) -> ConsulSource:
        """The source of a service."""
        return ConsulSource(self, query)

    async def health(self, query: ConsulQuery, index: int) -> Reply:
        """The instances of a service (SPEC D1): at once when `index` is 0, else when they have changed or the wait is over."""
        params: list[tuple[str, object]] = [("tag", tag) for tag in query.tags]
        if not self.agent.warning:
            params.append(("passing", "1"))
        if datacenter := query.datacenter or self.agent.datacenter:
            params.append(("dc", datacenter))
        timeout_seconds = REQUEST_SECONDS
        if index:
            params += (("index", index), ("wait", f"{self.agent.wait_seconds * 1000:.0f}ms"))
            timeout_seconds = self.agent.wait_seconds * WAIT_FACTOR + WAIT_MARGIN_SECONDS
        # Any server may answer, so that discovery goes on without a quorum; how old the answer may be is in it [consistency.mdx].
        params.append(("stale", "1"))
        path, headers = f"/v1/health/service/{query.service}", self._api.prepare_headers()
        reply: Reply = await self._api.http.get(_reply, path, params, headers, timeout_seconds=timeout_seconds)
        return reply

    async def register(self, name: str, **definition: object) -> None:
        """Register a service with the agent; the arguments are those of py-consul's `agent.service.register`."""
        if not await self._api.agent.service.register(name, replace_existing_checks=True, **definition):
            raise ConsulError("Consul did not take the registration")

    async def deregister(self, service_id: str) -> None:
        """Take a service out of the catalog. One that the agent does not know is out already."""
        status = await self._put(f"/v1/agent/service/deregister/{service_id}")
        if status in (401, 403):
            raise ConsulError(f"Consul refused: HTTP {status}")

    async def beat(self, check_id: str) -> bool:
        """Report that a TTL check passes. False when the agent does not know it: 404, in older versions 500."""
        return _known(await self._put(f"/v1/agent/check/pass/{check_id}"))

    async def knows(self, service_id: str) -> bool:
        """Whether the agent has the service."""
        status: int = await self._api.http.get(_status, f"/v1/agent/service/{service_id}", headers=self._api.prepare_headers())
        return _known(status)

    async def _put(self, path: str) -> int:
        status: int = await self._api.http.put(_status, path, headers=self._api.prepare_headers())
        return status


@dataclass(frozen=True, slots=True)
class ConsulSource:
    """Watches one service with blocking queries.

    Whatever is no trustworthy answer is published as `Failed`, so the directory keeps what it has (SPEC D3).
    """

    consul: Consul
    query: ConsulQuery

    def __str__(self) -> str:
        tags = f" tags {', '.join(self.query.tags)}" if self.query.tags else ""
        datacenter = f" in {self.query.datacenter}" if self.query.datacenter else ""
        return f"consul {self.query.service}{tags}{datacenter}"

    async def watch(self, publish: Publish) -> None:
        """Publish every answer and every failure until cancelled."""
        bucket, backoff, seen = TokenBucket(BURST, INTERVAL_SECONDS), Backoff(), _Seen(str(self))
        index = 0
        while True:
            await asyncio.sleep(bucket.take(monotonic()))
            try:
                reply = await self.consul.health(self.query, index)
                found = self._found(reply, seen)
            except ConsulError as error:
                seen.failure(error)
                publish(Failed(str(error)))
                # An agent that comes back may count from anew: a query with the old index would wait for long (SPEC D2).
                index = 0
                await asyncio.sleep(backoff.failed())
                continue
            publish(found)
            seen.success(found)
            backoff.succeeded()
            index = next_index(index, reply.index)

    def _found(self, reply: Reply, seen: _Seen) -> Found:
        reading: Reading = read(reply.entries, self.query, self.consul.rules)
        # Without a leader the answer is what one server remembers. That is good for a start, and worse than what we know already.
        if not reply.known_leader and (seen.answered or not reading.instances):
            raise ConsulError("Consul has no leader")
        return Found(reading.instances, reading.rejected, reply.last_contact_seconds, reply.known_leader)


@dataclass(slots=True)
class _Seen:
    """What a watch has been told, so that each thing is logged once."""

    watching: str
    answered: bool = False
    failing: bool = False
    rejected: frozenset[str] = field(default_factory=frozenset)

    def failure(self, error: ConsulError) -> None:
        if not self.failing:
            logger.warning("%s: %s; the last known instances stay", self.watching, error)
        self.failing = True

    def success(self, found: Found) -> None:
        if self.failing:
            logger.info("%s: answered again", self.watching)
        for reason in found.rejected:
            if reason not in self.rejected:
                logger.warning("%s: left out %s", self.watching, reason)
        self.failing, self.answered, self.rejected = False, True, frozenset(found.rejected)


def next_index(last: int, reported: int) -> int:
    """The index for the next query (SPEC D2): one that went backwards starts anew, and one below 1 would not block."""
    if reported < last:
        return 0
    return max(reported, 1)


def agent_from_environment(environment: Mapping[str, str] = os.environ) -> ConsulAgent:
    """The agent that Consul's own programs would use: CONSUL_HTTP_ADDR, CONSUL_HTTP_SSL, CONSUL_HTTP_TOKEN, CONSUL_CACERT,
    CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY."""
    address = environment.get("CONSUL_HTTP_ADDR", "") or "127.0.0.1:8500"
    if "://" not in address:
        scheme = "https" if environment.get("CONSUL_HTTP_SSL", "").lower() in ("1", "true") else "http"
        address = f"{scheme}://{address}"
    return ConsulAgent(
        url=address,
        token=environment.get("CONSUL_HTTP_TOKEN", ""),
        ca_file=environment.get("CONSUL_CACERT", ""),
        certificate_file=environment.get("CONSUL_CLIENT_CERT", ""),
        key_file=environment.get("CONSUL_CLIENT_KEY", ""),
    )


@dataclass(frozen=True, slots=True)
class _Address:
    scheme: str
    host: str
    port: int
    socket: str = ""


def _address(url: str) -> _Address:
    try:
        parts = urlsplit(url)
        port = parts.port or 8500
    except ValueError as exc:
        raise ConsulError(f"the Consul URL {url!r} can't be read: {exc}") from exc
    if parts.scheme == "unix" and parts.path and not parts.netloc:
        return _Address("http", "localhost", 80, parts.path)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or parts.path not in ("", "/"):
        raise ConsulError(f"the Consul URL {_without_userinfo(url)!r} is not http://HOST:PORT, https://HOST:PORT or unix:///PATH")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return _Address(parts.scheme, host, port)


def _without_userinfo(url: str) -> str:
    """Somebody may have put a token there."""
    return url if "@" not in url else url[: url.find("//") + 2] + "..." + url[url.rfind("@") :]


def _loopback(agent: ConsulAgent) -> Loopback:
    if agent.loopback != "auto":
        return agent.loopback
    address = _address(agent.url)
    return "same_machine" if address.socket or is_loopback(address.host.strip("[]")) else "refuse"


def _tls(agent: ConsulAgent) -> ssl.SSLContext:
    if not agent.url.startswith("https:"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used, but httpx would load every authority into one of its own
    try:
        context = ssl.create_default_context(cafile=agent.ca_file or None)
        if agent.certificate_file:
            context.load_cert_chain(agent.certificate_file, agent.key_file or None)
    except OSError as exc:
        files = ", ".join(filter(None, (agent.ca_file, agent.certificate_file, agent.key_file)))
        raise ConsulError(f"the certificate files for Consul can't be used ({files}): {exc}") from exc
    return context


async def _bounded(response: httpx.Response) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.aiter_bytes():
        size += len(chunk)
        if size > MAXIMUM_REPLY_BYTES:
            raise ConsulError(f"the answer is longer than {MAXIMUM_REPLY_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _reply(response: base.Response) -> Reply:
    if response.code != 200:
        raise ConsulError(f"Consul answered HTTP {response.code}: {_one_line(response.body.decode('utf-8', 'replace'))}")
    try:
        entries = orjson.loads(response.body)
        index = int(response.headers["X-Consul-Index"])
        last_contact_ms = int(response.headers.get("X-Consul-LastContact", "0"))
    except (KeyError, ValueError) as exc:
        raise ConsulError("the answer is not Consul's: no JSON or no index in it") from exc
    if not isinstance(entries, list):
        raise ConsulError("the answer is not Consul's: no list of instances")
    if not entries and response.headers.get("X-Consul-Results-Filtered-By-ACLs") == "true":
        raise ConsulError("the ACL token may not read this service: every instance was filtered out")
    known_leader = response.headers.get("X-Consul-KnownLeader", "true") == "true"
    return Reply(entries, index, known_leader, last_contact_ms / 1000)


def _status(response: base.Response) -> int:
    return int(response.code)


def _known(status: int) -> bool:
    if status == 200:
        return True
    if status == 404 or status >= 500:
        return False
    raise ConsulError(f"Consul refused: HTTP {status}")


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:200]
