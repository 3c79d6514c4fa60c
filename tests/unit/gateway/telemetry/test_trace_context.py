"""Trace Context and Baggage, in and out."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from gateway.telemetry.trace_context import (
    MAXIMUM_BAGGAGE_BYTES,
    MAXIMUM_TRACESTATE_BYTES,
    Parent,
    Propagator,
    Trust,
    new_span_id,
    parse_baggage,
    parse_traceparent,
    parse_tracestate,
)

TRACE_ID = b"0af7651916cd43dd8448eb211c80319c"
SPAN_ID = b"b7ad6b7169203331"
VALID = b"00-" + TRACE_ID + b"-" + SPAN_ID + b"-01"
UNSAMPLED = VALID[:-1] + b"0"
PARENT = Parent(TRACE_ID, SPAN_ID, 1)
TRY = b"000000000000004d"
LINE = re.compile(rb"traceparent: 00-[0-9a-f]{32}-000000000000004d-0[0-3]\r\n")

BAD_TRACEPARENTS = {
    "none": [],
    "two different": [VALID, UNSAMPLED],
    "two equal": [VALID, VALID],
    "upper case": [VALID.upper()],
    "upper case id": [VALID.replace(b"af", b"AF")],
    "empty": [b""],
    "garbage": [b"hello\r\nx: y"],
    "not hex": [VALID.replace(b"0af7", b"0ag7")],
    "zero trace id": [b"00-" + b"0" * 32 + b"-" + SPAN_ID + b"-01"],
    "zero span id": [b"00-" + TRACE_ID + b"-" + b"0" * 16 + b"-01"],
    "version ff": [b"ff" + VALID[2:]],
    "version 00 with more": [VALID + b"-00"],
    "future version run together": [b"01" + VALID[2:] + b"00"],
    "short flags": [VALID[:-1]],
    "long": [b"01" + VALID[2:] + b"-" + b"a" * 300],
    "underscores": [VALID.replace(b"-", b"_")],
    "list in one line": [VALID + b"," + VALID],
    "sign": [b"00-+" + TRACE_ID[1:] + b"-" + SPAN_ID + b"-01"],
}


@pytest.mark.parametrize("values", BAD_TRACEPARENTS.values(), ids=BAD_TRACEPARENTS.keys())
@pytest.mark.parametrize("trust", ["continue", "link", "ignore"])
def test_bad_context_starts_a_new_trace_with_one_traceparent(trust: Trust, values: list[bytes]) -> None:
    """O1: exactly one traceparent upstream for inputs with none, two, upper-case and malformed ones."""
    trace = Propagator(trust, 1.0).start(values, [b"vendor=1"], [])
    assert trace.trace_id_hex.encode() != TRACE_ID
    assert trace.inherited.parent_span_id == b""
    assert trace.inherited.link is None
    assert LINE.fullmatch(trace.propagation_lines(TRY))


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        (VALID, 1),
        (UNSAMPLED, 0),
        (b" " + VALID + b"\t", 1),
        (b"01" + VALID[2:], 1),
        (b"cc" + VALID[2:] + b"-what-ever", 1),
        (VALID[:-2] + b"ff", 255),
    ],
)
def test_valid_traceparents_are_read(value: bytes, flags: int) -> None:
    """O1: one valid traceparent, of our version or a later one (Trace Context section 4.3)."""
    assert parse_traceparent([value]) == PARENT._replace(flags=flags)


def test_continue_keeps_the_trace_its_decision_and_its_state() -> None:
    """O1: trust `continue`."""
    trace = Propagator("continue", 0.0).start([VALID], [b"a=1", b" b=2 ,"], [b"user=alice;ttl=1"])
    assert trace.trace_id_hex.encode() == TRACE_ID
    assert trace.inherited.parent_span_id == PARENT.span_id
    assert trace.span_id != PARENT.span_id
    assert trace.sampled
    assert trace.propagation_lines(TRY) == (
        b"traceparent: 00-" + TRACE_ID + b"-000000000000004d-01\r\ntracestate: a=1,b=2\r\nbaggage: user=alice;ttl=1\r\n"
    )


@pytest.mark.parametrize(
    ("flags", "passed"), [(b"00", b"00"), (b"01", b"01"), (b"02", b"02"), (b"03", b"03"), (b"ff", b"03"), (b"fc", b"00")]
)
def test_continue_passes_the_flags_that_it_knows(flags: bytes, passed: bytes) -> None:
    """O1: sampled and random are passed on, unknown flags are cleared."""
    trace = Propagator("continue", 1.0).start([VALID[:-2] + flags], [], [])
    assert trace.propagation_lines(TRY).endswith(b"-" + passed + b"\r\n")
    assert trace.sampled == bool(int(passed, 16) & 1)


def test_continue_without_context_decides_itself_and_passes_baggage() -> None:
    """O1: baggage doesn't depend on a traceparent, tracestate does."""
    trace = Propagator("continue", 1.0).start([], [b"a=1"], [b"k=v"])
    assert trace.sampled
    assert trace.inherited.tracestate == b""
    assert trace.propagation_lines(TRY).endswith(b"-01\r\nbaggage: k=v\r\n")


