"""Tasks end, whatever becomes of the cancellation."""

import asyncio
import contextlib

from discovery.ending import end


def test_a_task_that_swallows_its_cancellation_ends_all_the_same() -> None:
    """G1: an end that hangs is no end."""
    swallowed: list[int] = []

    async def stubborn() -> None:
        while len(swallowed) < 3:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            swallowed.append(1)

    async def failing() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("at the end")

    async def scenario() -> None:
        tasks = [asyncio.create_task(stubborn()), asyncio.create_task(failing()), asyncio.create_task(asyncio.sleep(0))]
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await end(tasks)
        assert all(task.done() for task in tasks)

    asyncio.run(scenario())


def test_nothing_ends_at_once() -> None:
    asyncio.run(end([]))
