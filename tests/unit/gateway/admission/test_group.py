"""Group commit over a line that the test answers by hand."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.admission.group import MAXIMUM_CALLS, MAXIMUM_REQUESTS, Group
from gateway.admission.plan import AdmissionPlan
from gateway.admission.verdict import Verdict
from gateway.errors import Unavailable
from gateway.store.error import StoreError
from gateway.store.script import Script
from tests.support.admission import FixedFacts, Recorder, concurrency, gcra, principal, route
from tests.support.redis_server import run, until


class HandLine:
    """A line whose replies the test gives."""

    def __init__(self) -> None:
        self.up = True
        self.sent: list[bytes] = []
        self.owed: deque[Callable[[Any], None]] = deque()
        self.aborted: list[StoreError] = []

    def send(self, payload: bytes, on_reply: Callable[[Any], None]) -> None:
        self.sent.append(payload)
        self.owed.append(on_reply)

    def abort(self, why: StoreError) -> None:
        self.aborted.append(why)
        self.up = False
        while self.owed:
            self.owed.popleft()(why)

    def reply(self, reply: Any) -> None:
        """The script's clock follows what it says about requests."""
        reply = [*reply, 1_764_000_000_000_000] if isinstance(reply, list) else reply
        self.owed.popleft()(reply)


class OneShard:
    def shard_of(self, key: bytes | str) -> int:
        return 0

    def tag(self, shard: int) -> bytes:
        return b"{s00}"


class Bench:
    """A group, its line, and a plan with one limit."""

    def __init__(self, budget_seconds: float = 5.0) -> None:
        self.line = HandLine()
        self.recorder = Recorder()
        self.granted: list[tuple[Verdict, bool]] = []
        self.script = Script("return {}")
        keys = (b"k1", b"k2")
        self.group = Group(
            self.line, self.script, keys, budget_seconds, self.recorder, lambda one, awaited: self.granted.append((one, awaited))
        )
        self.group.line_changed(None)
        self.plan = AdmissionPlan(route(gcra(1000, 1)), OneShard(), 1)
        self.leased = AdmissionPlan(route(concurrency(5)), OneShard(), 1)

    def submit(self, count: int = 1) -> list[asyncio.Future[Verdict]]:
        return [self.group.submit(self.plan.ticket(principal(), FixedFacts()), b"") for _ in range(count)]


def on_bench(scenario: Callable[[Bench], Awaitable[None]], budget_seconds: float = 5.0) -> None:
    async def main() -> None:
        bench = Bench(budget_seconds)
        await scenario(bench)
        bench.group.close()

    run(main())


def test_an_idle_gateway_sends_within_the_turn() -> None:
    async def scenario(bench: Bench) -> None:
        (future,) = bench.submit()
        await asyncio.sleep(0)
        assert len(bench.line.sent) == 1
        assert bench.line.sent[0].startswith(b"*9\r\n$7\r\nEVALSHA\r\n$40\r\n")
        assert b"$1\r\n3\r\n$2\r\nk1\r\n$2\r\nk2\r\n" in bench.line.sent[0]
        bench.line.reply([0, 999, 0])
        assert (await future).remaining == (("rate", 999),)
        assert bench.recorder.sizes == [1]

    on_bench(scenario)


def test_requests_that_come_while_a_call_is_away_share_the_next() -> None:
    async def scenario(bench: Bench) -> None:
        first = bench.submit()
        await asyncio.sleep(0)
        # However long this takes here: the first call is not slow.
        bench.group._last_sent += 60
        later = bench.submit(3) + bench.submit(4)
        await asyncio.sleep(0)
        assert len(bench.line.sent) == 1
        bench.line.reply([0, 999, 0])
        assert len(bench.line.sent) == 2
        bench.line.reply([0, 998, 0] * 6 + [-1, -1, 5_000_000])
        found = await asyncio.gather(*first, *later)
        assert [one.allowed for one in found] == [True] * 7 + [False]
        assert bench.recorder.sizes == [1, 7]

    on_bench(scenario)


def test_many_requests_do_not_wait_and_calls_are_bounded() -> None:
    async def scenario(bench: Bench) -> None:
        futures = bench.submit(MAXIMUM_REQUESTS * (MAXIMUM_CALLS + 1) + 1)
        await asyncio.sleep(0)
        assert len(bench.line.sent) == MAXIMUM_CALLS
        bench.line.reply([0, 1, 0] * MAXIMUM_REQUESTS)
        assert len(bench.line.sent) == MAXIMUM_CALLS + 1
        while bench.line.owed:
            size = 1 if len(bench.line.owed) == 1 and len(bench.recorder.sizes) == MAXIMUM_CALLS + 1 else MAXIMUM_REQUESTS
            bench.line.reply([0, 1, 0] * size)
        await asyncio.gather(*futures)
        assert bench.recorder.sizes == [MAXIMUM_REQUESTS] * (MAXIMUM_CALLS + 1) + [1]

    on_bench(scenario)


