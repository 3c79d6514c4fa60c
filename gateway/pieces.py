"""What one connection can make a process hold (SPEC H6): how much is read from it at once, and how much may wait to be written to it.

An event loop reads as much as there is, up to 250 KiB, and a piece is held whole until the kernel has taken its last byte. So what is read
is bounded here, once a body is long enough for it to matter, and nothing more is read while anything waits to be written. A connection
with TLS is bounded from its first byte on: what was read into its buffers once stays theirs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

#: The most that is read at once for a connection without TLS, and for one with it, which keeps it three times.
PLAIN_PIECE_BYTES = 192 * 1024
SECURE_PIECE_BYTES = 64 * 1024
#: The most that is written at once to a connection with TLS.
SECURE_SLICE_BYTES = 32 * 1024
#: A body that is no longer needs no bounds. Most of an API's are shorter.
SHORT_BYTES = 32 * 1024
#: So many unsent bytes of a long body, and nothing more of it is read; the same for bytes that TLS has not deciphered.
WAITING_BYTES = 1
#: So many of anything else, and whoever sends them pauses. Up to here the event loop sends what all connections have to send in a row.
UNSENT_BYTES = 32 * 1024


class _Buffer(threading.local):
    """Where a thread's event loop reads to. It belongs to nobody between two reads."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(PLAIN_PIECE_BYTES))


_BUFFER = _Buffer()


class Pieces(asyncio.BufferedProtocol):
    """Reads for a protocol, in pieces.

    Args:
        protocol: whose connection it is.
        most_bytes: of a piece.
    """

    __slots__ = ("_protocol", "_view", "most_bytes")

    def __init__(self, protocol: asyncio.Protocol, most_bytes: int) -> None:
        self._protocol = protocol
        self._view = _BUFFER.view[:most_bytes]
        self.most_bytes = most_bytes

    def __repr__(self) -> str:
        return f"<Pieces of {self.most_bytes} bytes>"

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        self._protocol.data_received(bytes(self._view[:nbytes]))

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)


def read_in_pieces(transport: asyncio.Transport, protocol: asyncio.Protocol, taker: asyncio.Transport | None) -> None:
    """Bound what is read at once from a connection, from now on.

    Args:
        transport: of the connection; nothing is done when it has TLS, which is read in pieces already.
        protocol: of the connection.
        taker: where the bytes go, whose protocol pauses from now on as soon as one of them waits; None when that is not known, or no
            transport.
    """
    if taker is not None:
        taker.set_write_buffer_limits(high=WAITING_BYTES)
    if is_secure(transport):
        return
    most_bytes = SECURE_PIECE_BYTES if taker is None or is_secure(taker) else PLAIN_PIECE_BYTES
    current = transport.get_protocol()
    if not isinstance(current, Pieces) or current.most_bytes != most_bytes:
        transport.set_protocol(Pieces(protocol, most_bytes))


def bound_buffers(transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
    """Bound what may wait to be written to a new connection. With TLS that is nothing, and it is read in pieces from now on: that costs no
    more than the 256 KiB that uvloop's TLS allocates for each read otherwise."""
    secure = is_secure(transport)
    transport.set_write_buffer_limits(high=WAITING_BYTES if secure else UNSENT_BYTES)
    if secure:
        transport.set_read_buffer_limits(high=WAITING_BYTES)  # type: ignore[attr-defined]
        transport.set_protocol(Pieces(protocol, SECURE_PIECE_BYTES))


def slices(data: bytes) -> Iterator[bytes]:
    """What may be written to a connection with TLS at once, piece by piece: room that it took once is never given back."""
    for start in range(0, len(data), SECURE_SLICE_BYTES):
        yield data[start : start + SECURE_SLICE_BYTES]


def is_long(length: int | None) -> bool:
    """Whether a body of so many bytes, or of nobody knows how many, needs bounds."""
    return length is None or length > SHORT_BYTES


def is_secure(transport: asyncio.BaseTransport) -> bool:
    """Whether a connection has TLS."""
    return transport.get_extra_info("sslcontext") is not None
