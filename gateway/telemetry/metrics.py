"""Metrics: plain counters that the request path fills, turned into Prometheus families only when somebody asks.

The names are those of CONTRACT section 6. The number of series is bounded whatever the traffic is (F-62): routes, services and limits
come from the configuration, methods from a known set, statuses from 100..599, and every other label set is capped.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway.telemetry.histogram import Histogram
from gateway.telemetry.observation import Observation, resend_counts
from gateway.telemetry.spans import KNOWN_METHODS, OTHER_METHOD

NO_ROUTE = "_none"
NO_SERVICE = "_none"
OTHER_LABEL = "_other"
#: Label sets a counter may have before further ones are counted together as `_other`.
MAXIMUM_SERIES = 1000

REQUEST_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ADMISSION_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
BATCH_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
PROPAGATION_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

#: What a route may do while the store is away.
RUNGS = ("closed", "open", "fair_share")

Labels = tuple[str, ...]


class AdmissionObserver(Protocol):
    """What admission reports about itself."""

    def batch(self, size: int, duration_seconds: float) -> None:
        """One call to the store carried so many requests and took so long."""
        ...

    def mode(self, mode: str) -> None:
        """The store is now used this way: `shared` or `unavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """Values that another part owns, read at each scrape.

    Args:
        name: full metric name; a counter's ends in `_total`.
        read: returns pairs of label values, in the order of `labels`, and the value.
    """

    name: str
    documentation: str
    kind: Literal["counter", "gauge"]
    labels: Labels
    read: Callable[[], Iterable[tuple[Labels, float]]]

    def collect(self) -> Metric:
        family = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        metric = family(self.name, self.documentation, labels=self.labels)
        for labels, value in self.read():
            metric.add_metric(labels, value)
        return metric


def endpoints_source(read: Callable[[], Iterable[tuple[Labels, float]]]) -> Source:
    """`gateway_endpoints`, from a function that returns ((service, state), number of endpoints)."""
    return Source("gateway_endpoints", "Endpoints known to discovery, by their state.", "gauge", ("service", "state"), read)


def together_sources(read: Callable[[], tuple[float, float, float, float]]) -> list[Source]:
    """Gauges about the replicas, from a function that returns the age of the mirror in seconds, its entries, how many replicas live, and
    how many of them disagree with this one about shards."""

    def gauge(name: str, documentation: str, place: int) -> Source:
        return Source(name, documentation, "gauge", (), lambda: [((), read()[place])])

    return [
        gauge("gateway_revocation_mirror_age_seconds", "Since the mirror of revocations was last known to be complete.", 0),
        gauge("gateway_revocation_mirror_entries", "Revocations in the mirror, marks of removed ones included.", 1),
        gauge("gateway_replicas", "Replicas that live, as last known.", 2),
        gauge("gateway_replicas_disagreeing", "Replicas that live and spread keys over another number of shards than this one.", 3),
    ]


class CappedCounter:
    """A counter for each label set, up to a number of sets; what comes later is counted under `_other`."""

    __slots__ = ("counts", "maximum_series")

    def __init__(self, maximum_series: int = MAXIMUM_SERIES) -> None:
        self.counts: dict[Labels, int] = {}
        self.maximum_series = maximum_series

    def add(self, labels: Labels, count: int = 1) -> None:
        if labels not in self.counts and len(self.counts) >= self.maximum_series:
            labels = (OTHER_LABEL,) * len(labels)
        self.counts[labels] = self.counts.get(labels, 0) + count


class RouteSeries:
    """What is counted of one route: `answers` by method and status, `seconds` for whole requests."""

    __slots__ = ("answers", "seconds")

    def __init__(self) -> None:
        self.answers: dict[str, dict[int, int]] = {}
        self.seconds = Histogram(REQUEST_SECONDS)


class Metrics(Collector):
    """All of a process's metrics. Everything but `collect` is called by the event loop's thread only.

    Args:
        sources: what other parts own.
        on_mode: told how the store is used now, too.
    """

    def __init__(self, sources: Sequence[Source] = (), on_mode: Callable[[str], None] = lambda mode: None) -> None:
        self._sources = tuple(sources)
        self._on_mode = on_mode
        self._routes: dict[str, RouteSeries] = {}
        self._services: dict[str, Histogram] = {}
        self._admission_seconds = Histogram(ADMISSION_SECONDS)
        self._batch_sizes = Histogram(BATCH_SIZES)
        self._propagation_seconds = Histogram(PROPAGATION_SECONDS)
        self._limited = CappedCounter()
        self._shadow_limited = CappedCounter()
        self._denied = CappedCounter()
        self._retries = CappedCounter()
        self._ejections = CappedCounter()
        self._outage = CappedCounter()
        self._modes: dict[str, int] = {"shared": 0, "unavailable": 0}
        self._rungs: frozenset[str] = frozenset()
        self._generation = 0

    # Reports

    def observe(self, *finished: Observation) -> None:
        """Requests are over."""
        self.observe_all(iter(finished))

    def observe_all(self, finished: Iterator[Observation]) -> None:
        """Take note of requests that are over, until there are no more."""
        routes, services, bounds = self._routes, self._services, REQUEST_SECONDS
        for observation in finished:
            route = observation.route
            name = route.name if route is not None else NO_ROUTE
            series = routes.get(name) or self._add_route(name)
            answers = series.answers.get(observation.method)
            if answers is None:
                answers = _answers(series, observation.method)
            status = observation.status
            if status in answers:
                answers[status] += 1
            else:
                _first_answer(answers, status)
            ended_ns, tries = observation.ended_ns, observation.tries
            seconds = (ended_ns - observation.started_ns) * 1e-9
            histogram = series.seconds
            histogram.counts[bisect_left(bounds, seconds)] += 1
            histogram.total += seconds
            for attempt in tries:
                service = attempt.service or observation.service or NO_SERVICE
                histogram = services.get(service) or self._add_service(service)
                seconds = ((attempt.ended_ns or ended_ns) - attempt.started_ns) * 1e-9
                histogram.counts[bisect_left(bounds, seconds)] += 1
                histogram.total += seconds
            if len(tries) > 1:
                self._observe_resends(observation)
            if observation.code or observation.shadow_limited:
                self._observe_refusal(observation, name)

    def batch(self, size: int, duration_seconds: float) -> None:
        """One admission call carried `size` requests."""
        self._admission_seconds.observe(duration_seconds)
        self._batch_sizes.observe(size)

    def mode(self, mode: str) -> None:
        """The store is now used this way."""
        self._on_mode(mode)
        for known in self._modes:
            self._modes[known] = 0
        self._modes[mode] = 1

    def rungs(self, names: Iterable[str]) -> None:
        """What routes do while the store is away: `closed`, `open`, `fair_share`."""
        self._rungs = frozenset(names)

    def outage(self, route: str, mode: str, outcome: str) -> None:
        """A request was decided about without the store."""
        self._outage.add((route, mode, outcome))

    def ejected(self, service: str) -> None:
        """An endpoint of the service was taken out for a while."""
        self._ejections.add((service,))

    def generation(self, generation: int) -> None:
        """This generation of the configuration is in force."""
        self._generation = generation

    def revocation_propagated(self, seconds: float) -> None:
        """A revocation reached this process so long after it was acknowledged."""
        self._propagation_seconds.observe(seconds)

    def _add_route(self, name: str) -> RouteSeries:
        series = self._routes[name] = RouteSeries()
        return series

    def _observe_resends(self, observation: Observation) -> None:
        tries = observation.tries
        for attempt, resend_count in zip(tries, resend_counts(tries), strict=True):
            if resend_count:
                self._retries.add((attempt.service or observation.service or NO_SERVICE,))

    def _add_service(self, service: str) -> Histogram:
        histogram = self._services[service] = Histogram(REQUEST_SECONDS)
        return histogram

    def _observe_refusal(self, observation: Observation, route: str) -> None:
        if observation.denied:
            self._denied.add((route, observation.code))
        if observation.code == "rate_limited":
            for limit in observation.limited or (observation.reason,):
                self._limited.add((route, limit))
        for limit in observation.shadow_limited:
            self._shadow_limited.add((route, limit))

    # Reading, from any thread: dictionaries are copied before they are walked

    def collect(self) -> Iterator[Metric]:
        """Families of CONTRACT section 6, then those of the other parts."""
        yield from self._collect_requests()
        yield from self._collect_histograms()
        yield _counter("gateway_limited", "Requests that a limit refused.", ("route", "limit"), self._limited)
        yield _counter("gateway_shadow_limited", "What a shadow limit would have refused.", ("route", "limit"), self._shadow_limited)
        yield _counter("gateway_denied", "Requests refused before their target, by error code.", ("route", "reason"), self._denied)
        yield _counter("gateway_retries", "Tries after the first.", ("service",), self._retries)
        yield _counter("gateway_ejections", "Endpoints taken out after failures.", ("service",), self._ejections)
        mode = GaugeMetricFamily("gateway_store_state", "1 for how the state store is used now.", labels=("mode",))
        for name, value in list(self._modes.items()):
            mode.add_metric((name,), value)
        for name in RUNGS:
            mode.add_metric((name,), self._modes["unavailable"] if name in self._rungs else 0)
        yield mode
        yield _counter("gateway_outage_requests", "Requests decided without the store.", ("route", "mode", "outcome"), self._outage)
        yield GaugeMetricFamily("gateway_config_generation", "Generation of the configuration in force.", value=self._generation)
        for source in self._sources:
            yield source.collect()

    def _collect_requests(self) -> Iterator[Metric]:
        total = CounterMetricFamily("gateway_requests", "Requests answered.", labels=("route", "method", "status"))
        seconds = HistogramMetricFamily("gateway_request_duration_seconds", "From first byte in to last byte out.", labels=("route",))
        for route, series in list(self._routes.items()):
            for method, answers in list(series.answers.items()):
                for status, count in list(answers.items()):
                    total.add_metric((route, method, str(status)), count)
            seconds.add_metric((route,), series.seconds.cumulative(), series.seconds.total)
        yield total
        yield seconds

    def _collect_histograms(self) -> Iterator[Metric]:
        upstream = HistogramMetricFamily("gateway_upstream_request_duration_seconds", "Each try at an upstream.", labels=("service",))
        for service, histogram in list(self._services.items()):
            upstream.add_metric((service,), histogram.cumulative(), histogram.total)
        yield upstream
        yield _histogram("gateway_admission_duration_seconds", "Calls to the state store.", self._admission_seconds)
        yield _histogram("gateway_admission_batch_size", "Requests carried by one call to the state store.", self._batch_sizes)
        yield _histogram(
            "gateway_revocation_propagation_seconds", "From a revocation's acknowledgement to this process.", self._propagation_seconds
        )


def _answers(series: RouteSeries, method: str) -> dict[int, int]:
    return series.answers.setdefault(method if method in KNOWN_METHODS else OTHER_METHOD, {})


def _first_answer(answers: dict[int, int], status: int) -> None:
    # 0: the client went away before anything was sent, or the upstream made a number up.
    known = status if 100 <= status <= 599 else 0
    answers[known] = answers.get(known, 0) + 1


def _counter(name: str, documentation: str, labels: Labels, counter: CappedCounter) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=labels)
    for values, count in list(counter.counts.items()):
        family.add_metric(values, count)
    return family


def _histogram(name: str, documentation: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(name, documentation, buckets=histogram.cumulative(), sum_value=histogram.total)
