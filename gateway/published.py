"""Routes that services publish (SPEC D10), made into rows of the table: only where the file says nothing, and never for everybody."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic

from discovery.ending import end
from discovery.instance import Instance
from discovery.pacing import TokenBucket
from discovery.published import Publication, Reading, read
from gateway.config import build_route
from gateway.errors import ConfigError
from gateway.failure import outline
from gateway.route import Route
from gateway.settings import Settings
from gateway.telemetry.metrics import Source
from gateway.template import overlap, parse_route

logger = logging.getLogger("gateway.published")

#: Each change is another generation of the configuration: three may follow each other, later ones wait.
BURST = 3
INTERVAL_SECONDS = 10.0
#: Services that are deployed together change together.
SETTLE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Conflict:
    """Something that a service published and that is not, or not fully, done.

    Args:
        applied: whether the service has a published route all the same.
    """

    service: str
    path: str
    reason: str
    applied: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """What services publish: the routes that are served, in order of the services' names, and what was refused."""

    routes: tuple[Route, ...] = ()
    conflicts: tuple[Conflict, ...] = ()


def table(readings: Mapping[str, Reading], settings: Settings) -> Table:
    """The published routes that fit beside those of the settings.

    A path that a route of the settings could match as well, whatever its methods and hosts, is theirs. Among services the name decides.
    """
    routes: list[Route] = []
    conflicts: list[Conflict] = []
    for service, reading in sorted(readings.items()):
        publication = reading.publication
        if publication is None or not _found_by_consul(service, settings):
            continue
        try:
            route = _route(service, publication, settings)
            _check_apart(route, (*settings.routes, *routes))
        except ConfigError as error:
            conflicts.append(Conflict(service, publication.path, _reason(error)))
            continue
        routes.append(route)
        conflicts += [Conflict(service, publication.path, reason, applied=True) for reason in _remarks(reading, publication)]
    return Table(tuple(routes), tuple(conflicts))


def _found_by_consul(service: str, settings: Settings) -> bool:
    declared = settings.services.get(service)
    return declared is not None and declared.consul is not None


def _route(service: str, publication: Publication, settings: Settings) -> Route:
    values = {
        "name": f"published-{service}"[:64],
        "path": publication.path,
        "methods": list(publication.methods),
        "scopes": list(publication.scopes),
        "limits": list(publication.limits),
        # Whoever can register a service must not be able to open a door to everybody.
        "authentication": "required",
        "service": service,
    }
    return build_route(values, services=settings.services, limits=settings.limits, line=f"published by {service}")


def _check_apart(route: Route, others: Iterable[Route]) -> None:
    template = parse_route(route)
    for other in others:
        if other.name == route.name:
            raise ConfigError(f"the name {route.name!r} is that of another route")
        if overlap(template, parse_route(other)):
            raise ConfigError(f"the route {other.name!r} ({other.path}) matches some of its paths")


def _remarks(reading: Reading, publication: Publication) -> list[str]:
    strange = [_one_line(f"{', '.join(publication.strange)} is not read")] if publication.strange else []
    return [*filter(None, (reading.problem,)), *strange]


def _reason(error: ConfigError) -> str:
    return _one_line(str(error))


def _one_line(text: str) -> str:
    """On one line, and bounded: the words come from elsewhere."""
    return " ".join(ascii(text)[1:-1].replace("\\n", " ").split())[:300]


class Publisher:
    """Keeps what services publish, and has it served when it changes.

    Args:
        serve: puts `fitting` routes to work beside those of the settings, in place of the ones before. Raises ConfigError.
    """

    def __init__(self, serve: Callable[[], Awaitable[object]]) -> None:
        self._serve = serve
        self._bucket = TokenBucket(BURST, INTERVAL_SECONDS)
        # State
        self._readings: dict[str, Reading] = {}
        self._task: asyncio.Task[None] | None = None
        self._told: frozenset[Conflict] = frozenset()
        #: What is served and what was refused, as of the last look.
        self.table = Table()

    def __repr__(self) -> str:
        return f"<Publisher routes={len(self.table.routes)} conflicts={len(self.table.conflicts)}>"

    def heard(self, service: str, instances: tuple[Instance, ...]) -> None:
        """A service has these instances now. Without any, its route stays: an answer of 503 says more than one of 404."""
        if not instances:
            return
        reading = read(instances)
        if self._readings.get(service, Reading()) == reading:
            return
        self._readings[service] = reading
        if self._task is not None and self._task.done():
            self.start()

    def fitting(self, settings: Settings) -> tuple[Route, ...]:
        """The routes that fit beside those of these settings; none where services may not publish."""
        allowed = settings.consul is not None and settings.consul.publish_routes
        self.table = table(self._readings, settings) if allowed else Table()
        self._tell()
        return self.table.routes

    def start(self) -> None:
        """From now on, have changes served."""
        self._task = asyncio.create_task(self._serve_soon(), name="published routes")

    async def close(self) -> None:
        """Leave everything as it is."""
        task, self._task = self._task, None
        if task is not None:
            await end([task])

    async def _serve_soon(self) -> None:
        await asyncio.sleep(SETTLE_SECONDS + self._bucket.take(monotonic()))
        before = None
        while before != self._readings:
            # What is heard while the routes are put to work comes next.
            before = dict(self._readings)
            try:
                await self._serve()
            except ConfigError as error:
                logger.error("published routes can't be served, those before stay: %s", _reason(error))
            except Exception as error:
                logger.error("published routes could not be put to work, those before stay\n%s", outline(error))

    def _tell(self) -> None:
        conflicts = frozenset(self.table.conflicts)
        for conflict in sorted(conflicts - self._told, key=lambda one: (one.service, one.reason)):
            done = "served, but" if conflict.applied else "not served:"
            logger.warning("service %s publishes the route %s, %s %s", conflict.service, ascii(conflict.path), done, conflict.reason)
        self._told = conflicts


def published_sources(current: Callable[[], Table]) -> list[Source]:
    """`gateway_published_routes{service}` and `gateway_published_conflicts{service}`."""

    def routes() -> list[tuple[tuple[str, ...], float]]:
        return [((str(route.target),), 1.0) for route in current().routes]

    def conflicts() -> list[tuple[tuple[str, ...], float]]:
        counts = Counter(conflict.service for conflict in current().conflicts)
        return [((service,), float(count)) for service, count in counts.items()]

    return [
        Source("gateway_published_routes", "Routes that services publish and that are served.", "gauge", ("service",), routes),
        Source(
            "gateway_published_conflicts", "What services publish and that is not, or not fully, done.", "gauge", ("service",), conflicts
        ),
    ]
