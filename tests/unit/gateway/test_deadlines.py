"""One clock for many deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gateway.deadlines import FORGET, Deadlines


class Watched:
    """Counts how often it expired; `fails` raises instead."""

    def __init__(self, deadline: float, fails: bool = False) -> None:
        self.deadline = deadline
        self.expired = 0
        self._fails = fails

    def expire(self) -> None:
        self.expired += 1
        self.deadline = 0.0
        if self._fails:
            raise ValueError("expire")


async def ticks(condition: Callable[[], bool]) -> None:
    """Turns of the loop until the condition holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


def test_what_is_due_expires_once_and_the_rest_waits() -> None:
    """H10: a deadline of 0 is none; who left isn't called."""

    async def main() -> None:
        now = asyncio.get_running_loop().time()
        due, later, none, left = Watched(now), Watched(now + 100), Watched(0.0), Watched(now)
        deadlines = Deadlines(0.001)
        for item in (due, later, none, left):
            deadlines.add(item)
        deadlines.discard(left)
        await ticks(lambda: due.expired > 0)
        assert [item.expired for item in (due, later, none, left)] == [1, 0, 0, 0]
        assert len(deadlines) == 3
        later.deadline = now
        await ticks(lambda: later.expired == 1)
        deadlines.close()

    asyncio.run(main())


def test_what_wants_to_be_forgotten_leaves_without_expiring() -> None:
    """F-40: what has ended is not kept."""

    async def main() -> None:
        ended, other = Watched(0.0), Watched(asyncio.get_running_loop().time() + 100)
        deadlines = Deadlines(0.001)
        deadlines.add(ended)
        deadlines.add(other)
        ended.deadline = FORGET
        await ticks(lambda: len(deadlines) == 1)
        assert ended.expired == 0
        deadlines.close()

    asyncio.run(main())


def test_one_that_fails_does_not_stop_the_clock(caplog: pytest.LogCaptureFixture) -> None:
    """H10: or nobody would ever time out again."""

    async def main() -> None:
        now = asyncio.get_running_loop().time()
        broken, sound, next_one = Watched(now, fails=True), Watched(now), Watched(0.0)
        deadlines = Deadlines(0.001)
        for item in (broken, sound, next_one):
            deadlines.add(item)
        await ticks(lambda: broken.expired == sound.expired == 1)
        next_one.deadline = now
        await ticks(lambda: next_one.expired == 1)
        assert "failed to expire" in caplog.text
        deadlines.close()

    asyncio.run(main())


def test_the_clock_stops_when_nobody_is_watched_and_starts_again() -> None:
    """An idle process has no timer."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        deadlines = Deadlines(0.001)
        for _ in range(2):
            item = Watched(loop.time())
            deadlines.add(item)
            await ticks(lambda: item.expired == 1)  # noqa: B023
            deadlines.discard(item)
            await ticks(lambda: deadlines._timer is None)

    asyncio.run(main())
