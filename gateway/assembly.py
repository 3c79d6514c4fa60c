"""Puts a gateway together from its settings. With `app.py` the only place that names concrete classes."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import get_args

import httpx

from discovery.condition import Condition
from discovery.consul import Consul
from discovery.directory import FIRST_RESULT_SECONDS, Directory, ServiceView, Watched
from discovery.ending import end
from discovery.endpoint import Endpoint, State
from discovery.instance import HealthCheck, Instance
from discovery.reply import ConsulError
from discovery.source import Source
from discovery.static import StaticSource
from discovery.tls import TlsFailures
from gateway.admission.admission import Admission
from gateway.admission.ladder import Ladder
from gateway.admission.revocation import Revocations
from gateway.admission.together import Together
from gateway.auth.authenticator import Authenticator
from gateway.auth.failures import FailureLimits
from gateway.auth.principal import Principal
from gateway.client import ServiceTransport, service_client
from gateway.deadlines import Deadlines
from gateway.errors import ConfigError
from gateway.generation import Draft, Generation, Surroundings
from gateway.pipeline import Pipeline
from gateway.plan import RoutePlan
from gateway.published import Publisher, published_sources
from gateway.route import Route, Service
from gateway.router import Router
from gateway.server.overload import Overload
from gateway.server.protocol import Front
from gateway.settings import AuthenticationSettings, Settings
from gateway.store.embedded import TEND_SECONDS, EmbeddedServer
from gateway.store.examination import examine
from gateway.store.redis import Store
from gateway.streams import OpenStreams
from gateway.telemetry.discovery import discovery_sources
from gateway.telemetry.metrics import endpoints_source, together_sources
from gateway.telemetry.process import ProcessLoad, load_sources
from gateway.telemetry.services import ServiceFact, service_sources, tunnel_sources
from gateway.telemetry.telemetry import Telemetry
from gateway.telemetry.tls import tls_sources
from gateway.upstream.circuit import Circuit
from gateway.upstream.forward import Forwarder, RequestShape, close_pools
from gateway.upstream.tls import ContextSource
from gateway.upstream.tunnel import Figures
from gateway.version import gateway_version

logger = logging.getLogger("gateway")

#: A twentieth of the shortest deadline that makes sense between two hosts.
UPSTREAM_TICK_SECONDS = 0.05
#: Clients are timed in seconds.
CLIENT_TICK_SECONDS = 0.25
TELEMETRY_CLOSE_SECONDS = 3.0
#: Between looks at whether the last request of an earlier configuration is over.
RETIRE_POLL_SECONDS = 0.25
#: Where nothing bounds the life of a credential, a revocation is forgotten after a year: longer than anybody lets a token live.
UNBOUNDED_LIFE_SECONDS = 366 * 86_400.0
#: What names of self-tests begin with, among those of replicas.
SELF_TEST = "doctor-"
SELF_TEST_POLL_SECONDS = 1.0


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


def _consul(settings: Settings, failures: TlsFailures, before: Consul | None = None) -> Consul | None:
    if settings.consul is None:
        return None
    try:
        return Consul(settings.consul, before, failures)
    except ConsulError as exc:
        raise ConfigError(f"discovery.consul: {exc}") from exc


def _as_configured(settings: Settings) -> int:
    return settings.server.max.connections


class Runtime:
    """A gateway at work in one process: what lives as long as the process, and the generation of its configuration that is at work.

    Made by `open_runtime`. `front` is what the server protocol needs, `pipeline` what the ASGI face needs; the rest is for the admin site.
    """

    #: The generation at work, and what it is made of; only `_enter` writes here.
    current: Generation
    generation: int
    routes: Router[RoutePlan]
    pipeline: Pipeline
    forwarders: Mapping[str, Forwarder]
    front: Front
    overload: Overload

    def __init__(self, settings: Settings, store: Store, embedded: EmbeddedServer | None, replica: str, tls_failures: TlsFailures) -> None:
        self.settings = settings
        self.replica = replica
        self.generation = 1
        self.forwarders = {}
        self.store = store
        self._embedded = embedded
        self.tls_failures = tls_failures
        self.http = httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=httpx.Timeout(5.0))
        self.consul = _consul(settings, self.tls_failures)
        watched = {name: self._watched(service, self.consul) for name, service in settings.services.items()}
        self.publisher = Publisher(self.republish)
        self.directory = Directory(watched, on_left=close_pools, on_change=self._heard, on_ejected=self._ejected, probe=self._check)
        self.telemetry = Telemetry(
            settings.telemetry,
            settings.audit,
            version=gateway_version(),
            replica=replica,
            sources=[
                endpoints_source(self._endpoint_counts),
                *service_sources(self._service_fact),
                *tunnel_sources(self._tunnel_figures),
                *discovery_sources(self._conditions),
                *published_sources(lambda: self.publisher.table),
                *together_sources(self._together_figures),
                *tls_sources(self.tls_failures.counts, lambda: self.settings.certificates),
                *load_sources(self._load),
            ],
        )
        self.started_at = time.time()
        self.together = Together(store, replica, self._about, self.telemetry.metrics.revocation_propagated)
        self.admission = Admission(
            store, budget_seconds=settings.state.budget, observer=self.telemetry.metrics, reconciliation=self.together.reconciler
        )
        self.streams = OpenStreams(self.together.mirror.revoked, self._leeway)
        self.together.mirror.on_change(self.streams.look)
        self.ladder = Ladder(
            self.admission,
            self.together.mirror,
            mirror_age_seconds=settings.state.mirror_age,
            place=lambda: self.together.heartbeat.place,
            when_unavailable=settings.state.when_unavailable,
            told=self.telemetry.metrics.outage,
        )
        self.failures = FailureLimits(self.admission)
        self.authenticator = Authenticator(settings.authentication, self.http, store.client, on_reached=self.telemetry.dependencies.note)
        self.revocations = Revocations(
            store,
            maximum_lifetime_seconds=longest_life(settings.authentication),
            publish=self.together.journal.publish,
        )
        self.upstream_deadlines = Deadlines(UPSTREAM_TICK_SECONDS)
        self.client_deadlines = Deadlines(CLIENT_TICK_SECONDS)
        # By service: what is under way when a generation ends is still under way in the next.
        self._circuits: dict[str, Circuit] = {}
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._adopting = asyncio.Lock()
        #: Generations that are not at work any more and have requests left, with what waits for their end.
        self._retiring: dict[Generation, asyncio.Task[None]] = {}
        self._testing: asyncio.Task[None] | None = None
        self._tending: asyncio.Task[None] | None = None
        #: How many connections of clients can be had for settings.
        self._affordable: Callable[[Settings], int] = _as_configured
        self._connections = settings.server.max.connections
        self._started = False
        self._was_ready = False
        self.draining = False

    def __repr__(self) -> str:
        return f"<Runtime {self.replica} generation={self.generation} {'ready' if self.ready else 'not ready'}>"

    async def start(self) -> None:
        """Open what has to be open before the first request. What is away is waited for in the background, see `ready`.

        Raises:
            ConfigError: a route, a file or a sink can't be used, or other replicas spread their keys differently.
        """
        if self._embedded is not None:
            self._tending = asyncio.create_task(self._tend(self._embedded), name="embedded store")
        await self.authenticator.start()
        unanswered = await self.directory.start()
        self._warn_unanswered(unanswered)
        await self.together.start()
        await self.admission.start()
        draft = self._draft(self.settings, self.publisher.fitting(self.settings))
        first = draft.finish(self.generation, self.authenticator, self._forwarder)
        server = self.settings.server
        self.front = Front(first.pipeline, server.max, server.timeouts, first.proxies, self.client_deadlines, first.context)
        self.overload = Overload(self.front, server.overload, server.workers, lambda detail: self.telemetry.event("admin", detail))
        self.front.overload = self.overload
        self.telemetry.lag.listener = self.overload.look
        self._enter(first)
        self.publisher.start()
        self.telemetry.start()
        self._started = True
        self.telemetry.dependencies.note("store", self.admission.ready)
        detail = {"version": gateway_version(), "generation": self.generation, "routes": len(self.routes.entries)}
        self.telemetry.started(detail, self.store)

    def bound_connections(self, affordable: Callable[[Settings], int]) -> None:
        """Take no more connections of clients than `affordable` says of the settings, now and after each reload.

        Raises:
            ConfigError: next to none can be had.
        """
        self._affordable = affordable
        self._connections = affordable(self.settings)
        self.front.maxima = replace(self.front.maxima, connections=self._connections)

    def test_store(self) -> None:
        """Look into the store once it is met, and say in the log what is wrong with it (SPEC section 3). Holds nothing up."""
        self._testing = asyncio.create_task(self._test_store(), name="self-test")

    async def _test_store(self) -> None:
        while not self.admission.ready:  # noqa: ASYNC110 - it may be away for as long as it likes
            await asyncio.sleep(SELF_TEST_POLL_SECONDS)
        for finding in await examine(self.store):
            if finding.level != "good":
                level = logging.WARNING if finding.level == "problem" else logging.INFO
                logger.log(level, "self-test: %s: %s", finding.what, finding.told)

    async def _tend(self, embedded: EmbeddedServer) -> None:
        while True:
            # Not in a thread of its own: on Linux the server ends with the thread that started it.
            embedded.tend()
            await asyncio.sleep(TEND_SECONDS)

    async def close(self) -> None:
        """Give everything back; spans and records are flushed, for a bounded time."""
        if self._started:
            await self.telemetry.stopped()
        if self._testing is not None:
            await end((self._testing,))
        self.upstream_deadlines.close()
        self.client_deadlines.close()
        for client in self._clients.values():
            await client.aclose()
        for endpoint in self._endpoints():
            close_pools(endpoint)
        await self.publisher.close()
        await self.directory.close()
        if self.consul is not None:
            await self.consul.close()
        await self.together.close()
        await self.admission.close()
        await self._retire_all()
        await self.authenticator.close()
        await self.http.aclose()
        await self.store.close()
        await self.telemetry.close(TELEMETRY_CLOSE_SECONDS)
        if self._tending is not None:
            await end((self._tending,))
        if self._embedded is not None:
            await asyncio.to_thread(self._embedded.stop)

    def begin_drain(self, who: str) -> None:
        """Not ready from now on: this process ends. `who` wanted it."""
        self.draining = True
        self.overload.end()
        logger.info("draining: %s", who)
        self.telemetry.event("admin", {"action": "drain", "source": who})

    @property
    def ready(self) -> bool:
        """Whether it can do its job: store met once, revocations mirrored, keys loaded, every service answered for. No later outage takes
        it back (F-52)."""
        if not self._was_ready:
            self._was_ready = self.admission.ready and self.together.ready and self.authenticator.ready and self.directory.ready
        return self._was_ready and not self.draining

    def not_ready_because(self) -> list[str]:
        """What is still missing, for operators."""
        if self.draining:
            return ["draining"]
        missing = []
        if not self.admission.ready:
            missing.append("store")
        elif not self.together.ready:
            missing.append("revocations")
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
        if name not in self.forwarders:
            raise KeyError(name)
        client = self._clients.get(name)
        if client is None:
            client = service_client(name, ServiceTransport(lambda: self._called(name), lambda: self.telemetry.tracer))
            self._clients[name] = client
        return client

    def _called(self, name: str) -> tuple[Forwarder, RequestShape]:
        """How a handler's call goes to a service under the configuration at work."""
        forwarder = self.forwarders.get(name)
        if forwarder is None:
            raise httpx.ConnectError(f"the service {name!r} is not configured any more")
        return forwarder, self.current.call_shapes[name]

    # Generations

    async def adopt(self, settings: Settings) -> int:
        """Put other settings to work, all of them or none (SPEC G3, F-54).

        Requests under way finish under the settings that they began with. Connections and counters of addresses, verified tokens and
        keys of issuers that have not changed, the store's connection and all metrics stay. Ports, workers, store, sinks and telemetry are
        those of the start, whatever `settings` says of them.

        Returns:
            The number of the generation at work: the same as before when nothing has changed.

        Raises:
            ConfigError: something in them can't be used; nothing has changed.
        """
        async with self._adopting:
            settings = self._as_started(settings)
            return await self._change(settings, self.publisher.fitting(settings))

    async def republish(self) -> int:
        """Serve what services publish now besides the routes of the settings. Result and errors are `adopt`'s."""
        async with self._adopting:
            before = self.generation
            published = self.publisher.fitting(self.settings)
            after = await self._change(self.settings, published)
        if after != before:
            self.telemetry.event("config", {"generation": after, "published": [f"{route.name} {route.path}" for route in published]})
        return after

    def _as_started(self, settings: Settings) -> Settings:
        """The settings, with what can't change while the process runs."""
        now = self.settings
        server = replace(settings.server, host=now.server.host, port=now.server.port, workers=now.server.workers)
        admin = replace(settings.admin, host=now.admin.host, port=now.admin.port)
        # Of the store only what its TLS files hold: they are read for each connection.
        state = replace(now.state, fingerprint=settings.state.fingerprint)
        return replace(settings, server=server, admin=admin, state=state, telemetry=now.telemetry, audit=now.audit)

    async def _change(self, settings: Settings, published: tuple[Route, ...]) -> int:
        before = self.current
        if (settings, published) == (before.settings, before.published):
            return before.number
        draft = self._draft(settings, published)
        consul = self.consul if settings.consul == before.settings.consul else _consul(settings, self.tls_failures, self.consul)
        watched = {name: self._watched(service, consul) for name, service in settings.services.items()}
        connections = self._affordable(settings)
        authenticator = await self._authenticator_for(settings.authentication)
        if settings.state.fingerprint != before.settings.state.fingerprint:
            self.store.renew_certificates()
        # From here on nothing can fail.
        unanswered = await self.directory.replace(watched)
        self._warn_unanswered(unanswered)
        self._connections = connections
        self._enter(draft.finish(before.number + 1, authenticator, self._forwarder))
        if consul is not self.consul:
            outdated, self.consul = self.consul, consul
            if outdated is not None:
                await outdated.close()
        self._retiring[before] = asyncio.create_task(self._retire(before), name=f"generation {before.number}")
        return self.generation

    async def _authenticator_for(self, settings: AuthenticationSettings) -> Authenticator:
        """The one at work where nothing changes, else a new one that has its keys, or has waited long enough for them."""
        if settings == self.settings.authentication:
            return self.authenticator
        told = self.telemetry.dependencies.note
        authenticator = Authenticator(settings, self.http, self.store.client, before=self.authenticator, on_reached=told)
        try:
            await authenticator.start()
            if not await authenticator.wait_until_ready(FIRST_RESULT_SECONDS):
                logger.warning("keys of a new issuer could not be fetched yet; its tokens get 503 overloaded until they are")
        except BaseException:
            await authenticator.close(keeping=self._authenticators())
            raise
        return authenticator

    def _authenticators(self) -> list[Authenticator]:
        """Those that requests may still need."""
        return [self.authenticator, *(generation.authenticator for generation in self._retiring)]

    async def _retire(self, generation: Generation) -> None:
        """Give back what only this generation needs, once its last request is over."""
        # The first look comes after requests that were opened a moment ago have begun to be counted.
        await asyncio.sleep(RETIRE_POLL_SECONDS)
        while generation.pipeline.in_flight:  # noqa: ASYNC110 - an event would cost every request
            await asyncio.sleep(RETIRE_POLL_SECONDS)
        del self._retiring[generation]
        keeping = self._authenticators()
        if generation.authenticator not in keeping:
            await generation.authenticator.close(keeping)

    async def _retire_all(self) -> None:
        retiring, self._retiring = self._retiring, {}
        await end(retiring.values())
        for generation in retiring:
            if generation.authenticator is not self.authenticator:
                await generation.authenticator.close()

    def _draft(self, settings: Settings, published: tuple[Route, ...] = ()) -> Draft:
        surroundings = Surroundings(
            self.admission.plan,
            self.ladder.gate,
            self.failures.against,
            self.ladder,
            self.telemetry.tracer,
            self.telemetry,
            self.streams,
        )
        try:
            return Draft(settings, published, surroundings)
        except ConfigError as error:
            if not published:
                raise
            # What services publish must not keep the file's routes from being served.
            logger.error("published routes can't be served: %s", ascii(str(error)))
            return Draft(settings, (), surroundings)

    def _enter(self, generation: Generation) -> None:
        """Put a generation to work: requests that begin from now on are its."""
        authenticator = generation.authenticator
        if authenticator is self.authenticator:
            authenticator.forget_plans()
        else:
            authenticator.take_over(self.authenticator)
            self.revocations.last_for(longest_life(generation.settings.authentication))
        self.current = generation
        self.generation = generation.number
        self.settings = generation.settings
        self.authenticator = authenticator
        self.routes = generation.routes
        self.forwarders = generation.forwarders
        self._circuits = {name: circuit for name, circuit in self._circuits.items() if name in generation.forwarders}
        self.pipeline = generation.pipeline
        server = generation.settings.server
        maxima = replace(server.max, connections=self._connections)
        self.front.change(generation.pipeline, maxima, server.timeouts, generation.proxies, generation.context)
        self.overload.change(server.overload)
        self.telemetry.metrics.generation(generation.number)
        self.telemetry.metrics.rungs({self.ladder.mode(route) for route, _ in generation.routes.entries})

    def _forwarder(self, service: Service, context: ContextSource) -> Forwarder:
        circuit = self._circuits.setdefault(service.name, Circuit(service.circuit))
        circuit.limit(service.circuit)
        return Forwarder(service, self.directory.service(service.name), context, self.upstream_deadlines, circuit, self.tls_failures)

    def _warn_unanswered(self, names: Sequence[str]) -> None:
        for name in names:
            logger.warning("service %s: no answer from discovery yet; its requests get 503 no_instance until there is", name)
            self.telemetry.dependencies.note(f"discovery:{name}", False)

    def _watched(self, service: Service, consul: Consul | None) -> Watched:
        if service.consul is None:
            source: Source = StaticSource(service.instances)
        elif consul is None:
            raise ConfigError(f"services.{service.name}.consul: discovery.consul is not configured")
        else:
            source = consul.source(service.consul)
        return Watched(
            source,
            service.balance,
            sought=service.consul,
            outlier=service.outlier,
            slow_start_seconds=service.slow_start,
            health=service.health,
        )

    def _ejected(self, service: str, endpoint: Endpoint) -> None:
        self.telemetry.metrics.ejected(service)

    async def _check(self, service: str, instance: Instance, check: HealthCheck) -> bool:
        forwarder = self.forwarders.get(service)
        # Before the start is over nothing is known against anybody.
        return forwarder is None or await forwarder.check(instance, check)

    # Facts for others

    def _heard(self, view: ServiceView) -> None:
        self.publisher.heard(view.name, view.snapshot.instances)
        self.telemetry.dependencies.note(f"discovery:{view.name}", not view.snapshot.error)

    def _endpoints(self) -> Iterator[Endpoint]:
        for name in self.forwarders:
            yield from self.directory.service(name).snapshot.endpoints

    def _about(self) -> dict[str, object]:
        """What other replicas may see of this one."""
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": gateway_version(),
            "started_at": round(self.started_at, 3),
            "generation": self.generation,
            "shards": self.store.shards,
            "ready": self._was_ready,
            "draining": self.draining,
            # Self-tests that are under way: that they are seen here proves that the store is shared.
            "sees": [name for name in self.together.heartbeat.live if name.startswith(SELF_TEST)],
        }

    def _load(self) -> ProcessLoad:
        overload = self.overload
        return ProcessLoad(len(self.client_deadlines), self.pipeline.in_flight, overload.shed, overload.level, overload.memory_limit_bytes)

    def _together_figures(self) -> tuple[float, float, float, float]:
        mirror, heartbeat = self.together.mirror, self.together.heartbeat
        return mirror.age_seconds, float(len(mirror)), float(len(heartbeat.live)), float(len(heartbeat.disagreeing))

    def _endpoint_counts(self) -> Iterator[tuple[tuple[str, ...], float]]:
        for name in self.forwarders:
            states = [endpoint.state for endpoint in self.directory.service(name).snapshot.endpoints]
            for state in get_args(State):
                yield (name, state), float(states.count(state))

    def _leeway(self, principal: Principal) -> float:
        """Seconds that a token is accepted for after its `exp`."""
        if principal.method != "jwt":
            return 0.0
        return next((issuer.leeway for issuer in self.settings.authentication.issuers if issuer.issuer == principal.issuer), 0.0)

    def _tunnel_figures(self) -> Iterator[tuple[str, Figures]]:
        for name in self.forwarders:
            yield name, self._circuits[name].tunnels

    def _service_fact(self, fact: ServiceFact) -> Iterator[tuple[tuple[str, ...], float]]:
        """What a metric shows of every service."""
        for name in self.forwarders:
            circuit = self._circuits[name]
            values = {
                "retries_denied": circuit.retries_denied,
                "circuit_refused": circuit.refused,
                "panic": self.directory.service(name).snapshot.panic,
            }
            yield (name,), float(values[fact])

    def _conditions(self) -> list[Condition]:
        """Of the services that can change without us."""
        found = {service.name for service in self.settings.services.values() if service.consul is not None}
        return [condition for condition in self.directory.conditions() if condition.service in found]


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
        failures = TlsFailures()
        runtime = Runtime(settings, Store.open(settings.state, failures), embedded, replica or replica_name(), failures)
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
