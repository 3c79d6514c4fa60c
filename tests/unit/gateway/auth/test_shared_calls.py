from __future__ import annotations

import asyncio

import pytest

from gateway.auth.shared_calls import SharedCalls


def test_equal_callers_share_one_call_and_others_do_not() -> None:
    """A7: the same token asked about by many at once is one question."""

    async def scenario() -> None:
        shared: SharedCalls[int] = SharedCalls()
        release = asyncio.Event()
        made = 0

        async def call() -> int:
            nonlocal made
            made += 1
            await release.wait()
            return made

        callers = [asyncio.create_task(shared.run(key, call)) for key in (b"a", b"a", b"a", b"b")]
        await asyncio.sleep(0)
        assert len(shared) == 2
        release.set()
        await asyncio.gather(*callers)
        assert made == 2
        assert len(shared) == 0

    asyncio.run(scenario())


def test_a_caller_that_goes_away_does_not_end_the_call() -> None:
    """R7: one client's disconnect is not another client's failure."""

    async def scenario() -> None:
        shared: SharedCalls[str] = SharedCalls()
        release = asyncio.Event()

        async def call() -> str:
            await release.wait()
            return "answer"

        first, second = (asyncio.create_task(shared.run(b"a", call)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        release.set()
        assert await second == "answer"
        assert first.cancelled()

    asyncio.run(scenario())


def test_a_failure_reaches_every_caller_and_is_not_kept() -> None:
    """A7: the next question is asked anew."""

    async def scenario() -> None:
        shared: SharedCalls[str] = SharedCalls()

        async def fail() -> str:
            raise OSError

        async def succeed() -> str:
            return "answer"

        results = await asyncio.gather(*(shared.run(b"a", fail) for _ in range(2)), return_exceptions=True)
        assert [type(result) for result in results] == [OSError, OSError]
        assert await shared.run(b"a", succeed) == "answer"

    asyncio.run(scenario())


def test_close_ends_what_is_in_flight() -> None:
    """G1: nothing outlives the gateway."""

    async def scenario() -> None:
        shared: SharedCalls[None] = SharedCalls()
        caller = asyncio.create_task(shared.run(b"a", asyncio.Event().wait))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await shared.close()
        with pytest.raises(asyncio.CancelledError):
            await caller

    asyncio.run(scenario())
