"""Which of several places is believed."""

from collections.abc import Sequence

import pytest

from discovery.failover import PATIENCE_SECONDS, Choice
from discovery.instance import Instance
from discovery.source import Failed, Found, Update

EAST, WEST = (Instance(id="east", host="10.0.0.1", port=1),), (Instance(id="west", host="10.1.0.1", port=1),)


def heard(*events: tuple[int, Update] | float, count: int = 2) -> list[Update]:
    """What is passed on; a number lets so many seconds go by."""
    now = 0.0
    passed: list[Update] = []
    choice = Choice(count, passed.append, lambda: now)
    for event in events:
        if isinstance(event, float):
            now += event
        else:
            choice.listener(event[0])(event[1])
    return passed


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([(0, Found(EAST)), (1, Found(WEST))], [Found(EAST)]),
        ([(1, Found(WEST)), (0, Found(EAST))], [Found(WEST, fallback=1), Found(EAST)]),
        ([(0, Found(EAST)), (1, Found(WEST)), (0, Found(()))], [Found(EAST), Found(WEST, fallback=1)]),
        ([(0, Found(())), (1, Found(()))], [Found(())]),
        ([(0, Found(())), (1, Found(WEST)), (0, Found(EAST))], [Found(()), Found(WEST, fallback=1), Found(EAST)]),
        ([(0, Found(())), (1, Found(WEST)), (1, Found(()))], [Found(()), Found(WEST, fallback=1), Found(())]),
        ([(0, Failed("e")), (1, Found(WEST))], [Failed("e"), Found(WEST, fallback=1)]),
        ([(1, Failed("w")), (0, Found(EAST))], [Found(EAST)]),
        ([(0, Found(EAST)), (1, Failed("w"))], [Found(EAST)]),
    ],
)
def test_the_first_place_that_has_any(events: Sequence[tuple[int, Update]], expected: list[Update]) -> None:
    """D8."""
    assert heard(*events) == expected


def test_a_place_that_can_not_be_asked_is_left_after_a_while_and_taken_back_at_once() -> None:
    """D8, D3: an error alone moves nobody."""
    passed = heard(
        (0, Found(EAST)),
        (1, Found(WEST)),
        (0, Failed("a")),
        PATIENCE_SECONDS - 1,
        (0, Failed("b")),
        2.0,
        (0, Failed("c")),
        (0, Found(EAST)),
    )
    assert passed == [Found(EAST), Failed("a"), Failed("b"), Found(WEST, fallback=1), Found(EAST)]


def test_when_no_place_can_be_asked_the_first_choice_stays() -> None:
    """D8, D3."""
    passed = heard(
        (0, Found(EAST)), (1, Found(WEST)), (0, Failed("a")), (1, Failed("b")), 2 * PATIENCE_SECONDS, (1, Failed("c")), (0, Failed("d"))
    )
    assert passed == [Found(EAST), Failed("a"), Failed("d")]
