"""One HTTP/1.1 connection to an upstream: the only file on this side that knows the parser.

An exchange on a connection goes `begin` -> `response` resolves when the response's header is complete -> `start_relay` hands the body to a
sink as it arrives -> `finished` resolves. A small response is usually complete when `response` resolves, so it costs one wake-up.

The upstream is not trusted: conflicting framing, surplus bytes, a second response nobody asked for, oversized headers and unsolicited 101
make the connection unusable and the response an error, never a mixed one (RFC 9112 sections 6.3 and 9.3).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import httptools

from gateway.deadlines import FORGET
from gateway.errors import BadGateway, GatewayError, GatewayTimeout
from gateway.headers import BODILESS, FieldList, collector, connection_options, wire_bytes
from gateway.pieces import SECURE_SLICE_BYTES, bound_buffers, is_long, is_secure, read_in_pieces, slices
from gateway.route import Timeouts
from gateway.upstream.repeated import RepeatedHeads
from gateway.upstream.retry import Overdue, PerTry

#: The reason in records when a handshake with an instance fails.
TLS_FAILURE = "upstream_tls_failure"
#: Response header bytes and fields that we take from an upstream; nginx and Envoy draw the line near 32-64 KiB and 100 fields too.
MAX_HEAD_BYTES = 64 * 1024
MAX_FIELDS = 200
#: Interim responses before the final one; more is an upstream that plays with us.
MAX_INTERIM = 16
#: Body bytes kept while nobody relays yet.
HIGH_WATER_BYTES = 32 * 1024
#: Trailer fields of a response; they are dropped, and this many are too many.
MAX_TRAILERS = 64

#: What a reason phrase may consist of (RFC 9112 section 4).
_REASON = bytes((0x09, *range(0x20, 0x7F), *range(0x80, 0x100)))
_HEAD_END = b"\r\n\r\n"
#: Of HTTP; the parser takes RTSP/ and ICE/ for the same.
_FIRST_BYTE = ord("H")

_OF_INTEREST = frozenset((b"content-length", b"date", b"ratelimit", b"ratelimit-policy", b"transfer-encoding"))


class Sink(Protocol):
    """Where a response goes while it streams. Called from the event loop, must not block."""

    def relay_data(self, data: bytes) -> None:
        """A piece of the body, without transfer coding."""

    def relay_pause(self, paused: bool) -> None:
        """The upstream can't take more of the request's body (True), or can again (False)."""

    def relay_interim(self, status: int, headers: FieldList) -> None:
        """A 1xx response."""


@runtime_checkable
class Switching(Sink, Protocol):
    """A sink that may have asked for another protocol."""

    def relay_switch(self, connection: UpstreamConnection, rest: bytes) -> None:
        """A 101 response has come: take the connection over, or raise BadGateway.

        Args:
            connection: `head` is that of the response.
            rest: what came after it, which is the other protocol's.
        """


class ClientGone(Exception):
    """The client left; nobody is there to be told."""


class ResponseHead:
    """Status and fields of a final response.

    `length` is the body's size in bytes, None when it is chunked or ends with the connection; `dated` and `limited` say whether there is
    a Date field, and a RateLimit field. `spelled` is for who relays it: a key, and what was made of this head for that key. A head may be
    that of many responses, so nobody changes `headers`.
    """

    __slots__ = ("chunked", "dated", "headers", "length", "limited", "spelled", "status")

    def __init__(self, status: int, headers: FieldList, length: int | None, chunked: bool, dated: bool, limited: bool) -> None:
        self.status = status
        self.headers = headers
        self.length = length
        self.chunked = chunked
        self.dated = dated
        self.limited = limited
        self.spelled: tuple[object, bytes] = (None, b"")


class UpstreamConnection(asyncio.Protocol):
    """A connection that carries one exchange at a time. Its pool owns it; the exchange borrows it.

    Args:
        repeated: heads that other responses of the same endpoint had.
    """

    __slots__ = (
        "_chunks",
        "_closes",
        "_collected",
        "_error",
        "_exchange_open",
        "_head_bytes",
        "_head_request",
        "_interim",
        "_loop",
        "_parsed",
        "_parser",
        "_paused_reading",
        "_reason",
        "_repeated",
        "_timeouts",
        "_unread",
        "_until_close",
        "closed",
        "complete",
        "deadline",
        "finished",
        "head",
        "idle_since",
        "keep_alive",
        "on_header",
        "on_lost",
        "on_told",
        "request_sent",
        "response",
        "response_started",
        "reused",
        "sink",
        "total_deadline",
        "transport",
        "write_paused",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, repeated: RepeatedHeads) -> None:
        self._loop = loop
        self._repeated = repeated
        # Per-connection state
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        # Fields of the head, or of the trailer, that is being read. A closure: the parser calls it for every field.
        self._collected: FieldList = []
        self.on_header = collector(self._collected)
        self._parser = httptools.HttpResponseParser(self)
        self.closed = False
        #: An HTTP/1.0 response said so.
        self._closes = False
        self.write_paused = False
        self.reused = False
        self.idle_since = 0.0
        #: Called when the connection has ended.
        self.on_lost: Callable[[UpstreamConnection], None] = _ignore
        # Per-exchange state
        self._timeouts = Timeouts()
        self.total_deadline = 0.0
        self._exchange_open = False
        self._reset()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "busy" if self._exchange_open else "idle"
        return f"<UpstreamConnection {state}{' reused' if self.reused else ''}>"

    def _reset(self) -> None:
        self._head_request = False
        #: What has come went through the parser.
        self._parsed = False
        self._head_bytes = 0
        self._interim = 0
        self._chunks: list[bytes] = []
        self._unread = 0
        #: The whole response has arrived.
        self.complete = False
        self._until_close = False
        self._error: GatewayError | ClientGone | None = None
        #: Who has the open exchange.
        self.sink: Sink | None = None
        self._paused_reading = False
        self.head: ResponseHead | None = None
        self.response_started = False
        self.request_sent = False
        self.keep_alive = False
        self.response: asyncio.Future[None] | None = None
        self.finished: asyncio.Future[None] | None = None
        #: Called once, in the place of `response`, by an exchange that nobody awaits.
        self.on_told: Callable[[UpstreamConnection], None] | None = None
        self.deadline = 0.0

    # Exchange interface

    @property
    def usable(self) -> bool:
        """Whether another exchange may begin."""
        return not self.closed and not self._exchange_open

    def begin(self, data: bytes, sink: Sink, timeouts: Timeouts, total_deadline: float, *, head_request: bool) -> asyncio.Future[None]:
        """Send the head of a request, with as much of its body as is there; returns the future that resolves with the response's head.

        Args:
            data: wire bytes.
            sink: told of interim responses and of back-pressure.
            timeouts: of this exchange.
            total_deadline: `loop.time()` at which the whole exchange ends; 0 for none.
            head_request: the method is HEAD, so the response has no body whatever its fields say (RFC 9112 section 6.3).
        """
        self.send(data, sink, timeouts, total_deadline, None, self._loop.time(), whole=False, head_request=head_request)
        self.response = self._loop.create_future()
        return self.response

    def send(
        self,
        data: bytes,
        sink: Sink,
        timeouts: Timeouts,
        total_deadline: float,
        on_told: Callable[[UpstreamConnection], None] | None,
        now: float,
        *,
        whole: bool,
        head_request: bool,
    ) -> None:
        """`begin` for an exchange that nobody awaits.

        Args:
            on_told: called once, when the response's head is there or won't come; `told` says which. It must leave the exchange as it is
                until this call of the connection's is over.
            now: of the loop.
            whole: `data` is all of the request; else who sends the rest sets `request_sent`.
        """
        assert not self._exchange_open, "an exchange is open"
        assert not self.closed, "the connection has ended"
        if self._parsed or self._chunks:
            self._reset()
        else:
            # A response that was recognised by its bytes has left nothing else.
            self.head = None
            self.complete = self.response_started = self.keep_alive = False
        self._head_request = head_request
        self._exchange_open = True
        self.sink = sink
        self._timeouts = timeouts
        self.total_deadline = total_deadline
        self.on_told = on_told
        self.request_sent = whole
        # `touch`, before anything has come.
        deadline = now + (timeouts.response if whole else timeouts.idle)
        self.deadline = total_deadline if total_deadline and total_deadline < deadline else deadline
        self.transport.write(data)

    def told(self) -> asyncio.Future[None]:
        """What `begin` would have returned, for an exchange that nobody awaited, once that was told how it stands."""
        response = self.response = self._loop.create_future()
        if self.head is not None:
            response.set_result(None)
        else:
            response.set_exception(self._error or Overdue())
        return response

    def go_on(self, timeouts: Timeouts, seconds: float) -> asyncio.Future[None]:
        """Wait so much longer for the response's head, after `Overdue`; `timeouts` apply from now on."""
        self._timeouts = timeouts
        self.response = response = self._loop.create_future()
        if self._error is not None:
            response.set_exception(self._error)
        elif self.head is not None:
            response.set_result(None)
        else:
            deadline = self._loop.time() + seconds
            total = self.total_deadline
            self.deadline = total if total and total < deadline else deadline
        return response

    def write(self, data: bytes) -> None:
        """Send more of the request."""
        if self.closed:
            return
        if len(data) > SECURE_SLICE_BYTES and is_secure(self.transport):
            for piece in slices(data):
                self.transport.write(piece)
        else:
            self.transport.write(data)

    def take_body(self) -> bytes:
        """The body bytes that arrived so far and were not taken."""
        chunks = self._chunks
        if not chunks:
            return b""
        self._unread = 0
        if len(chunks) == 1:
            return chunks.pop()
        self._chunks = []
        return b"".join(chunks)

    def wait_finished(self) -> asyncio.Future[None]:
        """The future that resolves when the whole body has been handed to the sink, or raises what ended it early."""
        self.finished = finished = self._loop.create_future()
        if self._error is not None:
            finished.set_exception(self._error)
        elif self.complete:
            finished.set_result(None)
        else:
            # From the head's deadline over to the body's.
            self.touch()
        return finished

    def pause_reading(self, paused: bool) -> None:
        """Stop or resume taking bytes from the upstream: the client's side of back-pressure."""
        if self.closed or paused == self._paused_reading:
            return
        self._paused_reading = paused
        if paused:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def end_exchange(self) -> bool:
        """Close the exchange; returns whether the connection may be used again."""
        reusable = (
            self._exchange_open
            and self.complete
            and self.keep_alive
            and self.request_sent
            and self._error is None
            and not self.closed
            and not self.write_paused
        )
        self._exchange_open = False
        self.sink = None
        self.response = None
        self.finished = None
        self.deadline = 0.0
        if not reusable:
            self.abort()
        elif self._paused_reading:
            self.pause_reading(False)
        return reusable

    def abort(self, error: GatewayError | ClientGone | None = None) -> None:
        """Drop the connection; whoever waits for the exchange gets `error`."""
        if error is not None:
            self._fail(error)
        if not self.closed:
            self.closed = True
            if self.transport is not None:
                self.transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        bound_buffers(self.transport, self)

    def data_received(self, data: bytes) -> None:
        if not self._exchange_open or self.complete:
            # Bytes that no request asked for: a 408 on an idle connection, or an attempt to poison the next exchange.
            self.keep_alive = False
            self.abort()
            return
        alone = not self._parsed and not self._head_request
        if alone and (head := self._repeated.find(data)) is not None:
            # The parser is between two messages, and stays there.
            self.head = head
            self.response_started = self.keep_alive = self.complete = True
            if head.length:
                self._chunks.append(data[-head.length :])
            on_told = self.on_told
            if on_told is None:
                self._tell(None)
            else:
                self.on_told = None
                on_told(self)
            return
        self._parsed = True
        if self.head is None:
            if not self.response_started and data[0] != _FIRST_BYTE:
                self._refuse("upstream_protocol_error")
                return
            self._head_bytes += len(data)
            unread = -1
        else:
            unread = self._unread
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            self._switch(data[exc.args[0] :])
            return
        except httptools.HttpParserError as exc:
            self._parse_failed(exc)
            return
        if self.head is None:
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse("upstream_header_too_large")
            return
        if self._head_request and self.head.chunked and not ends_with_head(data):
            # A chunk's size, of which the parser tells nothing yet.
            self.keep_alive = False
        if not self.complete and not self._bounds_hold(len(data), self._unread == unread):
            return
        if alone and self.complete and self.keep_alive and not self._interim and self.head.status not in BODILESS:
            self._repeated.keep(data, self.head)
        self._advance()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.deadline = FORGET
        self.on_lost(self)
        if not self._exchange_open:
            return
        if self.head is not None and self._until_close and exc is None:
            self.complete = True
            self._advance()
        elif not self.complete:
            error = BadGateway(reason="upstream_closed_early" if self.response_started else "upstream_reset")
            if isinstance(exc, ssl.SSLError) and not self.response_started:
                # With TLS 1.3 a server says what it thinks of our certificate when the handshake is over for us.
                error = BadGateway(reason=TLS_FAILURE)
            error.__cause__ = exc
            self._fail(error)

    def pause_writing(self) -> None:
        self.write_paused = True
        if self.sink is not None:
            self.sink.relay_pause(True)

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.sink is not None:
            self.sink.relay_pause(False)

    # Parser callbacks

    def on_message_begin(self) -> None:
        self.response_started = True
        if self.complete:
            self.keep_alive = False
            raise BadGateway(reason="upstream_surplus_response")
        self._collected.clear()

    def on_status(self, reason: bytes) -> None:
        # Nobody gets it, but whoever sends such a thing sends others as well.
        if reason.translate(None, _REASON):
            raise BadGateway(reason="upstream_protocol_error")

    def on_headers_complete(self) -> None:
        if self.head is not None:
            return
        collected = self._collected
        # What comes to the list from now on are trailers: kept apart, which here means dropped (RFC 9110 section 6.5.1).
        fields = collected[:]
        collected.clear()
        if len(fields) > MAX_FIELDS or (self._head_bytes > MAX_HEAD_BYTES and wire_bytes(fields) > MAX_HEAD_BYTES):
            raise BadGateway(reason="upstream_header_too_large")
        parser = self._parser
        version = parser.get_http_version()
        if version != "1.1":
            refuse_version(version, fields)
            # RFC 9112 section 9.3: it ends, whatever else the same fields say. The parser believes keep-alive.
            self._closes = b"close" in connection_options(value for name, value in fields if name == b"connection")
        status = parser.get_status_code()
        if not 200 <= status <= 599:
            self._not_final(status, fields)
            return
        head = self.head = response_head(fields, status)
        if self._head_request:
            # The parser does not know that no body follows, so it can't be used again.
            self.complete = True
            self.keep_alive = version == "1.1" and b"close" not in connection_options(
                value for name, value in fields if name == b"connection"
            )
            self._parser = httptools.HttpResponseParser(self)
        elif head.length is None and status not in BODILESS:
            self._until_close = not head.chunked

    def on_body(self, body: bytes) -> None:
        if self.complete:
            self.keep_alive = False
            raise BadGateway(reason="upstream_surplus_bytes")
        self._chunks.append(body)
        self._unread += len(body)

    def on_message_complete(self) -> None:
        head = self.head
        if head is None:
            return
        if self._head_request:
            if head.chunked:
                # The parser has read the last chunk of a body that there should not be.
                self.keep_alive = False
            return
        if len(self._collected) > MAX_TRAILERS:
            raise BadGateway(reason="upstream_trailers_too_large")
        self.complete = True
        self.keep_alive = self._parser.should_keep_alive() and not self._closes

    # Details

    def _bounds_hold(self, read_bytes: int, barren: bool) -> bool:
        """Whether an unfinished body may go on; it is refused when not. The parser keeps a trailer field for as long as it grows.

        Args:
            barren: the newest read brought nothing of the content: trailers, or extensions of a chunk.
        """
        self._head_bytes = self._head_bytes + read_bytes if barren else 0
        if self._head_bytes <= MAX_HEAD_BYTES and len(self._collected) <= MAX_TRAILERS:
            return True
        self._refuse("upstream_trailers_too_large")
        return False

    def _not_final(self, status: int, fields: FieldList) -> None:
        """A status that ends nothing: an interim response, or none that HTTP knows."""
        if not 100 <= status < 200:
            raise BadGateway(reason="upstream_status")
        if status == 101:
            self._head_of_switch(fields)
            return
        self._interim += 1
        if self._interim > MAX_INTERIM:
            raise BadGateway(reason="upstream_too_many_interim")
        self._head_bytes = 0
        if self.sink is not None:
            self.sink.relay_interim(status, fields)

    def _head_of_switch(self, fields: FieldList) -> None:
        """101 ends HTTP on this connection (RFC 9110 section 15.2.2), if it says for what, and has no body."""
        if not self._parser.should_upgrade() or self._parser.get_http_version() != "1.1":
            raise BadGateway(reason="upstream_upgrade_unsolicited")
        self.head = response_head(fields, 101)
        if self.head.length is not None or self.head.chunked:
            raise BadGateway(reason="upstream_framing")

    def _switch(self, rest: bytes) -> None:
        """The parser has handed over: whoever asked for it takes the connection, which is never used for HTTP again."""
        sink = self.sink
        if self.head is None or not isinstance(sink, Switching):
            self._no_answer()
            self._refuse("upstream_upgrade_unsolicited")
            return
        try:
            sink.relay_switch(self, rest)
        except BadGateway as error:
            self._no_answer()
            self.abort(error)
            return
        self.keep_alive = False
        self.deadline = 0.0
        self._tell(None)

    def _no_answer(self) -> None:
        """A 101 that nobody asked for is no complete response, though the parser has told its end (SPEC H12)."""
        self.head = None
        self.complete = False

    def _advance(self) -> None:
        """Tell whoever waits how far the response has come."""
        self._tell(None)
        finished = self.finished
        if finished is None:
            if not self.complete and self.head is not None and is_long(self.head.length):
                # It goes on while nobody relays it yet.
                read_in_pieces(self.transport, self, None)
            if self._unread > HIGH_WATER_BYTES:
                self.pause_reading(True)
            return
        if self._chunks and self.sink is not None:
            self.sink.relay_data(self.take_body())
        if self.complete:
            if not finished.done():
                finished.set_result(None)
        else:
            self.touch()

    def touch(self, now: float = 0.0) -> None:
        """Something moved: start the silence, or the wait for the response's header, anew. `now`: of the loop, if it is known."""
        timeouts = self._timeouts
        allowed = timeouts.response if self.head is None and self.request_sent else timeouts.idle
        deadline = (now or self._loop.time()) + allowed
        total = self.total_deadline
        self.deadline = total if total and total < deadline else deadline

    def expire(self) -> None:
        """A deadline passed: what was waited for names the reason."""
        if self.closed:
            # Somebody had more to send when it was lost.
            self.deadline = FORGET
            return
        if self.total_deadline and self.deadline >= self.total_deadline:
            reason = "upstream_total_timeout"
        elif self.head is not None or not self.request_sent:
            reason = "upstream_idle_timeout"
        elif isinstance(self._timeouts, PerTry):
            self._tell(Overdue())
            return
        else:
            reason = "upstream_response_timeout"
        self.abort(GatewayTimeout(reason=reason))

    def _tell(self, error: Exception | None) -> None:
        """The response's head is there, or won't come."""
        on_told, response = self.on_told, self.response
        if on_told is not None:
            self.on_told = None
            on_told(self)
        elif response is not None and not response.done():
            if error is None:
                response.set_result(None)
            else:
                response.set_exception(error)

    def _parse_failed(self, exc: httptools.HttpParserError) -> None:
        cause = exc.__context__
        if self.complete:
            # The response itself is sound; what follows it is not, so the connection goes and the response stays.
            self.keep_alive = False
            self._advance()
            return
        self._refuse(cause.reason if isinstance(cause, GatewayError) else "upstream_protocol_error")

    def _refuse(self, reason: str) -> None:
        self.abort(BadGateway(reason=reason))

    def _fail(self, error: GatewayError | ClientGone) -> None:
        """End the exchange with an error; the first one says why."""
        if self._error is None:
            self._error = error
        self.keep_alive = False
        finished = self.finished
        if finished is not None and not finished.done():
            finished.set_exception(error)
        self._tell(error)


