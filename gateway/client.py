"""Calling services from handlers: an httpx client whose transport goes through our directory, balancer and connections.

A call made while a request is handled belongs to that request: it carries the request's trace and id, and its tries are in its records.
"""

from __future__ import annotations

import asyncio
import http.cookiejar
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from random import getrandbits

import httpx

from gateway.errors import GatewayError, GatewayTimeout, Unavailable
from gateway.exchange import Exchange, current_exchange
from gateway.head import request_block
from gateway.headers import FieldList, FieldTable, request_body_length
from gateway.peer import Peer, TrustedProxies
from gateway.pieces import read_in_pieces
from gateway.pipeline import TraceStarter
from gateway.plan import Forward
from gateway.route import ASGIApp
from gateway.telemetry.observation import Observation
from gateway.upstream.forward import RequestShape
from gateway.upstream.http1 import HIGH_WATER_BYTES, ResponseHead, UpstreamConnection

_FIELDS = FieldTable()


class _Ourselves(Peer):
    """The caller is this process: there is nothing to forward about it."""

    def __init__(self) -> None:
        super().__init__("", 0, "http", 0, TrustedProxies(()))

    def forwarding_lines(self, fields: object, version: bytes = b"1.1") -> bytes:
        return b""


class NoCookies(http.cookiejar.CookieJar):
    """A jar that keeps nothing: what one user's answer sets must never go out with another user's request."""

    def set_cookie(self, cookie: http.cookiejar.Cookie) -> None:
        """Forget it."""


class ClientExchange(Exchange):
    """An exchange whose client is httpx: the response's head resolves `head`, the body is read piece by piece with back-pressure."""

    __slots__ = ("_body", "_done", "_error", "_pieces", "_queued_bytes", "_wake", "head", "task")

    def __init__(self, request: httpx.Request, body: bytes, observation: Observation, peer: Peer) -> None:
        headers = [(name.lower(), value) for name, value in request.headers.raw]
        super().__init__(request.method, request.url.raw_path, headers, True, peer)
        self.path, _, query = request.url.raw_path.partition(b"?")
        self.query = b"?" + query if query else b""
        self.fields = _FIELDS.sort(headers)
        self.body_length = request_body_length(self.fields)
        self.block = request_block(self.fields, self.body_length, peer)
        self.host, self.client_ip = "", peer.ip
        self.observation = observation
        self.id_line = b"x-request-id: %b\r\n" % observation.request_id.encode("ascii")
        self._body = body
        self._pieces: deque[bytes] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._done = False
        self._error: GatewayError | None = None
        self.head: asyncio.Future[ResponseHead] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None

    @property
    def response_started(self) -> bool:
        return self.head.done()

    @property
    def replayable(self) -> bool:
        return True

    async def respond(self, status: int, headers: FieldList, body: bytes, *, close: bool = False) -> None:
        raise AssertionError("nobody answers a client exchange but its upstream")

    def first_body(self) -> bytes:
        if self.body_length is None:
            return b"%x\r\n%b\r\n0\r\n\r\n" % (len(self._body), self._body) if self._body else b"0\r\n\r\n"
        return self._body

    def begin_upload(self, connection: UpstreamConnection) -> None:
        connection.request_sent = True

    def relay_data(self, data: bytes) -> None:
        self._pieces.append(data)
        self._queued_bytes += len(data)
        self._wake.set()
        if self._queued_bytes > HIGH_WATER_BYTES and self.upstream is not None:
            self.upstream.pause_reading(True)
            read_in_pieces(self.upstream.transport, self.upstream, None)

    def relay_pause(self, paused: bool) -> None:
        """The body was handed over whole."""

    def relay_interim(self, status: int, headers: FieldList) -> None:
        """Nobody waits for it."""

    async def relay(self, connection: UpstreamConnection) -> None:
        assert connection.head is not None
        self.head.set_result(connection.head)
        if body := connection.take_body():
            self.relay_data(body)
        # It would be held until the stream ends.
        del body
        await connection.wait_finished()

    async def serve(self, app: ASGIApp, *, mounted: bool) -> None:
        raise AssertionError("a client exchange goes to a service")

    def cut(self) -> None:
        """`run` tells the reader."""

    async def run(self, forwarder: Forward, shape: RequestShape) -> None:
        """Have the service answer; errors reach the head or the reader."""
        try:
            await forwarder.forward(self, shape)
        except GatewayError as error:
            self._error = error
        finally:
            self._done = True
            self._wake.set()
            if not self.head.done():
                self.head.set_exception(self._error or Unavailable("overloaded"))

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self._queued_bytes -= len(piece)
                if self.upstream is not None and self._queued_bytes <= HIGH_WATER_BYTES:
                    self.upstream.pause_reading(False)
                yield piece
            if self._done:
                break
            self._wake.clear()
            await self._wake.wait()
        if self._error is not None:
            raise _transport_error(self._error)(f"{self._error.detail} ({self._error.reason})") from self._error


