"""Limits as SPEC section 1 states them, on real servers and with their real clocks."""

from __future__ import annotations

import asyncio
import struct
import time
from dataclasses import dataclass
from itertools import pairwise

import pytest

from gateway.admission.admission import Admission, AdmissionPlan
from gateway.route import Limit
from tests.support.admission import (
    FixedFacts,
    Recorder,
    admitting,
    concurrency,
    gcra,
    principal,
    quota,
    route,
    sliding,
    verdict,
)
from tests.support.redis_server import RedisServer, run, until

#: A pause between two verdicts that none of the paces below explains.
STANDSTILL_SECONDS = 0.15
WINDOW_KINDS = [gcra(5, 60), sliding(5, 60), quota(5), concurrency(5)]


@dataclass
class Offered:
    """Requests at a steady pace: when each was decided, in seconds since the first, and whether it was admitted."""

    decided: list[tuple[float, bool]]

    @property
    def admitted(self) -> int:
        return sum(allowed for _, allowed in self.decided)

    def admitted_within(self, seconds: float) -> int:
        """How many were surely admitted in the time; on a busy machine the offer takes longer."""
        return sum(allowed for at, allowed in self.decided if at <= seconds)

    @property
    def stood_still_seconds(self) -> float:
        """How long this machine itself stood still, so that nothing was offered."""
        pauses = (later - earlier for (earlier, _), (later, _) in pairwise(self.decided))
        return sum(pause for pause in pauses if pause > STANDSTILL_SECONDS)


async def offer(admission: Admission, plan: AdmissionPlan, who: str, per_second: float, seconds: float, start: float = 0.0) -> Offered:
    """Offers requests at a steady pace, from a moment of the loop's clock or from now on."""
    loop = asyncio.get_running_loop()
    someone, start = principal(who), start or loop.time()
    decided: list[tuple[float, bool]] = []
    for number in range(int(per_second * seconds)):
        # The pace of the offer is the input of these cases.
        await asyncio.sleep(max(0.0, start + number / per_second - loop.time()))
        found = await verdict(admission, plan, someone)
        decided.append((loop.time() - start, found.allowed))
    return Offered(decided)


async def _replicas(server: RedisServer, admission: Admission) -> None:
    """L1: four replicas, 100/s burst 100, offered 400/s for 5 s: at most 601 admitted. No replica's clock is ever asked or sent."""
    async with admitting(server.url) as (_, second), admitting(server.url) as (_, third), admitting(server.url) as (_, fourth):
        limit = gcra(100, 1)
        replicas = [(one, one.plan(route(limit, name="l1"))) for one in (admission, second, third, fourth)]
        start = asyncio.get_running_loop().time()
        offered = await asyncio.gather(*(offer(one, plan, "l1", 100, 5, start) for one, plan in replicas))
    together = Offered(sorted(each for one in offered for each in one.decided))
    assert together.admitted_within(5) <= 601
    assert together.admitted >= 560 - 100 * together.stood_still_seconds


async def _drained_and_idle(server: RedisServer, admission: Admission) -> None:
    """L2: 10/s burst 1000, drained, idle 2.2 s: at most 23 admitted."""
    plan, someone = admission.plan(route(gcra(10, 1, burst=1000), name="l2")), principal("l2")
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(verdict(admission, plan, someone) for _ in range(1100)))
    empty_at = loop.time()
    while (await verdict(admission, plan, someone)).allowed:
        empty_at = loop.time()
    # The pause is the input of this case.
    await asyncio.sleep(2.2)
    found = await asyncio.gather(*(verdict(admission, plan, someone) for _ in range(200)))
    assert 21 <= sum(one.allowed for one in found) <= 1 + 10 * (loop.time() - empty_at)


