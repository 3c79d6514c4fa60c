"""Pure: the trace that a request belongs to, and its W3C Trace Context and Baggage fields in both directions.

Sources: Trace Context level 1 and 2 (https://www.w3.org/TR/trace-context/), Baggage (https://www.w3.org/TR/baggage/).
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from random import randbytes
from typing import Literal, NamedTuple

Trust = Literal["continue", "link", "ignore"]

SAMPLED = 0x01
#: Level 2: the trace id was made at random. Only passed on, for a trace that we continue.
RANDOM_TRACE_ID = 0x02

# A future version may append fields (section 4.3 of level 2); nobody needs more than this to do so.
MAXIMUM_TRACEPARENT_BYTES = 256
# "Vendors SHOULD propagate at least 512 characters of a combined header" (section 3.3.1.5): we propagate no more.
MAXIMUM_TRACESTATE_BYTES = 512
MAXIMUM_TRACESTATE_MEMBERS = 32
# The limits of the Baggage specification, section 3.3.2.
MAXIMUM_BAGGAGE_BYTES = 8192
MAXIMUM_BAGGAGE_MEMBERS = 64

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_TRACESTATE_MEMBER = re.compile(rb"([a-z0-9][a-z0-9_\-*/@]{0,255})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
_BAGGAGE_MEMBER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+[ \t]*=[\x20-\x2b\x2d-\x7e\t]*")
_WHITE_SPACE = b" \t"

#: Ids are drawn for so many requests at once: formatting one number for each id would cost four times as much.
_DRAWN_TOGETHER = 64
_IDS = struct.Struct("32s16s16s")
_NO_TRACE_ID, _NO_SPAN_ID = b"0" * 32, b"0" * 16


class Parent(NamedTuple):
    """What an inbound `traceparent` says: ids as it spells them."""

    trace_id: bytes
    span_id: bytes
    flags: int


class Inherited(NamedTuple):
    """What a trace has of a caller's.

    Args:
        parent_span_id: of the caller's span when its trace is continued, else empty.
        link: the caller's trace when we started our own beside it, else None.
        tracestate, baggage: validated values to pass on, empty for none.
    """

    parent_span_id: bytes = b""
    link: Parent | None = None
    tracestate: bytes = b""
    baggage: bytes = b""


NOTHING = Inherited()


class Trace:
    """One request's place in a trace. Made by `Propagator.start`, never changed afterwards.

    Ids are lower-case hexadecimal digits, as they travel, and never all zero.

    Args:
        trace_id: 32 digits; `trace_id_hex` is the same as text, which records and answers show whether it is sampled or not (O3).
        span_id: 16 digits, of our SERVER span.
        try_span_id: 16 digits, for the CLIENT span of the first try.
        sampled: decided before anything else happens; `flags` is what the upstream is told.
        inherited: what it has of a caller's.
    """

    __slots__ = (
        "flags",
        "inherited",
        "sampled",
        "span_id",
        "trace_id",
        "trace_id_hex",
        "try_span_id",
    )

    def __init__(
        self,
        trace_id: bytes,
        span_id: bytes,
        try_span_id: bytes,
        sampled: bool,
        flags: int,
        inherited: Inherited = NOTHING,
    ) -> None:
        self.trace_id = trace_id
        self.trace_id_hex = trace_id.decode("ascii")
        self.span_id = span_id
        self.try_span_id = try_span_id
        self.sampled = sampled
        self.flags = flags
        self.inherited = inherited

    def __repr__(self) -> str:
        parent = (self.inherited.parent_span_id or b"-").decode("ascii")
        return f"<Trace {self.trace_id_hex} span={self.span_id.decode('ascii')} parent={parent} flags={self.flags:02x}>"

    def propagation_lines(self, span_id: bytes) -> bytes:
        """Header lines for the upstream, each with its CRLF: exactly one `traceparent`, then what policy lets through (O1).

        Args:
            span_id: 16 digits, of the CLIENT span of this try.
        """
        line = b"traceparent: 00-%b-%b-0%d\r\n" % (self.trace_id, span_id, self.flags)
        inherited = self.inherited
        return line if inherited is NOTHING else line + _lines(inherited.tracestate, inherited.baggage)


class Propagator:
    """Starts a `Trace` for each request by the trust policy.

    `continue`: the caller is one of ours: same trace, its sampling decision, `tracestate` and `baggage` passed on.
    `link`: a new trace with our own sampling decision; the caller's is linked from our SERVER span. Nothing else of it gets in (F-61).
    `ignore`: a new trace, the caller's is forgotten.

    Args:
        trust: the policy.
        sample_ratio: share of new traces that are sampled, 0..1; decided from the trace id, so every replica decides alike.
    """

    __slots__ = ("_inherit", "_sample_below")

    def __init__(self, trust: Trust, sample_ratio: float) -> None:
        # Digits sort like the numbers that they spell, and below "g" are all of them.
        below = round(sample_ratio * (1 << 64))
        self._sample_below = b"%016x" % below if below < 1 << 64 else b"g"
        policies: dict[Trust, Callable[[Sequence[bytes], Sequence[bytes], Sequence[bytes]], Trace]] = {
            "continue": self._continue,
            "link": self._link,
            "ignore": self._ignore,
        }
        self._inherit = policies[trust]

    def start(self, traceparent: Sequence[bytes] = (), tracestate: Sequence[bytes] = (), baggage: Sequence[bytes] = ()) -> Trace:
        """The trace of a request with these field values, one item a line. Bad input starts a new trace, it never raises."""
        if traceparent or baggage:
            return self._inherit(traceparent, tracestate, baggage)
        # `_new` again, inlined: this is the path of nearly every request.
        trace_id, span_id, try_span_id = _next_ids()
        if trace_id[16:] < self._sample_below:
            return Trace(trace_id, span_id, try_span_id, True, SAMPLED)
        return Trace(trace_id, span_id, try_span_id, False, 0)

    def _new(self, link: Parent | None, baggage: bytes = b"") -> Trace:
        trace_id, span_id, try_span_id = _next_ids()
        sampled = trace_id[16:] < self._sample_below
        return Trace(trace_id, span_id, try_span_id, sampled, SAMPLED if sampled else 0, Inherited(link=link, baggage=baggage))

    def _continue(self, traceparent: Sequence[bytes], tracestate: Sequence[bytes], baggage: Sequence[bytes]) -> Trace:
        parent = parse_traceparent(traceparent)
        passed = parse_baggage(baggage)
        if parent is None:
            return self._new(None, passed)
        flags = parent.flags & (SAMPLED | RANDOM_TRACE_ID)
        _, span_id, try_span_id = _next_ids()
        state = parse_tracestate(tracestate)
        inherited = Inherited(parent.span_id, None, state, passed)
        return Trace(parent.trace_id, span_id, try_span_id, bool(flags & SAMPLED), flags, inherited)

    def _link(self, traceparent: Sequence[bytes], _tracestate: Sequence[bytes], _baggage: Sequence[bytes]) -> Trace:
        return self._new(parse_traceparent(traceparent))

    def _ignore(self, _traceparent: Sequence[bytes], _tracestate: Sequence[bytes], _baggage: Sequence[bytes]) -> Trace:
        return self._new(None)


def new_span_id() -> bytes:
    """16 random digits, never all zero."""
    return _next_ids()[1]


def _ids() -> Iterator[tuple[bytes, bytes, bytes]]:
    """Random ids without end: of a trace, and of two spans."""
    while True:
        digits = randbytes(_DRAWN_TOGETHER * _IDS.size // 2).hex().encode("ascii")
        if _NO_SPAN_ID not in digits:
            yield from _IDS.iter_unpack(digits)


def _forked() -> None:
    """A process that was forked off must not draw the ids that its parent has in store."""
    global _next_ids
    _next_ids = _ids().__next__


_next_ids = _ids().__next__
os.register_at_fork(after_in_child=_forked)


def parse_traceparent(values: Sequence[bytes]) -> Parent | None:
    """The one valid `traceparent` among the lines of a request, or None: several lines, upper case, zero ids and version ff are invalid.

    A higher version than ours is read as far as we know it (Trace Context section 4.3).
    """
    if len(values) != 1 or len(values[0]) > MAXIMUM_TRACEPARENT_BYTES:
        return None
    match = _TRACEPARENT.fullmatch(values[0].strip(_WHITE_SPACE))
    if match is None:
        return None
    version, trace_id, span_id, flags, future = match.groups()
    if version == b"ff" or (version == b"00" and future is not None):
        return None
    if trace_id == _NO_TRACE_ID or span_id == _NO_SPAN_ID:
        return None
    return Parent(trace_id, span_id, int(flags, 16))


def parse_tracestate(values: Sequence[bytes]) -> bytes:
    """The lines of `tracestate` as one value; empty when malformed, with a key twice, or too long: then all of it is dropped."""
    members = _members(values, MAXIMUM_TRACESTATE_BYTES, MAXIMUM_TRACESTATE_MEMBERS)
    keys = set()
    for member in members:
        match = _TRACESTATE_MEMBER.fullmatch(member)
        if match is None or match[1] in keys:
            return b""
        keys.add(match[1])
    return b",".join(members)


def parse_baggage(values: Sequence[bytes]) -> bytes:
    """The lines of `baggage` as one value; empty when malformed or too long."""
    members = _members(values, MAXIMUM_BAGGAGE_BYTES, MAXIMUM_BAGGAGE_MEMBERS)
    if all(_BAGGAGE_MEMBER.fullmatch(member) for member in members):
        return b",".join(members)
    return b""


def _members(values: Sequence[bytes], maximum_bytes: int, maximum_members: int) -> list[bytes]:
    if sum(map(len, values)) > maximum_bytes:
        return []
    members = [stripped for value in values for member in value.split(b",") if (stripped := member.strip(_WHITE_SPACE))]
    # Joining lines adds a comma each, so the bound is checked on what would be sent.
    if len(members) > maximum_members or sum(map(len, members)) + len(members) - 1 > maximum_bytes:
        return []
    return members


def _lines(tracestate: bytes, baggage: bytes) -> bytes:
    lines = b"tracestate: %b\r\n" % tracestate if tracestate else b""
    return lines + b"baggage: %b\r\n" % baggage if baggage else lines
