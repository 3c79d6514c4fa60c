"""Event-loop lag."""

from __future__ import annotations

import asyncio
import re
import time

import pytest

from gateway.telemetry.loop_lag import LoopLag


def test_a_blocked_loop_shows() -> None:
    """F-45: loop lag is a metric."""

    async def scenario() -> float:
        lag = LoopLag(interval_seconds=0.01)
        task = asyncio.create_task(lag.watch())
        await asyncio.sleep(0)
        # What a step that blocks does.
        time.sleep(0.2)  # noqa: ASYNC251
        deadline = time.monotonic() + 10.0
        while lag.worst_seconds < 0.1 and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        task.cancel()
        return lag.worst_seconds

    assert 0.1 < asyncio.run(scenario()) < 5.0


def test_what_blocks_is_told_once_it_serves(caplog: pytest.LogCaptureFixture) -> None:
    """F-45: an alarm, not during the start, and not for each time."""

    async def scenario() -> list[str]:
        lag = LoopLag(interval_seconds=0.01)
        task = asyncio.create_task(lag.watch())
        seen: list[float] = []
        lag.listener = lambda lag, own: seen.append(own)
        for armed in (False, True, True):
            if armed:
                lag.arm(0.0) if not caplog.messages else None
            await asyncio.sleep(0)
            before = len(seen)
            time.sleep(0.3)  # noqa: ASYNC251 - what a step that blocks does
            while len(seen) == before:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        task.cancel()
        return caplog.messages

    told = asyncio.run(scenario())
    assert len(told) == 1
    assert re.fullmatch(r"the event loop was held up for \d+ ms \(2 times since the last line\)", told[0])


def test_before_the_first_sample_there_is_no_lag() -> None:
    """The metric is there from the start."""
    assert list(LoopLag().read()) == [((), 0.0)]
