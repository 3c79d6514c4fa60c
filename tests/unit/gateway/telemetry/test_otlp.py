"""Our encoding against the official one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from gateway.telemetry.otlp import MAXIMUM_KEPT_ATTRIBUTES, OtlpEncoder
from gateway.telemetry.spans import SpanBuilder
from gateway.telemetry.trace_context import Parent
from tests.support.observations import SPAN_ID, TRACE_ID, attempt, observation, span_id, trace

BUILDER = SpanBuilder(service_name="gateway", version="1.2.3", replica="gw-1")

REQUESTS: dict[str, dict[str, Any]] = {
    "answered": {},
    "denied": {"status": 429, "code": "rate_limited", "denied": True, "tries": [], "route": None},
    "tried twice": {"tries": [attempt(0, error="upstream_reset", span=1), attempt(503, span=2)], "status": 503},
    "linked": {"trace": trace(link=Parent(b"%032x" % 8, span_id(9), 1))},
    "continued": {"trace": trace(parent_span_id=span_id(3), tracestate=b"a=1,b=2")},
    "shadow": {"shadow_limited": ("one", "two"), "store_mode": "open", "generation": 300},
    "empty texts": {"host": "", "client_ip": "", "request_id": ""},
    "long and foreign texts": {"user_agent": "\u00e9" * 256, "host": "h" * 200, "request_id": "\u2028"},
}


def encoder() -> OtlpEncoder:
    return OtlpEncoder(BUILDER.resource, BUILDER.scope)


def span(attributes: dict[str, Any], **fields: Any) -> ReadableSpan:
    context = SpanContext(TRACE_ID, SPAN_ID, False, TraceFlags(1))
    fields = {"kind": SpanKind.SERVER, "start_time": 1, "end_time": 2, **fields}
    return ReadableSpan("name", context, None, BUILDER.resource, attributes, instrumentation_scope=BUILDER.scope, **fields)


@pytest.mark.parametrize("fields", REQUESTS.values(), ids=REQUESTS.keys())
def test_every_kind_of_request_is_encoded_as_the_official_classes_do(fields: dict[str, Any]) -> None:
    """O2: the same message, field for field; the second time from kept attributes."""
    ours = encoder()
    spans = list(BUILDER.build(observation(**fields)))
    for _ in range(2):
        assert ExportTraceServiceRequest.FromString(ours.encode(spans)) == encode_spans(spans)


VALUES = st.one_of(
    st.text(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.lists(st.text(), max_size=3).map(tuple)
)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), VALUES), max_size=5))
def test_any_attribute_is_encoded_as_the_official_classes_do(attributes: list[dict[str, Any]]) -> None:
    """O2: above all, a kept value is never taken for another that is equal to it (1, True, 1.0)."""
    spans = [span(one) for one in attributes]
    ours = ExportTraceServiceRequest.FromString(encoder().encode(spans))
    assert list(ours.resource_spans[0].scope_spans[0].spans) == [
        encode_spans([one]).resource_spans[0].scope_spans[0].spans[0] for one in spans
    ]


@pytest.mark.parametrize("status", [StatusCode.UNSET, StatusCode.OK, StatusCode.ERROR])
@pytest.mark.parametrize("kind", [SpanKind.INTERNAL, SpanKind.SERVER, SpanKind.CLIENT])
def test_kinds_and_statuses(kind: SpanKind, status: StatusCode) -> None:
    """O2: enums by their numbers."""
    spans = [span({}, kind=kind, status=Status(status))]
    assert ExportTraceServiceRequest.FromString(encoder().encode(spans)) == encode_spans(spans)


def test_a_text_that_is_no_unicode_costs_no_batch() -> None:
    """O5: one odd value can't make the whole batch fail."""
    decoded = ExportTraceServiceRequest.FromString(encoder().encode([span({"a": "x\ud800y"})]))
    assert decoded.resource_spans[0].scope_spans[0].spans[0].attributes[0].value.string_value == "x?y"


def test_an_impossible_value_is_named() -> None:
    """Our bug, so it says which type."""
    with pytest.raises(TypeError, match="not dict"):
        encoder().encode([span({"a": {}})])


def test_kept_attributes_are_bounded() -> None:
    """F-60: request ids are new each time and don't pile up."""
    ours = encoder()
    for number in range(MAXIMUM_KEPT_ATTRIBUTES + 100):
        ours.encode([span({"id": f"request-{number}"})])
    assert len(ours._attributes) <= MAXIMUM_KEPT_ATTRIBUTES


def test_the_librarys_client_takes_encoded_requests() -> None:
    """Pins what `OtlpExporter` uses of the library beyond its public names."""
    exporter = OTLPSpanExporter(endpoint="http://127.0.0.1:9/v1/traces")
    assert callable(exporter._client.export)
    exporter.shutdown()  # type: ignore[no-untyped-call]
