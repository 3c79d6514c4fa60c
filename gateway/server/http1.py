"""Strict HTTP/1.1 reading on uvicorn's httptools protocol: the only file on this side that knows the parser.

llhttp is lenient, or silent, where a gateway must not be: it bounds neither header bytes nor count, merges trailers into the header,
accepts a missing or repeated Host, odd versions, other protocols and more than one space in the request line, and hands a request out
before it has seen what follows in the same read. So this layer keeps its own counts, keeps trailers out, checks the head, and hands
nothing out until the whole read was free of framing errors.
"""

from __future__ import annotations

from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.errors import GatewayError, HeadersTooLarge, MalformedMessage, UriTooLong
from gateway.headers import FieldList, collector, wire_bytes
from gateway.settings import Maxima

#: Trailer fields are dropped; this many and no more, so that nobody can send them for ever.
MAX_TRAILERS = 64
#: What a chunked body may have besides its content (sizes, extensions, trailers), in bytes and in multiples of the content. A body of
#: one-byte chunks has five times its content; one read, which may be a quarter of a mebibyte, must never be too much by itself.
MAX_OVERHEAD_BYTES = 512 * 1024
MAX_OVERHEAD_RATIO = 16

_LINE_11, _LINE_10 = b"%b %b HTTP/1.1\r\n", b"%b %b HTTP/1.0\r\n"
_FRAMING = frozenset((b"content-length", b"transfer-encoding"))
#: What a request target may consist of when the parser doesn't see it: visible ASCII. What is allowed in it is decided when it is routed.
_VISIBLE = bytes(range(0x21, 0x7F))
#: Targets that were found to be so are remembered, this many and up to this length, which every bound on targets allows.
_MAXIMUM_TARGETS = 1024
_MAXIMUM_TARGET_BYTES = 128
_visible_targets: set[bytes] = set()


class RequestHead:
    """A request's head as it came.

    Args:
        method, target: bytes of the request line.
        version_11: HTTP/1.1 (True) or HTTP/1.0.
        headers: (lower-case name, value) in order.
        keep_alive: the client will send another request on this connection.
    """

    __slots__ = ("headers", "keep_alive", "method", "name", "target", "version_11")

    def __init__(self, method: bytes, target: bytes, version_11: bool, headers: FieldList, keep_alive: bool) -> None:
        self.method = method
        self.name = method.decode("ascii")
        self.target = target
        self.version_11 = version_11
        self.headers = headers
        self.keep_alive = keep_alive


