"""Sliding windows whose limit holds in every span of a window's length, whatever comes when; judged by a list of what was admitted."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from struct import pack, unpack
from typing import NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.admission.plan import AdmissionPlan
from gateway.admission.verdict import Verdict
from gateway.route import Limit
from tests.support.admission import SECOND_US, FixedFacts, admitting, principal, quota, route, sliding, verdict
from tests.support.redis_server import RedisServer, run
from tests.support.script_bench import START_US, Bench, on_bench, shimmed

#: Long, since keys expire by the server's own clock, however slow the machine is.
PERIOD_US = 4096 * SECOND_US
#: Of a value; see lua/admit.lua.
ENTRY_BYTES, TOTAL_BYTES, PARTS = 13, 8, 64
SOMEONE = principal("a")
REFUND = shimmed("refund.lua")

COUNTS = st.integers(1, 12) | st.sampled_from((63, 64, 65, 128, 129, 200, 640))
#: Microseconds between calls: what matters, a little more, a little less, and anything.
NAMED_PAUSES = (0, 1, PERIOD_US // 64, PERIOD_US // 2, PERIOD_US * 63 // 64, PERIOD_US - 1, PERIOD_US, PERIOD_US + 1)
PAUSES = st.sampled_from(NAMED_PAUSES) | st.integers(0, 2 * PERIOD_US)
#: So that a window is made of many entries, and some end at the very moment of a request.
SHORT_PAUSES = st.sampled_from((1, PERIOD_US // 128, PERIOD_US // 64, PERIOD_US // 32, PERIOD_US // 16, PERIOD_US // 8))
#: A pause, and what is done then, with two numbers.
Step = tuple[int, tuple[str, float, int]]
#: A cost as a share of the limit, and how many requests of it in one call.
ASK = st.tuples(st.just("ask"), st.sampled_from((0.0, 0.01, 0.02, 0.3, 0.5, 1.0)), st.sampled_from((1, 2, 7, 30, 128)))
SMALL_ASK = st.tuples(st.just("ask"), st.sampled_from((0.0, 0.002, 0.005, 0.01, 0.02, 0.1)), st.sampled_from((1, 1, 2, 5, 9)))
#: Which of the admissions, as a share of all of them.
REFUND_ONE = st.tuples(st.just("refund"), st.floats(0, 1, exclude_max=True), st.just(0))
#: How far the server's clock goes back, in windows.
GO_BACK = st.tuples(st.just("back"), st.sampled_from((0.00001, 0.01, 0.5, 1.0, 900.0)), st.just(0))
PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def steps(*others: st.SearchStrategy[tuple[str, float, int]]) -> st.SearchStrategy[list[Step]]:
    """A few steps of any kind, or many small ones that fill a window and go on."""
    few = st.lists(st.tuples(PAUSES, st.one_of(ASK, ASK, *others)), min_size=1, max_size=20)
    many = st.lists(st.tuples(SHORT_PAUSES, st.one_of(*[SMALL_ASK] * 6, *others)), min_size=20, max_size=50)
    return few | many


class Admitted(NamedTuple):
    """What was admitted: when, by a clock that nothing sets back and by the server's, and how many events."""

    real_us: int
    server_us: int
    events: int


