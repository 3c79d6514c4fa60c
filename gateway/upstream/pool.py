"""Idle connections of one endpoint, last in first out: the freshest is the least likely to have been closed by the other side."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque

from gateway import handshake
from gateway.errors import BadGateway, GatewayTimeout
from gateway.upstream.http1 import TLS_FAILURE, UpstreamConnection
from gateway.upstream.repeated import RepeatedHeads

#: How long a connection may lie idle before it is closed; upstreams close theirs after 5 s (uvicorn) to 75 s (nginx).
MAX_IDLE_SECONDS = 30.0


class Pool:
    """Connections to one address under one set of TLS rules.

    Args:
        host, port: where to connect.
        tls: context of an `https` instance, None for plain.
        server_name: expected in the certificate; the host when empty.
        max_idle: idle connections kept.
    """

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None = None, server_name: str = "", max_idle: int = 512) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._server_name = server_name or host
        self._max_idle = max_idle
        self._idle: deque[UpstreamConnection] = deque()
        self._repeated = RepeatedHeads()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.connections_made = 0

    def __repr__(self) -> str:
        return f"<Pool {self._host}:{self._port} idle {len(self._idle)} made {self.connections_made}>"

    def take(self) -> UpstreamConnection | None:
        """An idle connection that is still open, if there is one."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if not connection.closed and not connection.transport.is_closing():
                connection.reused = True
                return connection
        return None

    async def connect(self, timeout: float) -> UpstreamConnection:
        """A new connection.

        Raises:
            GatewayTimeout: not connected (TCP and TLS) within `timeout` seconds.
            BadGateway: refused, unreachable, or the certificate does not hold.
        """
        try:
            async with asyncio.timeout(timeout):
                if self._tls is None:
                    _, connection = await self._loop.create_connection(self._make, self._host, self._port)
                else:
                    connection = await handshake.connect(self._make, self._host, self._port, self._tls, self._server_name)
        except TimeoutError as exc:
            raise GatewayTimeout(reason="upstream_connect_timeout") from exc
        except ssl.SSLError as exc:
            raise BadGateway(reason=TLS_FAILURE) from exc
        except OSError as exc:
            cut = self._tls is not None and isinstance(exc, ConnectionResetError | ConnectionAbortedError)
            raise BadGateway(reason=TLS_FAILURE if cut else "upstream_connect_failure") from exc
        self.connections_made += 1
        return connection

    def _make(self) -> UpstreamConnection:
        return UpstreamConnection(self._loop, self._repeated)

    def give_back(self, connection: UpstreamConnection, now: float = 0.0) -> None:
        """Keep a connection whose exchange has ended well. `now`: of the loop, if it is known."""
        if self._closed or len(self._idle) >= self._max_idle:
            connection.abort()
            return
        connection.idle_since = now or self._loop.time()
        self._idle.append(connection)
        if self._timer is None:
            self._timer = self._loop.call_later(MAX_IDLE_SECONDS, self._expire)

    def close(self) -> None:
        """Close what is idle; connections in use are closed when they come back."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._idle:
            self._idle.pop().abort()

    def _expire(self) -> None:
        self._timer = None
        oldest = self._loop.time() - MAX_IDLE_SECONDS
        while self._idle and (self._idle[0].idle_since <= oldest or self._idle[0].closed):
            self._idle.popleft().abort()
        if self._idle:
            self._timer = self._loop.call_at(self._idle[0].idle_since + MAX_IDLE_SECONDS + 0.05, self._expire)
