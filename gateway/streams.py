"""Exchanges that last, by who asked for them: what a revocation, or the end of the token, has to end (SPEC V7, S-38).

Only what lasts comes here: a response that goes on after its first piece, and any tunnel. A short request never does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from gateway.auth.principal import Principal
from gateway.errors import GatewayError, Unauthorized


class Stream(Protocol):
    """An exchange that lasts."""

    @property
    def principal(self) -> Principal | None:
        """Who asked."""

    def end(self, error: GatewayError) -> None:
        """End it, so that the client notices and the record says why."""


class Streams(Protocol):
    """Where such exchanges are known while they last."""

    def add(self, stream: Stream) -> None:
        """It lasts. Ended at once when its principal has been revoked meanwhile."""

    def discard(self, stream: Stream) -> None:
        """It is over. A second time does nothing."""


#: Two looks for expired tokens are so many seconds apart at least, which bounds what they cost, and so many at most, which bounds what a
#: clock that was put forward can do.
SHORTEST_WAIT_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 30.0


def _no_leeway(principal: Principal) -> float:
    return 0.0


class OpenStreams:
    """All that last in this process; only the event loop's thread uses it.

    Args:
        revoked: what of a principal is revoked, empty when nothing is.
        leeway: seconds that a principal's credential is good for after its end.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        revoked: Callable[[Principal], str],
        leeway: Callable[[Principal], float] = _no_leeway,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._revoked = revoked
        self._leeway = leeway
        self._clock = clock
        self._open: dict[Principal, set[Stream]] = {}
        self._look_planned = False
        #: When the credentials of those that are open end, for those that do; and one timer for the first of them.
        self._ends: dict[Principal, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def __repr__(self) -> str:
        return f"<OpenStreams {len(self)}>"

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def add(self, stream: Stream) -> None:
        principal = stream.principal
        if principal is None:
            return
        same = self._open.get(principal)
        if same is None:
            same = self._open[principal] = set()
            if principal.expires_at:
                self._watch(principal)
        same.add(stream)
        # It was admitted before the response came: a revocation may have arrived in between.
        kind = self._revoked(principal)
        if kind:
            stream.end(_revoked(kind))

    def discard(self, stream: Stream) -> None:
        principal = stream.principal
        if principal is None:
            return
        same = self._open.get(principal)
        if same is not None:
            same.discard(stream)
            if not same:
                del self._open[principal]
                self._ends.pop(principal, None)
                if not self._ends and self._timer is not None:
                    self._timer.cancel()
                    self._timer = None

    def look(self) -> None:
        """Something was revoked: end what it concerns, soon. Many changes of one turn of the loop are one look."""
        if self._open and not self._look_planned:
            self._look_planned = True
            asyncio.get_running_loop().call_soon(self._end_revoked)

    def _watch(self, principal: Principal) -> None:
        end = self._ends[principal] = principal.expires_at + self._leeway(principal)
        if self._timer is None or end < self._timer_at:
            self._plan(end)

    def _plan(self, end: float) -> None:
        """Look for expired tokens at this time."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = end
        seconds = min(max(end - self._clock(), SHORTEST_WAIT_SECONDS), LONGEST_WAIT_SECONDS)
        self._timer = asyncio.get_running_loop().call_later(seconds, self._end_expired)

    def _end_expired(self) -> None:
        self._timer = None
        now = self._clock()
        for principal in [principal for principal, end in self._ends.items() if end <= now]:
            del self._ends[principal]
            for stream in list(self._open.get(principal, ())):
                stream.end(Unauthorized("The token has expired.", code="token_expired"))
        if self._ends:
            self._plan(min(self._ends.values()))

    def _end_revoked(self) -> None:
        self._look_planned = False
        for principal, streams in list(self._open.items()):
            kind = self._revoked(principal)
            if kind:
                for stream in list(streams):
                    stream.end(_revoked(kind))


class _NoStreams:
    def add(self, stream: Stream) -> None:
        """Nobody is asked for who he is."""

    def discard(self, stream: Stream) -> None:
        """Nothing was kept."""


#: For public routes.
NO_STREAMS: Streams = _NoStreams()


def _revoked(kind: str) -> Unauthorized:
    return Unauthorized("The token has been revoked.", code="token_revoked", reason=f"revoked_{kind}")
