"""Metrics as text, and several workers as one."""

from __future__ import annotations

import pytest
from prometheus_client import ProcessCollector
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gateway.telemetry.exposition import Collectors, content_type, merge, render
from gateway.telemetry.metrics import Metrics, endpoints_source
from tests.support.observations import observation

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


def worker(requests: int, *, generation: int, mode: str) -> bytes:
    metrics = Metrics([endpoints_source(lambda: [(("patients", "healthy"), 2.0)])])
    for _ in range(requests):
        metrics.observe(observation())
    metrics.batch(requests, 0.001)
    metrics.generation(generation)
    metrics.mode(mode)
    return render(metrics)


def samples(text: bytes) -> dict[str, float]:
    families = parse_text(text.decode())
    return {f"{s.name}{sorted(s.labels.items())}": s.value for family in families for s in family.samples}


def test_counters_and_histograms_of_workers_are_added() -> None:
    """CONTRACT section 6: with several workers the answer is the whole machine's."""
    merged = samples(
        merge([worker(3, generation=2, mode="shared"), worker(5, generation=2, mode="shared"), worker(0, generation=2, mode="shared")])
    )
    assert merged["gateway_requests_total[('method', 'GET'), ('route', 'get-patient'), ('status', '200')]"] == 8
    assert merged["gateway_request_duration_seconds_count[('route', 'get-patient')]"] == 8
    assert merged["gateway_request_duration_seconds_bucket[('le', '+Inf'), ('route', 'get-patient')]"] == 8
    assert merged["gateway_request_duration_seconds_sum[('route', 'get-patient')]"] == pytest.approx(8 * 0.0015)
    assert merged["gateway_admission_batch_size_sum[]"] == 8
    assert merged["gateway_admission_batch_size_count[]"] == 3


def test_gauges_of_workers_describe_one_machine() -> None:
    """The documented rule: the greatest, except for what each worker has of its own."""
    merged = samples(merge([worker(1, generation=2, mode="shared"), worker(1, generation=3, mode="unavailable")]))
    assert merged["gateway_endpoints[('service', 'patients'), ('state', 'healthy')]"] == 2
    assert merged["gateway_config_generation[]"] == 3
    assert merged["gateway_store_state[('mode', 'shared')]"] == 1
    assert merged["gateway_store_state[('mode', 'unavailable')]"] == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [("process_resident_memory_bytes", 30.0), ("process_open_fds", 30.0), ("process_start_time_seconds", 10.0), ("process_max_fds", 20.0)],
)
def test_process_gauges(name: str, expected: float) -> None:
    """Memory and descriptors add up, the start is the first one's, a limit isn't shared."""
    texts = [f"# HELP {name} X.\n# TYPE {name} gauge\n{name} {value}\n".encode() for value in (20.0, 10.0)]
    assert samples(merge(texts)) == {f"{name}[]": expected}


def test_one_worker_merges_to_itself() -> None:
    """Merging loses nothing: help, types, order, values."""
    text = worker(3, generation=1, mode="shared")
    assert sorted(merge([text]).splitlines()) == sorted(text.splitlines())


def test_escaped_labels_survive_a_merge() -> None:
    """Label values are read and written by the same rules."""
    text = b'# HELP a_total X.\n# TYPE a_total counter\na_total{route="q\\"\\\\\\n{}"} 1.0\n'
    assert merge([text, text]) == text.replace(b"1.0", b"2.0")


def test_nothing_merges_to_nothing() -> None:
    """No worker has answered yet."""
    assert merge([]) == b""


def test_openmetrics_when_asked_for() -> None:
    """Content negotiation as Prometheus does it."""
    collector = Collectors([Metrics(), ProcessCollector(registry=None)])
    text = render(collector, OPENMETRICS).decode()
    assert text.endswith("# EOF\n")
    names = {family.name for family in parse_openmetrics(text)}  # type: ignore[no-untyped-call]
    assert {"gateway_requests", "process_resident_memory_bytes"} <= names
    assert content_type(OPENMETRICS) == "application/openmetrics-text; version=1.0.0; charset=utf-8"


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain;version=garbage", "text/html"])
def test_the_text_format_otherwise(accept: str) -> None:
    """A browser and an old Prometheus get what they can read."""
    assert render(Metrics(), accept).startswith(b"# HELP gateway_requests_total Requests answered.\n")
    assert content_type(accept) == "text/plain; version=0.0.4; charset=utf-8"
