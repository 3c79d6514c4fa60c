"""WebSockets that another ASGI server has accepted: messages there, frames towards the service, and the same tunnel in between.

The server speaks with the client, so compression, pings and the handshake's own fields end there. Everything else is as on the wire: the
pipeline before, the tunnel's bounds, revocation and expiry, the record at the end.
"""

from __future__ import annotations

import asyncio
import logging
import os
from base64 import b64encode
from collections import deque
from typing import Any

from gateway.deadlines import Deadlines
from gateway.errors import GatewayError
from gateway.failure import outline
from gateway.headers import response_fields
from gateway.peer import Peer
from gateway.server.asgi import AsgiExchange, Message, Receive, Scope, Send
from gateway.server.upgrade import Agreement
from gateway.upstream.http1 import HIGH_WATER_BYTES, ClientGone, ResponseHead, UpstreamConnection
from gateway.upstream.tunnel import Side, Switch
from gateway.websocket import (
    BINARY,
    CLOSE,
    INTERNAL_ERROR,
    INVALID_DATA,
    NAME,
    NORMAL,
    PING,
    PONG,
    PROTOCOL_ERROR,
    TEXT,
    VERSION,
    Broken,
    Messages,
    close_frame,
    frame,
    may_be_sent,
)

logger = logging.getLogger("gateway.server")

#: Of the client's handshake with the server; ours with the service has its own.
_OF_THE_SERVER = frozenset((b"sec-websocket-extensions", b"sec-websocket-key", b"sec-websocket-version", b"upgrade"))
_OF_THE_HANDSHAKE = frozenset((b"sec-websocket-accept", b"sec-websocket-extensions", b"sec-websocket-protocol"))
#: What a peer may not send as a code, but a server reports: no code came, or no Close frame.
_NO_CODES = (1005, 1006, 1015)
_MASK_BYTES = 4


def says_no_target(record: logging.LogRecord) -> bool:
    """A filter of uvicorn's log: its lines about WebSockets show path and query, whatever becomes of its access log (SPEC O4, F-61)."""
    return not (isinstance(record.msg, str) and '"WebSocket %s"' in record.msg)


class MessageTransport(asyncio.Transport):
    """What a tunnel takes for the client's connection: frames that are written become messages of ASGI, sent one after the other.

    Args:
        send: of the ASGI server.
        most_message_bytes: of a message of the service.
    """

    def __init__(self, send: Send, most_message_bytes: int) -> None:
        super().__init__()
        self._send = send
        self._messages = Messages(most_message_bytes)
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[Message, int]] = deque()
        self._queued_bytes = 0
        self._high = HIGH_WATER_BYTES
        self._paused = False
        #: The Close has been queued; nothing follows it.
        self._closed = False
        self._writer: asyncio.Task[None] | None = None
        self._reading = asyncio.Event()
        self._reading.set()
        self.side = Side(self, _forget)

    def __repr__(self) -> str:
        return f"<MessageTransport {'closed' if self._closed else 'open'} queued={self._queued_bytes}>"

    # What comes from the client

    async def received(self, message: Message) -> bool:
        """Pass a message of the client on, when the service can take it. Returns whether more may come."""
        if message["type"] == "websocket.disconnect":
            code = message.get("code") or 1005
            if not self._closed:
                self._closed = True
                self.side.data_received(frame(CLOSE, b"" if code in _NO_CODES else code.to_bytes(2, "big"), os.urandom(_MASK_BYTES)))
            self._lose()
            return False
        text, data = message.get("text"), message.get("bytes")
        payload, opcode = (text.encode("utf-8", "surrogatepass"), TEXT) if text is not None else (data or b"", BINARY)
        await self._reading.wait()
        self.side.data_received(frame(opcode, payload, os.urandom(_MASK_BYTES)))
        return True

    # asyncio.Transport, as far as a tunnel uses it

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.side

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """How much is read at once is for the server to say."""

    def write(self, data: Any) -> None:
        if self._closed:
            return
        try:
            for opcode, payload in self._messages.feed(bytes(data)):
                self._take(opcode, payload)
        except Broken as broken:
            self._refuse(broken.code)
        except UnicodeDecodeError:
            self._refuse(INVALID_DATA)

    def close(self) -> None:
        """The tunnel is over. Without a Close frame before, the service has broken off."""
        self._put_close(INTERNAL_ERROR, "")

    def abort(self) -> None:
        self._closed = True
        if self._writer is not None:
            self._writer.cancel()
        self._lose()

    def is_closing(self) -> bool:
        return self._closed

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self._reading.clear()

    def resume_reading(self) -> None:
        self._reading.set()

    def is_reading(self) -> bool:
        return self._reading.is_set()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = HIGH_WATER_BYTES if high is None else high
        self._pause()

    def get_write_buffer_size(self) -> int:
        return self._queued_bytes

    # Details

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            # The server answers pings of the client, and we those of the service. RFC 6455 section 5.5.3.
            self._loop.call_soon(self.side.data_received, frame(PONG, payload, os.urandom(_MASK_BYTES)))
        elif opcode == TEXT:
            self._put({"type": "websocket.send", "text": payload.decode("utf-8")}, len(payload))
        elif opcode == BINARY:
            self._put({"type": "websocket.send", "bytes": payload}, len(payload))
        elif opcode == CLOSE:
            code = int.from_bytes(payload[:2], "big") if payload else NORMAL
            if not may_be_sent(code):
                raise Broken(PROTOCOL_ERROR)
            self._put_close(code, payload[2:].decode("utf-8"))

    def _refuse(self, code: int) -> None:
        """The service breaks the rules: it is told, and so is the client."""
        self._loop.call_soon(self.side.data_received, close_frame(code, os.urandom(_MASK_BYTES)))
        self._put_close(INTERNAL_ERROR, "")

    def _put_close(self, code: int, reason: str) -> None:
        if not self._closed:
            self._put({"type": "websocket.close", "code": code, "reason": reason}, 0)
            self._closed = True

    def _put(self, message: Message, size: int) -> None:
        if self._closed:
            return
        self._queue.append((message, size))
        self._queued_bytes += size
        self._pause()
        if self._writer is None:
            self._writer = self._loop.create_task(self._write_all())

    def _pause(self) -> None:
        if not self._paused and self._queue and self._queued_bytes >= self._high:
            self._paused = True
            self.side.pause_writing()

    async def _write_all(self) -> None:
        try:
            while self._queue:
                message, size = self._queue[0]
                await self._send(message)
                self._queue.popleft()
                self._queued_bytes -= size
                if self._paused and (not self._queue or self._queued_bytes < self._high):
                    self._paused = False
                    self.side.resume_writing()
        except OSError:
            # The client left between two messages; the server tells it by a disconnect, too.
            self._drop()
        except Exception as error:
            logger.error("the server didn't take a message of a WebSocket\n%s", outline(error))
            self._drop()
        self._writer = None
        if self._closed:
            self._lose()

    def _drop(self) -> None:
        self._queue.clear()
        self._queued_bytes = 0
        self._closed = True

    def _lose(self) -> None:
        if not self.side.lost:
            self.side.connection_lost(None)


