"""What the requests of one turn of the event loop have to do next, done for all of them in a row.

The loop brings what came on all connections in one turn. Taking one request through all its code before the next one is looked at would
have the processor fetch that code anew each time, between two calls of the kernel; in a row it stays in the caches. A task a request does
the same, at the price of the task.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from gateway.failure import outline

logger = logging.getLogger("gateway.turn")

T = TypeVar("T")


class Turn(Generic[T]):
    """Takes items while the loop reads, and has each of them do a step when it has read everything.

    Args:
        step: called with each item, in the order in which they were added. When it raises, that is logged and the others go on.
    """

    __slots__ = ("_items", "_step")

    def __init__(self, step: Callable[[T], None]) -> None:
        self._step = step
        self._items: list[T] = []

    def __repr__(self) -> str:
        return f"<Turn {len(self._items)} waiting>"

    def add(self, item: T) -> None:
        """Have an item do its step soon."""
        items = self._items
        if not items:
            asyncio.get_running_loop().call_soon(self._run)
        items.append(item)

    def _run(self) -> None:
        items, self._items = self._items, []
        step = self._step
        for item in items:
            try:
                step(item)
            except Exception as error:
                logger.error("a step failed for %r\n%s", item, outline(error))
