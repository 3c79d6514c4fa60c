"""A request for an application of this process: the ASGI side of our own protocol.

It differs from uvicorn's cycle where a gateway must: a message that breaks off or comes too slowly is told to the pipeline instead of
looking like a client that left, an answer that leaves the request half read lingers before the close, HTTP/1.0 gets no chunks and no
100 (Continue), and an answer that isn't completed is cut so that the client notices.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.errors import GatewayError
from gateway.failure import outline
from gateway.headers import BODILESS, connection_options
from gateway.pieces import read_in_pieces
from gateway.upstream.http1 import HIGH_WATER_BYTES

if TYPE_CHECKING:
    from gateway.server.protocol import GatewayProtocol
    from gateway.server.wire import WireExchange

logger = logging.getLogger("gateway.server")

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


class ApplicationCycle:
    """One request and its response, as ASGI messages. The protocol feeds it (`feed`, `complete`, `fail`, `gone`) like a `WireExchange`.

    Args:
        protocol: the connection.
        exchange: the request, with the body that has arrived so far.
    """

    __slots__ = (
        "_body",
        "_body_bytes",
        "_body_given",
        "_chunked",
        "_complete",
        "_error",
        "_expects_continue",
        "_gone",
        "_head_only",
        "_left_bytes",
        "_protocol",
        "_started",
        "_version_11",
        "_wake",
        "body_done",
        "keep_alive",
        "task",
    )

    def __init__(self, protocol: GatewayProtocol, exchange: WireExchange) -> None:
        self._protocol = protocol
        self._version_11 = exchange.version_11
        self._head_only = exchange.method == "HEAD"
        self.keep_alive = exchange.keep_alive
        self.task: asyncio.Task[None] | None = None
        # The request's body
        self._body = exchange.buffered
        self._body_bytes = exchange.received_bytes
        self.body_done = exchange.body_done
        self._body_given = False
        self._error: GatewayError | None = None
        self._gone = False
        self._wake = asyncio.Event()
        expected = exchange.header(b"expect") or b""
        self._expects_continue = exchange.version_11 and not self.body_done and expected.lower() == b"100-continue"
        # The response
        self._started = False
        self._complete = False
        self._chunked = False
        #: Bytes that the body still has to have; None when its length wasn't told.
        self._left_bytes: int | None = None

    # Fed by the protocol

    def feed(self, data: bytes) -> None:
        """A piece of the request's body."""
        self._body.append(data)
        self._body_bytes += len(data)
        if self._body_bytes > HIGH_WATER_BYTES:
            self._protocol.pause_reading("application")
            read_in_pieces(self._protocol.transport, self._protocol, None)
        self._wake.set()

    def flush(self) -> None:
        """What one read brought of the body is there."""
        if len(self._body) > 1:
            self._body[:] = [b"".join(self._body)]

    def complete(self) -> None:
        """The request's body is complete."""
        self.body_done = True
        self._wake.set()

    def fail(self, error: GatewayError) -> None:
        """The rest of the request can't be taken: whoever reads it is told."""
        self._error = error
        self.keep_alive = False
        self._wake.set()

    def gone(self) -> None:
        """The client left."""
        self._gone = True
        self._wake.set()

    @property
    def response_started(self) -> bool:
        """Whether the client has been sent anything."""
        return self._started

    def end_keep_alive(self) -> None:
        """Answer this request and then close."""
        self.keep_alive = False

    def write_paused(self, paused: bool) -> None:
        """`send` waits by itself."""

    # ASGI

    async def run(self, app: Any, scope: dict[str, Any]) -> None:
        """Let the application answer, and see to it that the client gets a whole answer or notices that it doesn't."""
        try:
            await app(scope, self._receive, self._send)
        except Exception as exc:
            logger.error("the application failed while it answered\n%s", outline(exc))
        finally:
            if not self._complete and not self._gone:
                self._protocol.exchange_cut(self, clean=self._chunked or self._left_bytes is not None)

    async def _receive(self) -> dict[str, Any]:
        """The next piece of the body; after the whole of it, the client's leaving.

        Raises:
            GatewayError: the rest of the body is malformed or didn't come in time.
        """
        if self._expects_continue:
            self._expects_continue = False
            if not self._started:
                self._protocol.write(CONTINUE)
        while not (self._gone or self._complete):
            if self._body or (self.body_done and not self._body_given):
                return self._take_body()
            if self._error is not None and not self._started:
                raise self._error
            self._wake.clear()
            await self._wake.wait()
        return {"type": "http.disconnect"}

    def _take_body(self) -> dict[str, Any]:
        body = b"".join(self._body)
        self._body.clear()
        self._body_bytes = 0
        self._body_given = self.body_done
        self._protocol.resume_reading("application")
        return {"type": "http.request", "body": body, "more_body": not self.body_done}

    async def _send(self, message: Any) -> None:
        if self._protocol.writing_paused and not self._gone:
            await self._protocol.flow.drain()
        if self._gone:
            return
        expected = "http.response.body" if self._started else "http.response.start"
        if self._complete or message["type"] != expected:
            raise RuntimeError(f"an application sent {message['type']!r} where {'nothing' if self._complete else expected!r} may follow")
        if self._started:
            self._write_body(message.get("body", b""), more=message.get("more_body", False))
        else:
            self._write_head(message["status"], message["headers"])

    def _write_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """The head; the fields were checked by the pipeline's side."""
        lines = [STATUS_LINE[status]]
        lines += [b"%b: %b\r\n" % field for field in self._protocol.server_state.default_headers]
        for name, value in headers:
            if name == b"connection":
                self.keep_alive = self.keep_alive and b"close" not in connection_options((value,))
                continue
            if name == b"content-length":
                self._left_bytes = int(value)
            lines.append(b"%b: %b\r\n" % (name, value))
        if not self.body_done:
            self.keep_alive = False
        if status in BODILESS:
            self._head_only = True
        elif self._left_bytes is None and not self._head_only:
            if self._version_11:
                self._chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
            else:
                self.keep_alive = False
        lines.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        self._started = True
        self._protocol.write(b"".join(lines))

    def _write_body(self, data: bytes, *, more: bool) -> None:
        if self._head_only:
            data = b""
            self._left_bytes = None
        if self._left_bytes is not None:
            self._left_bytes -= len(data)
            if self._left_bytes < 0 or (self._left_bytes and not more):
                raise RuntimeError("an application's body is longer or shorter than its Content-Length")
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            if not more:
                data += LAST_CHUNK
        if data:
            self._protocol.write(data)
        if not more:
            self._complete = True
            self._wake.set()
            self._protocol.exchange_done(self, keep_alive=self.keep_alive)
