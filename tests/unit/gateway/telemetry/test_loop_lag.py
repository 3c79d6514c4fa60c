"""Event-loop lag."""

from __future__ import annotations

import asyncio
import time

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


def test_before_the_first_sample_there_is_no_lag() -> None:
    """The metric is there from the start."""
    assert list(LoopLag().read()) == [((), 0.0)]
