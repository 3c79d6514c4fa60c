"""Limits on several virtual shards: one call after the other, taken back when a later one refuses (SPEC L12).

The shards are on one server here, which is all that admission sees of them; real clusters are in `test_cluster.py`.
"""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from gateway.admission.admission import Admission, AdmissionPlan, Verdict
from gateway.admission.revocation import Revocation, Revocations
from gateway.auth.principal import Principal
from gateway.route import Limit
from tests.support.admission import FixedFacts, admitting, concurrency, gcra, principal, quota, route, sliding, verdict
from tests.support.redis_server import RedisServer, run

SHARDS = 16
#: Of a quota, so that nothing comes back while a test runs.
NEVER_S = 86_400


def everybody(count: int, name: str = "everybody") -> Limit:
    return quota(count, NEVER_S, name=name, key=("global",))


async def left(admission: Admission, plan: AdmissionPlan, who: Principal | None, facts: FixedFacts | None = None) -> dict[str, int]:
    return dict((await admission.peek(plan, who, facts or FixedFacts())).remaining)


def spread_subject(admission: Admission, plan: AdmissionPlan) -> Principal:
    """Somebody whose own shard is not that of the limits that count everybody."""
    everyone = (principal(f"user-{number}") for number in range(100))
    return next(one for one in everyone if plan.ticket(one, FixedFacts()).rest)


OWN = [gcra(100, 3600, name="own"), sliding(100, 3600, name="own"), quota(100, name="own")]


@pytest.mark.parametrize("own", OWN, ids=lambda limit: limit.kind)
def test_what_another_shard_refuses_is_given_back(server: RedisServer, own: Limit) -> None:
    """L12: the first shard counted the request, the second refuses it: the first has as much left as before."""

    async def main() -> None:
        async with admitting(server.url, shards=SHARDS) as (_, admission):
            plan = admission.plan(route(own, everybody(3), cost=2))
            someone = spread_subject(admission, plan)
            first = await verdict(admission, plan, someone)
            assert (first.allowed, first.remaining) == (True, (("own", 98), ("everybody", 1)))
            for _ in range(5):
                refused = await verdict(admission, plan, someone)
                assert (refused.allowed, refused.violated) == (False, ("everybody",))
                assert refused.remaining == (("own", 98), ("everybody", 1))
                assert refused.retry_after_seconds > 1
                assert refused.header_block.startswith(b'ratelimit: "everybody";r=1;t=')
            await asyncio.sleep(0.05)
            assert await left(admission, plan, someone) == {"own": 98, "everybody": 1}

    run(main())


def test_what_the_own_shard_refuses_the_others_never_hear_of(server: RedisServer) -> None:
    """L12, L3: asking on and on does not use up what all share; the answer names what is known."""

    async def main() -> None:
        async with admitting(server.url, shards=SHARDS) as (_, admission):
            plan = admission.plan(route(quota(1, name="own"), everybody(100)))
            someone = spread_subject(admission, plan)
            assert (await verdict(admission, plan, someone)).allowed
            for _ in range(10):
                refused = await verdict(admission, plan, someone)
                assert (refused.violated, refused.remaining) == (("own",), (("own", 0),))
                assert b'ratelimit-policy: "own";q=1;w=86400, "everybody";q=100;w=86400\r\n' in refused.header_block
            assert await left(admission, plan, someone) == {"own": 0, "everybody": 99}

    run(main())


def test_places_on_several_shards_are_given_back_together(server: RedisServer) -> None:
    """L12: leases of the own shard when the other refuses; of both when the request is over."""

    async def main() -> None:
        async with admitting(server.url, shards=SHARDS) as (_, admission):
            plan = admission.plan(route(concurrency(3, name="own"), concurrency(2, name="all", key=("global",))))
            someone = spread_subject(admission, plan)
            held = [await verdict(admission, plan, someone) for _ in range(2)]
            assert [len(one.leases) for one in held] == [2, 2]
            for _ in range(4):
                assert (await verdict(admission, plan, someone)).violated == ("all",)
            await _until_left(admission, plan, someone, {"own": 1, "all": 0})
            admission.release(held[0])
            await _until_left(admission, plan, someone, {"own": 2, "all": 1})
            assert (await verdict(admission, plan, someone)).allowed

    run(main())