def _ignore(connection: UpstreamConnection) -> None:
    """Nobody wants to know."""


def ends_with_head(data: bytes) -> bool:
    """Whether a read can be the end of a head, with nothing behind it."""
    return data.endswith(_HEAD_END) if len(data) >= len(_HEAD_END) else _HEAD_END.endswith(data)


def refuse_version(version: str, fields: FieldList) -> None:
    """Raise BadGateway unless this is HTTP/1.0, which has no transfer codings (RFC 9112 sections 2.3 and 6.1)."""
    if version != "1.0":
        raise BadGateway(reason="upstream_version")
    if any(name == b"transfer-encoding" for name, _ in fields):
        raise BadGateway(reason="upstream_transfer_encoding")


def response_head(fields: FieldList, status: int) -> ResponseHead:
    """The head of a final response, when its framing is sound (RFC 9112 section 6.3).

    Raises:
        BadGateway: the framing fields contradict each other, so the response can't be told from what follows.
    """
    length: int | None = None
    chunked = dated = limited = False
    for name, value in fields:
        if name not in _OF_INTEREST:
            continue
        if name == b"date":
            dated = True
        elif name.startswith(b"ratelimit"):
            limited = True
        elif name == b"content-length":
            value = value.rstrip(b" \t")
            if not value.isdigit() or length is not None:
                raise BadGateway(reason="upstream_framing")
            length = int(value)
        else:
            if chunked or value.strip(b" \t").lower() != b"chunked":
                raise BadGateway(reason="upstream_transfer_encoding")
            chunked = True
    if chunked and length is not None:
        raise BadGateway(reason="upstream_framing")
    return ResponseHead(status, fields, length, chunked, dated, limited)
