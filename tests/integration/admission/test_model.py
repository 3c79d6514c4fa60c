"""The script against a model of its own: any interleaving of clients, limits, costs and pauses, on a clock that the test moves."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.admission.plan import AdmissionPlan
from gateway.auth.principal import Principal
from gateway.route import Limit
from tests.support.admission import SECOND_US, FixedFacts, concurrency, gcra, principal, quota, route, sliding
from tests.support.redis_server import RedisServer, run
from tests.support.script_bench import START_US, Bench, on_bench

DAY_US = 86_400 * SECOND_US


@dataclass
class ModelLimit:
    """One limit for one client, in exact fractions, written from docs/rate-limits.md and not from the script."""

    limit: Limit
    arrival: Fraction = Fraction(0)
    counts: dict[int, int] = field(default_factory=dict)
    entries: list[list[int]] = field(default_factory=list)
    leases: list[int] = field(default_factory=list)

    @property
    def capacity(self) -> int:
        return (self.limit.burst or self.limit.count) if self.limit.kind == "gcra" else self.limit.count

    def used(self, now: int) -> Fraction:
        """Events that count now."""
        period, window = self.limit.period_us, now // self.limit.period_us
        match self.limit.kind:
            case "gcra":
                return max(self.arrival - now, Fraction(0)) / self._interval()
            case "sliding_window":
                return Fraction(sum(sum(each) for *each, last in self.entries if now < last + period))
            case "quota":
                return Fraction(self.counts.get(window, 0))
            case "concurrency":
                return Fraction(sum(expiry > now for expiry in self.leases))

    def fits(self, cost: int, now: int) -> bool:
        return self.used(now) + (1 if self.limit.kind == "concurrency" else cost) <= self.capacity

    def take(self, cost: int, now: int) -> None:
        window = now // self.limit.period_us
        if self.limit.kind == "gcra":
            self.arrival = max(self.arrival, Fraction(now)) + cost * self._interval()
        elif self.limit.kind == "concurrency":
            self.leases.append(now + self.limit.period_us)
        elif self.limit.kind == "sliding_window":
            *each, last = self.entries[-1] if self.entries and self.used(now) else (0, 0)
            if now == last or 0 < sum(each) <= math.ceil(self.limit.count / 64) - cost:
                self.entries[-1] = [*each, cost, now]
            else:
                self.entries.append([cost, now])
        else:
            self.counts[window] = self.counts.get(window, 0) + cost

    def remaining(self, now: int) -> int:
        return max(0, int(self.capacity - self.used(now)))

    def _interval(self) -> Fraction:
        return Fraction(self.limit.period_us, self.limit.count)


LIMITS = st.one_of(
    st.builds(
        lambda count, seconds, burst: gcra(count, seconds, burst, name="g"), st.integers(1, 9), st.integers(1, 7), st.integers(0, 12)
    ),
    st.builds(
        lambda count, seconds: sliding(count, seconds, name="s"), st.integers(1, 9) | st.sampled_from((64, 65, 130, 200)), st.integers(1, 7)
    ),
    st.builds(lambda count: quota(count, 60, name="q"), st.integers(1, 9)),
    st.builds(lambda count, seconds: concurrency(count, seconds, name="c"), st.integers(1, 4), st.integers(1, 5)),
)
#: Pauses between calls, microseconds: none, tiny, around a window, beyond everything.
PAUSES = st.one_of(st.just(0), st.integers(1, 2 * SECOND_US), st.integers(1, 20 * SECOND_US), st.just(DAY_US))
CALLS = st.lists(st.tuples(PAUSES, st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=6)), max_size=12)


@given(
    real=st.lists(LIMITS, min_size=1, max_size=4, unique_by=lambda limit: limit.name),
    shadow=st.lists(LIMITS, max_size=2, unique_by=lambda limit: limit.name),
    cost=st.integers(1, 3) | st.integers(20, 60),
    calls=CALLS,
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_script_decides_as_the_model(server: RedisServer, real: list[Limit], shadow: list[Limit], cost: int, calls: Any) -> None:
    """L5: verdict, remaining events and shadow reports agree with exact arithmetic, within and across calls."""
    smallest = min([limit.burst or limit.count for limit in (*real, *shadow) if limit.kind != "concurrency"], default=cost)
    charge = min(cost, smallest)

    async def scenario(bench: Bench) -> None:
        plan = AdmissionPlan(route(*real, shadow=tuple(shadow), cost=charge), bench.store, 1)
        people = [principal("a"), principal("b")]
        models = [([ModelLimit(limit) for limit in real], [ModelLimit(limit) for limit in shadow]) for _ in people]
        now = START_US
        for pause, asked in calls:
            now += pause
            await bench.at(now)
            found = await bench.ask([(plan, people[who], charge * charged) for who, charged in asked])
            for (who, charged), one in zip(asked, found, strict=True):
                enforced, planned = models[who]
                allowed = not charged or all(model.fits(charge, now) for model in enforced)
                exceeded = tuple(model.limit.name for model in planned if charged and not model.fits(charge, now))
                if charged:
                    for model in planned:
                        if model.fits(charge, now) and (allowed or model.limit.kind != "concurrency"):
                            model.take(charge, now)
                    if allowed:
                        for model in enforced:
                            model.take(charge, now)
                assert one.allowed == allowed
                assert one.shadow_violated == exceeded
                assert one.remaining == tuple((model.limit.name, model.remaining(now)) for model in enforced)

    run(on_bench(server, scenario))


@given(limit=LIMITS.filter(lambda limit: limit.kind != "concurrency"), taken=st.integers(1, 12), pause=st.integers(0, 9 * SECOND_US))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_refused_request_is_accepted_when_it_was_told_and_not_before(server: RedisServer, limit: Limit, taken: int, pause: int) -> None:
    """Retry-After: nothing is accepted a microsecond before the wait that the script names, and the request is at its end."""

    async def scenario(bench: Bench) -> None:
        plan, someone = AdmissionPlan(route(limit), bench.store, 1), principal("a")
        now = START_US + pause
        await bench.at(START_US)
        await bench.ask([(plan, someone, 1)] * taken)
        await bench.at(now)
        wait_us = await _wait_us(bench, plan, someone)
        if wait_us:
            await bench.at(now + wait_us - 1)
            assert await _wait_us(bench, plan, someone) == 1
            await bench.at(now + wait_us)
            assert await _wait_us(bench, plan, someone) == 0

    run(on_bench(server, scenario))


async def _wait_us(bench: Bench, plan: AdmissionPlan, someone: Principal) -> int:
    """How long the next request would have to wait, by asking with the full capacity taken away again: 0 when it would be accepted."""
    _, remaining, wait_us = await bench.numbers(plan.peek_ticket(someone, FixedFacts()))
    return 0 if remaining > 0 else wait_us


OFFERS = {
    # Half a minute of overload on each side of the edge, from six phases of the window.
    "steady": [range(start, start + 180, 2) for start in (-60, -50, -40, -30, -20, -10)],
    # Everything at once, shortly before the edge and shortly after it: what fools a fixed window.
    "bursts": [range(-near, near + 1, 2 * near) for near in (1, 2, 3)],
}


@pytest.mark.parametrize(
    ("limit", "offered", "bound"),
    [
        (quota(20, 60), "steady", 40),
        (quota(20, 60), "bursts", 40),
        (sliding(20, 60), "steady", 20),
        (sliding(20, 60), "bursts", 20),
        (gcra(20, 60), "steady", 40),
        (gcra(20, 60), "bursts", 40),
        (gcra(20, 60, burst=5), "steady", 25),
    ],
    ids=lambda value: getattr(value, "kind", str(value)),
)
def test_the_worst_span_around_an_edge_is_bounded(server: RedisServer, limit: Limit, offered: str, bound: int) -> None:
    """L7: fixed <= 2 x limit, sliding <= limit, GCRA <= burst + rate x w, in every span of one window."""

    async def scenario(bench: Bench) -> None:
        plan = AdmissionPlan(route(limit), bench.store, 1)
        edge = (START_US // limit.period_us + 10) * limit.period_us
        for number, seconds in enumerate(OFFERS[offered]):
            # Hours apart, and somebody else each time.
            spans = await _spans(bench, plan, principal(f"user-{number}"), edge + number * 60 * limit.period_us, seconds)
            assert max(spans) <= bound

    run(on_bench(server, scenario))


async def _spans(bench: Bench, plan: AdmissionPlan, someone: Principal, edge: int, seconds: range) -> list[int]:
    """How many requests each span of one window admitted that begins with an admission, under an offer of 30 at each of these times."""
    admitted: list[int] = []
    for at in seconds:
        now = edge + at * SECOND_US
        await bench.at(now)
        admitted += [now for one in await bench.ask([(plan, someone, 1)] * 30) if one.allowed]
    return [sum(first <= at < first + plan.limits[0].period_us for at in admitted) for first in admitted]


def test_a_clock_that_goes_back_neither_doubles_nor_locks_out(server: RedisServer) -> None:
    """A new primary whose clock is an hour behind: quotas go on where they were, a bucket drains within one burst, a window within one."""

    async def scenario(bench: Bench) -> None:
        limits = {"g": gcra(5, 1, name="g"), "s": sliding(5, 60, name="s"), "q": quota(5, 60, name="q")}
        plans = {name: AdmissionPlan(route(limit, name=name), bench.store, 1) for name, limit in limits.items()}
        someone = principal("a")
        await bench.at(START_US)
        for plan in plans.values():
            assert sum(one.allowed for one in await bench.ask([(plan, someone, 1)] * 9)) == 5
        behind = START_US - 3600 * SECOND_US
        await bench.at(behind)
        for plan in plans.values():
            assert not any(one.allowed for one in await bench.ask([(plan, someone, 1)] * 9))
        await bench.at(behind + SECOND_US // 5)
        assert (await bench.ask([(plans["g"], someone, 1)]))[0].allowed
        await bench.at(behind + 60 * SECOND_US - 1)
        assert not (await bench.ask([(plans["s"], someone, 1)]))[0].allowed
        await bench.at(behind + 60 * SECOND_US)
        assert sum(one.allowed for one in await bench.ask([(plans["s"], someone, 1)] * 9)) == 5

    run(on_bench(server, scenario))


def test_rates_that_divide_into_no_whole_microseconds_are_exact(server: RedisServer) -> None:
    """GCRA: 7 a second over 1000 s admits 7 x 1000, not one more or less, though a seventh of a second is no number of microseconds."""

    async def scenario(bench: Bench) -> None:
        plan, someone = AdmissionPlan(route(gcra(7, 1)), bench.store, 1), principal("a")
        admitted = 0
        for second in range(1, 1001):
            await bench.at(START_US + second * SECOND_US)
            admitted += sum(one.allowed for one in await bench.ask([(plan, someone, 1)] * 9))
        assert admitted == 7 * 1000

    run(on_bench(server, scenario))
