"""Puts a gateway together from its settings. With `app.py` the only place that names concrete classes."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

import httpx

from discovery.consul import Consul, ConsulError
from discovery.directory import Directory, Watched
from discovery.endpoint import Endpoint
from discovery.static import StaticSource
from gateway.admission.admission import Admission
from gateway.admission.revocation import Revocations
from gateway.auth.authenticator import Authenticator
from gateway.client import ServiceTransport, service_client
from gateway.deadlines import Deadlines
from gateway.errors import ConfigError
from gateway.generation import Draft, Generation, Surroundings
from gateway.pipeline import Pipeline
from gateway.plan import RoutePlan, request_shape
from gateway.route import Route, Service
from gateway.router import Router
from gateway.server.protocol import Front
from gateway.settings import AuthenticationSettings, Settings
from gateway.store.embedded import EmbeddedServer
from gateway.store.redis import Store
from gateway.telemetry.metrics import endpoints_source
from gateway.telemetry.telemetry import Telemetry
from gateway.upstream.forward import Forwarder, close_pools

logger = logging.getLogger("gateway")

#: A twentieth of the shortest deadline that makes sense between two hosts.
UPSTREAM_TICK_SECONDS = 0.05
#: Clients are timed in seconds.
CLIENT_TICK_SECONDS = 0.25
TELEMETRY_CLOSE_SECONDS = 3.0
#: Where nothing bounds the life of a credential, a revocation is forgotten after a year: longer than anybody lets a token live.
UNBOUNDED_LIFE_SECONDS = 366 * 86_400.0


def gateway_version() -> str:
    """The installed version."""
    try:
        return version("hms-gateway")
    except PackageNotFoundError:
        return "0+source"


def replica_name() -> str:
    """A name for this process that no other one has: records of two processes must never share a sequence."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"


def longest_life(authentication: AuthenticationSettings) -> float:
    """Seconds that a credential may be good for: how long a revocation lasts that names no end."""
    if authentication.api_keys is not None or authentication.introspection is not None:
        return UNBOUNDED_LIFE_SECONDS
    lives = [
        issuer.maximum_lifetime + 2 * issuer.leeway if issuer.maximum_lifetime else UNBOUNDED_LIFE_SECONDS
        for issuer in authentication.issuers
    ]
    return max(lives, default=UNBOUNDED_LIFE_SECONDS)


def _consul(settings: Settings) -> Consul | None:
    if settings.consul is None:
        return None
    try:
        return Consul(settings.consul)
    except ConsulError as exc:
        raise ConfigError(f"discovery.consul: {exc}") from exc