@dataclass
class Watched:
    """One client of one limit, with every admission that was not taken back: `recent` by this server, `earlier` by those before it."""

    bench: Bench
    limit: Limit
    behind_us: int = 0
    real_us: int = START_US
    recent: list[Admitted] = field(default_factory=list)
    earlier: list[Admitted] = field(default_factory=list)
    taken_back: int = 0
    plans: dict[int, AdmissionPlan] = field(default_factory=dict)

    @property
    def admitted(self) -> list[Admitted]:
        return self.earlier + self.recent

    @property
    def key(self) -> bytes:
        return self.plan(1).ticket(SOMEONE, FixedFacts()).keys.split(b"\r\n")[1]

    @property
    def used(self) -> int:
        """Events of the last window."""
        return sum(one.events for one in self.admitted if one.real_us > self.real_us - PERIOD_US)

    def worst_span(self) -> int:
        """The most events in a span of one window; among those that hold most is always one that begins with an admission."""
        starts = {one.real_us for one in self.admitted}
        return max((sum(one.events for one in self.admitted if start <= one.real_us < start + PERIOD_US) for start in starts), default=0)

    def cost(self, share: float) -> int:
        return max(1, int(share * self.limit.count))

    def plan(self, cost: int) -> AdmissionPlan:
        if cost not in self.plans:
            self.plans[cost] = AdmissionPlan(route(self.limit, cost=cost), self.bench.store, 1)
        return self.plans[cost]

    async def pause(self, duration_us: int) -> None:
        self.real_us += duration_us
        await self.bench.at(self.real_us - self.behind_us)

    async def follow(self, step: Step) -> list[tuple[int, Verdict]]:
        """Takes a step; gives (events used before, verdict) for each request of it."""
        pause_us, (kind, number, times) = step
        await self.pause(pause_us)
        if kind == "back":
            await self.go_back(int(number * PERIOD_US))
        elif kind == "refund":
            await self.take_back(number)
        else:
            used, cost = self.used, self.cost(number)
            found = await self.ask(cost, times)
            return [(used + cost * sum(one.allowed for one in found[:at]), found[at]) for at in range(times)]
        return []

    async def ask(self, cost: int, times: int = 1) -> list[Verdict]:
        """So many requests in one call."""
        found = await self.bench.ask([(self.plan(cost), SOMEONE, cost)] * times)
        now = self.real_us
        self.recent += [Admitted(now, now - self.behind_us, cost) for one in found if one.allowed]
        return found

    async def left(self) -> int:
        """What a peek says."""
        return (await self.bench.ask([(self.plan(1), SOMEONE, 0)]))[0].remaining[0][1]

    async def numbers(self, cost: int) -> list[int]:
        """What the script itself replies to a request, which counts if it is admitted: code, remaining events, wait in microseconds."""
        return await self.bench.numbers(self.plan(cost).ticket(SOMEONE, FixedFacts()))

    async def go_back(self, duration_us: int) -> None:
        """Another server takes over whose clock is behind. What it decides can be taken back; what the one before decided can't."""
        self.behind_us += duration_us
        self.earlier, self.recent = self.admitted, []
        await self.pause(0)

    async def take_back(self, share: float) -> None:
        """As when another shard refuses a request that was admitted here."""
        if self.recent:
            one = self.recent.pop(int(share * len(self.recent)))
            self.taken_back += 1
            together = math.ceil(self.limit.count / PARTS)
            argument = pack("<Bddddd", 2, one.events, PERIOD_US, together, one.server_us, 0)
            await self.bench.store.client.eval(REFUND.text, 1, self.key, argument)


@given(count=COUNTS, each=steps(REFUND_ONE, GO_BACK))
@PROPERTY
def test_no_span_of_a_window_holds_more_than_the_limit(server: RedisServer, count: int, each: list[Step]) -> None:
    """L7, L12: whatever comes when, in whatever sizes, with requests taken back and a clock that goes back; in bounded memory. After a
    window without requests there is room for all."""

    async def scenario(bench: Bench) -> None:
        watched = Watched(bench, sliding(count, PERIOD_US / SECOND_US))
        for step in each:
            await watched.follow(step)
            assert await bench.store.client.strlen(watched.key) <= TOTAL_BYTES + ENTRY_BYTES * (2 * PARTS + 1)
        # One more, so that the server has looked since its clock went back.
        await watched.ask(1)
        await watched.pause(PERIOD_US)
        assert (await watched.ask(count))[0].allowed
        assert watched.worst_span() <= count

    run(on_bench(server, scenario))


@given(count=COUNTS, each=steps(REFUND_ONE))
@PROPERTY
def test_nothing_is_refused_that_has_room_but_for_a_64th(server: RedisServer, count: int, each: list[Step]) -> None:
    """L7, L12: events count for one window, but for less than a 64th of the limit, which counts as long as events right after it do. A
    limit of up to 64 is exact."""

    async def scenario(bench: Bench) -> None:
        watched = Watched(bench, sliding(count, PERIOD_US / SECOND_US))
        for step in each:
            # An event that others were counted together with may have been the one that was taken back.
            late = math.ceil(count / PARTS) - (0 if watched.taken_back and count > PARTS else 1)
            for used, one in await watched.follow(step):
                events = used + watched.cost(step[1][1])
                assert events <= count if one.allowed else events > count - late
            assert max(0, count - watched.used - late) <= await watched.left() <= count - watched.used

    run(on_bench(server, scenario))


@given(count=COUNTS, each=steps(REFUND_ONE, GO_BACK), share=st.sampled_from((0.0, 0.3, 1.0)))
@PROPERTY
def test_a_wait_is_exact_to_the_microsecond(server: RedisServer, count: int, each: list[Step], share: float) -> None:
    """L7: a request of whatever cost is refused one microsecond before the end of the wait that it was told, and accepted at its end."""

    async def scenario(bench: Bench) -> None:
        watched = Watched(bench, sliding(count, PERIOD_US / SECOND_US))
        for step in each:
            await watched.follow(step)
        cost = watched.cost(share)
        code, remaining, wait_us = await watched.numbers(cost)
        if code == 0:
            assert 0 < wait_us <= PERIOD_US
            return
        assert 0 <= -1 - remaining < cost
        assert 0 < wait_us <= PERIOD_US
        await watched.pause(wait_us - 1)
        code, _, again_us = await watched.numbers(cost)
        assert (code, again_us) == (-1, 1)
        await watched.pause(1)
        assert (await watched.numbers(cost))[0] == 0

    run(on_bench(server, scenario))


