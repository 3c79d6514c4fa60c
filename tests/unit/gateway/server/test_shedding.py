"""When a process takes less, and how much less."""

from __future__ import annotations

import pytest

from gateway.server.shedding import CALM, CLOSING, DEAF, FLOOR, NO_LIMIT, REFUSING, LagLimit, memory_level

TARGET = 0.05


def limit_after(*waits: float, begun: int = 400) -> LagLimit:
    limit = LagLimit(TARGET)
    for wait in waits:
        limit.look(wait, wait, begun)
    return limit


def test_a_burst_is_not_a_queue() -> None:
    """F-44: single long waits, even long ones, and waits up to the target limit nobody."""
    assert limit_after(1.0, 0.01, 0.01, 1.0, 0.01, 1.0, 0.01, 0.01).limit == NO_LIMIT
    assert limit_after(*[TARGET] * 100).limit == NO_LIMIT


def test_a_queue_that_stands_is_cut_in_proportion() -> None:
    """F-44: 400 begin in 125 ms where 75 would do, so less than 240 may. One short wait hides nothing."""
    for waits in ([0.1] * 4, [0.1, 0.1, 0.001, 0.1]):
        assert limit_after(*waits).limit == 216


def test_something_is_always_taken() -> None:
    """F-44: whatever the waits, and no cut takes more than it may."""
    assert limit_after(*[60.0] * 4).limit == 120
    assert limit_after(*[60.0] * 400).limit == FLOOR


def test_the_limit_grows_and_goes_when_it_is_not_needed() -> None:
    """F-44: within seconds of short waits, and not while they are still near the target."""
    limit = limit_after(*[0.5] * 40)
    small = limit.limit
    limit.look(TARGET * 0.9, 0.0, 10)
    assert limit.limit == small
    grown = [small]
    while limit.limit != NO_LIMIT and len(grown) < 1000:
        limit.look(0.001, 0.001, 10)
        grown.append(limit.limit)
    assert grown == sorted(grown)
    assert len(grown) * 0.025 < 3.0
    assert limit.level == CALM


def test_levels_come_in_order_while_cuts_do_not_help() -> None:
    """F-44: refuse, then close connections, then accept none; back at once when waits are short."""
    limit = limit_after()
    levels = [limit.level]
    for _ in range(40):
        limit.look(10 * TARGET, 10 * TARGET, 400)
        if limit.level != levels[-1]:
            levels.append(limit.level)
    assert levels == [CALM, REFUSING, CLOSING, DEAF]
    limit.look(TARGET, TARGET, 400)
    assert limit.level == REFUSING


def test_a_process_that_gets_no_cpu_only_refuses() -> None:
    """F-44: other processes have it; going deaf would not help."""
    limit = limit_after()
    for _ in range(100):
        limit.look(10 * TARGET, TARGET, 400)
    assert (limit.level, limit.limit) == (REFUSING, FLOOR)


def test_a_target_of_zero_is_no_target() -> None:
    limit = LagLimit(0.0)
    for _ in range(100):
        limit.look(10.0, 10.0, 4000)
    assert (limit.limit, limit.level) == (NO_LIMIT, CALM)


def test_the_benchmark_with_64_connections_is_no_overload() -> None:
    """F-44: a turn of the loop that serves all 64 at 100 µs each, three turns a request, for a minute."""
    assert limit_after(*[3 * 64 * 100e-6] * 2400, begun=64).limit == NO_LIMIT


@pytest.mark.parametrize(
    ("used", "level"), [(0, CALM), (899, CALM), (900, REFUSING), (930, REFUSING), (940, CLOSING), (970, DEAF), (1000, DEAF), (5000, DEAF)]
)
def test_memory_has_levels_too(used: int, level: int) -> None:
    """F-44, F-55."""
    assert memory_level(used, 1000, 0.9) == level


def test_memory_without_a_limit_is_not_looked_at() -> None:
    """F-55."""
    assert memory_level(1 << 40, 0, 0.9) == CALM
    assert memory_level(1 << 40, 1000, 0.0) == CALM
    assert memory_level(1000, 1000, 1.0) == DEAF