def _forget(exc: Exception | None) -> None:
    """Nobody else has the connection."""


class SocketExchange(AsgiExchange):
    """An exchange that began as a WebSocket of an ASGI server.

    Args:
        deadlines: watch over its tunnel.
    """

    __slots__ = ("_agreement", "_deadlines", "_reader", "_socket_receive", "_socket_send", "_transport", "_will_explain")

    def __init__(self, scope: Scope, receive: Receive, send: Send, peer: Peer, deadlines: Deadlines) -> None:
        kept = [field for field in scope["headers"] if bytes(field[0]).lower() not in _OF_THE_SERVER]
        ours = [(b"connection", b"upgrade"), (b"upgrade", NAME), (b"sec-websocket-version", VERSION)]
        key = (b"sec-websocket-key", b64encode(os.urandom(16)))
        as_http = {**scope, "method": "GET", "http_version": "1.1", "headers": [*kept, *ours, key]}
        super().__init__(as_http, receive, self._deny, peer)
        self._socket_receive = receive
        self._socket_send = send
        self._will_explain = "websocket.http.response" in (scope.get("extensions") or ())
        self._deadlines = deadlines
        self._agreement = Agreement()
        self._transport: MessageTransport | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def offering(self) -> SocketExchange:
        return self

    def expect(self, switch: Switch) -> None:
        """`Offering.expect`."""
        self._agreement.switch = switch

    def relay_switch(self, connection: UpstreamConnection, rest: bytes) -> None:
        """`Switching.relay_switch`."""
        self._agreement.take(connection, rest)

    def begin_upload(self, connection: UpstreamConnection) -> None:
        connection.request_sent = True
        if self._reader is None:
            self._reader = asyncio.get_running_loop().create_task(self._read())

    def end(self, error: GatewayError) -> None:
        if not self._agreement.end(error):
            super().end(error)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
        super().close()

    async def relay(self, connection: UpstreamConnection) -> None:
        head = connection.head
        if head is None or head.status != 101:
            await super().relay(connection)
            return
        switch = self._agreement.switch
        assert switch is not None
        transport = self._transport = MessageTransport(self._socket_send, switch.most_message_bytes)
        self.observation.status = 101
        self._started = True
        await self._accept(head)
        await self._agreement.carry(self, transport.side, self._deadlines)

    def cut(self) -> None:
        """The tunnel has told both sides."""

    async def _accept(self, head: ResponseHead) -> None:
        assert self.plan is not None
        chosen = [value for name, value in head.headers if name == b"sec-websocket-protocol"]
        fields = response_fields(head.headers, self.plan.response_dropped)
        own = self._own_fields(self.limit_lines)
        await self._socket_send(
            {
                "type": "websocket.accept",
                "subprotocol": chosen[0].decode("latin-1") if chosen else None,
                "headers": [field for field in fields if field[0] not in _OF_THE_HANDSHAKE] + own,
            }
        )

    async def _read(self) -> None:
        """Read what the server has of the client, from before it is accepted until it has left."""
        more = True
        while more:
            message = await self._socket_receive()
            if self._transport is not None:
                more = await self._transport.received(message)
            elif message["type"] == "websocket.disconnect":
                more = False
                if self.upstream is not None:
                    self.upstream.abort(ClientGone())

    async def _deny(self, message: Message) -> None:
        """An answer instead of a WebSocket, where the server can send one; else it refuses with 403."""
        if self._will_explain:
            await self._socket_send({**message, "type": f"websocket.{message['type']}"})
        elif message["type"] == "http.response.start":
            await self._socket_send({"type": "websocket.close", "code": 1008})
