"""WebSocket on the wire, as far as a gateway has to read it: the handshake's proof, and where frames end (RFC 6455). Pure.

Frames pass as they came: nothing is unmasked, joined or decompressed, and a frame that breaks the rules is for the two ends to judge. What
is followed is only where each frame ends, because between two frames, and nowhere else, a Close frame of our own can be placed.
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha1
from typing import Protocol

#: The protocol's name in Upgrade, and the version that RFC 6455 defines.
NAME = b"websocket"
VERSION = b"13"
#: Status codes of Close frames that we send (RFC 6455 section 7.4.1).
NORMAL = 1000
GOING_AWAY, PROTOCOL_ERROR, INVALID_DATA, POLICY_VIOLATION, TOO_BIG, INTERNAL_ERROR = 1001, 1002, 1007, 1008, 1009, 1011
#: Opcodes (RFC 6455 section 5.2).
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
#: A Close frame has at most so many bytes of payload, two of which are its code.
MOST_CONTROL_BYTES = 125

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#: Sixteen bytes in base64: the last character carries four bits that are zero.
_KEY = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")
_CONTROL, _FIN, _RESERVED, _MASKED = 0x8, 0x80, 0x70, 0x80
#: Bytes of the longest frame header: two, a length of eight, a mask of four.
_LONGEST_HEADER = 14
#: Second byte without the mask bit -> bytes of the length that follows it.
_LENGTH_BYTES = {126: 2, 127: 8}


def is_key(value: bytes) -> bool:
    """Whether this is a `Sec-WebSocket-Key`: sixteen bytes in base64 (RFC 6455 section 4.2.1)."""
    return _KEY.fullmatch(value) is not None


def proof(key: bytes) -> bytes:
    """The `Sec-WebSocket-Accept` that answers a key (RFC 6455 section 4.2.2)."""
    return b64encode(sha1(key + _GUID, usedforsecurity=False).digest())


def frame(opcode: int, payload: bytes, mask: bytes = b"") -> bytes:
    """A whole message, or a control frame. `mask` is four random bytes for what a client would have sent, empty for a server's."""
    size, masked = len(payload), _MASKED if mask else 0
    if size < 126:
        header = bytes((_FIN | opcode, masked | size))
    elif size < 1 << 16:
        header = bytes((_FIN | opcode, masked | 126)) + size.to_bytes(2, "big")
    else:
        header = bytes((_FIN | opcode, masked | 127)) + size.to_bytes(8, "big")
    if not mask:
        return header + payload
    # As one number: many times quicker than byte by byte.
    key = (mask * (size // 4 + 1))[:size]
    return header + mask + (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


def close_frame(code: int, mask: bytes = b"", reason: bytes = b"") -> bytes:
    """A Close frame with a status code (RFC 6455 section 5.5.1)."""
    return frame(CLOSE, code.to_bytes(2, "big") + reason, mask)


def may_be_sent(code: int) -> bool:
    """Whether a Close frame may have this status code (RFC 6455 section 7.4, and what was registered since)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


class MessageTooBig(Exception):
    """A message is longer than it may be. `at` counts the bytes of the piece that come before the frame that says so; -1 when that frame
    began in an earlier piece."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at


class Reader(Protocol):
    """Follows one direction of a tunnel."""

    #: A Close frame has passed.
    closed: bool

    @property
    def between(self) -> bool:
        """Whether a frame of ours could follow what has passed so far."""

    def feed(self, data: bytes) -> int:
        """Follow some bytes. Returns how many of them come before the end of the last whole frame; -1 when no frame ends in them."""


class Frames:
    """Follows the frames of one direction.

    Args:
        most_bytes: of one message's frames, without their headers; None for any.
    """

    __slots__ = ("_header", "_left", "_message_bytes", "_most_bytes", "closed")

    def __init__(self, most_bytes: int | None = None) -> None:
        self._most_bytes = most_bytes
        #: What is known of a header that isn't complete, and the bytes that are left of the payload.
        self._header = b""
        self._left = 0
        self._message_bytes = 0
        self.closed = False

    def __repr__(self) -> str:
        state = "closed" if self.closed else "between frames" if self.between else f"{self._left} bytes left"
        return f"<Frames {state}>"

    @property
    def between(self) -> bool:
        return not self._left and not self._header

    def feed(self, data: bytes) -> int:
        """`Reader.feed`.

        Raises:
            MessageTooBig: a header announces more than a message may have.
        """
        size = len(data)
        # The most frequent case first: in the middle of a long frame.
        if self._left > size:
            self._left -= size
            return -1
        at = self._left
        last = 0 if self.between else -1
        if at:
            self._left = 0
            last = at
        while at < size:
            end = self._frame(data, at)
            if end > size:
                self._left = end - size
            elif end:
                last = end
            else:
                break
            at = end
        return last

    def _frame(self, data: bytes, at: int) -> int:
        """Read the header that begins, or goes on, at this place. Returns where its payload ends; 0 when the header isn't whole."""
        before = len(self._header)
        header = self._header + data[at : at + _LONGEST_HEADER - before]
        if len(header) < 2:
            self._header = header
            return 0
        short = header[1] & ~_MASKED
        length_end = 2 + _LENGTH_BYTES.get(short, 0)
        header_bytes = length_end + (4 if header[1] & _MASKED else 0)
        if len(header) < header_bytes:
            self._header = header
            return 0
        payload = short if length_end == 2 else int.from_bytes(header[2:length_end], "big")
        self._count(header[0], payload, -1 if before else at)
        self._header = b""
        return at + header_bytes - before + payload

    def _count(self, first: int, payload: int, at: int) -> None:
        opcode = first & 0x0F
        if opcode & _CONTROL:
            self.closed = self.closed or opcode == CLOSE
            return
        total = self._message_bytes + payload if opcode == 0 else payload
        if self._most_bytes is not None and total > self._most_bytes:
            raise MessageTooBig(at)
        self._message_bytes = 0 if first & _FIN else total


class Opaque:
    """One direction of a protocol that we don't know: nothing can be placed in it."""

    __slots__ = ("closed",)

    between = False

    def __init__(self) -> None:
        self.closed = False

    def feed(self, data: bytes) -> int:
        return -1


class Broken(Exception):
    """A sender breaks the rules. `code` is the Close frame's that tells it so."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Messages:
    """Reads the messages of a service that was offered no extensions, for a client that frames can't be passed to.

    Args:
        most_bytes: of a message; it is kept until it is whole.
    """

    __slots__ = ("_buffer", "_most_bytes", "_opcode", "_parts", "_size")

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._buffer = bytearray()
        #: Of the message that has begun; 0 when none has.
        self._opcode = 0
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Opcode and payload of each message, and of each control frame, that is whole now.

        Raises:
            Broken: a frame that may not be (RFC 6455 section 5), or a message that is too large.
        """
        self._buffer += data
        found: list[tuple[int, bytes]] = []
        while (end := self._end()) and end[1] <= len(self._buffer):
            first, payload = self._buffer[0], bytes(self._buffer[end[0] : end[1]])
            del self._buffer[: end[1]]
            message = self._whole(first, payload)
            if message is not None:
                found.append(message)
        return found

    def _end(self) -> tuple[int, int] | None:
        """Where the payload of the next frame begins and ends; None while its header isn't whole."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        first, size = buffer[0], buffer[1]
        if first & _RESERVED or size & _MASKED:
            raise Broken(PROTOCOL_ERROR)
        if first & _CONTROL and (size > MOST_CONTROL_BYTES or not first & _FIN):
            raise Broken(PROTOCOL_ERROR)
        begin = 2 + _LENGTH_BYTES.get(size, 0)
        if len(buffer) < begin:
            return None
        if begin > 2:
            size = int.from_bytes(buffer[2:begin], "big")
        if self._size + size > self._most_bytes:
            raise Broken(TOO_BIG)
        return begin, begin + size

    def _whole(self, first: int, payload: bytes) -> tuple[int, bytes] | None:
        opcode = first & 0x0F
        if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise Broken(PROTOCOL_ERROR)
        if opcode & _CONTROL:
            return opcode, payload
        if (opcode == CONTINUATION) != bool(self._opcode):
            raise Broken(PROTOCOL_ERROR)
        self._opcode = opcode or self._opcode
        self._parts.append(payload)
        self._size += len(payload)
        if not first & _FIN:
            return None
        whole = self._opcode, b"".join(self._parts)
        self._opcode, self._parts, self._size = 0, [], 0
        return whole
