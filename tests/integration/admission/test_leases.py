"""Concurrency limits: leases that are given back, renewed, and healed."""

from __future__ import annotations

import asyncio
import gc
import time

from gateway.admission.admission import Verdict
from tests.support.admission import FixedFacts, admitting, concurrency, gcra, principal, route, verdict
from tests.support.redis_server import RedisServer, run, until


def test_a_place_is_free_again_when_its_request_is_over(server: RedisServer) -> None:
    async def main() -> None:
        async with admitting(server.url) as (_, admission):
            plan, someone = admission.plan(route(concurrency(2))), principal()
            held = [await verdict(admission, plan, someone) for _ in range(2)]
            refused = await verdict(admission, plan, someone)
            assert not refused.allowed
            assert refused.retry_after_seconds == 1
            assert refused.header_block == b'ratelimit: "parallel";r=0;t=1\r\nratelimit-policy: "parallel";q=2;qu="concurrent-requests"\r\n'
            admission.release(refused)
            admission.release(held[0])
            admission.release(held[0])
            assert [(await verdict(admission, plan, someone)).allowed for _ in range(2)] == [True, False]

    run(main())


def test_leases_that_nobody_renews_end_by_themselves(server: RedisServer) -> None:
    """After kill -9 of a replica its places are free within one life of a lease; here its verdicts are dropped."""

    async def main() -> None:
        async with admitting(server.url) as (_, admission):
            plan, someone = admission.plan(route(concurrency(2, seconds=1.5))), principal()
            for _ in range(2):
                assert (await verdict(admission, plan, someone)).allowed
            gc.collect()
            assert not (await verdict(admission, plan, someone)).allowed
            with server.client() as client:
                await until(lambda: client.dbsize() == 0, "the leases to end")
            assert (await verdict(admission, plan, someone)).allowed

    run(main())


def test_a_long_stream_keeps_its_place(server: RedisServer) -> None:
    """Leases are renewed for as long as the verdict is held, over several lives, and after SCRIPT FLUSH too."""

    async def main() -> None:
        async with admitting(server.url) as (_, admission):
            plan, someone = admission.plan(route(concurrency(1, seconds=0.3))), principal()
            held = await verdict(admission, plan, someone)
            with server.client() as client:
                client.script_flush()
            end = time.monotonic() + 1.2
            while time.monotonic() < end:
                assert not (await verdict(admission, plan, someone)).allowed
                await asyncio.sleep(0.02)
            admission.release(held)
            assert (await verdict(admission, plan, someone)).allowed

    run(main())


def test_a_request_that_was_given_up_holds_nothing(server: RedisServer) -> None:
    """A client that leaves while its verdict is on the way: the place is given back at once."""

    async def main() -> None:
        async with admitting(server.url) as (_, admission):
            plan, someone = admission.plan(route(concurrency(1))), principal()
            with server.client() as client:
                client.config_resetstat()
                waiting = admission.admit(plan, someone, FixedFacts())
                assert isinstance(waiting, asyncio.Future)
                # The call leaves at the end of this turn of the loop; its answer can't be read before the next.
                asyncio.get_running_loop().call_soon(waiting.cancel)
                await until(lambda: server.calls_of("zrem") > 0, "the place to be given back")
                assert client.keys("*") == []
            assert (await verdict(admission, plan, someone)).allowed

    run(main())


def test_closing_gives_everything_back(server: RedisServer) -> None:
    async def main() -> None:
        held: list[Verdict] = []
        async with admitting(server.url) as (_, admission):
            plan = admission.plan(route(concurrency(3)))
            held += [await verdict(admission, plan, principal()) for _ in range(3)]
        with server.client() as client:
            await until(lambda: client.keys("*") == [], "the leases to be given back")

    run(main())


def test_a_peek_and_a_refusal_by_another_limit_take_no_place(server: RedisServer) -> None:
    async def main() -> None:
        async with admitting(server.url) as (_, admission):
            plan, someone = admission.plan(route(concurrency(5), gcra(1, 60))), principal()
            held = await verdict(admission, plan, someone)
            for _ in range(3):
                assert not (await verdict(admission, plan, someone)).allowed
            for _ in range(2):
                found = await admission.peek(plan, someone, FixedFacts())
                assert dict(found.remaining) == {"parallel": 4, "rate": 0}
            admission.release(held)

    run(main())
