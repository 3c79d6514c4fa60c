"""Trace fields of strangers (SPEC O1; F-61)."""

from __future__ import annotations

import re
from typing import get_args

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.telemetry.trace_context import (
    MAXIMUM_BAGGAGE_BYTES,
    MAXIMUM_BAGGAGE_MEMBERS,
    MAXIMUM_TRACESTATE_BYTES,
    MAXIMUM_TRACESTATE_MEMBERS,
    Propagator,
    Trust,
    parse_baggage,
    parse_traceparent,
    parse_tracestate,
)
from tests.fuzz.target import Target, field_lines

_SPAN_ID = b"b7ad6b7169203331"
_TRACEPARENT = re.compile(rb"traceparent: 00-[0-9a-f]{32}-b7ad6b7169203331-0[0-3]")
_VISIBLE = re.compile(rb"[\x20-\x7e\t]*")
_THEIRS = TraceContextTextMapPropagator()


def check(data: bytes) -> None:
    """Lines of `traceparent`, `tracestate` and `baggage`.

    Nothing raises; upstreams get exactly one `traceparent`, and of the rest only what is well-formed and bounded. What we take for the
    caller's trace is what OpenTelemetry's own reader takes for it.
    """
    fields = field_lines(data)
    parents, states, baggage = (
        [value for name, value in fields if name == wanted] for wanted in (b"traceparent", b"tracestate", b"baggage")
    )
    parent = parse_traceparent(parents)
    for trust in get_args(Trust):
        started = Propagator(trust, 0.5).start(parents, states, baggage)
        assert 0 < int(started.trace_id, 16) < 1 << 128
        assert 0 < int(started.span_id, 16) < 1 << 64
        lines = started.propagation_lines(_SPAN_ID)
        assert lines.endswith(b"\r\n")
        first, *others = lines[:-2].split(b"\r\n")
        assert _TRACEPARENT.fullmatch(first)
        assert all(map(_VISIBLE.fullmatch, others))
        if trust == "continue" and parent is not None:
            assert (started.trace_id, started.inherited.parent_span_id, started.sampled) == (
                parent.trace_id,
                parent.span_id,
                bool(parent.flags & 1),
            )
        else:
            assert parent is None or started.trace_id != parent.trace_id
            assert trust == "continue" or not others
        assert started.inherited.link == (parent if trust == "link" else None)
    if parent is not None and parents[0].startswith(b"00-"):
        theirs = trace.get_current_span(_THEIRS.extract({"traceparent": parents[0].decode("latin-1")})).get_span_context()
        assert theirs.trace_id == int(parent.trace_id, 16)
        assert (theirs.span_id, int(theirs.trace_flags)) == (int(parent.span_id, 16), parent.flags)
    _check_bounded(parse_tracestate(states), MAXIMUM_TRACESTATE_BYTES, MAXIMUM_TRACESTATE_MEMBERS)
    _check_bounded(parse_baggage(baggage), MAXIMUM_BAGGAGE_BYTES, MAXIMUM_BAGGAGE_MEMBERS)
    # What we pass on we would take ourselves.
    for parse, values in ((parse_tracestate, states), (parse_baggage, baggage)):
        passed = parse(values)
        assert not passed or parse([passed]) == passed


def _check_bounded(value: bytes, most_bytes: int, most_members: int) -> None:
    assert len(value) <= most_bytes
    members = value.split(b",") if value else []
    assert len(members) <= most_members
    assert all(b"=" in member for member in members)


TARGET = Target(
    "trace_context",
    check,
    ("gateway.telemetry.trace_context",),
    (),
    (
        b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n",
        b"tracestate: a=1,b@c=2\n",
        b"baggage: k=v;p,x=%20\n",
        b"00000000",
        b"ff-",
        b"-01",
    ),
)
