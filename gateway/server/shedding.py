"""How much a process takes on when there is more than it can do, decided from how long a request waits for its turn. Pure; `overload.py`
acts upon it.

What stands in line in a process is a request's wait for the event loop, which `telemetry/loop_lag.py` samples. A burst that passes makes
single samples long, a queue that stands makes nearly all of them long (CoDel, RFC 8289 section 4). What is bounded then is the number of
requests that begin between two samples: that is what makes the next wait long. Requests that wait for a service cost nothing meanwhile, and
a bound on what is in flight would have a slow service, or open streams, keep everybody else out.
"""

from __future__ import annotations

from collections import deque

from gateway.telemetry.loop_lag import INTERVAL_SECONDS

#: No bound from here; `server.max.in_flight` holds. One digit of Python's integers, which are counted down faster than longer ones.
NO_LIMIT = (1 << 30) - 1
#: Samples that are judged together; one of them may be short, because clients that were answered together come back together.
WINDOW = 4
#: What may begin between two samples whatever the wait: progress, and the measure of what a request costs.
FLOOR = 16
#: More than that between two samples is more than any process can do: a limit that has grown so far is none.
CEILING = 2000
#: A limit is never cut to less than this part at once: a measurement may be the machine's fault.
LARGEST_CUT = 0.3
#: Headroom that a cut leaves below what the ratio says, so that the queue drains.
MARGIN = 0.9
#: A limit that is not needed grows by this part of itself with each sample.
GROWTH = 16
#: Cuts in a row that did not help before answers close their connections, and before no more connections are accepted.
CUTS_BEFORE_CLOSING = 2
CUTS_BEFORE_DEAF = 4
#: What "did not help" means: requests still wait so many times as long as they may.
FAR_TOO_LONG = 2.0

#: Levels, as in Envoy's overload manager: take all, refuse what is too much, close connections, accept none.
CALM, REFUSING, CLOSING, DEAF = range(4)
LEVELS = ("calm", "refusing", "closing", "deaf")


class LagLimit:
    """The bound on requests that begin between two samples, which keeps the wait for the event loop short.

    Args:
        target_seconds: how long a request may wait; 0 for as long as it likes.
    """

    def __init__(self, target_seconds: float) -> None:
        self.target_seconds = target_seconds
        self.limit = NO_LIMIT
        self._waits: deque[float] = deque(maxlen=WINDOW)
        self._own_waits: deque[float] = deque(maxlen=WINDOW)
        self._begun: deque[int] = deque(maxlen=WINDOW)
        self._cuts_in_vain = 0

    def __repr__(self) -> str:
        return f"<LagLimit {LEVELS[self.level]} limit={'none' if self.limit == NO_LIMIT else self.limit}>"

    @property
    def level(self) -> int:
        """CALM, REFUSING, CLOSING or DEAF."""
        if self.limit == NO_LIMIT:
            return CALM
        if self._cuts_in_vain < CUTS_BEFORE_CLOSING:
            return REFUSING
        return CLOSING if self._cuts_in_vain < CUTS_BEFORE_DEAF else DEAF

    def look(self, lag_seconds: float, own_seconds: float, begun: int) -> None:
        """Take note of a sample of the wait, of its part in which nobody else had the CPU, and of the requests begun since the last."""
        target = self.target_seconds
        if not target:
            self.limit = NO_LIMIT
            self._cuts_in_vain = 0
            return
        waits = self._waits
        waits.append(lag_seconds)
        self._own_waits.append(own_seconds)
        self._begun.append(begun)
        standing = sorted(waits)[1] if len(waits) == WINDOW else 0.0
        if standing > target:
            self._cut(standing)
        elif lag_seconds <= target:
            self._cuts_in_vain = 0
            if self.limit != NO_LIMIT and lag_seconds <= target / 2:
                self._grow()

    def _cut(self, standing_seconds: float) -> None:
        """Between two samples lie the interval and the wait; what has begun in so long filled it. That others have the CPU is no reason to
        send clients away: it is not they who keep it busy."""
        target = self.target_seconds
        if self.limit != NO_LIMIT and sorted(self._own_waits)[1] > FAR_TOO_LONG * target:
            self._cuts_in_vain += 1
        share = max(LARGEST_CUT, MARGIN * (INTERVAL_SECONDS + target) / (INTERVAL_SECONDS + standing_seconds))
        self.limit = max(FLOOR, int(min(self.limit, max(self._begun)) * share))
        # The next cut is judged by what this one did.
        self._waits.clear()
        self._own_waits.clear()
        self._begun.clear()

    def _grow(self) -> None:
        self.limit += self.limit // GROWTH + 1
        if self.limit > CEILING:
            self.limit = NO_LIMIT


def memory_level(used_bytes: int, limit_bytes: int, share: float) -> int:
    """The level for memory: requests are refused from `share` of the limit on, connections closed after a third of what is left beyond
    that, none accepted after two thirds. CALM where there is no limit, or no share."""
    if not limit_bytes or not share or used_bytes < share * limit_bytes:
        return CALM
    if share >= 1.0:
        return DEAF
    return min(DEAF, REFUSING + int(3 * (used_bytes / limit_bytes - share) / (1.0 - share)))
