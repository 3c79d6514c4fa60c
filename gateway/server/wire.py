"""One request that came over our own protocol: bytes in, bytes out, no ASGI in between."""

from __future__ import annotations

from asyncio import Task
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.errors import BodyTooLarge, GatewayError
from gateway.exchange import NO_PARAMS, Exchange
from gateway.headers import BODILESS, FieldList, merge_limits, response_fields
from gateway.pieces import is_long, read_in_pieces
from gateway.server.cycle import LAST_CHUNK
from gateway.server.http1 import RequestHead
from gateway.upstream.http1 import HIGH_WATER_BYTES, ClientGone, ResponseHead, UpstreamConnection

if TYPE_CHECKING:
    from gateway.route import ASGIApp
    from gateway.server.protocol import GatewayProtocol


class WireExchange(Exchange):
    """An exchange between our protocol and an upstream connection, piped by callbacks once the response has begun.

    The protocol feeds it (`feed`, `complete`, `gone`, `fail`); the pipeline runs it.
    """

    __slots__ = (
        "_body_done",
        "_buffered_bytes",
        "_chunked_response",
        "_chunks",
        "_ends_by_close",
        "_keep_alive",
        "_started",
        "_upload",
        "protocol",
        "received_bytes",
        "task",
    )

    awaited = False

    def __init__(self, protocol: GatewayProtocol, head: RequestHead, target: bytes, *, body_done: bool = False) -> None:
        # What the base's constructor does, without a call of it: one is made for every request.
        self.method = head.name
        self.target = target
        self.headers = head.headers
        self.version_11 = head.version_11
        self.peer = protocol.peer
        self.path = b""
        self.query = b""
        self.params = NO_PARAMS
        self.plan = None
        self.principal = None
        self.limit_lines = b""
        self.cors_lines = b""
        self.refusal = None
        self.upstream = None
        self.endpoint = None
        self.sent = None
        #: The connection that it came by.
        self.protocol = protocol
        self._keep_alive = head.keep_alive
        # Most requests have no body, so there is nothing to keep it in.
        self._chunks: list[bytes] | None = None
        self._buffered_bytes = 0
        #: Size of the body so far.
        self.received_bytes = 0
        self._body_done = body_done
        self._upload: UpstreamConnection | None = None
        self._started = False
        self._chunked_response = False
        self._ends_by_close = False
        self.task: Task[None] | None = None

    # Fed by the protocol

    @property
    def body_done(self) -> bool:
        """Whether the whole request has arrived."""
        return self._body_done

    @property
    def keep_alive(self) -> bool:
        """Whether the connection may be used again."""
        return self._keep_alive

    @property
    def buffered(self) -> list[bytes]:
        """Body that arrived before anybody took it."""
        return self._chunks or []

    def feed(self, data: bytes) -> None:
        """A piece of the request's body."""
        self.received_bytes += len(data)
        plan = self.plan
        if plan is not None and self.received_bytes > plan.max_body_bytes:
            if self.refusal is None:
                self.fail(BodyTooLarge())
            return
        upload = self._upload
        if upload is not None and self.body_length is not None:
            upload.write(data)
            upload.touch()
            return
        if self._chunks is None:
            self._chunks = []
        self._chunks.append(data)
        self._buffered_bytes += len(data)
        if upload is None and self._buffered_bytes > HIGH_WATER_BYTES:
            self.protocol.pause_reading("buffer")
            read_in_pieces(self.protocol.transport, self.protocol, None)

    def flush(self) -> None:
        """What one read brought of the body is there: its chunks go on as one. Tiny ones would be kept at twenty times their size."""
        chunks = self._chunks
        if not chunks:
            return
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        upload = self._upload
        if upload is None:
            self._chunks = [data]
        else:
            self._chunks = None
            upload.write(b"%x\r\n%b\r\n" % (len(data), data))
            upload.touch()

    def complete(self) -> None:
        """The request's body is complete."""
        self._body_done = True
        upload = self._upload
        if upload is not None:
            if self.body_length is None:
                self.flush()
                upload.write(LAST_CHUNK)
            upload.request_sent = True
            upload.touch()

    def fail(self, error: GatewayError) -> None:
        """The rest of the request can't be taken."""
        self.refusal = error
        self._keep_alive = False
        if self.upstream is not None:
            self.upstream.abort(error)

    def gone(self) -> None:
        """The client left: stop the upstream's work (SPEC R7)."""
        if self.upstream is not None:
            self.upstream.abort(ClientGone())
        elif self.task is not None:
            self.task.cancel()

    def go_on(self, rest: Coroutine[Any, Any, None]) -> None:
        self.protocol.run(self, rest)

    def end_keep_alive(self) -> None:
        """Answer this request and then close."""
        self._keep_alive = False

    def last_answer(self) -> None:
        if not self.protocol.has_queued:
            self._keep_alive = False

    def write_paused(self, paused: bool) -> None:
        """The client can't take more (True), or can again (False)."""
        if self.upstream is not None:
            self.upstream.pause_reading(paused)

    # Exchange

    @property
    def response_started(self) -> bool:
        return self._started

    @property
    def replayable(self) -> bool:
        # What was uploaded piece by piece is not here any more.
        return self._body_done and self._upload is None

    def first_body(self) -> bytes:
        chunks = self._chunks or ()
        if self.body_length is None:
            framed = b"".join([b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks])
            return framed + LAST_CHUNK if self._body_done else framed
        if not chunks:
            return b""
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def begin_upload(self, connection: UpstreamConnection) -> None:
        if self._body_done:
            connection.request_sent = True
            return
        self._upload = connection
        self._chunks = None
        if connection.write_paused:
            self.protocol.pause_reading("upstream")
        if is_long(self.body_length):
            read_in_pieces(self.protocol.transport, self.protocol, connection.transport)
        self.protocol.resume_reading("buffer")

    async def respond(self, status: int, headers: FieldList, body: bytes, *, close: bool = False) -> None:
        if close or not self._body_done:
            self._keep_alive = False
        lines = [STATUS_LINE[status]]
        lines += [b"%b: %b\r\n" % field for field in self.protocol.server_state.default_headers]
        lines += [b"%b: %b\r\n" % field for field in headers]
        if status not in BODILESS:
            lines.append(b"content-length: %d\r\n" % len(body))
        lines.append(self._own_lines(self.limit_lines))
        if self.method != "HEAD" and body:
            lines.append(body)
            self.observation.response_bytes = len(body)
        self._started = True
        self.protocol.write(b"".join(lines))
        self._finish()

    def _own_lines(self, limit_lines: bytes) -> bytes:
        """The fields that we add to every answer, and the end of the head."""
        closing = b"" if self._keep_alive else b"connection: close\r\n"
        response_lines = self.plan.response_lines if self.plan is not None else b""
        return b"".join((self.id_line, limit_lines, self.cors_lines, response_lines, closing, b"\r\n"))

    def relay(self, connection: UpstreamConnection) -> Awaitable[None] | None:
        head = connection.head
        assert head is not None
        complete = connection.complete
        if not self._body_done:
            self._keep_alive = False
        plan = self.plan
        bodiless = self.method == "HEAD" or head.status in BODILESS
        body = b"" if bodiless else connection.take_body()
        observation = self.observation
        observation.status = head.status
        self._started = True
        whole = complete or bodiless
        if head.spelled[0] is plan:
            assert plan is not None
            end = b"\r\n" if self._keep_alive else b"connection: close\r\n\r\n"
            lines = (head.spelled[1], self.id_line, self.limit_lines, self.cors_lines, plan.response_lines, end, body if whole else b"")
            data = b"".join(lines)
        else:
            data = self._response_head(head, complete, len(body))
            if whole and body:
                data += body
        self.protocol.write(data)
        if not whole:
            return self._stream(connection, body)
        observation.response_bytes = len(body)
        self._finish()
        return None

    def _framing(self, head: ResponseHead, complete: bool, body_bytes: int) -> bytes:
        """How the body is delimited towards this client (RFC 9112 section 6)."""
        if head.status == 204:
            return b""  # RFC 9110 section 8.6
        length = head.length
        if length is not None:
            return b"content-length: %d\r\n" % length
        if self.method == "HEAD" or head.status in BODILESS:
            return b""
        if complete:
            return b"content-length: %d\r\n" % body_bytes
        if self.version_11:
            self._chunked_response = True
            return b"transfer-encoding: chunked\r\n"
        self._keep_alive = False
        self._ends_by_close = True
        return b""

    def _response_head(self, head: ResponseHead, complete: bool, body_bytes: int) -> bytes:
        plan = self.plan
        assert plan is not None
        limits = self.limit_lines
        fields = response_fields(head.headers, plan.response_dropped)
        if limits and head.limited:
            limits, fields = merge_limits(limits, fields)
        if not head.dated:
            # RFC 9110 section 6.6.1: whoever forwards a response without Date says when it came.
            fields = [*fields, *self.protocol.server_state.default_headers]
        lines = [b"%b: %b\r\n" % field for field in fields]
        spelled = STATUS_LINE[head.status] + b"".join(lines) + self._framing(head, complete, body_bytes)
        if head.dated and not head.limited and head.length is not None:
            head.spelled = (plan, spelled)
        return spelled + self._own_lines(limits)

    async def _stream(self, connection: UpstreamConnection, body: bytes) -> None:
        if body:
            self.relay_data(body)
        # It would be held until the stream ends.
        del body
        assert self.plan is not None
        finished = connection.wait_finished()
        assert connection.head is not None
        if is_long(connection.head.length):
            read_in_pieces(connection.transport, connection, self.protocol.transport)
        connection.pause_reading(self.protocol.writing_paused)
        self.plan.streams.add(self)
        try:
            await finished
        finally:
            self.plan.streams.discard(self)
        if self._chunked_response:
            self.protocol.write(LAST_CHUNK)
        self._finish()

    def relay_data(self, data: bytes) -> None:
        self.observation.response_bytes += len(data)
        self.protocol.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked_response else data)

    def relay_pause(self, paused: bool) -> None:
        if paused:
            self.protocol.pause_reading("upstream")
        else:
            self.protocol.resume_reading("upstream")

    def relay_interim(self, status: int, headers: FieldList) -> None:
        if self.version_11 and not self._started:
            fields = b"".join([b"%b: %b\r\n" % field for field in response_fields(headers)])
            self.protocol.write(STATUS_LINE[status] + fields + b"\r\n")

    async def serve(self, app: ASGIApp, *, mounted: bool) -> None:
        raise AssertionError("applications of this process are served through ASGI")

    def cut(self) -> None:
        self._keep_alive = False
        self.protocol.exchange_cut(self, clean=not self._ends_by_close)

    def _finish(self) -> None:
        self.observation.request_bytes = self.received_bytes
        self._upload = None
        self.protocol.exchange_done(self, keep_alive=self._keep_alive)
