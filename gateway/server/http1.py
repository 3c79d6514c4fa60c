"""Strict HTTP/1.1 reading on uvicorn's httptools protocol: the only file on this side that knows the parser.

llhttp is lenient, or silent, where a gateway must not be: it bounds neither header bytes nor count, merges trailers into the header,
accepts a missing or repeated Host and odd versions, and hands a request out before it has seen what follows in the same read. So this
layer keeps its own counts, keeps trailers out, checks the head, and hands nothing out until the whole read was free of framing errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.errors import GatewayError, HeadersTooLarge, MalformedMessage, UriTooLong
from gateway.headers import FieldList
from gateway.settings import Maxima

#: Trailer fields are dropped; this many and no more, so that nobody can send them for ever.
MAX_TRAILERS = 64


class RequestHead:
    """A request's head as it came.

    Args:
        method, target: bytes of the request line.
        version_11: HTTP/1.1 (True) or HTTP/1.0.
        headers: (lower-case name, value) in order.
        keep_alive: the client will send another request on this connection.
    """

    __slots__ = ("headers", "keep_alive", "method", "target", "version_11")

    def __init__(self, method: bytes, target: bytes, version_11: bool, headers: FieldList, keep_alive: bool) -> None:
        self.method = method
        self.target = target
        self.version_11 = version_11
        self.headers = headers
        self.keep_alive = keep_alive


class StrictHttp1Protocol(HttpToolsProtocol):
    """Turns bytes into `head_received`, `body_received`, `body_complete` and `read_done`, or `refused`, for its subclass.

    Args:
        maxima: bounds on what is read.
    """

    def __init__(self, maxima: Maxima, config: Config, server_state: ServerState, app_state: dict[str, Any], loop: Any) -> None:
        # Fields of the head, or of the trailer, that is being read. A closure: the parser calls it for every field.
        self._collected: FieldList = []
        self.on_header = _collector(self._collected)  # type: ignore[method-assign, assignment]
        super().__init__(config, server_state, app_state, loop)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=False)
        self._maxima = maxima
        self._head_limit = maxima.header_bytes + maxima.uri_bytes + 64
        # Per-connection state
        self._broken = False
        self._last_request = False
        # Per-request state
        self._url = b""
        #: Bytes of the reads that the head took so far, the one at work included; more than the head has when a request came before it.
        self._head_bytes = 0
        self._follows = False
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

    def refused(self, error: GatewayError) -> None:
        """What was read can't be trusted; nothing after it is read. Requests handed out before it stay valid, except an incomplete one."""
        raise NotImplementedError

    def read_done(self) -> None:
        """All that one read brought was handed out."""
        raise NotImplementedError

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        if self._broken or self._last_request:
            return
        self._head_bytes = self._head_bytes + len(data) if self.in_head else len(data)
        self._follows = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # A client may offer an upgrade and we may ignore it (RFC 9110 section 7.8). What follows is unknown, so it is the last request.
            self._last_request = True
        except httptools.HttpParserError as exc:
            self._broken = True
            if not self._last_request:
                cause = exc.__context__
                self.refused(cause if isinstance(cause, GatewayError) else MalformedMessage())
        if self._collected or self.in_head:
            self._bound_unfinished()
        self.read_done()

    # Parser callbacks

    def on_message_begin(self) -> None:
        self.in_head = True
        self._url = b""
        self._collected.clear()

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
        if len(fields) > maxima.headers or (self._head_bytes > maxima.header_bytes and _wire_bytes(fields) > maxima.header_bytes):
            raise HeadersTooLarge()
        parser = self.parser
        version = parser.get_http_version()
        if version == "1.1":
            # What follows on an upgrade that we ignore is unknown.
            keep_alive = parser.should_keep_alive() and not parser.should_upgrade()
        elif version == "1.0":
            keep_alive = False
            # RFC 9112 section 6.1: the framing of such a message is faulty.
            if any(name == b"transfer-encoding" for name, _ in fields):
                raise MalformedMessage("An HTTP/1.0 request can't have a transfer coding.", reason="transfer_encoding")
        else:
            raise MalformedMessage("The HTTP version is not supported on this port; use HTTP/1.1.", reason="http_version")
        self._keep_alive = keep_alive
        self.head_received(RequestHead(parser.get_method(), self._url, version == "1.1", fields, keep_alive))

    def on_body(self, body: bytes) -> None:
        self.body_received(body)

    def on_message_complete(self) -> None:
        self._follows = True
        if not self._keep_alive:
            # What follows is no request of ours (RFC 9112 section 9.6).
            self._last_request = True
        self.body_complete()

    # Details

    def _bound_unfinished(self) -> None:
        """Bound a head or a trailer whose end has not come: the parser keeps an unfinished field for as long as it grows."""
        if self._broken:
            return
        if not self.in_head:
            if len(self._collected) > MAX_TRAILERS:
                self._broken = True
                self.refused(HeadersTooLarge(reason="trailers"))
        elif self._follows:
            # Most of this read may have been the request before; the next read counts in full.
            self._head_bytes = 0
        elif self._head_bytes > self._head_limit:
            self._broken = True
            self.refused(HeadersTooLarge() if self._collected else UriTooLong())

    def stop_reading_requests(self) -> None:
        """Take no further request from this connection."""
        self._last_request = True


def _collector(collected: FieldList) -> Callable[[bytes, bytes], None]:
    append = collected.append

    def on_header(name: bytes, value: bytes) -> None:
        append((name.lower(), value))

    return on_header


def _wire_bytes(fields: FieldList) -> int:
    return sum(len(name) + len(value) + 4 for name, value in fields)
