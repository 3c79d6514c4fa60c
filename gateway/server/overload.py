"""Keeps a process well that has more to do than it can: refuses what is too much before latency collapses (F-44).

In the order of Envoy's overload manager: new requests get 503 `overloaded` with Retry-After, then answers close their connections, so that
clients find another replica, then no connections are accepted. `shedding.py` decides, from the wait for the event loop and from
memory; this acts. Nothing is asked of a request but one comparison (`Front.room`). Probes and the admin site are on another port
and exempt.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from random import getrandbits
from typing import Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.errors import Unavailable, problem
from gateway.server.drain import Handling, LastAnswers
from gateway.server.memory import group_limit_bytes, resident_bytes
from gateway.server.shedding import CALM, CLOSING, DEAF, LEVELS, NO_LIMIT, REFUSING, LagLimit, memory_level
from gateway.settings import OverloadSettings

logger = logging.getLogger("gateway.overload")

#: Refusals between two looks that cost next to nothing. A connection whose request was refused after those is not read for so long: who
#: asks again at once, whatever Retry-After says, would make refusing as dear as serving.
FREE_REFUSALS = 50
HELD_SECONDS = 0.2
MEMORY_SECONDS = 0.25
LOG_SECONDS = 5.0
#: So long without a reason before it is said to be over.
CALM_SECONDS = 2.0
_TRACE = "0" * 32


class Held(Protocol):
    """A connection that is not read for a while."""

    def release(self) -> None:
        """Read again."""


class Listening(Protocol):
    """The server of the data port."""

    def pause_accepting(self) -> None:
        """Accept no connections; they wait in the kernel's queue."""

    def resume_accepting(self) -> None:
        """Accept them again."""


class Shed(Handling, Protocol):
    """What connections share: the server protocol's front."""

    room: int


class Refusal:
    """The bytes of a refusal, made but for the trace id."""

    def __init__(self) -> None:
        error = Unavailable("overloaded", reason="overload")
        self._before, self._after = problem(error, _TRACE).split(_TRACE.encode())
        fields = b"".join([b"%b: %b\r\n" % field for field in error.headers])
        length = len(self._before) + len(_TRACE) + len(self._after)
        self._head = b"%bcontent-type: application/problem+json\r\ncontent-length: %d\r\n%b" % (STATUS_LINE[error.status], length, fields)

    def __call__(self, default_headers: list[tuple[bytes, bytes]], *, body: bool, close: bool) -> bytes:
        """The whole answer; the head alone where it may have no body."""
        trace = b"%032x" % getrandbits(128)
        lines = [self._head, *[b"%b: %b\r\n" % field for field in default_headers], b"x-request-id: ", trace]
        lines.append(b"\r\nconnection: close\r\n\r\n" if close else b"\r\n\r\n")
        if body:
            lines += (self._before, trace, self._after)
        return b"".join(lines)