def _transport_error(error: GatewayError) -> type[httpx.TransportError]:
    """What httpx calls such an error."""
    if error.reason in _NEVER_CONNECTED:
        return _NEVER_CONNECTED[error.reason]
    return httpx.ReadTimeout if isinstance(error, GatewayTimeout) else httpx.RemoteProtocolError


_NEVER_CONNECTED: Mapping[str, type[httpx.TransportError]] = {
    "no_instance": httpx.ConnectError,
    "upstream_connect_failure": httpx.ConnectError,
    "upstream_connect_timeout": httpx.ConnectTimeout,
    "upstream_tls_failure": httpx.ConnectError,
    "circuit_requests": httpx.PoolTimeout,
    "circuit_pending": httpx.PoolTimeout,
    "circuit_connections": httpx.PoolTimeout,
}


class _BodyStream(httpx.AsyncByteStream):
    def __init__(self, exchange: ClientExchange) -> None:
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._exchange.pieces():
            yield piece

    async def aclose(self) -> None:
        task = self._exchange.task
        if task is not None and not task.done():
            task.cancel()


class ServiceTransport(httpx.AsyncBaseTransport):
    """Sends requests to a service's instances.

    Args:
        target: gives the service's current forwarder and shape.
        tracer: for calls outside of any request.
    """

    def __init__(self, target: Callable[[], tuple[Forward, RequestShape]], tracer: Callable[[], TraceStarter]) -> None:
        self._target = target
        self._tracer = tracer
        self._peer = _Ourselves()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        forwarder, shape = self._target()
        exchange = ClientExchange(request, await request.aread(), self._observation(), self._peer)
        exchange.task = asyncio.get_running_loop().create_task(exchange.run(forwarder, shape))
        try:
            head = await exchange.head
        except GatewayError as error:
            raise _transport_error(error)(f"{error.detail} ({error.reason})", request=request) from error
        except asyncio.CancelledError:
            exchange.task.cancel()
            raise
        return httpx.Response(head.status, headers=head.headers, stream=_BodyStream(exchange), request=request)

    def _observation(self) -> Observation:
        parent = current_exchange.get()
        if parent is not None:
            return parent.observation
        observation = Observation(time.time_ns(), self._tracer().start())
        observation.request_id = f"{getrandbits(64):016x}"
        return observation


def service_client(name: str, transport: httpx.AsyncBaseTransport) -> httpx.AsyncClient:
    """An httpx client for one service: relative URLs, no cookies, no redirects, nothing from the environment, the service's time-outs."""
    return httpx.AsyncClient(  # nosec B113 # the upstream side keeps the deadlines of the service
        base_url=f"http://{name}",
        transport=transport,
        cookies=NoCookies(),
        follow_redirects=False,
        trust_env=False,
        timeout=None,  # noqa: S113 - the upstream side keeps the deadlines of the service
    )