async def _two_limits(server: RedisServer, admission: Admission, seconds: int) -> None:
    """L3: 5/s and 100/min on one route, offered 50/s: at most 5 more or less than 5/s, the minute counter equals the admitted."""
    plan = admission.plan(route(gcra(5, 1, name="second"), sliding(5 * seconds, 60, name="minute"), name="l3"))
    offered = await offer(admission, plan, "l3", 50, seconds)
    assert 5 * seconds - 5 * (1 + offered.stood_still_seconds) <= offered.admitted <= 5 * seconds + 5
    with server.client() as client:
        (key,) = client.keys("gw:*:minute:*")
        (counted,) = struct.unpack_from("<d", client.get(key))
    assert counted == offered.admitted


async def _refusals_are_free(server: RedisServer, admission: Admission, seconds: int) -> None:
    """L4: 5/s, offered 10/s: all that comes back in the time is admitted."""
    offered = await offer(admission, admission.plan(route(gcra(5, 1), name="l4")), "l4", 10, seconds)
    assert offered.admitted_within(seconds) <= 5 * seconds + 5
    assert offered.admitted >= 5 * seconds - 1 - 5 * offered.stood_still_seconds


async def _no_starvation(server: RedisServer, admission: Admission, seconds: int) -> None:
    """L6: 10/s, offered 100/s: after the burst no 300 ms without an admission."""
    offered = await offer(admission, admission.plan(route(gcra(10, 1), name="l6")), "l6", 100, seconds)
    times = [at for at, allowed in offered.decided if allowed]
    assert max(later - earlier for earlier, later in pairwise(times)) <= 0.3 + offered.stood_still_seconds
    assert len(times) >= 10 * seconds - 10 * offered.stood_still_seconds


def test_the_cases_that_need_real_time_hold_together(server: RedisServer) -> None:
    """L1, L2, L3, L4, L6: side by side, at a short length. At their full one gateways are asked over HTTP in `tests/conformance/limits`."""

    async def main() -> None:
        async with admitting(server.url) as (_, admission):
            await asyncio.gather(
                _replicas(server, admission),
                _drained_and_idle(server, admission),
                _two_limits(server, admission, 5),
                _refusals_are_free(server, admission, 5),
                _no_starvation(server, admission, 5),
            )

    run(main())


@pytest.mark.parametrize("limit", WINDOW_KINDS, ids=lambda limit: limit.kind)
def test_a_burst_in_one_instant_gets_exactly_the_limit(server: RedisServer, limit: Limit) -> None:
    """L5: 100 calls in the same instant, limit 5: 5 admitted, over one replica and over three."""

    async def main() -> None:
        recorder = Recorder()
        async with admitting(server.url, observer=recorder) as (_, admission), admitting(server.url) as (_, second):
            plan, someone = admission.plan(route(limit)), principal()
            found = await asyncio.gather(*(verdict(admission, plan, someone) for _ in range(100)))
            assert sum(one.allowed for one in found) == 5
            assert recorder.sizes == [100]
            other = principal("bob")
            others = await asyncio.gather(*(verdict((admission, second)[i % 2], plan, other) for i in range(100)))
            assert sum(one.allowed for one in others) == 5

    run(main())


def test_what_one_limit_refuses_no_limit_counts(server: RedisServer) -> None:
    """L3: all or nothing over every kind, in either order."""

    async def main() -> None:
        wide = (gcra(100, 60, name="g"), sliding(100, 60, name="s"), quota(100, name="q"), concurrency(100, name="c"))
        async with admitting(server.url) as (_, admission):
            for number, order in enumerate(((quota(3, name="narrow"), *wide), (*wide, quota(3, name="narrow")))):
                plan, someone = admission.plan(route(*order, name=f"r{number}")), principal(f"user-{number}")
                found = await asyncio.gather(*(verdict(admission, plan, someone) for _ in range(50)))
                refused = [one for one in found if not one.allowed]
                assert len(refused) == 47
                assert {one.violated for one in refused} == {("narrow",)}
                assert dict(refused[-1].remaining) == {"narrow": 0, "g": 97, "s": 97, "q": 97, "c": 97}

    run(main())


