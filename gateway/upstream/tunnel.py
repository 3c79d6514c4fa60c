"""A tunnel: two connections whose bytes go from one to the other, once HTTP has ended on both of them (RFC 9110 section 7.8).

Each side has a `Side` as its asyncio protocol, so a piece costs one callback and one write. A side that can't take more pauses the other
one's reading; nothing is kept but what the transports have. The tunnel is over when the upstream's connection is and the client has been
given what there was; what ended it is told by `reason`.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable

from gateway.pieces import read_in_pieces
from gateway.route import WebSocket
from gateway.websocket import GOING_AWAY, POLICY_VIOLATION, TOO_BIG, Frames, MessageTooBig, Opaque, Reader, close_frame

#: How long the last bytes may take to reach a side that is being closed.
CLOSE_SECONDS = 0.5
#: How long a client may take to answer a Close frame of ours, and a side to follow the other one's end.
FOLLOW_SECONDS = 5.0


class Figures:
    """What the tunnels of one service count: open ones, all that there were, and bytes from the clients and to them."""

    __slots__ = ("from_clients", "open", "opened", "to_clients")

    def __init__(self) -> None:
        self.open = 0
        self.opened = 0
        self.from_clients = 0
        self.to_clients = 0


class Side(asyncio.Protocol):
    """One end of a tunnel: what comes from it goes to the `other`. Until the tunnel begins it is kept.

    Args:
        transport: of the connection.
        on_lost: whose connection it was; told of its end.
    """

    __slots__ = (
        "_on_lost",
        "early",
        "ended",
        "frames",
        "lost",
        "other",
        "parting",
        "received_bytes",
        "reset",
        "transport",
        "tunnel",
        "write_paused",
    )

    other: Side

    def __init__(self, transport: asyncio.Transport, on_lost: Callable[[Exception | None], None]) -> None:
        self.transport = transport
        self._on_lost = on_lost
        self.tunnel: Tunnel | None = None
        self.early: list[bytes] = []
        #: Follows what is written to this side.
        self.frames: Reader = Opaque()
        self.received_bytes = 0
        self.write_paused = False
        #: It will send nothing more; its connection is gone; that was no orderly end.
        self.ended = False
        self.lost = False
        self.reset = False
        #: The Close frame that has to be placed in what is written to this side; empty when nothing more may be written, None else.
        self.parting: bytes | None = None

    def __repr__(self) -> str:
        state = "lost" if self.lost else "ended" if self.ended else "open"
        return f"<Side {state} received={self.received_bytes}>"

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        if self.tunnel is not None:
            self.tunnel.carry(self, data)
        else:
            # The client hasn't been told yet. It is a moment, and the transport reads no more than a piece or two in it.
            self.early.append(data)

    def eof_received(self) -> bool:
        self.ended = True
        return self.tunnel.ended(self) if self.tunnel is not None else self.transport.can_write_eof()

    def pause_writing(self) -> None:
        self.write_paused = True
        if self.tunnel is not None:
            self.other.pause_reading()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.tunnel is not None:
            self.tunnel.writable(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = self.ended = True
        self.reset = exc is not None
        self.parting = b""
        self._on_lost(exc)
        if self.tunnel is not None:
            self.tunnel.lost(self)

    # For the tunnel

    def pause_reading(self) -> None:
        """Take nothing more from this side, whose connection may have ended."""
        if not self.lost and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Take more from this side again."""
        if not self.lost and not self.transport.is_closing():
            self.transport.resume_reading()

    def write_last(self, data: bytes) -> None:
        """Write, and nothing after it."""
        self.parting = b""
        if not self.lost:
            self.transport.write(data)

    def end(self) -> None:
        """Nothing more goes to this side, which is to notice it after all that was written."""
        self.parting = b""
        if self.lost or self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()


