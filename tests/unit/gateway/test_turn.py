from __future__ import annotations

import asyncio
import logging

import pytest

from gateway.turn import Turn


def test_all_items_of_a_turn_do_their_step_in_a_row_and_in_order() -> None:
    async def main() -> None:
        seen: list[str] = []
        turn = Turn(seen.append)
        turn.add("one")
        asyncio.get_running_loop().call_soon(seen.append, "something else")
        turn.add("two")
        assert not seen
        await asyncio.sleep(0)
        assert seen == ["one", "two", "something else"]

    asyncio.run(main())


def test_what_a_step_adds_waits_for_the_next_turn() -> None:
    async def main() -> None:
        seen: list[int] = []

        def step(number: int) -> None:
            seen.append(number)
            if number:
                turn.add(number - 1)

        turn = Turn(step)
        turn.add(1)
        await asyncio.sleep(0)
        assert seen == [1]
        assert repr(turn) == "<Turn 1 waiting>"
        await asyncio.sleep(0)
        assert seen == [1, 0]

    asyncio.run(main())


def test_a_step_that_fails_is_logged_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        seen: list[float] = []
        turn: Turn[int] = Turn(lambda number: seen.append(1 / number))
        for number in (1, 0, 2):
            turn.add(number)
        await asyncio.sleep(0)
        assert seen == [1.0, 0.5]

    with caplog.at_level(logging.ERROR, logger="gateway.turn"):
        asyncio.run(main())
    (told,) = [record.message for record in caplog.records]
    assert told.startswith("a step failed for 0\nTraceback")
