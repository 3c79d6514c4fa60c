"""One request that came through ASGI: from uvicorn's cycle for applications of this process, or from any ASGI server."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from ssl import PEM_cert_to_DER_cert
from typing import Any
from urllib.parse import quote

from gateway.certificates import ClientCertificate, client_certificate
from gateway.errors import BodyTooLarge, GatewayError, Internal, MalformedMessage
from gateway.exchange import Exchange, current_exchange
from gateway.head import request_block
from gateway.headers import BODILESS, FieldList, application_fields, merge_limits, parse_lines, response_fields
from gateway.peer import Peer
from gateway.pieces import is_long, read_in_pieces
from gateway.route import ASGIApp
from gateway.upstream.forward import identity_of
from gateway.upstream.http1 import HIGH_WATER_BYTES, ClientGone, UpstreamConnection

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: What may stand in a path as it is, for servers that give the decoded path only.
_PATH_SAFE = "/:@!$&'()*+,;=~"
#: What no field may have in its name, or in its value (RFC 9110 sections 5.1 and 5.5).
_BAD_NAME = re.compile(rb"[^!#$%&'*+.^_`|~0-9A-Za-z-]")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
#: HTTP/2 and 3 requests may have a body without saying its length; these methods are taken to have none.
_WITHOUT_BODY = frozenset(("GET", "HEAD", "OPTIONS", "DELETE", "TRACE"))


_NOTHING: dict[str, Any] = {}


class AsgiExchange(Exchange):
    """An exchange between an ASGI server and either an upstream connection or an application of this process."""

    __slots__ = (
        "_body_done",
        "_ended",
        "_gone",
        "_queue",
        "_queued_bytes",
        "_receive",
        "_received_bytes",
        "_scope",
        "_send",
        "_serving",
        "_started",
        "_upload_task",
        "_wake",
        "_writable",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, peer: Peer) -> None:
        target = scope.get("raw_path") or quote(scope["path"], safe=_PATH_SAFE).encode("ascii")
        if scope["query_string"]:
            target = target + b"?" + scope["query_string"]
        headers = [(bytes(name).lower(), bytes(value)) for name, value in scope["headers"]]
        super().__init__(scope["method"], target, headers, scope["http_version"] == "1.1", peer)
        if _are_broken(headers):
            # HTTP/2 can carry what would be two lines in the HTTP/1.1 that we speak upstream, and not every server looks.
            self.refusal = MalformedMessage("A header field has a character that it can't have.", reason="header_character")
        self._scope = scope
        self._receive = receive
        self._send = send
        self._started = False
        self._gone = False
        self._body_done = False
        self._received_bytes = 0
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._writable = asyncio.Event()
        self._upload_task: asyncio.Task[None] | None = None
        # While an application streams
        self._serving: asyncio.Task[Any] | None = None
        self._ended: GatewayError | None = None

    def prepare(self) -> None:
        """Called when the exchange was opened: what the head alone says about the body."""
        http2 = self._scope["http_version"] not in ("1.0", "1.1")
        if self.body_length == 0 and http2 and b"content-length" not in self.fields.found and self.method not in _WITHOUT_BODY:
            self.body_length = None
            self.block = request_block(self.fields, None, self.peer)
        self._body_done = self.body_length == 0

    @property
    def version(self) -> bytes:
        return str(self._scope["http_version"]).encode("ascii")

    @property
    def response_started(self) -> bool:
        return self._started

    @property
    def replayable(self) -> bool:
        return self._body_done and self._received_bytes == 0

    async def respond(self, status: int, headers: FieldList, body: bytes, *, close: bool = False) -> None:
        fields = [*headers, *self._own_fields(self.limit_lines)]
        if status not in BODILESS:
            fields.append((b"content-length", b"%d" % len(body)))
        if close and self.version_11:
            fields.append((b"connection", b"close"))
        if self.method == "HEAD" or status in BODILESS:
            body = b""
        self.observation.response_bytes = len(body)
        await self._start(status, fields)
        await self._send({"type": "http.response.body", "body": body})

    async def _start(self, status: int, fields: FieldList) -> None:
        self._started = True
        self.observation.status = status
        self.observation.request_bytes = self._received_bytes
        await self._send({"type": "http.response.start", "status": status, "headers": fields})

    def _own_fields(self, limit_lines: bytes) -> FieldList:
        response_lines = self.plan.response_lines if self.plan is not None else b""
        return parse_lines(self.id_line + limit_lines + self.cors_lines + response_lines)

    # The request's body

    async def receive(self) -> Message:
        """The next message of the server, with the body bounded.

        Raises:
            BodyTooLarge: more than the route accepts.
        """
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._gone = True
        elif message["type"] == "http.request":
            self._received_bytes += len(message.get("body", b""))
            assert self.plan is not None
            if self._received_bytes > self.plan.max_body_bytes:
                raise BodyTooLarge()
            if not message.get("more_body", False):
                self._body_done = True
        return message

    def first_body(self) -> bytes:
        return b""

    def begin_upload(self, connection: UpstreamConnection) -> None:
        if self._body_done:
            connection.request_sent = True
        self.close()
        self._upload_task = asyncio.get_running_loop().create_task(self._upload(connection))

    async def _upload(self, connection: UpstreamConnection) -> None:
        """Send the body as it comes, then watch for the client to leave."""
        chunked = self.body_length is None
        try:
            while not self._body_done:
                message = await self.receive()
                if message["type"] != "http.request":
                    connection.abort(ClientGone())
                    return
                data = message.get("body", b"")
                if data:
                    connection.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
                    connection.touch()
                if connection.write_paused:
                    self._writable.clear()
                    await self._writable.wait()
            if not connection.request_sent:
                if chunked:
                    connection.write(b"0\r\n\r\n")
                elif self._received_bytes != self.body_length:
                    raise MalformedMessage(reason="body_length")
                connection.request_sent = True
                connection.touch()
            while (await self._receive())["type"] != "http.disconnect":
                pass
            connection.abort(ClientGone())
        except GatewayError as error:
            connection.abort(error)

    def relay_pause(self, paused: bool) -> None:
        if not paused:
            self._writable.set()

    # The response

    def relay_interim(self, status: int, headers: FieldList) -> None:
        """ASGI has no interim responses; the server answers Expect by itself."""

    def relay_data(self, data: bytes) -> None:
        self._queue.append(data)
        self._queued_bytes += len(data)
        self._wake.set()
        if self._queued_bytes > HIGH_WATER_BYTES and self.upstream is not None:
            self.upstream.pause_reading(True)
            read_in_pieces(self.upstream.transport, self.upstream, None)

    def close(self) -> None:
        """End what runs beside the exchange."""
        if self._upload_task is not None:
            self._upload_task.cancel()
            self._upload_task = None

    async def relay(self, connection: UpstreamConnection) -> None:
        head = connection.head
        assert head is not None
        assert self.plan is not None
        fields = response_fields(head.headers, self.plan.response_dropped)
        limits = self.limit_lines
        if limits:
            limits, fields = merge_limits(limits, fields)
        fields = fields + self._own_fields(limits)
        if head.length is not None and head.status != 204:
            fields.append((b"content-length", b"%d" % head.length))
        complete = connection.complete
        body = b""
        await self._start(head.status, fields)
        if not complete:
            await self._stream(connection)
        else:
            body = connection.take_body()
        self.observation.response_bytes += len(body)
        await self._send({"type": "http.response.body", "body": body})

    async def _stream(self, connection: UpstreamConnection) -> None:
        assert self.plan is not None
        assert connection.head is not None
        if body := connection.take_body():
            self.relay_data(body)
        # It would be held until the stream ends.
        del body
        if is_long(connection.head.length):
            read_in_pieces(connection.transport, connection, None)
        finished = connection.wait_finished()
        finished.add_done_callback(lambda _: self._wake.set())
        self.plan.streams.add(self)
        try:
            await self._drain_into_server(connection, finished)
        finally:
            self.plan.streams.discard(self)
        finished.result()

    async def _drain_into_server(self, connection: UpstreamConnection, finished: asyncio.Future[None]) -> None:
        """Send what the upstream has sent, as it comes, until it has no more."""
        while self._queue or not finished.done():
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            data = self._queue.popleft()
            self.observation.response_bytes += len(data)
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
            self._queued_bytes -= len(data)
            if self._queued_bytes <= HIGH_WATER_BYTES:
                connection.pause_reading(False)

    def cut(self) -> None:
        """Nothing to send: an ASGI server cuts a response whose application ends without completing it."""

    async def serve(self, app: ASGIApp, *, mounted: bool) -> None:
        assert self.plan is not None
        token = current_exchange.set(self)
        try:
            await app(self._application_scope(mounted), self.receive, self._send_local)
        except asyncio.CancelledError:
            # Ended by us, unless somebody else wants the task to end as well.
            if self._ended is None or self._serving is None or self._serving.uncancel():
                raise
            raise self._ended from None
        finally:
            current_exchange.reset(token)
            if self._serving is not None:
                self.plan.streams.discard(self)
        if not self._started and not self._gone:
            raise Internal(reason="handler_no_response")

    def _application_scope(self, mounted: bool) -> Scope:
        """What an application of this process sees: who is asking is what we say, as for an upstream (S-12a)."""
        scope = dict(self._scope)
        scope["path_params"] = dict(self.params)
        scope["state"] = {**scope.get("state", {}), "exchange": self}
        scope["client"] = (self.client_ip, self.peer.port)
        scope["headers"] = application_fields(self.headers, self._managed_lines())
        if mounted:
            assert self.plan is not None
            scope["root_path"] = scope.get("root_path", "") + self.plan.route.path.rstrip("/")
        return scope

    def _managed_lines(self) -> bytes:
        observation = self.observation
        identity = identity_of(self.principal) if self.principal is not None else b""
        return b"%b%b%b%b" % (
            self.peer.forwarding_lines(self.fields, self.version),
            self.id_line,
            identity,
            observation.trace.propagation_lines(observation.trace.span_id),
        )

    async def _send_local(self, message: Message) -> None:
        """Pass an application's message on, with our fields in the head."""
        if message["type"] == "http.response.start":
            assert self.plan is not None
            fields = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
            if _are_broken(fields):
                raise Internal(reason="handler_headers")
            fields = [field for field in fields if field[0] == b"content-length" or field[0] not in self.plan.response_dropped]
            await self._start(message["status"], fields + self._own_fields(self.limit_lines))
            return
        if self.method != "HEAD":
            self.observation.response_bytes += len(message.get("body", b""))
        if self._serving is None and message.get("more_body", False):
            assert self.plan is not None
            self._serving = asyncio.current_task()
            self.plan.streams.add(self)
        await self._send(message)

    def end(self, error: GatewayError) -> None:
        if self._serving is not None and self._ended is None:
            self._ended = error
            self._serving.cancel()
        super().end(error)


def shown_certificate(scope: Scope) -> ClientCertificate | None:
    """The client's certificate, from servers that tell it (ASGI's TLS extension) and have verified it."""
    tls = (scope.get("extensions") or _NOTHING).get("tls")
    chain = tuple(tls["client_cert_chain"]) if tls is not None and not tls.get("client_cert_error") else ()
    return client_certificate(PEM_cert_to_DER_cert(chain[0])) if chain else None


def _are_broken(fields: FieldList) -> bool:
    """Whether a field has a name or a value that HTTP/1.1 can't carry."""
    return any(_BAD_NAME.search(name) or not name or _BAD_VALUE.search(value) for name, value in fields)
