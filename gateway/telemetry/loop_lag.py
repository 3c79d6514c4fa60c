"""How late the event loop runs what is due: the first sign of a step that blocks it (F-45), and what requests wait for when it is busy."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterable

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.025
# 600 samples are 15 s, so a scrape at the usual interval misses no spike.
KEPT_SAMPLES = 600
#: F-45: nothing may hold the loop up for longer.
ALARM_SECONDS = 0.1
#: What is left of a start when the ports are open.
START_SECONDS = 1.0
#: At most one line in so many seconds.
ALARM_PAUSE_SECONDS = 10.0


def _nobody(lag_seconds: float, own_seconds: float) -> None:
    """Nobody wants to know."""


class LoopLag:
    """Samples the lag of the running event loop: each sample waits like a request that arrives at that moment, for the turn that is under
    way and for what stands in line before it.

    Args:
        interval_seconds: between samples.
    """

    def __init__(self, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._interval_seconds = interval_seconds
        self._samples: deque[float] = deque([0.0], maxlen=KEPT_SAMPLES)
        self._silent_until = math.inf
        self._alarms = 0
        #: Called with each sample: (the lag, what of it was not waiting for a CPU that others used).
        self.listener: Callable[[float, float], None] = _nobody

    @property
    def worst_seconds(self) -> float:
        """The greatest lag of the last 15 s."""
        return max(tuple(self._samples))

    def read(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """As a metric source wants it."""
        return (((), self.worst_seconds),)

    async def watch(self) -> None:
        """Sample until cancelled."""
        clock: Callable[[], float] = asyncio.get_running_loop().time
        with _RunDelay() as delay:
            waited = delay.seconds
            while True:
                due = clock() + self._interval_seconds
                await asyncio.sleep(self._interval_seconds)
                # Timers have a granularity, and may come a little early.
                lag = max(0.0, clock() - due)
                self._samples.append(lag)
                waited, before = delay.seconds, waited
                own = max(0.0, lag - (waited - before))
                if own > ALARM_SECONDS:
                    self._alarm(lag, due + lag)
                self.listener(lag, own)

    def arm(self, after_seconds: float = START_SECONDS) -> None:
        """Tell in the log what holds the loop up, once so long has passed: a start does hold it up."""
        self._silent_until = asyncio.get_running_loop().time() + after_seconds

    def _alarm(self, lag: float, now: float) -> None:
        self._alarms += 1
        if now >= self._silent_until:
            logger.warning("the event loop was held up for %.0f ms (%d times since the last line)", lag * 1000, self._alarms)
            self._silent_until = now + ALARM_PAUSE_SECONDS
            self._alarms = 0


class _RunDelay:
    """How long this thread was ready and had no CPU (Linux; 0 elsewhere): that is the machine's doing, not a step's that blocks."""

    def __init__(self) -> None:
        try:
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = -1

    def __enter__(self) -> _RunDelay:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file >= 0:
            os.close(self._file)

    @property
    def seconds(self) -> float:
        """Since the thread began."""
        return int(os.pread(self._file, 64, 0).split()[1]) * 1e-9 if self._file >= 0 else 0.0
