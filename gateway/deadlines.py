"""Coarse deadlines for many objects at once: one timer a tick instead of one timer a request.

A timer per request costs 1-2 us in every event loop; setting a float costs nothing. The price is that a deadline fires up to one tick late,
which is why the tick is a small share of the shortest deadline that anybody configures.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from gateway.failure import outline

logger = logging.getLogger("gateway.deadlines")


#: A deadline that says: leave me out from now on. For objects that can't wait to be told who watches them.
FORGET = -1.0


class Expiring(Protocol):
    """Something with a deadline."""

    #: `loop.time()` seconds; 0 for none, `FORGET` when it is to be watched no longer. May be changed at any time.
    deadline: float

    def expire(self) -> None:
        """The deadline has passed. Called once per tick until the deadline is moved or the object leaves."""


class Deadlines:
    """Watches over objects while they are in the set.

    Args:
        tick: seconds between two looks.
    """

    def __init__(self, tick: float) -> None:
        self._tick = tick
        self._watched: set[Expiring] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return len(self._watched)

    def add(self, item: Expiring) -> None:
        """Watch an object."""
        self._watched.add(item)
        if self._timer is None:
            self._arm()

    def discard(self, item: Expiring) -> None:
        """Stop watching an object."""
        self._watched.discard(item)

    def close(self) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._tick, self._look)

    def _look(self) -> None:
        assert self._loop is not None
        now = self._loop.time()
        for item in [item for item in self._watched if item.deadline and item.deadline <= now]:
            if item.deadline == FORGET:
                self._watched.discard(item)
                continue
            try:
                item.expire()
            except Exception as error:
                # One that fails must not stop the clock of all the others.
                logger.error("%r failed to expire\n%s", item, outline(error))
        if self._watched:
            self._arm()
        else:
            self._timer = None
