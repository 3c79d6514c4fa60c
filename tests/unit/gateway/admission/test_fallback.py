"""Limits without the store: each replica's share, on a clock that the test moves (SPEC L11)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.fallback import Counters, FairShare, Portion, portion
from gateway.admission.plan import AdmissionPlan
from gateway.route import Limit, Route
from tests.support.admission import SECOND_US, FixedFacts, concurrency, gcra, principal, quota, route, sliding
from tests.unit.gateway.test_pipeline import NoShards

MINUTE_US = 60 * SECOND_US


class Clock:
    """Microseconds that stand still until they are moved."""

    def __init__(self) -> None:
        self.now = 1_000.0 * MINUTE_US

    def __call__(self) -> float:
        return self.now


def replicas_of(limit: Limit, count: int, clock: Clock, cost: int = 1) -> list[Callable[[], bool]]:
    """Replicas that each may admit by themselves."""

    def asker(one: Portion) -> Callable[[], bool]:
        state = one.fresh()

        def ask() -> bool:
            if one.wait(state, cost):
                return False
            one.take(state, cost)
            return True

        return ask

    return [asker(portion(limit, (count, place), cost, clock, clock)) for place in range(count)]


@given(
    st.sampled_from(["gcra", "sliding_window", "quota"]),
    st.integers(min_value=1, max_value=40),
    st.integers(min_value=1, max_value=7),
    st.integers(min_value=0, max_value=59),
)
def test_all_replicas_together_keep_to_the_limit(kind: str, count: int, replicas: int, offset: int) -> None:
    """L11: in steady state at most limit x (1 + 1/N) a period, and nobody is left with nothing when the limit is at least N."""
    limit = Limit(name="x", kind=kind, count=count, period_us=MINUTE_US, burst=count if kind == "gcra" else 0)  # type: ignore[arg-type]
    clock = Clock()
    clock.now += offset * SECOND_US
    asking = replicas_of(limit, replicas, clock)
    # A replica's part of one event may take as long as N windows: enough of them that one at the edge weighs little.
    warm_up, periods = replicas, 40 * replicas
    admitted = [0] * replicas
    for tick in range((warm_up + periods) * 20):
        clock.now += MINUTE_US / 20
        for number, ask in enumerate(asking):
            while ask():
                admitted[number] += tick >= warm_up * 20
    assert sum(admitted) <= count * periods * (1 + 1 / replicas)
    assert sum(admitted) >= count * periods / 4
    if count >= replicas:
        assert min(admitted) > 0


@given(
    st.sampled_from([3, 12, 40, 200]),
    st.integers(min_value=1, max_value=3),
    st.lists(st.tuples(st.sampled_from([0, 1, 100, 6_000, 59_000, 59_999, 60_000]), st.integers(0, 2), st.integers(1, 90)), max_size=40),
)
def test_a_sliding_window_holds_in_every_span(count: int, replicas: int, asked: list[tuple[int, int, int]]) -> None:
    """L7, L11: whatever comes when, all replicas together; and what is counted for too long is less than a 16th of a share."""
    clock, admitted = Clock(), list[tuple[float, int]]()
    shares = [portion(sliding(count, 60), (replicas, place), 1, clock, clock) for place in range(replicas)]
    states = [one.fresh() for one in shares]
    for pause_ms, place, times in asked:
        clock.now += pause_ms * 1000
        number = place % replicas
        one, state = shares[number], states[number]
        horizon = clock.now - MINUTE_US
        for _ in range(times):
            recent = [where for at, where in admitted if at > horizon]
            if one.wait(state, 1):
                assert recent.count(number) >= one.capacity - one.capacity // 16
                break
            one.take(state, 1)
            admitted.append((clock.now, number))
            assert len(recent) < count
        assert len(state) <= 2 * 2 * 17


@pytest.mark.parametrize("limit", [gcra(12, 60), sliding(12, 60), quota(12, 60)], ids=lambda limit: limit.kind)
@pytest.mark.parametrize("replicas", [1, 2, 3, 5])
def test_one_period_starts_with_the_share_and_no_more(limit: Limit, replicas: int) -> None:
    """L11: at once, all together admit what the limit allows at once."""
    clock = Clock()
    admitted = sum(ask() for ask in replicas_of(limit, replicas, clock) for _ in range(20))
    assert 12 - replicas < admitted <= 12


@pytest.mark.parametrize(("count", "replicas", "expected"), [(7, 3, [3, 2, 2]), (2, 3, [1, 1, 0]), (3, 1, [3])])
def test_places_are_divided_without_a_rest(count: int, replicas: int, expected: list[int]) -> None:
    """L11: a concurrency limit can't be stretched in time; what is left over goes to the first replicas."""
    assert [sum(ask() for _ in range(10)) for ask in replicas_of(concurrency(count), replicas, Clock())] == expected


