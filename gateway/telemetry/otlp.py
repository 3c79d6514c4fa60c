"""Pure: our spans as an OTLP `ExportTraceServiceRequest`, written straight to bytes.

The protobuf classes take 30 us a span to fill from Python, which would be the most expensive part of a sampled request. Most of a span is
the same for every request of a route, so its attributes are encoded once and kept. Field numbers are those of opentelemetry-proto 1.x
(`trace.proto`, `common.proto`); a test compares every message with what the official classes make of the same spans.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode

# Request ids are new with each request, so the kept attributes are thrown away now and then.
MAXIMUM_KEPT_ATTRIBUTES = 4096

_TIMES = Struct("<cQcQ").pack
_DOUBLE = Struct("<d").pack
# Span.flags (field 16, fixed32): bit 8 says that bit 9 is meaningful, bit 9 that the parent is in another process.
_LOCAL_PARENT = b"\x85\x01\x00\x01\x00\x00"
_REMOTE_PARENT = b"\x85\x01\x00\x03\x00\x00"
# Link.flags (field 6): the linked span is always a caller's, so in another process.
_REMOTE_LINK = b"\x35\x00\x03\x00\x00"
_KINDS = {SpanKind.INTERNAL: b"\x30\x01", SpanKind.SERVER: b"\x30\x02", SpanKind.CLIENT: b"\x30\x03"}
_STATUSES = {StatusCode.UNSET: b"\x7a\x00", StatusCode.OK: b"\x7a\x02\x18\x01", StatusCode.ERROR: b"\x7a\x02\x18\x02"}


class OtlpEncoder:
    """Encodes spans that share a resource and a scope, and have neither events nor dropped parts: those of `SpanBuilder`.

    Args:
        resource, scope: of every span; encoded once.
    """

    __slots__ = ("_attributes", "_resource", "_scope")

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        self._attributes: dict[tuple[str, str | int], bytes] = {}
        self._resource = _field(1, b"".join(_field(1, _key_value(key, value)) for key, value in resource.attributes.items()))
        self._scope = _field(1, _text(1, scope.name) + _text(2, scope.version or ""))

    def encode(self, spans: Iterable[ReadableSpan]) -> bytes:
        """The serialized request for these spans."""
        scope_spans = self._scope + b"".join([_field(2, self._span(span)) for span in spans])
        return _field(1, self._resource + _field(2, scope_spans))

    def _span(self, span: ReadableSpan) -> bytes:
        context = span.context
        parent = span.parent
        assert isinstance(context, SpanContext)
        parts = [
            b"\x0a\x10",
            context.trace_id.to_bytes(16, "big"),
            b"\x12\x08",
            context.span_id.to_bytes(8, "big"),
            _text(3, context.trace_state.to_header()) if context.trace_state else b"",
            b"\x22\x08" + parent.span_id.to_bytes(8, "big") if parent is not None else b"",
            _text(5, span.name),
            _KINDS[span.kind],
            _TIMES(b"\x39", span.start_time, b"\x41", span.end_time),
        ]
        parts += [self._attribute(key, value) for key, value in (span.attributes or {}).items()]
        parts += [_field(13, _link(link)) for link in span.links]
        parts += (_STATUSES[span.status.status_code], _REMOTE_PARENT if parent is not None and parent.is_remote else _LOCAL_PARENT)
        return b"".join(parts)

    def _attribute(self, key: str, value: Any) -> bytes:
        # Texts and exact ints only: to a dictionary, True is 1 and 1.0 is 1.
        if value.__class__ is not str and value.__class__ is not int:
            return _field(9, _key_value(key, value))
        kept = self._attributes.get((key, value))
        if kept is None:
            if len(self._attributes) >= MAXIMUM_KEPT_ATTRIBUTES:
                self._attributes.clear()
            kept = self._attributes[key, value] = _field(9, _key_value(key, value))
        return kept


def _link(link: Link) -> bytes:
    ids = b"\x0a\x10" + link.context.trace_id.to_bytes(16, "big") + b"\x12\x08" + link.context.span_id.to_bytes(8, "big")
    return ids + _REMOTE_LINK


def _key_value(key: str, value: Any) -> bytes:
    return _text(1, key) + _field(2, _any_value(value))


def _any_value(value: Any) -> bytes:
    if isinstance(value, str):
        data = value.encode("utf-8", "replace")
        # In a oneof even an empty text is there.
        return b"\x0a" + _varint(len(data)) + data
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        # Negative numbers are sent as 64-bit two's complement.
        return b"\x18" + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)
    if isinstance(value, float):
        return b"\x21" + _DOUBLE(value)
    if isinstance(value, Sequence):
        return _field(5, b"".join(_field(1, _any_value(item)) for item in value))
    raise TypeError(f"span attributes are texts, numbers and sequences of them, not {type(value).__name__}")


def _text(number: int, value: str) -> bytes:
    """A string field; nothing when empty, as proto3 has it."""
    return _field(number, value.encode("utf-8", "replace")) if value else b""


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited field; numbers up to 15 have a tag of one byte."""
    return b"%c%b%b" % (number << 3 | 2, _varint(len(data)), data)


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _SMALL[value]
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


_SMALL = tuple(bytes((value,)) for value in range(0x80))