def test_a_slow_call_is_not_waited_for() -> None:
    async def scenario(bench: Bench) -> None:
        bench.submit()
        await asyncio.sleep(0)
        bench.submit()
        await until(lambda: len(bench.line.sent) == 2, "the second call")

    on_bench(scenario)


def test_a_request_ends_within_its_budget_whatever_the_store_does() -> None:
    """L10: each from the moment that it asked; a line that stays silent is given up."""

    async def scenario(bench: Bench) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        futures = bench.submit(3)
        await asyncio.sleep(0)
        for future in futures:
            with pytest.raises(Unavailable) as caught:
                await future
            assert (caught.value.code, caught.value.reason) == ("store_unavailable", "store_timeout")
        assert 0.03 <= loop.time() - started < 0.5
        await until(lambda: bool(bench.line.aborted), "the line to be given up")
        assert bench.line.aborted[0].kind == "timeout"

    on_bench(scenario, budget_seconds=0.03)


def test_while_the_line_is_down_requests_wait_within_their_budget_then_not_at_all() -> None:
    """L10: a short interruption is bridged; a long one costs nothing."""

    async def scenario(bench: Bench) -> None:
        bench.line.up = False
        bench.group.line_changed(StoreError("unavailable", "gone"))
        (bridged,) = bench.submit()
        await asyncio.sleep(0)
        assert bench.line.sent == []
        bench.line.up = True
        bench.group.line_changed(None)
        bench.line.reply([0, 1, 0])
        assert (await bridged).allowed
        bench.line.up = False
        bench.group.line_changed(StoreError("unavailable", "gone"))
        (late,) = bench.submit()
        with pytest.raises(Unavailable):
            await late
        (refused,) = bench.submit()
        assert refused.done()
        with pytest.raises(Unavailable) as caught:
            await refused
        assert caught.value.reason == "store_down"

    on_bench(scenario, budget_seconds=0.03)


def test_an_unknown_script_is_sent_with_its_text_once() -> None:
    """L8: one more command, once; a second time it is a failure."""

    async def scenario(bench: Bench) -> None:
        (future,) = bench.submit()
        await asyncio.sleep(0)
        bench.line.reply(StoreError("no_script", "NOSCRIPT"))
        assert bench.line.sent[1] == bench.line.sent[0].replace(bench.script.by_sha, bench.script.by_text)
        bench.line.reply([0, 1, 0])
        assert (await future).allowed
        (second,) = bench.submit()
        await asyncio.sleep(0)
        bench.line.reply(StoreError("no_script", "NOSCRIPT"))
        bench.line.reply(StoreError("no_script", "NOSCRIPT"))
        with pytest.raises(Unavailable):
            await second
        assert len(bench.line.sent) == 4

    on_bench(scenario)


@pytest.mark.parametrize("reply", [[], [0], [0, 1], [0, 1, 0, 0], [7], b"OK", None, 0, [b"x", 1, 0], [0, b"1", b"2"], [None, 1, 0]])
def test_a_reply_that_makes_no_sense_is_a_refusal(reply: Any) -> None:
    """L9: never admitted silently."""

    async def scenario(bench: Bench) -> None:
        (future,) = bench.submit()
        await asyncio.sleep(0)
        bench.line.reply(reply)
        with pytest.raises(Unavailable) as caught:
            await future
        assert caught.value.reason == "store_script"

    on_bench(scenario)


@pytest.mark.parametrize(("kind", "aborts"), [("read_only", True), ("authentication", True), ("out_of_memory", False), ("script", False)])
def test_an_error_refuses_the_whole_call(kind: Any, aborts: bool) -> None:
    """L9, F-5, F-6."""

    async def scenario(bench: Bench) -> None:
        futures = bench.submit(2)
        await asyncio.sleep(0)
        bench.line.reply(StoreError(kind, "no"))
        for future in futures:
            with pytest.raises(Unavailable) as caught:
                await future
            assert caught.value.reason == f"store_{kind}"
        assert bool(bench.line.aborted) == aborts

    on_bench(scenario)


def test_cancelled_requests_are_not_sent_and_their_leases_not_kept() -> None:
    """F-11."""

    async def scenario(bench: Bench) -> None:
        (kept,) = bench.submit()
        (gone,) = bench.submit()
        gone.cancel()
        await asyncio.sleep(0)
        bench.line.reply([0, 1, 0])
        assert (await kept).allowed
        assert bench.recorder.sizes == [1]
        leased = bench.group.submit(bench.leased.ticket(principal(), FixedFacts()), b"$1\r\nL\r\n")
        await asyncio.sleep(0)
        leased.cancel()
        bench.line.reply([0, 4, 0])
        ((verdict, awaited),) = bench.granted
        assert not awaited
        assert verdict.leases[0].name == b"$1\r\nL\r\n"

    on_bench(scenario)


def test_closing_refuses_what_waits() -> None:
    async def scenario(bench: Bench) -> None:
        bench.submit()
        await asyncio.sleep(0)
        waiting = bench.submit(2)
        bench.group.close()
        for future in waiting:
            with pytest.raises(Unavailable):
                await future
        assert repr(bench.group) == "<Group waiting=0 calls=1>"

    on_bench(scenario)