async def _until_left(admission: Admission, plan: AdmissionPlan, who: Principal, expected: dict[str, int]) -> None:
    deadline = time.monotonic() + 30
    while (found := await left(admission, plan, who)) != expected:
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.005)


def test_places_on_several_shards_are_renewed(server: RedisServer) -> None:
    async def main() -> None:
        async with admitting(server.url, shards=SHARDS) as (_, admission):
            plan = admission.plan(route(concurrency(1, 0.6, name="own"), concurrency(1, 0.6, name="all", key=("global",))))
            someone = spread_subject(admission, plan)
            held = await verdict(admission, plan, someone)
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                assert not (await verdict(admission, plan, someone)).allowed
                await asyncio.sleep(0.02)
            admission.release(held)
            await _until_left(admission, plan, someone, {"own": 1, "all": 1})

    run(main())


def test_a_refund_never_gives_more_than_there_is_of_it_left(server: RedisServer) -> None:
    """L12, L7: a bucket that has drained by itself in the meantime gets nothing back: burst + rate x time stays the most."""
    own = gcra(200, 1, burst=5, name="own")

    async def main() -> None:
        async with admitting(server.url, shards=SHARDS) as (_, admission):
            both, alone = admission.plan(route(own, everybody(1))), admission.plan(route(own))
            someone = spread_subject(admission, both)
            assert (await verdict(admission, both, someone)).allowed
            started, admitted = time.monotonic(), 0
            while time.monotonic() < started + 1.0:
                # Counted and given back again and again, by calls that overlap with those that count.
                found = await asyncio.gather(
                    *(verdict(admission, both, someone) for _ in range(3)), *(verdict(admission, alone, someone) for _ in range(3))
                )
                assert not any(one.allowed for one in found[:3])
                admitted += sum(one.allowed for one in found[3:])
            assert admitted <= 5 + 200 * (time.monotonic() - started)

    run(main())


def test_a_late_refund_does_not_pay_for_others(server: RedisServer) -> None:
    """L12: what has run out by itself is not taken from what came later."""

    async def main() -> None:
        async with admitting(server.url, shards=SHARDS) as (_, admission):
            plan = admission.plan(route(gcra(100, 1, burst=10, name="own"), everybody(100)))
            someone = spread_subject(admission, plan)
            alone = admission.plan(route(gcra(100, 1, burst=10, name="own")))
            first = plan.ticket(someone, FixedFacts())
            assert admission._lanes is not None
            early = await admission._lanes.groups[first.shard].submit(first, b"")
            await asyncio.sleep(0.03)
            started = time.monotonic()
            assert [(await verdict(admission, alone, someone)).allowed for _ in range(10)] == [True] * 10
            admission._lanes.spread._take_back([(first, early)])  # type: ignore[list-item]
            await asyncio.sleep(0.002)
            assert (await left(admission, alone, someone))["own"] <= 100 * (time.monotonic() - started)

    run(main())


def test_a_request_that_is_given_up_takes_nothing_with_it(server: RedisServer) -> None:
    """L12: its client left while the second shard was asked."""

    async def main() -> None:
        async with admitting(server.url, shards=SHARDS) as (_, admission):
            plan = admission.plan(route(quota(100, name="own"), concurrency(5, name="places"), everybody(100)))
            someone = spread_subject(admission, plan)
            first = plan.ticket(someone, FixedFacts())
            assert admission._lanes is not None
            there = admission._lanes.groups[first.rest[0].shard]
            for _ in range(20):
                asked = asyncio.ensure_future(admission.admit(plan, someone, FixedFacts()))
                while not (there._waiting or there._calls):
                    assert not asked.done()
                    await asyncio.sleep(0)
                asked.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asked
            await _until_left(admission, plan, someone, await left(admission, plan, someone) | {"places": 5, "own": 100})

    run(main())


