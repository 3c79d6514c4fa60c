"""What spans say about a request."""

from __future__ import annotations

from dataclasses import replace

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from gateway.telemetry.observation import Observation
from gateway.telemetry.spans import MAXIMUM_ADDRESSES, SpanBuilder
from gateway.telemetry.trace_context import Parent
from tests.support.observations import ENDED_NS, ROUTE, SPAN_ID, TRACE_ID, attempt, observation, span_id, trace


def build(seen: Observation) -> list[ReadableSpan]:
    return list(SpanBuilder(service_name="gateway", version="1.2.3", replica="gw-1").build(seen))


def test_an_answered_request_has_a_server_and_a_client_span() -> None:
    """O2: SERVER span `{method} {route}`, and a CLIENT span a try below it."""
    server, client = build(observation())
    assert (server.name, server.kind, server.parent) == ("GET /patients/{id}", SpanKind.SERVER, None)
    assert (server.start_time, server.end_time) == (ENDED_NS - 1_500_000, ENDED_NS)
    assert dict(server.attributes or {}) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": "/patients/{id}",
        "url.scheme": "http",
        "client.address": "192.0.2.7",
        "network.peer.address": "10.0.0.1",
        "gateway.request_id": "req-1",
        "gateway.generation": 3,
        "gateway.route": "get-patient",
        "gateway.service": "patients",
    }
    assert (client.name, client.kind) == ("GET", SpanKind.CLIENT)
    assert client.context is not None
    assert client.parent is not None
    assert (client.context.trace_id, client.context.span_id, client.parent.span_id) == (TRACE_ID, 77, SPAN_ID)
    assert dict(client.attributes or {}) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "server.address": "10.0.0.9",
        "server.port": 9001,
        "gateway.service": "patients",
        "gateway.instance": "patients-1",
    }
    assert server.resource.attributes["service.name"] == "gateway"
    assert server.resource.attributes["service.instance.id"] == "gw-1"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, StatusCode.UNSET),
        (304, StatusCode.UNSET),
        (404, StatusCode.UNSET),
        (429, StatusCode.UNSET),
        (500, StatusCode.ERROR),
        (503, StatusCode.ERROR),
    ],
)
def test_server_spans_are_errors_from_500_on(status: int, expected: StatusCode) -> None:
    """O2: 4xx unset, 5xx error."""
    assert build(observation(status=status, tries=[]))[0].status.status_code is expected


@pytest.mark.parametrize(("status", "expected"), [(200, StatusCode.UNSET), (404, StatusCode.ERROR), (502, StatusCode.ERROR)])
def test_client_spans_are_errors_from_400_on(status: int, expected: StatusCode) -> None:
    """O2: HTTP semantic conventions, client spans."""
    span = build(observation(tries=[attempt(status)]))[1]
    assert span.status.status_code is expected
    assert (span.attributes or {}).get("error.type") == (None if expected is StatusCode.UNSET else str(status))


def test_each_try_has_a_span_that_counts_resends() -> None:
    """O2: http.request.resend_count, absent on the first try; error.type says what failed."""
    first, second = build(observation(tries=[attempt(0, error="upstream_connect_failure", span=1), attempt(200, span=2)]))[1:]
    assert first.attributes is not None
    assert second.attributes is not None
    assert first.attributes["error.type"] == "upstream_connect_failure"
    assert "http.response.status_code" not in first.attributes
    assert "http.request.resend_count" not in first.attributes
    assert second.attributes["http.request.resend_count"] == 1
    assert first.status.status_code is StatusCode.ERROR


def test_a_try_without_an_end_ends_with_the_request() -> None:
    """A try that was cut short (client gone) has a proper interval."""
    cut = attempt()
    cut.ended_ns = 0
    assert build(observation(tries=[cut]))[1].end_time == ENDED_NS


def test_a_failure_names_its_code_and_reason() -> None:
    """O2: gateway.code and gateway.reason; error.type only for 5xx."""
    failed = build(observation(status=502, code="bad_gateway", reason="upstream_reset"))[0].attributes or {}
    assert (failed["gateway.code"], failed["gateway.reason"], failed["error.type"]) == ("bad_gateway", "upstream_reset", "upstream_reset")
    denied = build(observation(status=429, code="rate_limited", denied=True, tries=[]))[0].attributes or {}
    assert (denied["gateway.code"], denied["gateway.reason"]) == ("rate_limited", "rate_limited")
    assert "error.type" not in denied
    upstream = build(observation(status=500))[0].attributes or {}
    assert upstream["error.type"] == "500"
    assert "gateway.code" not in upstream


