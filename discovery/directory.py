"""What is known about services now. Discovery pushes, requests read: a pick touches memory only.

One task a service listens to its source and swaps the service's snapshot whole. The live state of an address is kept apart from
snapshots, shared by all services that use the address, and dropped when nobody uses it and its last request is over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial

from discovery.balance import Balancer, Empty
from discovery.condition import Condition
from discovery.ending import end
from discovery.endpoint import Endpoint
from discovery.health import HealthMonitor, Probe
from discovery.instance import Balance, HealthCheck, Instance, Outlier
from discovery.outlier import Detector, detector
from discovery.selection import NOBODY, Selector
from discovery.source import Failed, Found, Source, Update

logger = logging.getLogger("discovery")

#: How long `start()` waits for sources that do not answer; the gateway then starts without them and is not ready.
FIRST_RESULT_SECONDS = 5.0
#: Pause before a source that raised (a bug, or a host out of memory) is asked again.
RESTART_SECONDS = 1.0
_PANIC = "fewer than half of its instances are usable, so all are tried"
_CALM = "enough of its instances are usable again, so only those are used"


@dataclass(frozen=True, slots=True)
class Watched:
    """A service as the directory sees it: where its instances come from, and how to choose among them.

    Args:
        sought: what the source looks for. Two sources that seek the same, be it in another place or with another token, may begin with each
            other's instances; None seeks what no other source does.
        outlier: when instances are taken out after failures.
        slow_start_seconds: how long a newcomer takes to its full share; 0 for none.
        health: an active check of each instance, if any.
    """

    source: Source
    balance: Balance = field(default_factory=Balance)
    sought: object = None
    outlier: Outlier = field(default_factory=Outlier)
    slow_start_seconds: float = 0.0
    health: HealthCheck | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The instances of a service at one moment. Swapped whole, never changed.

    Args:
        instances: one for each endpoint, in the same order.
        endpoints: live state of the instances.
        balancer: chooses among the endpoints that are in use now.
        selector: knows which those are.
        panic: too few are usable, so all are in use.
        served: whether the service had instances under the settings before these.
        version: counts the changes of `instances`; 0 before the first answer.
        updated_at: when `instances` last changed, seconds since the epoch; 0 before the first answer.
        confirmed_at: when the source last said that they are right.
        error: why the source could not say so the last time; empty when it could.
        rejected: registrations that can't be used, with reasons.
        last_contact_seconds, known_leader, held, restored_at, fallback: see `Found`.
    """

    instances: tuple[Instance, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    balancer: Balancer = field(default_factory=Empty)
    selector: Selector = NOBODY
    panic: bool = False
    served: bool = False
    version: int = 0
    updated_at: float = 0.0
    confirmed_at: float = 0.0
    error: str = ""
    rejected: tuple[str, ...] = ()
    last_contact_seconds: float = 0.0
    known_leader: bool = True
    held: int = 0
    restored_at: float = 0.0
    fallback: int = 0

    @property
    def stale(self) -> bool:
        """Whether the instances are those of an earlier answer, or of a server that may lag behind."""
        return bool(self.error) or not self.known_leader or self.held > 0 or self.restored_at > 0


class ServiceView:
    """A service for the request path, which holds on to it: the same object across updates, and across reloads that keep the service."""

    __slots__ = ("_answered", "_detector", "name", "snapshot")

    def __init__(self, name: str, snapshot: Snapshot, outliers: Detector) -> None:
        self.name = name
        self._detector = outliers
        #: Only the directory sets it.
        self.snapshot = snapshot
        self._answered = asyncio.Event()
        if snapshot.version:
            self._answered.set()

    def __repr__(self) -> str:
        snapshot = self.snapshot
        return f"<ServiceView {self.name} v{snapshot.version} instances={len(snapshot.instances)}{' stale' if snapshot.stale else ''}>"

    def pick(self, key: bytes | None = None, exclude: Container[Endpoint] = ()) -> Endpoint | None:
        """An endpoint for a request, or None when there is none or all are excluded. See `Balancer.pick`."""
        return self.snapshot.balancer.pick(key, exclude)

    def failed(self, endpoint: Endpoint) -> None:
        """A request found an endpoint of this service failing. See `Detector.failed`."""
        self._detector.failed(endpoint, self.snapshot.endpoints)

    @property
    def answered(self) -> bool:
        """Whether the source has answered since the service is known."""
        return self._answered.is_set()

    async def first_answer(self) -> None:
        """Wait until the source has answered."""
        await self._answered.wait()

    def swap(self, snapshot: Snapshot) -> None:
        """For the directory: show this from now on."""
        self.snapshot = snapshot
        if snapshot.version:
            self._answered.set()


@dataclass(slots=True)
class _Watch:
    watched: Watched
    view: ServiceView
    task: asyncio.Task[None]
    monitor: HealthMonitor | None


def _ignore_view(view: ServiceView) -> None:
    """Nobody wants to know."""


def _ignore_endpoint(endpoint: Endpoint) -> None:
    """Nobody wants to know."""


def _ignore_ejection(service: str, endpoint: Endpoint) -> None:
    """Nobody wants to know."""


class Directory:
    """All services, and the live state of all addresses.

    Args:
        services: by name; `replace()` changes them later.
        on_change: called after a service's instances, or its error, have changed.
        on_left: called with an endpoint that no service has any more and that is idle, so that its connections are closed; again when
            a request that had picked it before is over.
        on_ejected: called with the name of a service and an endpoint that was taken out because of its failures.
        probe: carries out the active checks; None where no service has any.
        clock: seconds since the epoch.

    Callbacks run on the event loop and must not raise.
    """

    def __init__(
        self,
        services: Mapping[str, Watched],
        *,
        on_change: Callable[[ServiceView], None] = _ignore_view,
        on_left: Callable[[Endpoint], None] = _ignore_endpoint,
        on_ejected: Callable[[str, Endpoint], None] = _ignore_ejection,
        probe: Probe | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._services = dict(services)
        self._on_change = on_change
        self._on_left = on_left
        self._on_ejected = on_ejected
        self._probe = probe
        self._clock = clock
        # State, owned by the event loop's thread
        self._watches: dict[str, _Watch] = {}
        self._endpoints: dict[tuple[str, str], Endpoint] = {}
        self._growing: dict[ServiceView, asyncio.TimerHandle] = {}

    def __repr__(self) -> str:
        return f"<Directory services={len(self._watches)} endpoints={len(self._endpoints)}>"

    async def start(self, timeout: float = FIRST_RESULT_SECONDS) -> tuple[str, ...]:
        """Begin to watch every service.

        Args:
            timeout: longest wait for first answers, seconds. Watching goes on behind whatever happens.

        Returns:
            the services that have not answered yet.
        """
        return await self.replace(self._services, timeout)

    async def replace(self, services: Mapping[str, Watched], timeout: float = FIRST_RESULT_SECONDS) -> tuple[str, ...]:
        """Watch these services from now on. Services that have not changed keep their view and their watch.

        A service that is found elsewhere or balanced otherwise gets a new view, which starts with the instances known so far only if the
        same is sought. Arguments and result are those of `start()`.
        """
        before = self._watches
        self._services = dict(services)
        self._watches = {name: self._watch(name, watched, before.get(name)) for name, watched in services.items()}
        kept = {id(watch) for watch in self._watches.values()}
        await self._end(watch for watch in before.values() if id(watch) not in kept)
        # Only now: an address that moved from one service to another keeps its live state.
        unanswered = await self._first_answers(timeout)
        self._drop_unused()
        return unanswered

    async def close(self) -> None:
        """Stop watching. Snapshots stay readable for requests that are under way."""
        watches, self._watches = self._watches, {}
        await self._end(watches.values())

    def service(self, name: str) -> ServiceView:
        """The view of a service, to be held by the request path.

        Raises:
            KeyError: the directory has no such service, or is not started.
        """
        return self._watches[name].view

    @property
    def ready(self) -> bool:
        """Whether every service has been answered for, be it with no instance."""
        return all(watch.view.answered for watch in self._watches.values())

    def describe(self) -> list[dict[str, object]]:
        """Every service with its instances and their live state, ages in seconds, as plain values for the admin API."""
        now = self._clock()
        return [_describe(watch, now) for watch in self._watches.values()]

    def conditions(self) -> list[Condition]:
        """How much the knowledge about each service is worth now."""
        now = self._clock()
        return [_condition(watch.view.name, watch.view.snapshot, now) for watch in self._watches.values()]

    def _watch(self, name: str, watched: Watched, before: _Watch | None) -> _Watch:
        if before is not None and before.watched == watched:
            return before
        snapshot = Snapshot(served=before is not None and bool(before.view.snapshot.endpoints))
        if before is not None and _seek_the_same(before.watched, watched):
            old = before.view.snapshot
            snapshot = replace(old, selector=_selector(watched, old.endpoints, old.instances))
        view = ServiceView(name, snapshot, detector(watched.outlier, partial(self._ejected, name)))
        monitor = None
        if watched.health is not None and self._probe is not None:
            monitor = HealthMonitor(name, watched.health, self._probe)
        self._show(view, snapshot, monitor)
        task = asyncio.create_task(self._listen(watched, view, monitor), name=f"discovery {name}")
        return _Watch(watched, view, task, monitor)

    async def _end(self, watches: Iterable[_Watch]) -> None:
        ended = list(watches)
        monitored = [watch.monitor for watch in ended if watch.monitor is not None]
        await end([watch.task for watch in ended])
        for monitor in monitored:
            await monitor.close()
        for watch in ended:
            if (timer := self._growing.pop(watch.view, None)) is not None:
                timer.cancel()
        checked = {name for name, watch in self._watches.items() if watch.monitor is not None}
        for endpoint in list(self._endpoints.values()):
            for name in endpoint.failing_checks - checked:
                endpoint.checked(name, passed=True)

    async def _listen(self, watched: Watched, view: ServiceView, monitor: HealthMonitor | None) -> None:
        while True:
            try:
                return await watched.source.watch(lambda update: self._publish(watched, view, monitor, update))
            except Exception as error:
                logger.exception("the watch of service %r broke down; it is started again", view.name)
                self._publish(watched, view, monitor, Failed(f"{type(error).__name__}: {error}"))
            await asyncio.sleep(RESTART_SECONDS)

    async def _first_answers(self, timeout: float) -> tuple[str, ...]:
        views = [watch.view for watch in self._watches.values()]
        try:
            async with asyncio.timeout(timeout):
                for view in views:
                    await view.first_answer()
        except TimeoutError:
            pass
        return tuple(view.name for view in views if not view.answered)

    def _publish(self, watched: Watched, view: ServiceView, monitor: HealthMonitor | None, update: Update) -> None:
        before = view.snapshot
        if isinstance(update, Failed):
            view.swap(replace(before, error=update.reason))
        else:
            self._show(view, self._next(watched, before, update), monitor)
        after = view.snapshot
        if after.version != before.version or after.error != before.error:
            if after.version != before.version:
                self._drop_unused()
            self._on_change(view)

    def _show(self, view: ServiceView, snapshot: Snapshot, monitor: HealthMonitor | None = None) -> None:
        """Show a snapshot, with the endpoints in use that are usable now; again when a newcomer's share has grown."""
        if (timer := self._growing.pop(view, None)) is not None:
            timer.cancel()
        selection = snapshot.selector.select(time.monotonic())
        if selection.panic != view.snapshot.panic:
            logger.warning("service %s: %s", view.name, _PANIC if selection.panic else _CALM)
        view.swap(replace(snapshot, balancer=selection.balancer, panic=selection.panic))
        if selection.changes_in:
            loop = asyncio.get_running_loop()
            self._growing[view] = loop.call_later(selection.changes_in, lambda: self._show(view, view.snapshot))
        if monitor is not None:
            monitor.follow(snapshot.endpoints)

    def _endpoint_changed(self, endpoint: Endpoint) -> None:
        """Whether it can be used has changed: take it out, or in again, wherever it is used."""
        for watch in self._watches.values():
            if endpoint in watch.view.snapshot.endpoints:
                self._show(watch.view, watch.view.snapshot)
        if endpoint.standing != "ejected":
            # It may have left meanwhile.
            self._drop_unused()

    def _ejected(self, service: str, endpoint: Endpoint, seconds: float) -> None:
        failures = endpoint.failures_in_a_row
        logger.warning("service %s: %s is taken out for %g s after %d failures in a row", service, endpoint.address, seconds, failures)
        self._on_ejected(service, endpoint)

    def _next(self, watched: Watched, before: Snapshot, found: Found) -> Snapshot:
        now = self._clock()
        instances = _distinct(found.instances)
        after = replace(
            before,
            confirmed_at=found.restored_at or now,
            error="",
            rejected=found.rejected,
            last_contact_seconds=found.last_contact_seconds,
            known_leader=found.known_leader,
            held=found.held,
            restored_at=found.restored_at,
            fallback=found.fallback,
        )
        if before.version and instances == before.instances:
            return after
        # With nobody there before, nobody is new.
        joined_at = time.monotonic() if before.served or before.endpoints else 0.0
        endpoints = tuple(self._endpoint(instance, joined_at) for instance in instances)
        return replace(
            after,
            instances=instances,
            endpoints=endpoints,
            selector=_selector(watched, endpoints, instances),
            version=before.version + 1,
            updated_at=now,
        )

    def _endpoint(self, instance: Instance, joined_at: float) -> Endpoint:
        key = (instance.scheme, instance.address)
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            endpoint = self._endpoints[key] = Endpoint(instance, self._endpoint_changed)
            endpoint.joined_at = joined_at
        endpoint.instance = instance
        endpoint.on_idle = None
        return endpoint

    def _drop_unused(self) -> None:
        used = {endpoint for watch in self._watches.values() for endpoint in watch.view.snapshot.endpoints}
        # One that is ejected is remembered until its time is over: to leave and come back would be a way out.
        for endpoint in [endpoint for endpoint in self._endpoints.values() if endpoint not in used and endpoint.standing != "ejected"]:
            endpoint.on_idle = self._drop
            if endpoint.active == 0:
                self._drop(endpoint)

    def _drop(self, endpoint: Endpoint) -> None:
        # A request that read the old snapshot may still come and go afterwards, so this may be called again, when the address may have
        # come back as another endpoint.
        key = (endpoint.scheme, endpoint.address)
        if self._endpoints.get(key) is endpoint:
            del self._endpoints[key]
        self._on_left(endpoint)


def _seek_the_same(before: Watched, after: Watched) -> bool:
    return before.source == after.source or (after.sought is not None and before.sought == after.sought)


def _selector(watched: Watched, endpoints: tuple[Endpoint, ...], instances: tuple[Instance, ...]) -> Selector:
    weights = [instance.weight for instance in instances]
    return Selector(watched.balance.policy, endpoints, weights, watched.slow_start_seconds)


def _distinct(instances: tuple[Instance, ...]) -> tuple[Instance, ...]:
    """Without those whose address an earlier one has: a service that was registered twice is still one place."""
    by_address: dict[tuple[str, str], Instance] = {}
    for instance in instances:
        by_address.setdefault((instance.scheme, instance.address), instance)
    return tuple(by_address.values())


def _condition(name: str, snapshot: Snapshot, now: float) -> Condition:
    return Condition(
        service=name,
        stale=snapshot.stale,
        updated_seconds_ago=_age(snapshot.updated_at, now),
        confirmed_seconds_ago=_age(snapshot.confirmed_at, now),
        restored_seconds_ago=_age(snapshot.restored_at, now),
        last_contact_seconds=snapshot.last_contact_seconds,
        known_leader=snapshot.known_leader,
        held=snapshot.held,
        rejected=len(snapshot.rejected),
        fallback=snapshot.fallback,
    )


def _describe(watch: _Watch, now: float) -> dict[str, object]:
    snapshot = watch.view.snapshot
    condition = asdict(_condition(watch.view.name, snapshot, now))
    del condition["service"]
    return {
        "name": watch.view.name,
        "source": str(watch.watched.source),
        "balance": watch.watched.balance.policy,
        "version": snapshot.version,
        "error": snapshot.error,
        **condition,
        "panic": snapshot.panic,
        "rejected": list(snapshot.rejected),
        "instances": [_describe_instance(*pair) for pair in zip(snapshot.instances, snapshot.endpoints, strict=True)],
    }


def _describe_instance(instance: Instance, endpoint: Endpoint) -> dict[str, object]:
    return {
        "id": instance.id,
        "address": instance.address,
        "scheme": instance.scheme,
        "weight": instance.weight,
        "health": instance.health,
        "state": endpoint.state,
        "ejections": endpoint.ejections,
        "tags": list(instance.tags),
        "active": endpoint.active,
        "requests": endpoint.requests,
        "failures": endpoint.failures,
        "latency_seconds": round(endpoint.latency_seconds, 6),
    }


def _age(moment: float, now: float) -> float | None:
    return round(now - moment, 3) if moment else None