def test_costs_count_and_a_peek_does_not(server: RedisServer) -> None:
    async def main() -> None:
        async with admitting(server.url) as (_, admission):
            plan, someone = admission.plan(route(gcra(10, 60), cost=4)), principal()
            assert [(await verdict(admission, plan, someone)).allowed for _ in range(3)] == [True, True, False]
            for _ in range(3):
                peeked = await admission.peek(plan, someone, FixedFacts())
                assert peeked.allowed
                assert peeked.remaining == (("rate", 2),)

    run(main())


def test_a_refusal_says_when_to_come_back_and_keeps_its_word(server: RedisServer) -> None:
    """Headers: Retry-After of at least 1, not earlier than `t`; the same request is accepted then."""

    async def main() -> None:
        async with admitting(server.url) as (_, admission):
            plan, someone = admission.plan(route(gcra(1, 0.5), name="short")), principal()
            assert (await verdict(admission, plan, someone)).allowed
            refused = await verdict(admission, plan, someone)
            assert refused.retry_after_seconds == 1
            assert refused.header_block == b'ratelimit: "rate";r=0;t=1\r\nratelimit-policy: "rate";q=1;w=1\r\n'
            allowed_at = time.monotonic() + refused.retry_after_seconds
            await until(lambda: time.monotonic() >= allowed_at, "the time that Retry-After named")
            assert (await verdict(admission, plan, someone)).allowed

    run(main())


def test_a_shadow_limit_reports_and_never_refuses(server: RedisServer) -> None:
    """Shadow limits count each request that they would accept themselves, even those that a real limit refuses."""

    async def main() -> None:
        async with admitting(server.url) as (_, admission):
            plan = admission.plan(route(quota(3, name="real"), shadow=(quota(5, name="planned"), concurrency(1, name="lone"))))
            someone = principal()
            found = [await verdict(admission, plan, someone) for _ in range(7)]
            assert [one.allowed for one in found] == [True] * 3 + [False] * 4
            assert [one.violated for one in found] == [()] * 3 + [("real",)] * 4
            assert ["planned" in one.shadow_violated for one in found] == [False] * 5 + [True] * 2
            assert ["lone" in one.shadow_violated for one in found] == [False] + [True] * 6
            assert [name for name, _ in found[0].remaining] == ["real"]

    run(main())


def test_principals_addresses_and_routes_are_counted_apart(server: RedisServer) -> None:
    async def main() -> None:
        async with admitting(server.url) as (_, admission):
            by_subject = admission.plan(route(quota(1)))
            by_address = admission.plan(route(quota(1, name="address", key=("client_ip",)), name="public"))
            by_route = admission.plan(route(quota(1, key=("route", "subject")), name="other"))
            assert (await verdict(admission, by_subject, principal("a"))).allowed
            assert (await verdict(admission, by_subject, principal("b"))).allowed
            assert (await verdict(admission, by_subject, principal("a", issuer="https://other"))).allowed
            assert not (await verdict(admission, by_subject, principal("a"))).allowed
            assert (await verdict(admission, by_route, principal("a"))).allowed
            assert (await verdict(admission, by_address, None, FixedFacts("192.0.2.7"))).allowed
            assert (await verdict(admission, by_address, None, FixedFacts("192.0.2.8"))).allowed
            assert not (await verdict(admission, by_address, None, FixedFacts("192.0.2.7"))).allowed
            # Without a subject it is the address that is counted.
            assert (await verdict(admission, by_subject, None, FixedFacts("192.0.2.7"))).allowed
            assert not (await verdict(admission, by_subject, None, FixedFacts("192.0.2.7"))).allowed

    run(main())