class Runtime:
    """A gateway at work in one process: what lives as long as the process, and the generation of its configuration that is at work.

    Made by `open_runtime`. `front` is what the server protocol needs, `pipeline` what the ASGI face needs; the rest is for the admin site.
    """

    #: What the generation at work says and is made of; only `_enter` writes here.
    generation: int
    routes: Router[RoutePlan]
    pipeline: Pipeline
    forwarders: Mapping[str, Forwarder]
    front: Front

    def __init__(self, settings: Settings, store: Store, embedded: EmbeddedServer | None, replica: str) -> None:
        self.settings = settings
        self.replica = replica
        self.generation = 1
        self.forwarders = {}
        self.store = store
        self._embedded = embedded
        self.http = httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=httpx.Timeout(5.0))
        self.consul = _consul(settings)
        self.directory = Directory({name: self._watched(service) for name, service in settings.services.items()}, on_left=close_pools)
        self.telemetry = Telemetry(
            settings.telemetry,
            settings.audit,
            version=gateway_version(),
            replica=replica,
            sources=[endpoints_source(self._endpoint_counts)],
        )
        self.admission = Admission(store, budget_seconds=settings.state.budget, observer=self.telemetry.metrics)
        self.authenticator = Authenticator(settings.authentication, self.http, store.client)
        self.revocations = Revocations(store, maximum_lifetime_seconds=longest_life(settings.authentication))
        self.upstream_deadlines = Deadlines(UPSTREAM_TICK_SECONDS)
        self.client_deadlines = Deadlines(CLIENT_TICK_SECONDS)
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._started = False
        self._was_ready = False
        self.draining = False

    def __repr__(self) -> str:
        return f"<Runtime {self.replica} generation={self.generation} {'ready' if self.ready else 'not ready'}>"

    async def start(self) -> None:
        """Open what has to be open before the first request. What is away is waited for in the background, see `ready`.

        Raises:
            ConfigError: a route, a file or a sink can't be used.
        """
        await self.authenticator.start()
        unanswered = await self.directory.start()
        for name in unanswered:
            logger.warning("service %s: no answer from discovery yet; its requests get 503 no_instance until there is", name)
        await self.admission.start()
        draft = self._draft(self.settings)
        self._enter(draft.finish(self.generation, self.authenticator, self._forwarder))
        self.telemetry.start()
        self._started = True
        self.telemetry.event("start", {"version": gateway_version(), "generation": self.generation, "routes": len(self.routes.entries)})

    async def close(self) -> None:
        """Give everything back; spans and records are flushed, for a bounded time."""
        if self._started:
            self.telemetry.event("stop", {})
        self.upstream_deadlines.close()
        self.client_deadlines.close()
        for client in self._clients.values():
            await client.aclose()
        for endpoint in self._endpoints():
            close_pools(endpoint)
        await self.directory.close()
        if self.consul is not None:
            await self.consul.close()
        await self.admission.close()
        await self.authenticator.close()
        await self.http.aclose()
        await self.store.close()
        await self.telemetry.close(TELEMETRY_CLOSE_SECONDS)
        if self._embedded is not None:
            await asyncio.to_thread(self._embedded.stop)

    @property
    def ready(self) -> bool:
        """Whether it can do its job: store met once, keys loaded, every service answered for. No later outage takes it back (F-52)."""
        if not self._was_ready:
            self._was_ready = self.admission.ready and self.authenticator.ready and self.directory.ready
        return self._was_ready and not self.draining

    def not_ready_because(self) -> list[str]:
        """What is still missing, for operators."""
        if self.draining:
            return ["draining"]
        missing = []
        if not self.admission.ready:
            missing.append("store")
        if not self.authenticator.ready:
            missing.append("keys")
        if not self.directory.ready:
            missing.append("discovery")
        return [] if self._was_ready else missing

    def client(self, name: str) -> httpx.AsyncClient:
        """The client for a service, made once.

        Raises:
            KeyError: no such service.
        """
        client = self._clients.get(name)
        if client is None:
            forwarder = self.forwarders[name]
            shape = request_shape(Route(name=f"client:{name}", path="/", target=name), self.settings.services[name])
            client = service_client(name, ServiceTransport(lambda: (forwarder, shape), lambda: self.telemetry.tracer))
            self._clients[name] = client
        return client

    # Generations

    def _draft(self, settings: Settings, published: tuple[Route, ...] = ()) -> Draft:
        surroundings = Surroundings(self.admission.plan, self.admission, self.telemetry.tracer, self.telemetry)
        return Draft(settings, published, surroundings)

    def _enter(self, generation: Generation) -> None:
        """Put a generation to work: requests that begin from now on are its."""
        self.generation = generation.number
        self.settings = generation.settings
        self.authenticator = generation.authenticator
        self.routes = generation.routes
        self.forwarders = generation.forwarders
        self.pipeline = generation.pipeline
        server = generation.settings.server
        self.front = Front(generation.pipeline, server.max, server.timeouts, generation.proxies, self.client_deadlines)
        self.telemetry.metrics.generation(generation.number)

    def _forwarder(self, service: Service, context: ssl.SSLContext) -> Forwarder:
        return Forwarder(service, self.directory.service(service.name), context, self.upstream_deadlines)

    def _watched(self, service: Service) -> Watched:
        if service.consul is None:
            return Watched(StaticSource(service.instances), service.balance)
        if self.consul is None:
            raise ConfigError(f"services.{service.name}.consul: discovery.consul is not configured")
        return Watched(self.consul.source(service.consul), service.balance)

    # Facts for others

    def _endpoints(self) -> Iterator[Endpoint]:
        for name in self.forwarders:
            yield from self.directory.service(name).snapshot.endpoints

    def _endpoint_counts(self) -> Iterator[tuple[tuple[str, ...], float]]:
        for name in self.forwarders:
            snapshot = self.directory.service(name).snapshot
            yield (name, "available"), float(len(snapshot.endpoints))


async def open_runtime(settings: Settings, *, replica: str = "") -> Runtime:
    """A started runtime. An `embedded://` store is spawned here, unless the settings name one that runs already.

    Raises:
        ConfigError: the settings can't be used; nothing stays open.
    """
    embedded = None
    if settings.state.url.startswith("embedded:"):
        embedded = EmbeddedServer.from_url(settings.state.url)
        # Not in a thread of its own: on Linux the server ends with the thread that started it.
        url = embedded.start()
        settings = with_store_url(settings, url)
    runtime = None
    try:
        runtime = Runtime(settings, Store.open(settings.state), embedded, replica or replica_name())
        await runtime.start()
    except BaseException:
        if runtime is not None:
            await runtime.close()
        elif embedded is not None:
            embedded.stop()
        raise
    return runtime


def with_store_url(settings: Settings, url: str) -> Settings:
    """The settings with another store."""
    return replace(settings, state=replace(settings.state, url=url))