def test_link_starts_anew_and_remembers_where_it_came_from() -> None:
    """F-61: the caller can't force sampling nor pass anything on, but can be found."""
    trace = Propagator("link", 0.0).start([VALID], [b"a=1"], [b"k=v"])
    assert trace.trace_id_hex.encode() != TRACE_ID
    assert trace.inherited.link == PARENT
    assert not trace.sampled
    assert LINE.fullmatch(trace.propagation_lines(TRY))


def test_ignore_forgets_the_caller() -> None:
    """F-61: trust `ignore`."""
    trace = Propagator("ignore", 1.0).start([VALID], [b"a=1"], [b"k=v"])
    assert trace.trace_id_hex.encode() != TRACE_ID
    assert trace.inherited.link is None
    assert LINE.fullmatch(trace.propagation_lines(TRY))


@pytest.mark.parametrize(
    ("values", "passed"),
    [
        ([], b""),
        ([b"a=1,b=2"], b"a=1,b=2"),
        ([b"t@v/x=1", b"", b",,b=2"], b"t@v/x=1,b=2"),
        ([b"a=1,a=2"], b""),
        ([b"A=1"], b""),
        ([b"a=1\r\nx: y"], b""),
        ([b"a"], b""),
        ([b"a=" + b"x" * 257], b""),
        ([b"a=1"] + [b"b%d=1" % n for n in range(31)], b"a=1," + b",".join(b"b%d=1" % n for n in range(31))),
        ([b"b%d=1" % n for n in range(33)], b""),
        ([b"a=" + b"x" * 251, b"b=" + b"x" * 256], b"a=" + b"x" * 251 + b",b=" + b"x" * 256),
        ([b"a=" + b"x" * 252, b"b=" + b"x" * 256], b""),
    ],
)
def test_tracestate_is_validated_and_bounded(values: list[bytes], passed: bytes) -> None:
    """O1, F-61: at most 512 bytes and 32 members, else all of it is dropped."""
    assert parse_tracestate(values) == passed
    assert len(passed) <= MAXIMUM_TRACESTATE_BYTES


@pytest.mark.parametrize(
    ("values", "passed"),
    [
        ([b"k=v"], b"k=v"),
        ([b" k = v ; p=1 ", b"l="], b"k = v ; p=1,l="),
        ([b"k"], b""),
        ([b"k=v\x00"], b""),
        ([b"k=v\r\nx: y"], b""),
        ([b"k=\xe9"], b""),
        ([b"k=" + b"x" * MAXIMUM_BAGGAGE_BYTES], b""),
        ([b"k%d=v" % n for n in range(65)], b""),
    ],
)
def test_baggage_is_validated_and_bounded(values: list[bytes], passed: bytes) -> None:
    """O1, F-61: at most 8192 bytes and 64 members, else all of it is dropped."""
    assert parse_baggage(values) == passed


def test_ratio_is_kept_within_chance() -> None:
    """The sampling decision is made at the start, for the configured share of the traces."""
    propagator = Propagator("link", 0.1)
    sampled = sum(propagator.start([], [], []).sampled for _ in range(20_000))
    assert 1750 < sampled < 2250


@pytest.mark.parametrize(("ratio", "expected"), [(0.0, False), (1.0, True)])
def test_ratios_of_nothing_and_all_are_exact(ratio: float, expected: bool) -> None:
    """0 samples none and 1 samples every trace."""
    propagator = Propagator("link", ratio)
    assert {propagator.start([], [], []).sampled for _ in range(2000)} == {expected}


def test_ids_are_fresh_and_never_zero() -> None:
    """Zero ids are invalid (Trace Context sections 3.2.2.3 and 3.2.2.4)."""
    propagator = Propagator("link", 1.0)
    traces = [propagator.start([], [], []) for _ in range(1000)]
    spans = [span for trace in traces for span in (trace.span_id, trace.try_span_id)] + [new_span_id() for _ in range(1000)]
    assert len({trace.trace_id for trace in traces}) == 1000
    assert len(set(spans)) == 3000
    assert all(re.fullmatch("(?!0+$)[0-9a-f]{32}", trace.trace_id_hex) for trace in traces)
    assert all(re.fullmatch(b"(?!0+$)[0-9a-f]{16}", span) for span in spans)
    assert all(trace.trace_id_hex.encode() == trace.trace_id for trace in traces)


def test_processes_that_were_forked_draw_other_ids() -> None:
    """Ids are drawn in advance, and two processes must not give out the same ones."""
    program = """if True:
        import os
        from gateway.telemetry.trace_context import new_span_id
        new_span_id()
        child = os.fork()
        os.write(1, new_span_id() + b"\\n")
        if child:
            os.waitpid(child, 0)
    """
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout.split()
    assert len(set(told)) == 2


def test_a_trace_tells_its_state() -> None:
    """The repr is for log lines and failing tests."""
    trace = Propagator("continue", 1.0).start([VALID], [], [])
    assert repr(trace) == f"<Trace {TRACE_ID.decode()} span={trace.span_id.decode()} parent={SPAN_ID.decode()} flags=01>"
