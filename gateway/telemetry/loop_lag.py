"""How late the event loop runs what is due: the first sign of a step that blocks it (F-45)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

INTERVAL_SECONDS = 0.25
# 60 samples are 15 s, so a scrape at the usual interval misses no spike.
KEPT_SAMPLES = 60


class LoopLag:
    """Samples the lag of the running event loop.

    Args:
        interval_seconds: between samples.
    """

    def __init__(self, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._interval_seconds = interval_seconds
        self._samples: deque[float] = deque([0.0], maxlen=KEPT_SAMPLES)

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
        while True:
            due = clock() + self._interval_seconds
            await asyncio.sleep(self._interval_seconds)
            # Timers have a granularity, and may come a little early.
            self._samples.append(max(0.0, clock() - due))
