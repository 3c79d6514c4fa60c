"""Pure: metrics as text, and the texts of several workers as one.

Workers are merged so: counters and histograms are added up. A gauge is added up when it counts something that each worker has of its own
(`ADDED_GAUGES`), the earliest counts where a worker's start is meant (`EARLIEST_GAUGES`), and otherwise the greatest value is shown,
because the workers describe the same thing (endpoints, store state, generation) or the worst is what matters (event-loop lag).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import add

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS_CONTENT_TYPE
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

OPENMETRICS = "application/openmetrics-text"
TEXT_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

ADDED_GAUGES = frozenset(
    {
        "gateway_connections",
        "gateway_memory_limit_bytes",
        "gateway_requests_in_flight",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
    }
)
EARLIEST_GAUGES = frozenset({"process_start_time_seconds"})

SeriesKey = tuple[str, tuple[tuple[str, str], ...]]


class Collectors(Collector):
    """Several collectors as one."""

    def __init__(self, collectors: Sequence[Collector]) -> None:
        self._collectors = tuple(collectors)

    def collect(self) -> Iterator[Metric]:
        for collector in self._collectors:
            yield from collector.collect()


def content_type(accept: str = "") -> str:
    """Of what `render` and `merge` return for this `Accept` field."""
    return OPENMETRICS_CONTENT_TYPE if OPENMETRICS in accept else TEXT_CONTENT_TYPE


def render(collector: Collector, accept: str = "") -> bytes:
    """The collector's metrics: OpenMetrics 1.0 when the `Accept` field names it, else the Prometheus text format 0.0.4."""
    encode: Callable[[Collector], bytes] = generate_openmetrics if OPENMETRICS in accept else generate_latest
    return encode(collector)


def merge(texts: Sequence[bytes], accept: str = "") -> bytes:
    """Expositions of several workers, in the text format, as the one of the whole machine, in the format that `accept` asks for."""
    return render(_Merged(texts), accept)


class _Merged(Collector):
    """Families of several texts, by name, in the order in which they first appear."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        self._families: dict[str, Metric] = {}
        self._series: dict[str, dict[SeriesKey, float]] = {}
        for text in texts:
            for family in text_string_to_metric_families(text.decode()):
                self._add(family)

    def _add(self, family: Metric) -> None:
        self._families.setdefault(family.name, family)
        series = self._series.setdefault(family.name, {})
        combine = _rule(family)
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            series[key] = combine(series[key], sample.value) if key in series else sample.value

    def collect(self) -> Iterator[Metric]:
        for name, family in self._families.items():
            merged = Metric(name, family.documentation, family.type)
            merged.samples = [Sample(sample, dict(labels), value) for (sample, labels), value in self._series[name].items()]
            yield merged


def _rule(family: Metric) -> Callable[[float, float], float]:
    if family.type != "gauge" or family.name in ADDED_GAUGES:
        return add
    return min if family.name in EARLIEST_GAUGES else max