@pytest.mark.parametrize("limit", [gcra(12, 60), sliding(12, 60), quota(12, 60)], ids=lambda limit: limit.kind)
def test_a_refused_request_fits_after_its_wait_and_not_before(limit: Limit) -> None:
    clock = Clock()
    one = portion(limit, (5, 0), 2, clock, clock)
    state = one.fresh()
    for turn in range(60):
        clock.now += (turn * 7 % 11) * SECOND_US
        wait = one.wait(state, 2)
        if wait > 2:
            clock.now += wait - 2
            assert one.wait(state, 2)
            clock.now += 3
        assert not one.wait(state, 2)
        one.take(state, 2)


@pytest.mark.parametrize("limit", [gcra(3, 60), sliding(3, 60), quota(3, 60)], ids=lambda limit: limit.kind)
def test_a_request_that_costs_more_than_the_share_is_admitted_less_often(limit: Limit) -> None:
    """L11: cost 3 of 3 a minute on five replicas: each admits one in five minutes."""
    clock = Clock()
    asking = replicas_of(limit, 5, clock, cost=3)
    admitted = 0
    for _ in range(50 * 60):
        clock.now += SECOND_US
        admitted += sum(ask() for ask in asking)
    assert 45 <= admitted <= 55


def share(declared: Route, counters: Counters, place: list[tuple[int, int]]) -> FairShare:
    return FairShare(AdmissionPlan(declared, NoShards(), 1), counters, lambda: place[0])


def test_all_limits_or_none_are_counted() -> None:
    """L3, L11: a refused request leaves every counter as it was; the answer says which limit refused and when to come back."""
    fair = share(route(quota(100, name="day"), gcra(2, 60)), Counters(), [(1, 0)])
    found = [fair.decide(principal(), FixedFacts()) for _ in range(5)]
    assert [one.allowed for one in found] == [True, True, False, False, False]
    assert found[1].remaining == (("day", 98), ("rate", 0))
    assert found[4].remaining == (("day", 98), ("rate", 0))
    assert found[4].violated == ("rate",)
    assert 29 <= found[4].retry_after_seconds <= 30
    assert found[4].header_block.startswith(b'ratelimit: "rate";r=0;t=30, "day";r=98;')


def test_a_place_is_free_again_when_its_request_is_over() -> None:
    counters = Counters()
    fair = share(route(concurrency(2)), counters, [(1, 0)])
    held = [fair.decide(principal(), FixedFacts()) for _ in range(3)]
    assert [one.allowed for one in held] == [True, True, False]
    counters.release(held[0])
    counters.release(held[0])
    assert [fair.decide(principal(), FixedFacts()).allowed for _ in range(2)] == [True, False]


def test_another_number_of_replicas_holds_at_once() -> None:
    """L11: the share follows the heartbeats; what was counted stays."""
    place = [(1, 0)]
    fair = share(route(quota(12), sliding(12, 60), gcra(12, 60)), Counters(), place)
    assert sum(fair.decide(principal(), FixedFacts()).allowed for _ in range(3)) == 3
    place[0] = (4, 0)
    assert not fair.decide(principal(), FixedFacts()).allowed


def test_somebody_else_has_counters_of_his_own() -> None:
    fair = share(route(quota(1)), Counters(), [(1, 0)])
    assert fair.decide(principal("alice"), FixedFacts()).allowed
    assert not fair.decide(principal("alice"), FixedFacts()).allowed
    assert fair.decide(principal("bob"), FixedFacts()).allowed


def test_memory_is_bounded() -> None:
    """F-10: whoever comes under many names pushes the oldest out."""
    counters = Counters(maximum_keys=10)
    fair = share(route(quota(1)), counters, [(1, 0)])
    for number in range(100):
        assert fair.decide(principal(f"user-{number}"), FixedFacts()).allowed
    assert len(counters) == 10


def test_a_cost_of_nothing_takes_nothing() -> None:
    counters = Counters()
    fair = share(route(quota(2), concurrency(2), sliding(2, 60), gcra(2, 60), cost=0), counters, [(1, 0)])
    for _ in range(5):
        found = fair.decide(principal(), FixedFacts())
        assert found.allowed
        assert found.remaining == (("quota", 2), ("parallel", 2), ("window", 2), ("rate", 2))