class Tunnel:
    """Carries bytes between two sides until something ends it.

    Args:
        client, upstream: the sides.
        rules: its bounds.
        most_message_bytes: of a client's WebSocket message; None when the protocol is another one.
    """

    def __init__(self, client: Side, upstream: Side, rules: WebSocket, most_message_bytes: int | None) -> None:
        self._client = client
        self._upstream = upstream
        client.other, upstream.other = upstream, client
        self._loop = asyncio.get_running_loop()
        self._idle = rules.idle
        self._most_bytes = rules.max_bytes or math.inf
        self._end_at = self._loop.time() + rules.lifetime if rules.lifetime else math.inf
        #: The reason of an end at `_end_at`.
        self._end_reason = "tunnel_lifetime"
        self._known = most_message_bytes is not None
        if most_message_bytes is not None:
            client.frames, upstream.frames = Frames(), Frames(most_message_bytes)
        self._over = False
        #: When `expire` is called (`loop.time()`).
        self.deadline = 0.0
        #: What ended it: a word for the records.
        self.reason = ""
        #: Resolved when it is over.
        self.finished: asyncio.Future[None] = self._loop.create_future()

    def __repr__(self) -> str:
        state = f"over: {self.reason}" if self._over else "open"
        return f"<Tunnel {state} client={self._client!r} upstream={self._upstream!r}>"

    def begin(self) -> None:
        """Carry what has come meanwhile, and all that follows."""
        self._touch()
        sides = (self._upstream, self._client)
        for side in sides:
            side.tunnel = self
            read_in_pieces(side.transport, side, side.other.transport)
        for side in sides:
            early, side.early = side.early, []
            for data in early:
                self.carry(side, data)
            if side.write_paused:
                side.other.pause_reading()
        for side in sides:
            if side.lost:
                self.lost(side)
            elif side.ended and not self.ended(side):
                side.transport.close()

    # What the sides tell

    def carry(self, side: Side, data: bytes) -> None:
        """A piece has come from a side."""
        if self._over:
            return
        side.received_bytes += len(data)
        if side.received_bytes > self._most_bytes:
            self.close("tunnel_max_bytes", POLICY_VIOLATION)
            return
        self._touch()
        other = side.other
        try:
            whole_bytes = other.frames.feed(data)
        except MessageTooBig as excess:
            if excess.at > 0 and other.parting is None:
                other.transport.write(data[: excess.at])
            self.close("tunnel_message_too_big", TOO_BIG)
            return
        if other.parting is None:
            other.transport.write(data)
        elif other.parting and whole_bytes >= 0:
            other.write_last(data[:whole_bytes] + other.parting)
        elif other.parting:
            other.transport.write(data)

    def ended(self, side: Side) -> bool:
        """A side sends nothing more. Returns whether it stays open for what the other one has to say."""
        other = side.other
        if self._over or other.ended:
            return False
        self._note(f"{self._name(side)}_closed")
        other.end()
        if self._known:
            # WebSocket has no half-closed state: the other side has to follow (RFC 6455 section 7.1).
            self._bound(FOLLOW_SECONDS, self.reason)
        return side.transport.can_write_eof()

    def writable(self, side: Side) -> None:
        """A side can take more again."""
        if self._over:
            self._finish_when_written()
        else:
            side.other.resume_reading()

    def lost(self, side: Side) -> None:
        """The connection of a side has gone."""
        self._note(f"{self._name(side)}_{'reset' if side.reset else 'closed'}")
        other = side.other
        if not self._over:
            self._over = True
            self.deadline = self._loop.time() + FOLLOW_SECONDS
            if other is self._upstream and not other.lost:
                if side.reset:
                    other.transport.abort()
                else:
                    other.transport.close()
        self._finish_when_written()

    # Ending it

    def close(self, reason: str, code: int) -> None:
        """End it now: nothing more is carried, and both sides get a Close frame where one can be placed.

        Args:
            reason: for the records.
            code: of the Close frames.
        """
        if self._over:
            return
        self.reason = reason
        self._over = True
        self.deadline = self._loop.time() + CLOSE_SECONDS
        for side in (self._client, self._upstream):
            if side.parting is None and side.frames.between and not side.frames.closed:
                side.write_last(self._close_frame(side, code))
        self._client.end()
        if not self._upstream.lost:
            self._upstream.transport.close()
        self._finish_when_written()

    def part(self, reason: str) -> None:
        """Ask a WebSocket client to go: it gets a Close frame at the end of a frame, and time to answer it. Others are left alone."""
        client = self._client
        if self._over or not self._known or client.parting is not None:
            return
        self._note(reason)
        self._bound(FOLLOW_SECONDS, reason)
        if client.frames.closed:
            return
        client.parting = self._close_frame(client, GOING_AWAY)
        if client.frames.between:
            client.write_last(client.parting)

    def expire(self) -> None:
        """A deadline has passed."""
        if self._over:
            self.abort()
        elif self._loop.time() >= self._end_at:
            self.close(self._end_reason, GOING_AWAY)
        else:
            self.close("tunnel_idle", GOING_AWAY)

    def abort(self) -> None:
        """Wait for nothing more."""
        self._over = True
        if not self._upstream.lost:
            self._upstream.transport.abort()
        self._finish()

    def _finish_when_written(self) -> None:
        """Be over once the upstream has gone and the client has taken what was written to it."""
        client = self._client
        if not self._upstream.lost:
            return
        if not client.lost and not client.transport.is_closing():
            client.resume_reading()
            # From now on any byte that is left counts as too much, so that we hear of the last one.
            client.transport.set_write_buffer_limits(high=0)
            if client.write_paused:
                return
        self._finish()

    def _finish(self) -> None:
        self.deadline = 0.0
        if not self.finished.done():
            self.finished.set_result(None)

    # Details

    def _bound(self, seconds: float, reason: str) -> None:
        """End it after so long, if not before."""
        end_at = self._loop.time() + seconds
        if end_at < self._end_at:
            self._end_at, self._end_reason = end_at, reason
        self._touch()

    def _touch(self) -> None:
        self.deadline = min(self._loop.time() + self._idle, self._end_at)

    def _note(self, reason: str) -> None:
        """What came first is the reason."""
        self.reason = self.reason or reason

    def _name(self, side: Side) -> str:
        return "client" if side is self._client else "upstream"

    def _close_frame(self, side: Side, code: int) -> bytes:
        return close_frame(code, b"" if side is self._client else os.urandom(4))