class Overload:
    """Watches one process and acts upon what it sees. Does nothing before `guard`.

    Args:
        front: what the connections share.
        settings: when to act.
        workers: processes that share the memory of a container.
        tell: writes an event into the audit: (what, details).
        clock: seconds.
    """

    def __init__(
        self,
        front: Shed,
        settings: OverloadSettings,
        workers: int,
        tell: Callable[[Mapping[str, object]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._front = front
        self._workers = workers
        self._tell = tell
        self._clock = clock
        self._server: Listening | None = None
        #: Room of the front after the last look.
        self._given = front.room
        self._lag = LagLimit(settings.lag)
        self._settings = settings
        self._memory = CALM
        self._memory_due = 0.0
        self.memory_limit_bytes = 0
        self.level = CALM
        self._closer: LastAnswers | None = None
        self._deaf = False
        self._ended = False
        self._held: deque[tuple[float, Held]] = deque()
        self.refusal = Refusal()
        #: Requests refused since the start.
        self.shed = 0
        self._since_look = 0
        self._calm_at = 0.0
        self._told_at = 0.0
        self._told_shed = 0
        self.change(settings)

    def __repr__(self) -> str:
        return f"<Overload {LEVELS[self.level]} {self._lag!r} shed={self.shed}>"

    def change(self, settings: OverloadSettings) -> None:
        """These are the settings from now on."""
        self._settings = settings
        self._lag.target_seconds = settings.lag
        self.memory_limit_bytes = settings.memory_limit or group_limit_bytes() // self._workers

    def guard(self, server: Listening) -> None:
        """Act from now on, on the server of the data port."""
        self._server = server

    def end(self) -> None:
        """The process ends: connections are the concern of who ends it. What is too much is refused until then."""
        self._ended = True
        if self._deaf and self._server is not None:
            self._deaf = False
            self._server.resume_accepting()

    @property
    def limit(self) -> int:
        """Requests that may begin before the next look: none where memory is short, `NO_LIMIT` where there is no overload."""
        return 0 if self._memory != CALM else self._lag.limit

    @property
    def closes(self) -> bool:
        """Whether answers close their connections."""
        return self.level >= CLOSING

    def refused(self, connection: Held) -> bool:
        """A request was refused. Whether its connection is not to be read until it is released."""
        self.shed += 1
        self._since_look += 1
        if self._since_look <= FREE_REFUSALS:
            return False
        self._held.append((self._clock() + HELD_SECONDS, connection))
        return True

    def look(self, lag_seconds: float, own_seconds: float) -> None:
        """A request that arrived waited so long for the event loop, and so much of it not because the CPU was another process's."""
        if self._server is None:
            return
        now = self._clock()
        self._since_look = 0
        self._lag.look(lag_seconds, own_seconds, self._given - self._front.room)
        if now >= self._memory_due:
            self._memory_due = now + MEMORY_SECONDS
            self._memory = memory_level(resident_bytes(), self.memory_limit_bytes, self._settings.memory)
        if self._held:
            self._release(now)
        self._given = self._front.room = self.limit
        level = max(self._memory, self._lag.level)
        if level != CALM:
            self._calm_at = now + CALM_SECONDS
        elif now < self._calm_at:
            level = REFUSING
        if (level != CALM or self.level != CALM) and not self._ended:
            self._act(level, now)

    def _act(self, level: int, now: float) -> None:
        before, self.level = self.level, level
        if level >= CLOSING:
            self._close_connections()
        elif self._closer is not None:
            if self._front.handler is self._closer:
                self._front.handler = self._closer.handler
            self._closer = None
        assert self._server is not None
        if (level == DEAF) != self._deaf:
            self._deaf = level == DEAF
            (self._server.pause_accepting if self._deaf else self._server.resume_accepting)()
        if (before == CALM) != (level == CALM):
            self._tell({"action": "overload", "level": LEVELS[level], "cause": self._cause, "refused": self.shed})
        if level != before or now >= self._told_at + LOG_SECONDS:
            self._log(now)

    def _close_connections(self) -> None:
        """A reload puts another handler there, and the end of the process one that closes connections itself."""
        handler = self._front.handler
        if handler is not self._closer and not isinstance(handler, LastAnswers):
            self._closer = self._front.handler = LastAnswers(handler, self._clock)

    @property
    def _cause(self) -> str:
        return "memory" if self._memory >= max(self._lag.level, 1) else "lag"

    def _log(self, now: float) -> None:
        refused, self._told_shed, self._told_at = self.shed - self._told_shed, self.shed, now
        limit = "no bound" if self.limit == NO_LIMIT else f"at most {self.limit} requests begin in 25 ms"
        logger.warning("overload: %s (%s), %s, %d requests refused", LEVELS[self.level], self._cause, limit, refused)

    def _release(self, now: float) -> None:
        while self._held and self._held[0][0] <= now:
            self._held.popleft()[1].release()
