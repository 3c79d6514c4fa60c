"""The gateway as an ASGI application: one pipeline for any ASGI server, and for requests that our own protocol hands to Python code."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from gateway.errors import ConfigError, NotFound
from gateway.failure import outline
from gateway.peer import Peer
from gateway.server.asgi import AsgiExchange, Receive, Scope, Send, shown_certificate
from gateway.server.sockets import SocketExchange, says_no_target
from gateway.telemetry.spans import KNOWN_METHODS, OTHER_METHOD

if TYPE_CHECKING:
    from gateway.assembly import Runtime
    from gateway.telemetry.observation import Observation

logger = logging.getLogger("gateway.face")


class AsgiFace:
    """An ASGI application around a runtime that is opened when the server starts.

    A server, or a test, that sends no lifespan events gets a runtime with its first request; `close` ends it.

    Args:
        opener: gives a started runtime.
    """

    def __init__(self, opener: Callable[[], Awaitable[Runtime]]) -> None:
        self._opener = opener
        self._runtime: Runtime | None = None
        self._opening: asyncio.Lock | None = None

    @property
    def runtime(self) -> Runtime:
        """What is at work.

        Raises:
            RuntimeError: not running.
        """
        if self._runtime is None:
            raise RuntimeError("the gateway is not running: start it, or enter its lifespan")
        return self._runtime

    def open_with(self, opener: Callable[[], Awaitable[Runtime]]) -> None:
        """Open by other means; before it runs."""
        self._opener = opener

    async def open(self) -> Runtime:
        """Start the runtime, once."""
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._runtime is None:
                logging.getLogger("uvicorn.error").addFilter(says_no_target)
                self._runtime = await self._opener()
        return self._runtime

    async def close(self) -> None:
        """End the runtime."""
        runtime, self._runtime = self._runtime, None
        self._opening = None
        if runtime is not None:
            await runtime.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(receive, send)
        elif kind == "websocket":
            await self._websocket(scope, receive, send)
        else:
            raise RuntimeError(f"ASGI scope type {kind!r} is not served")

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime = self._runtime or await self.open()
        client: Any = scope.get("client") or ("", 0)
        server: Any = scope.get("server") or ("", 0)
        peer = Peer(client[0], client[1] or 0, scope["scheme"], server[1] or 0, runtime.front.proxies)
        peer.certificate = shown_certificate(scope)
        exchange = AsgiExchange(scope, receive, send, peer)
        runtime.pipeline.open(exchange)
        _tame(exchange.observation)
        exchange.prepare()
        try:
            await runtime.pipeline.handle(exchange)
        finally:
            exchange.close()

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        runtime = self._runtime or await self.open()
        client: Any = scope.get("client") or ("", 0)
        server: Any = scope.get("server") or ("", 0)
        scheme = "https" if scope.get("scheme") == "wss" else "http"
        peer = Peer(client[0], client[1] or 0, scheme, server[1] or 0, runtime.front.proxies)
        peer.certificate = shown_certificate(scope)
        exchange = SocketExchange(scope, receive, send, peer, runtime.front.deadlines)
        runtime.pipeline.open(exchange)
        exchange.prepare()
        plan = exchange.plan
        if plan is not None and plan.route.websocket is None:
            exchange.refusal = exchange.refusal or NotFound(reason="websocket")
        try:
            await runtime.pipeline.handle(exchange)
        finally:
            exchange.close()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.open()
        except ConfigError as error:
            await send({"type": "lifespan.startup.failed", "message": f"could not start: {error}"})
            return
        except Exception as exc:
            # Raised, it would tell some servers that we know no lifespan, and they would serve.
            logger.error("the gateway broke down while it started\n%s", outline(exc))
            await send({"type": "lifespan.startup.failed", "message": f"could not start: {type(exc).__name__}"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})


def _tame(observation: Observation) -> None:
    """A method that neither HTTP nor the route knows is whatever a client writes, and servers that are not ours let it through (F-62)."""
    method, route = observation.method, observation.route
    if method not in KNOWN_METHODS and (route is None or method not in route.methods):
        observation.method = OTHER_METHOD