class Switch:
    """Another protocol that a request asks for, and what an upstream that agrees has to say.

    Args:
        protocol: its name in lower case.
        proof: the value of `Sec-WebSocket-Accept`; empty for other protocols.
        rules: bounds of the tunnel.
        most_message_bytes: of a WebSocket message of the client.
        figures: of the service.
    """

    __slots__ = ("figures", "most_message_bytes", "proof", "protocol", "rules")

    def __init__(self, protocol: bytes, proof: bytes, rules: WebSocket, most_message_bytes: int, figures: Figures) -> None:
        self.protocol = protocol
        self.proof = proof
        self.rules = rules
        self.most_message_bytes = most_message_bytes
        self.figures = figures

    def __repr__(self) -> str:
        return f"<Switch {self.protocol.decode('latin-1')}>"

    @property
    def lines(self) -> bytes:
        """Wire lines that ask for it, or agree to it."""
        return b"connection: upgrade\r\nupgrade: %b\r\n" % self.protocol

    def agrees(self, headers: list[tuple[bytes, bytes]]) -> bool:
        """Whether the fields of a 101 response agree to just this (RFC 6455 section 4.1)."""
        named = [value.strip(b" \t").lower() for name, value in headers if name == b"upgrade"]
        proofs = [value.strip(b" \t") for name, value in headers if name == b"sec-websocket-accept"]
        return named == [self.protocol] and (not self.proof or proofs == [self.proof])

    def tunnel(self, client: Side, upstream: Side) -> Tunnel:
        """A tunnel between two sides, which is yet to begin."""
        return Tunnel(client, upstream, self.rules, self.most_message_bytes if self.proof else None)
