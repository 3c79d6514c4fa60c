"""One call for everybody who asks the same thing at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from discovery.ending import end

Answer = TypeVar("Answer")


class SharedCalls(Generic[Answer]):
    """Callers with an equal key that come while a call is in flight share its outcome. A caller that goes away does not end it."""

    def __init__(self) -> None:
        self._tasks: dict[bytes, asyncio.Task[Answer]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    async def run(self, key: bytes, call: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        """What `call` returns or raises; it is made only when no call for `key` is in flight."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(call())
            task.add_done_callback(lambda ended: self._ended(key, ended))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Cancel what is in flight."""
        await end(self._tasks.values())

    def _ended(self, key: bytes, task: asyncio.Task[Answer]) -> None:
        del self._tasks[key]
        if not task.cancelled():
            # Read, so that a failure whose callers have all gone is not reported as never retrieved.
            task.exception()