class StrictHttp1Protocol(HttpToolsProtocol):
    """Turns bytes into `head_received`, `body_received`, `body_complete` and `read_done`, or `refused`, for its subclass.

    Args:
        maxima: bounds on what is read.
    """

    # uvicorn's class has a dictionary. What is looked at for each request lies in the object itself, close together.
    __slots__ = (
        "_again",
        "_again_end",
        "_again_from",
        "_again_start",
        "_between",
        "_body_bytes",
        "_broken",
        "_collected",
        "_content_at",
        "_content_bytes",
        "_earlier",
        "_follows",
        "_head",
        "_head_limit",
        "_heads",
        "_keep_alive",
        "_last_request",
        "_maxima",
        "_message_bytes",
        "_raw_left",
        "_read",
        "_upgrading",
        "_url",
        "in_head",
        "on_header",
    )

    def __init__(self, maxima: Maxima, config: Config, server_state: ServerState, app_state: dict[str, Any], loop: Any) -> None:
        # Fields of the head, or of the trailer, that is being read. A closure: the parser calls it for every field.
        self._collected: FieldList = []
        self.on_header = collector(self._collected)  # type: ignore[method-assign, assignment]
        super().__init__(config, server_state, app_state, loop)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=False)
        self._maxima = maxima
        self._head_limit = maxima.header_bytes + maxima.uri_bytes + 64
        # Per-connection state
        self._broken = False
        self._last_request = False
        #: The last request offers an upgrade, and what follows it may be wanted.
        self._upgrading = False
        #: The last request that came alone, whole and without a body, and the bytes before and behind its target.
        self._again: RequestHead | None = None
        self._again_start = b""
        self._again_end = b""
        self._again_from = 0
        self._heads = 0
        #: The parser has seen the end of a message and nothing of the next.
        self._between = True
        #: The newest read, and the reads before it that the head being received began in.
        self._read = b""
        self._earlier = bytearray()
        # Per-request state
        self._url = b""
        #: Bytes of all reads since the request began, what a request before it had of the first one included.
        self._message_bytes = 0
        self._body_bytes = 0
        #: What of the body had come, and of the whole message, when content came last.
        self._content_bytes = 0
        self._content_at = 0
        #: What is left of a body that comes with an offered upgrade: the parser hands over when it sees one.
        self._raw_left = 0
        #: A request ended in the newest read.
        self._follows = True
        self.in_head = False
        self._keep_alive = False

    # What the subclass does with it

    def head_received(self, head: RequestHead) -> None:
        """A request's head is complete. Its body may follow in the same read; nothing may be sent upstream before `read_done`."""
        raise NotImplementedError

    def body_received(self, data: bytes) -> None:
        """A piece of the newest request's body, without transfer coding."""
        raise NotImplementedError

    def body_complete(self) -> None:
        """The newest request's body is complete (also when it has none)."""
        raise NotImplementedError

    def repeated_received(self, head: RequestHead, target: bytes) -> None:
        """A whole read was a request with this head, but for its target, and without a body.

        That is `head_received`, `body_complete` and `read_done` at once.
        """
        self.head_received(RequestHead(head.method, target, True, head.headers, True))
        self.body_complete()
        self.read_done()

    def upgrade_offered(self, head: RequestHead) -> None:
        """The request that was handed out last offers another protocol; it is the connection's last. Who does nothing ignores the offer."""

    def early_received(self, data: bytes) -> None:
        """Bytes behind the request that offers another protocol. They are no request, whatever becomes of the offer."""

    def refused(self, error: GatewayError) -> None:
        """What was read can't be trusted; nothing after it is read. Requests handed out before it stay valid, except an incomplete one."""
        raise NotImplementedError

    def read_done(self) -> None:
        """All that one read brought was handed out."""
        raise NotImplementedError

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        if self._broken or self._last_request:
            if self._upgrading and not self._broken:
                self._raw_body(data)
                self.read_done()
            return
        between = self._between
        again = self._again
        if again is not None and between and data.endswith(self._again_end) and data.startswith(self._again_start):
            # A read that differs from that request in nothing but the target, while the parser is between messages. It has accepted every
            # other byte before; the target is handed out only when it has no byte that could end it early.
            target = data[self._again_from : -len(self._again_end)]
            if target in _visible_targets or _is_visible(target, self._maxima.uri_bytes):
                self.repeated_received(again, target)
                return
        self._message_bytes = len(data) if self._follows and not self.in_head else self._message_bytes + len(data)
        self._follows = False
        self._heads = 0
        self._read = data
        try:
            self.parser.feed_data(data)
            if between and self._between and self._heads == 1:
                self._remember(data)
        except httptools.HttpParserUpgrade as exc:
            # A client may offer an upgrade and we may ignore it (RFC 9110 section 7.8), but what follows isn't known, so this is the last
            # request. The parser stops where its body begins.
            self._last_request = self._upgrading = True
            self.upgrade_offered(self._head)
            self._raw_body(data[exc.args[0] :])
        except httptools.HttpParserError as exc:
            self._broken = True
            if not self._last_request:
                cause = exc.__context__
                self.refused(cause if isinstance(cause, GatewayError) else MalformedMessage())
        self._read = b""
        if not self._follows or self.in_head:
            self._bound_unfinished()
            if self.in_head:
                self._earlier += data[-self._head_limit :]
        self.read_done()

    # Parser callbacks

    def on_message_begin(self) -> None:
        if self._last_request:
            raise MalformedMessage()
        self.in_head = True
        self._between = False
        self._url = b""
        self._collected.clear()
        if self._earlier:
            self._earlier.clear()

    def on_url(self, url: bytes) -> None:
        self._url = self._url + url if self._url else url
        if len(self._url) > self._maxima.uri_bytes:
            raise UriTooLong()

    def on_headers_complete(self) -> None:
        self.in_head = False
        collected = self._collected
        # What comes to the list from now on are trailers.
        fields = collected[:]
        collected.clear()
        maxima = self._maxima
        if len(fields) > maxima.headers or (self._message_bytes > maxima.header_bytes and wire_bytes(fields) > maxima.header_bytes):
            raise HeadersTooLarge()
        parser = self.parser
        version = parser.get_http_version()
        if version == "1.1":
            keep_alive = parser.should_keep_alive()
            if parser.should_upgrade():
                keep_alive = False
                self._raw_left = _body_with_upgrade(fields)
        elif version == "1.0":
            keep_alive = False
            # RFC 9112 section 6.1: the framing of such a message is faulty.
            if any(name == b"transfer-encoding" for name, _ in fields):
                raise MalformedMessage("An HTTP/1.0 request can't have a transfer coding.", reason="transfer_encoding")
        else:
            raise MalformedMessage("The HTTP version is not supported on this port; use HTTP/1.1.", reason="http_version")
        method = parser.get_method()
        line = (_LINE_11 if version == "1.1" else _LINE_10) % (method, self._url)
        if not self._read.startswith(line):
            self._check_line(line)
        self._keep_alive = keep_alive
        self._body_bytes = 0
        self._heads += 1
        self._head = RequestHead(method, self._url, version == "1.1", fields, keep_alive)
        self.head_received(self._head)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self.body_received(body)

    def on_message_complete(self) -> None:
        if self._collected:
            self._check_trailers()
        self._follows = True
        self._between = True
        if self._raw_left:
            return
        if not self._keep_alive:
            # What follows is no request of ours (RFC 9112 section 9.6).
            self._last_request = True
        self.body_complete()

    # Details

    def _check_line(self, line: bytes) -> None:
        """Refuse a request line that isn't written as RFC 9112 section 3 has it: `RTSP/1.1`, or more than one space, is all the same to
        the parser.

        Args:
            line: as it has to be. It may follow other messages in the newest read, or have begun in an earlier one.
        """
        if line not in self._earlier + self._read:
            raise MalformedMessage("The request line is malformed.", reason="request_line")

    def _check_trailers(self) -> None:
        """Refuse a trailer that would change how the parser goes on, and too many; all others are dropped (RFC 9110 section 6.5.1)."""
        if len(self._collected) > MAX_TRAILERS:
            raise HeadersTooLarge(reason="trailers")
        if any(name == b"connection" for name, _ in self._collected):
            raise MalformedMessage("Connection can't be a trailer.", reason="trailers")

    def _remember(self, data: bytes) -> None:
        """Keep a request that one read brought alone and whole: who stays connected sends the same fields again, byte for byte."""
        head = self._head
        start = head.method + b" "
        line = start + head.target
        if head.keep_alive and data.startswith(line + b" HTTP/1.1\r\n") and not any(name in _FRAMING for name, _ in head.headers):
            self._again = head
            self._again_start = start
            self._again_from = len(start)
            self._again_end = data[len(line) :]

    def _raw_body(self, data: bytes) -> None:
        """Take the body of a request that offers an upgrade, and what is more than that apart: it is no request of HTTP."""
        body_bytes = self._raw_left
        if body_bytes:
            body, data = data[:body_bytes], data[body_bytes:]
            self._raw_left -= len(body)
            if body:
                self.body_received(body)
            if not self._raw_left:
                self.body_complete()
        if data:
            self.early_received(data)

    def _bound_unfinished(self) -> None:
        """Bound what has no end yet: a head, of which the parser keeps an unfinished field for as long as it grows, a trailer, and what a
        chunked body has besides its content."""
        if self._broken:
            return
        error: GatewayError | None = None
        if not self.in_head:
            if self._content_bytes != self._body_bytes:
                self._content_bytes, self._content_at = self._body_bytes, self._message_bytes
            if len(self._collected) > MAX_TRAILERS or self._message_bytes - self._content_at > 2 * self._head_limit:
                # The parser keeps a trailer field for as long as it grows.
                error = HeadersTooLarge(reason="trailers")
            elif self._message_bytes > self._head_limit + MAX_OVERHEAD_BYTES + self._body_bytes * MAX_OVERHEAD_RATIO:
                error = MalformedMessage(reason="chunk_overhead")
        elif self._follows:
            # Most of this read may have been the request before; from the next one on all counts.
            self._message_bytes = 0
        elif self._message_bytes > self._head_limit:
            error = HeadersTooLarge() if self._collected else UriTooLong()
        if error is not None:
            self._broken = True
            # One read may have brought forty thousand fields, and the connection goes on for a while, so that the client hears why it ends.
            self._collected.clear()
            self._earlier.clear()
            self.refused(error)

    def stop_reading_requests(self) -> None:
        """Take no further request from this connection."""
        self._last_request = True

    def drop_rest(self) -> None:
        """Whatever comes from now on is nobody's, the rest of a body as well."""
        self._last_request = True
        self._upgrading = False
        self._raw_left = 0


def _is_visible(target: bytes, maximum_bytes: int) -> bool:
    """Whether a target has no byte that could end it early, and no more than so many."""
    if not target or target.translate(None, _VISIBLE) or len(target) > maximum_bytes:
        return False
    if len(target) <= _MAXIMUM_TARGET_BYTES:
        if len(_visible_targets) >= _MAXIMUM_TARGETS:
            _visible_targets.clear()
        _visible_targets.add(target)
    return True


def _body_with_upgrade(fields: FieldList) -> int:
    """Bytes of the body of a request that offers an upgrade.

    Raises:
        MalformedMessage: it is chunked, and the parser would not read it.
    """
    for name, value in fields:
        if name == b"transfer-encoding":
            raise MalformedMessage("A request that offers an upgrade can't be chunked.", reason="upgrade_with_body")
        if name == b"content-length":
            return int(value)
    return 0
