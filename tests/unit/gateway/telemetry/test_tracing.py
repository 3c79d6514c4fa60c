"""What is recorded, and that recording never waits."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.settings import TraceSettings
from gateway.telemetry.otlp import OtlpEncoder
from gateway.telemetry.spans import SpanBuilder
from gateway.telemetry.trace_context import new_span_id
from gateway.telemetry.tracing import EXPORT_BATCH_SPANS, OtlpExporter, Seldom, SpanQueue, Tracer
from tests.support.observations import attempt, observation, trace


class HangingExporter(SpanExporter):
    """A receiver that doesn't answer until it's told to."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.shutdowns = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.entered.set()
        self.go_on.wait()
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.shutdowns += 1


class RefusingExporter(SpanExporter):
    """Refuses every batch; `raises` instead of returning when told so."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._error is not None:
            raise self._error
        return SpanExportResult.FAILURE


def tracer(exporter: SpanExporter, **settings: Any) -> Tracer:
    return Tracer(TraceSettings(**settings), version="1", replica="gw-1", exporter=exporter)


def builder() -> SpanBuilder:
    return SpanBuilder(service_name="gateway", version="1", replica="gw-1")


def recorded(fields: dict[str, Any], **settings: Any) -> int:
    exporter = InMemorySpanExporter()
    made = tracer(exporter, **settings)
    made.finish(observation(**fields))
    made.shutdown(5.0)
    return len(exporter.get_finished_spans())


UNSAMPLED = trace(sampled=False)
SLOW = {"started_ns": 0, "ended_ns": 2_000_000_000}


@pytest.mark.parametrize(
    ("fields", "settings", "spans"),
    [
        ({}, {}, 2),
        ({"tries": []}, {}, 1),
        ({"trace": UNSAMPLED}, {}, 0),
        ({"trace": UNSAMPLED, "status": 500}, {"always_errors": True}, 2),
        ({"trace": UNSAMPLED, "status": 499}, {"always_errors": True}, 0),
        ({"trace": UNSAMPLED, "status": 500}, {"always_denials": True, "always_slow": 10.0}, 0),
        ({"trace": UNSAMPLED, "status": 429, "denied": True, "tries": []}, {"always_denials": True}, 1),
        ({"trace": UNSAMPLED, "status": 429, "denied": True, "tries": []}, {"always_errors": True}, 0),
        ({"trace": UNSAMPLED, **SLOW}, {"always_slow": 2.0}, 2),
        ({"trace": UNSAMPLED, **SLOW}, {"always_slow": 2.1}, 0),
        ({"trace": UNSAMPLED, **SLOW}, {"always_slow": 0.0}, 0),
    ],
)
def test_what_is_recorded(fields: dict[str, Any], settings: dict[str, Any], spans: int) -> None:
    """O2: sampled requests, and those that a tail rule asks for."""
    assert recorded(fields, **settings) == spans


def test_without_an_endpoint_only_propagation_is_done() -> None:
    """No endpoint: nothing is recorded, nothing runs."""
    threads = threading.active_count()
    made = Tracer(TraceSettings(), version="1", replica="gw-1")
    started = made.start([], [], [])
    assert started.propagation_lines(new_span_id()).startswith(b"traceparent: 00-")
    made.finish(observation(trace=started))
    made.shutdown(0.0)
    assert made.dropped == 0
    assert threading.active_count() == threads


def test_a_full_queue_drops_whole_requests_and_counts_them() -> None:
    """O5: bounded queue, drops counted; a request's spans stay together."""
    exporter = HangingExporter()
    queue = SpanQueue(exporter, maximum_spans=10)
    made = builder()
    for _ in range(200):
        queue.put(made, observation(tries=[attempt(), attempt()]))
    dropped = queue.dropped
    # Three spans a request: three requests fit into ten places, and as many again may have left for the exporter.
    assert 200 * 3 - 2 * 9 <= dropped <= 200 * 3 - 9
    assert dropped % 3 == 0
    exporter.go_on.set()
    queue.shutdown(5.0)
    assert queue.dropped == dropped


def test_a_receiver_that_hangs_holds_no_request_up() -> None:
    """O5: request path unaffected while the exporter hangs."""
    exporter = HangingExporter()
    made = tracer(exporter)
    seen = observation()
    for _ in range(EXPORT_BATCH_SPANS):
        made.finish(seen)
    assert exporter.entered.wait(10.0)
    started = time.thread_time()
    for _ in range(10_000):
        made.finish(seen)
    # 2 x 10,000 spans on a queue of 8192: most are dropped, which is cheaper than keeping them.
    assert time.thread_time() - started < 1.0
    assert made.dropped > 0
    exporter.go_on.set()
    made.shutdown(5.0)


def test_shutdown_takes_no_longer_than_it_may() -> None:
    """F-60: exit is not delayed beyond the deadline; what was waiting is counted as dropped."""
    exporter = HangingExporter()
    made = tracer(exporter)
    for _ in range(EXPORT_BATCH_SPANS):
        made.finish(observation())
    assert exporter.entered.wait(10.0)
    started = time.monotonic()
    made.shutdown(0.2)
    assert time.monotonic() - started < 2.0
    assert exporter.shutdowns == 1
    assert made.dropped > 0
    exporter.go_on.set()


@pytest.mark.parametrize("make", [RefusingExporter, lambda: RefusingExporter(OSError("no"))])
def test_refused_spans_are_counted(make: Callable[[], SpanExporter]) -> None:
    """O5: what the receiver did not take is counted as dropped."""
    made = tracer(make())
    made.finish(observation())
    made.shutdown(5.0)
    assert made.dropped == 2


def test_shutdown_twice_is_harmless() -> None:
    """Drain and exit may both ask for it."""
    exporter = HangingExporter()
    exporter.go_on.set()
    made = tracer(exporter)
    made.shutdown(5.0)
    made.shutdown(5.0)
    assert exporter.shutdowns == 1


def test_what_comes_after_shutdown_is_counted() -> None:
    """O5: a request that ends after the flush loses its spans, and that shows."""
    made = tracer(InMemorySpanExporter())
    made.shutdown(5.0)
    made.finish(observation())
    assert made.dropped == 2


def test_failures_of_the_receiver_are_logged_seldom() -> None:
    """F-60: an outage doesn't flood the log."""
    now = [100.0]
    seldom = Seldom(60.0, clock=lambda: now[0])
    record = logging.LogRecord("x", logging.ERROR, "", 0, "no", None, None)
    passed = []
    for seconds in (0, 1, 59, 60, 61, 119, 120, 500, 501):
        now[0] = 100.0 + seconds
        passed.append(bool(seldom.filter(record)))
    assert passed == [True, False, False, True, False, False, True, True, False]


def test_the_exporter_takes_its_filter_along() -> None:
    """A reload makes new tracers; the library's logger doesn't collect filters."""
    log = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    before = list(log.filters)
    exporter = OtlpExporter("http://127.0.0.1:9/", OtlpEncoder(builder().resource, builder().scope))
    assert exporter._endpoint == "http://127.0.0.1:9/v1/traces"
    assert len(log.filters) == len(before) + 1
    exporter.shutdown()
    assert log.filters == before
