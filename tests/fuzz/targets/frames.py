"""Where WebSocket frames end in a tunnel (RFC 6455 section 5.2)."""

from __future__ import annotations

from gateway.websocket import Frames, MessageTooBig
from tests.fuzz.target import Target, random_cuts, single_bytes

_MOST_BYTES = 300
#: Where the last whole frame ends, whether a Close frame has passed, whether a message was too big.
Seen = tuple[int, bool, bool]


def check(data: bytes) -> None:
    """However the bytes are cut, the same frames end at the same places as in a walk from header to header; a message that is too big is
    told of at its header, never later."""
    for most_bytes in (None, _MOST_BYTES):
        expected = walked(data, most_bytes)
        for reads in ([data], random_cuts(data), single_bytes(data)):
            assert followed(reads, most_bytes) == expected, (reads, most_bytes)


def followed(reads: list[bytes], most_bytes: int | None) -> Seen:
    """What the gateway's reader makes of the reads."""
    frames = Frames(most_bytes)
    before = last = 0
    for read in reads:
        try:
            end = frames.feed(read)
        except MessageTooBig as error:
            assert -1 <= error.at < max(len(read), 1)
            return (last if error.at < 0 else before + error.at), frames.closed, True
        assert -1 <= end <= len(read)
        if end >= 0:
            last = before + end
        before += len(read)
        assert frames.between == (last == before)
    return last, frames.closed, False


def walked(data: bytes, most_bytes: int | None) -> Seen:
    """The same by a walk that knows all of the bytes."""
    at = message = 0
    closed = False
    while len(data) - at >= 2:
        first, second = data[at], data[at + 1]
        extended = {126: 2, 127: 8}.get(second & 0x7F, 0)
        header = 2 + extended + (4 if second & 0x80 else 0)
        if len(data) - at < header:
            break
        payload = int.from_bytes(data[at + 2 : at + 2 + extended], "big") if extended else second & 0x7F
        opcode = first & 0x0F
        if opcode & 0x8:
            closed = closed or opcode == 0x8
        else:
            message = payload + (message if opcode == 0 else 0)
            if most_bytes is not None and message > most_bytes:
                return at, closed, True
            message = 0 if first & 0x80 else message
        if at + header + payload > len(data):
            break
        at += header + payload
    return at, closed, False


TARGET = Target(
    "frames",
    check,
    ("gateway.websocket",),
    (MessageTooBig,),
    (
        b"\x81\x02hi",
        b"\x01\x02hi",
        b"\x80\x01!",
        b"\x88\x02\x03\xe8",
        b"\x89\x00",
        b"\x81\x82abcdhi",
        b"\x82\x7e\x00\x05hello",
        b"\x82\x7f" + b"\x00" * 7 + b"\x05hello",
    ),
    600,
)
