"""What one process asks of one service at once: requests, connections, and those that wait for a connection (SPEC R6)."""

from __future__ import annotations

import asyncio
from collections import deque

import gateway.route as route
from gateway.errors import Unavailable
from gateway.upstream.http1 import UpstreamConnection
from gateway.upstream.tunnel import Figures


class Circuit:
    """The limits of one service and how far they are used up.

    `requests` in flight is counted by the forwarder, which refuses what is over `most_requests`. Connections are asked for here: `room()`
    before one is made, `opened()` or `failed()` after. An idle connection to another instance is closed to make room.
    """

    __slots__ = (
        "_connecting",
        "_most_connections",
        "_most_pending",
        "_open",
        "most_requests",
        "refused",
        "requests",
        "retries",
        "retries_denied",
        "tunnels",
        "waiting",
    )

    def __init__(self, limits: route.Circuit) -> None:
        self.limit(limits)
        self.requests = 0
        #: Those among them that are tried again, and how many could not be because too many were.
        self.retries = 0
        self.retries_denied = 0
        #: Requests that were refused.
        self.refused = 0
        #: Those among the requests that became tunnels.
        self.tunnels = Figures()
        #: One future for each request that waits for a connection.
        self.waiting: deque[asyncio.Future[None]] = deque()
        self._connecting = 0
        self._open: set[UpstreamConnection] = set()

    def __repr__(self) -> str:
        return f"<Circuit requests={self.requests} connections={self.connections} pending={len(self.waiting)} refused={self.refused}>"

    @property
    def connections(self) -> int:
        """Open connections, and those that are being made."""
        return len(self._open) + self._connecting

    def limit(self, limits: route.Circuit) -> None:
        """These are the limits from now on; what is in use stays in use."""
        self.most_requests = limits.requests
        self._most_connections = limits.connections
        self._most_pending = limits.pending

    def overloaded(self, reason: str) -> Unavailable:
        """The refusal of a request, counted. `reason` is for the records."""
        self.refused += 1
        return Unavailable("overloaded", reason=reason)

    def room(self) -> bool:
        """Whether a connection may be made; then it counts from now on."""
        if self.connections >= self._most_connections and not self._close_idle():
            return False
        self._connecting += 1
        return True

    async def wait(self, seconds: float, *, again: bool) -> None:
        """Wait until a connection has become free, or may be made. If somebody else was quicker, wait `again`, first in the row.

        Raises:
            Unavailable: too many are waiting, or none became free in time.
        """
        if len(self.waiting) >= self._most_pending:
            raise self.overloaded("circuit_pending")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self.waiting.appendleft if again else self.waiting.append)(turn)
        try:
            async with asyncio.timeout(seconds):
                await turn
        except BaseException as error:
            self._leave(turn)
            if isinstance(error, TimeoutError):
                raise self.overloaded("circuit_connections") from error
            raise

    def _leave(self, turn: asyncio.Future[None]) -> None:
        if turn in self.waiting:
            self.waiting.remove(turn)
        elif not turn.cancelled():
            # Its turn came as it left: the next one's, then.
            self.freed()

    def opened(self, connection: UpstreamConnection) -> None:
        """The connection was made."""
        self._connecting -= 1
        self._open.add(connection)
        connection.on_lost = self._lost

    def failed(self) -> None:
        """The connection could not be made."""
        self._connecting -= 1
        self.freed()

    def freed(self) -> None:
        """A connection has become free, or has gone."""
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _lost(self, connection: UpstreamConnection) -> None:
        self._open.discard(connection)
        self.freed()

    def _close_idle(self) -> bool:
        for connection in self._open:
            if connection.usable:
                connection.abort()
                self._open.discard(connection)
                return True
        return False