def test_every_key_expires_carries_the_tag_and_shows_nothing_of_the_client(server: RedisServer) -> None:
    """F-10: a TTL set in the same script, one hash tag, attacker-chosen parts hashed, bounded length."""
    hostile = "x" * 5000 + "}{\r\n\0"

    async def main() -> None:
        limits = (gcra(10, 1), sliding(10, 60), quota(10), concurrency(10), gcra(9, 60, name="h", key=("header:x-tenant", "path:id")))
        async with admitting(server.url) as (_, admission):
            plan = admission.plan(route(*limits, path="/x/{id}"))
            facts = FixedFacts(path_params={"id": hostile}, headers={b"x-tenant": hostile.encode()})
            assert (await verdict(admission, plan, principal(hostile), facts)).allowed
            with server.client() as client:
                keys: list[bytes] = client.keys("*")
                assert len(keys) == len(limits)
                for key in keys:
                    assert key.startswith(b"gw:{s00}:")
                    assert key.count(b"{") == key.count(b"}") == 1
                    assert len(key) < 120
                    assert 0 < client.pttl(key) <= 86_400_000

    run(main())


def test_a_bucket_that_is_full_again_leaves_no_key_behind(server: RedisServer) -> None:
    async def main() -> None:
        async with admitting(server.url) as (_, admission):
            assert (await verdict(admission, admission.plan(route(gcra(100, 1))), principal())).allowed
            with server.client() as client:
                await until(lambda: client.dbsize() == 0, "the bucket to be full again")

    run(main())


def test_one_principal_costs_one_command_and_one_more_after_a_flush(server: RedisServer) -> None:
    """L8: revocation and any number of limits are one command; after SCRIPT FLUSH one more, once."""

    async def main() -> None:
        recorder = Recorder()
        limits = (gcra(100, 1), sliding(100, 60), quota(100), concurrency(100))
        async with admitting(server.url, observer=recorder) as (_, admission):
            plan, someone = admission.plan(route(*limits)), principal()
            with server.client() as client:
                client.config_resetstat()
                assert (await verdict(admission, plan, someone)).allowed
                assert (server.calls_of("evalsha"), server.calls_of("eval")) == (1, 0)
                client.script_flush()
                client.config_resetstat()
                for _ in range(3):
                    assert (await verdict(admission, plan, someone)).allowed
                assert (server.calls_of("evalsha"), server.calls_of("eval")) == (3, 1)
                counted = await admission.peek(plan, someone, FixedFacts())
                assert dict(counted.remaining)["quota"] == 96

    run(main())


def test_a_flush_amid_many_requests_loses_and_doubles_nothing(server: RedisServer) -> None:
    """L8, F-4: a call that met no script is sent again whole, within the same request."""

    async def main() -> None:
        async with admitting(server.url) as (_, admission):
            plan, someone = admission.plan(route(quota(10_000))), principal()
            with server.client() as client:
                for _ in range(5):
                    futures = [asyncio.ensure_future(verdict(admission, plan, someone)) for _ in range(300)]
                    await asyncio.sleep(0)
                    client.script_flush()
                    assert all(one.allowed for one in await asyncio.gather(*futures))
            assert (await admission.peek(plan, someone, FixedFacts())).remaining == (("quota", 10_000 - 1500),)

    run(main())


def test_requests_that_arrive_together_share_calls(server: RedisServer) -> None:
    """Group commit: 64 busy connections bring more than 4 requests a call; one alone waits for nobody."""

    async def main() -> None:
        recorder = Recorder()
        async with admitting(server.url, observer=recorder) as (_, admission):
            plan, someone = admission.plan(route(gcra(10**6, 1))), principal()
            assert (await verdict(admission, plan, someone)).allowed
            assert recorder.sizes == [1]

            async def connection() -> None:
                for _ in range(20):
                    assert (await verdict(admission, plan, someone)).allowed

            await asyncio.gather(*(connection() for _ in range(64)))
            assert sum(recorder.sizes) == 64 * 20 + 1
            assert max(recorder.sizes) <= 128
            assert sum(recorder.sizes) / len(recorder.sizes) > 4

    run(main())
