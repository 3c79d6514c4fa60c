"""Spans on their way to a real OTLP/HTTP receiver in another process."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.settings import TraceSettings
from gateway.telemetry.trace_context import new_span_id
from gateway.telemetry.tracing import EXPORT_BATCH_SPANS, MAXIMUM_QUEUED_SPANS, Tracer
from tests.support.observations import attempt, observation
from tests.support.otlp_receiver import OtlpReceiver

# What 2000 requests may cost while the receiver is in trouble: 20 us each, several times what they cost when all is well.
REQUESTS = 2000
#: Generous for a busy machine, and far below what it would take if one request in five hundred waited for the receiver (1.5 s each).
BOUND_SECONDS = 2.0


@pytest.fixture(scope="module")
def running() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture
def receiver(running: OtlpReceiver) -> OtlpReceiver:
    running.behave()
    running.clear()
    return running


def tracer(endpoint: str, **settings: Any) -> Tracer:
    return Tracer(TraceSettings(endpoint=endpoint, **settings), version="1.2.3", replica="gw-1")


def finish_many(made: Tracer) -> float:
    """Seconds that `REQUESTS` sampled requests take."""
    seen = observation()
    started = time.monotonic()
    for _ in range(REQUESTS):
        made.finish(seen)
    return time.monotonic() - started


def test_spans_arrive_as_the_conventions_say(receiver: OtlpReceiver) -> None:
    """O2: SERVER `{method} {route}` and one CLIENT span a try, over OTLP."""
    made = tracer(receiver.endpoint + "/", trust="continue")
    trace = made.start([b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"], [b"a=1"], [])
    tries = [attempt(0, error="upstream_connect_failure", span=1), attempt(503, span=int(new_span_id(), 16))]
    made.finish(observation(trace=trace, status=503, code="bad_gateway", tries=tries, shadow_limited=("new",)))
    server, first, second = receiver.wait_for(lambda spans: len(spans) == 3)
    assert (server["name"], server["kind"], server["status"]) == ("GET /patients/{id}", "SERVER", "ERROR")
    assert server["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert server["parent_span_id"] == "b7ad6b7169203331"
    assert server["trace_state"] == "a=1"
    assert server["attributes"]["http.response.status_code"] == 503
    assert server["attributes"]["gateway.shadow_limited"] == ["new"]
    assert server["resource"]["service.name"] == "gateway"
    assert server["resource"]["service.version"] == "1.2.3"
    assert server["scope"] == "gateway"
    assert {first["parent_span_id"], second["parent_span_id"]} == {server["span_id"]}
    assert (first["kind"], first["attributes"]["error.type"]) == ("CLIENT", "upstream_connect_failure")
    assert second["attributes"]["http.request.resend_count"] == 1
    assert server["start_ns"] <= first["start_ns"] < first["end_ns"] <= server["end_ns"]
    made.shutdown(5.0)
    assert made.dropped == 0


def test_a_linked_trace_arrives_with_its_link(receiver: OtlpReceiver) -> None:
    """O1: trust `link`, the default."""
    made = tracer(receiver.endpoint)
    made.finish(observation(trace=made.start([b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"], [], []), tries=[]))
    made.shutdown(5.0)
    (server,) = receiver.spans()
    assert server["links"] == [{"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}]
    assert server["trace_id"] != "0af7651916cd43dd8448eb211c80319c"
    assert server["parent_span_id"] == ""


def test_what_waits_at_the_end_is_exported(receiver: OtlpReceiver) -> None:
    """F-60: the flush at shutdown."""
    made = tracer(receiver.endpoint)
    for _ in range(1500):
        made.finish(observation())
    made.shutdown(10.0)
    assert len(receiver.spans()) == 3000
    assert made.dropped == 0


def test_a_slow_receiver_costs_requests_nothing_and_memory_a_bound(receiver: OtlpReceiver) -> None:
    """O5: slow: bounded queue, drops counted, request path unaffected, exit on time."""
    receiver.behave(delay_seconds=1.5)
    made = tracer(receiver.endpoint)
    seconds = [finish_many(made) for _ in range(4)]
    assert max(seconds) < BOUND_SECONDS
    assert made.dropped >= 4 * 2 * REQUESTS - MAXIMUM_QUEUED_SPANS - 4 * EXPORT_BATCH_SPANS
    started = time.monotonic()
    made.shutdown(0.3)
    assert time.monotonic() - started < 10.0
    assert made.dropped >= 4 * 2 * REQUESTS - 4 * EXPORT_BATCH_SPANS


@pytest.mark.parametrize("status", [400, 503])
def test_a_receiver_that_refuses_costs_spans_and_nothing_else(receiver: OtlpReceiver, status: int) -> None:
    """O5: refusing: 503 is tried again, 400 is not; either way requests don't notice and the exit is on time."""
    receiver.behave(status=status)
    made = tracer(receiver.endpoint)
    assert finish_many(made) < BOUND_SECONDS
    started = time.monotonic()
    made.shutdown(0.5)
    assert time.monotonic() - started < 10.0
    assert made.dropped > 0
    assert receiver.spans() == []


def test_no_receiver_at_all(receiver: OtlpReceiver) -> None:
    """O5: down: the connection is refused."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        made = tracer(f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert finish_many(made) < BOUND_SECONDS
        started = time.monotonic()
        made.shutdown(0.5)
        assert time.monotonic() - started < 10.0
        assert made.dropped > 0


def test_export_goes_on_when_the_receiver_comes_back(receiver: OtlpReceiver) -> None:
    """O5: an outage loses what the queue can't hold, and nothing after it."""
    receiver.behave(status=503)
    made = tracer(receiver.endpoint)
    made.finish(observation())
    receiver.behave()
    made.finish(observation(tries=[]))
    receiver.wait_for(lambda spans: any(span["kind"] == "SERVER" for span in spans), timeout_seconds=30.0)
    made.shutdown(5.0)