@pytest.mark.parametrize("method", ["get", "BREW", "X" * 5000, ""])
def test_unknown_methods_are_other(method: str) -> None:
    """F-62: span names and attributes have bounded cardinality."""
    server = build(observation(method=method))[0]
    assert server.name == "_OTHER /patients/{id}"
    assert (server.attributes or {})["http.request.method"] == "_OTHER"


def test_an_unmatched_request_is_named_by_its_method() -> None:
    """F-62: never a raw path."""
    server = build(observation(route=None, service="", tries=[], status=404, code="not_found", denied=True))[0]
    assert server.name == "GET"
    assert "http.route" not in (server.attributes or {})


def test_client_chosen_texts_are_bounded() -> None:
    """F-62: the request id is cut."""
    attributes = build(observation(user_agent="u" * 9999, host="h" * 9999, request_id="r" * 9999))[0].attributes or {}
    assert max(len(value) for value in attributes.values() if isinstance(value, str)) == 256


@pytest.mark.parametrize("hosts", [(), ("*.example.gov",)])
def test_only_a_host_that_a_route_asks_for_is_told(hosts: tuple[str, ...]) -> None:
    """F-62: else it is whatever a client writes; so is the User-Agent, always."""
    attributes = build(observation(route=replace(ROUTE, hosts=hosts)))[0].attributes or {}
    assert attributes.get("server.address") == ("api.example.gov" if hosts else None)
    assert "curl/8.5" not in attributes.values()


def test_marks_of_unusual_decisions() -> None:
    """O2: shadow limits and a store that was away are visible."""
    attributes = build(observation(shadow_limited=("new-limit",), store_mode="open", scheme="https"))[0].attributes or {}
    assert attributes["gateway.shadow_limited"] == ("new-limit",)
    assert attributes["gateway.store_mode"] == "open"
    assert attributes["url.scheme"] == "https"


def test_a_continued_trace_has_a_remote_parent_and_its_state() -> None:
    """O1: the SERVER span hangs below the caller's."""
    server, client = build(observation(trace=trace(parent_span_id=span_id(5), tracestate=b"a=1,b=2")))
    assert server.parent is not None
    assert server.context is not None
    assert client.context is not None
    assert (server.parent.span_id, server.parent.is_remote) == (5, True)
    assert server.context.trace_state.to_header() == "a=1,b=2"
    assert client.context.trace_state.to_header() == "a=1,b=2"


def test_a_linked_trace_points_to_the_callers() -> None:
    """F-61: policy `link`."""
    server = build(observation(trace=trace(link=Parent(b"%032x" % 8, span_id(9), 1))))[0]
    assert [(link.context.trace_id, link.context.span_id) for link in server.links] == [(8, 9)]


@pytest.mark.parametrize(
    ("address", "host", "port"), [("[2001:db8::1]:80", "2001:db8::1", 80), ("patients.internal:8443", "patients.internal", 8443)]
)
def test_addresses_are_split(address: str, host: str, port: int) -> None:
    """server.address has no brackets and no port."""
    tried = attempt()
    tried.address = address
    attributes = build(observation(tries=[tried]))[1].attributes or {}
    assert (attributes["server.address"], attributes["server.port"]) == (host, port)


def test_the_address_cache_is_bounded() -> None:
    """A service whose instances never stop moving costs no memory."""
    builder = SpanBuilder(service_name="gateway", version="1", replica="r")
    tried = attempt()
    for port in range(MAXIMUM_ADDRESSES + 10):
        tried.address = f"10.0.0.1:{port}"
        list(builder.build(observation(tries=[tried])))
    assert len(builder._addresses) <= MAXIMUM_ADDRESSES


def test_calls_of_a_handler_are_spans_of_their_own() -> None:
    """O2: a handler's calls have their service and method, and a second call is no resend of the first."""
    first, second = attempt(span=1), attempt(span=2)
    for call, service, method in ((first, "claims", "POST"), (second, "claims", "brew")):
        call.service, call.method = service, method
    spans = build(observation(service="", tries=[first, second]))[1:]
    assert [span.name for span in spans] == ["POST", "_OTHER"]
    assert [(span.attributes or {})["gateway.service"] for span in spans] == ["claims", "claims"]
    assert not any("http.request.resend_count" in (span.attributes or {}) for span in spans)


def test_a_client_that_left_shows_its_reason() -> None:
    """S-34: no code was ever answered, the reason says why."""
    attributes = build(observation(status=499, reason="client_gone"))[0].attributes or {}
    assert attributes["gateway.reason"] == "client_gone"
    assert "gateway.code" not in attributes