def test_events_leave_in_the_order_in_which_they_came(server: RedisServer) -> None:
    """L7: 3 a window, used at its start, after an eighth and a quarter: the next fit a window later each, to the microsecond."""

    async def scenario(bench: Bench) -> None:
        watched, start = Watched(bench, sliding(3, PERIOD_US / SECOND_US)), START_US
        eighth = PERIOD_US // 8
        await watched.pause(0)
        for _ in range(3):
            assert (await watched.ask(1))[0].allowed
            await watched.pause(eighth)
        assert [await watched.numbers(cost) for cost in (1, 2, 3)] == [[-1, -1, 5 * eighth], [-1, -1, 6 * eighth], [-1, -1, 7 * eighth]]
        for turn in (8, 9, 10):
            await watched.pause(start + turn * eighth - 1 - watched.real_us)
            assert not (await watched.ask(1))[0].allowed
            await watched.pause(1)
            assert (await watched.numbers(2))[:1] == [-1]
            assert [one.allowed for one in await watched.ask(1, 2)] == [True, False]

    run(on_bench(server, scenario))


def test_under_unending_overload_a_window_admits_nearly_its_limit(server: RedisServer) -> None:
    """L7: one more in fifty than allowed, evenly, is when most is counted for too long: 63/64 of the limit remain."""

    async def scenario(bench: Bench) -> None:
        watched = Watched(bench, sliding(640, PERIOD_US / SECOND_US))
        for _ in range(4 * 653):
            await watched.pause(PERIOD_US // 653)
            await watched.ask(1)
        late = [one for one in watched.admitted if one.real_us >= START_US + 2 * PERIOD_US]
        assert 2 * 640 * 63 / 64 - 10 <= len(late) <= 2 * 640
        assert watched.worst_span() <= 640

    run(on_bench(server, scenario))


def test_what_is_taken_back_leaves_no_trail(server: RedisServer) -> None:
    """L12: whoever makes many requests that other shards refuse can't fill the memory with what little remains."""

    async def scenario(bench: Bench) -> None:
        watched, sizes = Watched(bench, sliding(640, PERIOD_US / SECOND_US)), list[int]()
        for _ in range(300):
            for cost in (1, 9, 1):
                await watched.pause(1)
                await watched.ask(cost)
            big = next(at for at in reversed(range(len(watched.recent))) if watched.recent[at].events == 9)
            await watched.take_back(big / len(watched.recent) + 1e-9)
            sizes.append(await bench.store.client.strlen(watched.key))
        assert watched.used == 2 * 300
        assert max(sizes) <= TOTAL_BYTES + ENTRY_BYTES * (2 * PARTS + 1)

    run(on_bench(server, scenario))


def test_counters_of_an_earlier_release_are_left_alone(server: RedisServer) -> None:
    """Sliding windows were two counters under another name: where these are still there, they harm nothing and end by themselves."""

    async def main() -> None:
        async with admitting(server.url) as (store, admission):
            plan = admission.plan(route(sliding(3, 60), quota(9)))
            key = plan.ticket(SOMEONE, FixedFacts()).keys.split(b"\r\n")[1]
            assert key.startswith(b"gw:{s00}:sliding-log60:window:")
            old, counters = key.replace(b"sliding-log60", b"sliding_window60"), pack("<ddd", 30_000_000, 3, 3)
            await store.client.set(old, counters, px=120_000)
            found = [await verdict(admission, plan, SOMEONE) for _ in range(4)]
            assert [one.allowed for one in found] == [True, True, True, False]
            assert await store.client.get(old) == counters
            assert 0 < await store.client.pttl(old) <= 120_000

    run(main())


def test_a_key_lives_as_long_as_it_counts_something(server: RedisServer) -> None:
    """Section 1: its time to live is that of its newest event, by the server's clock, and ends with its last event that is taken back."""

    async def main() -> None:
        async with admitting(server.url) as (store, admission):
            plan = admission.plan(route(sliding(3, 60)))
            key = plan.ticket(SOMEONE, FixedFacts()).keys.split(b"\r\n")[1]
            assert (await verdict(admission, plan, SOMEONE)).allowed
            assert 50_000 < await store.client.pttl(key) <= 60_000
            value = await store.client.get(key)
            assert isinstance(value, bytes)
            total, decided_us, events = unpack("<dd5s", value)
            assert (total, events) == (1.0, b"\x01\0\0\0\0")
            text = REFUND.text.replace("redis.call('HMGET', 'test:clock', 'seconds', 'microseconds')", "redis.call('TIME')")
            assert await store.client.eval(text, 1, key, pack("<Bddddd", 2, 1, 60 * SECOND_US, 1, decided_us, 0)) == 1
            assert await store.client.exists(key) == 0

    run(main())
