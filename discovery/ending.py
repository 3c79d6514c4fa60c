"""Ending tasks of our own, also when a cancellation gets lost on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

#: A library may swallow a cancellation that comes together with the result it waits for (so does `asyncio.wait_for` of Python 3.11).
REPEAT_SECONDS = 0.1


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks until all of them are done, whatever they end with."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=REPEAT_SECONDS)
        for task in done:
            # Asked for, so that nobody complains that it was never looked at.
            _ = task.cancelled() or task.exception()