def test_one_shard_or_many_decide_alike(server: RedisServer) -> None:
    """L12, L3: the same requests get the same verdicts, however their keys are spread."""
    generator = random.Random(7)
    subjects = [f"user-{number}" for number in range(8)]
    limits = (
        quota(12, name="own"),
        quota(20, name="address", key=("client_ip",)),
        quota(30, name="client", key=("client",)),
        quota(45, name="route", key=("route",)),
        quota(14, name="session", key=("session", "route")),
    )
    offers = [
        (
            None if generator.random() < 0.2 else generator.choice(subjects),
            f"192.0.2.{generator.randrange(4)}",
            generator.choice([None, "app", "web"]),
            generator.choice([None, "s1", "s2"]),
        )
        for _ in range(300)
    ]

    async def decide(shards: int) -> list[bool]:
        async with admitting(server.url, shards=shards) as (_, admission):
            plan = admission.plan(route(*limits))
            return [
                (
                    await verdict(
                        admission,
                        plan,
                        None if subject is None else principal(subject, client=client, session=session),
                        FixedFacts(address),
                    )
                ).allowed
                for subject, address, client, session in offers
            ]

    async def main() -> None:
        with server.client() as redis:
            alone = await decide(1)
            redis.flushall()
            assert await decide(SHARDS) == alone
            assert 20 < sum(alone) < 100

    run(main())


def test_addresses_of_one_network_meet_on_one_shard(server: RedisServer) -> None:
    """F-10: a client has all of its /64, and one limit for it, on every number of shards."""

    async def main() -> None:
        async with admitting(server.url, shards=SHARDS) as (_, admission):
            for plan in (admission.plan(route(quota(5, key=("client_ip",)))), admission.plan(route(quota(5, name="b")))):
                found = [await verdict(admission, plan, None, FixedFacts(f"2001:db8::{number:x}")) for number in range(10)]
                assert [one.allowed for one in found] == [True] * 5 + [False] * 5

    run(main())


def test_limits_of_a_principal_are_one_command(server: RedisServer) -> None:
    """L8: on many shards too, whatever the subject is combined with."""

    async def main() -> None:
        async with admitting(server.url, shards=SHARDS) as (_, admission):
            plan = admission.plan(route(gcra(9, 1), quota(9, key=("subject", "client_ip")), sliding(9, 60, key=("route", "subject"))))
            with server.client() as client:
                client.config_resetstat()
            for number in range(20):
                assert (await verdict(admission, plan, principal(f"user-{number}"))).allowed
            assert (server.calls_of("evalsha"), server.calls_of("eval")) == (20, 0)

    run(main())


REVOCATIONS = [
    Revocation(kind="jti", value="t1"),
    Revocation(kind="jti", value="t1", subject="user-3"),
    Revocation(kind="subject", value="user-3"),
    Revocation(kind="session", value="s1"),
    Revocation(kind="client", value="c1"),
    Revocation(kind="issuer", value="https://login.example.gov"),
]


@pytest.mark.parametrize("revocation", REVOCATIONS, ids=lambda entry: f"{entry.kind}{'-of-subject' if entry.subject else ''}")
def test_a_revocation_is_on_every_shard_where_it_may_concern_somebody(server: RedisServer, revocation: Revocation) -> None:
    """V1, V2: seen by the next request of each of its principals; asking about several shards too."""

    async def main() -> None:
        async with admitting(server.url, shards=SHARDS) as (store, admission):
            alone, spread = admission.plan(route()), admission.plan(route(everybody(1000)))
            everyone = [principal(f"user-{n}", token_id="t1", session="s1", client="c1") for n in range(40)]
            revocations = Revocations(store)
            entry = await revocations.revoke(revocation)
            hit = [one for one in everyone if (revocation.kind != "subject" and revocation.subject is None) or one.subject == "user-3"]
            for plan in (alone, spread):
                found = [await verdict(admission, plan, one) for one in everyone]
                assert [one.revoked for one in found] == [revocation.kind if one in hit else "" for one in everyone]
            assert (await left(admission, spread, principal("nobody", issuer="other", token_id=None)))["everybody"] == 1000 - (
                40 - len(hit)
            )
            assert await revocations.list() == [entry]
            assert await revocations.remove(revocation.kind, revocation.value)
            assert (await verdict(admission, alone, hit[0])).allowed

    run(main())


def test_a_peek_asks_every_shard_and_takes_nothing(server: RedisServer) -> None:
    async def main() -> None:
        async with admitting(server.url, shards=SHARDS) as (_, admission):
            plan = admission.plan(route(gcra(5, 60, name="own"), everybody(7), shadow=(quota(1, name="planned", key=("route",)),)))
            someone = spread_subject(admission, plan)
            for _ in range(3):
                assert await left(admission, plan, someone) == {"own": 5, "everybody": 7}
            found: list[Verdict] = [await verdict(admission, plan, someone) for _ in range(2)]
            assert [one.shadow_violated for one in found] == [(), ("planned",)]

    run(main())
