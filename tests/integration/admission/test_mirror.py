"""The mirror of revocations in each replica, and a store that lost what it knew (SPEC V3, V4, V6; F-7)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from gateway.admission.revocation import Revocation, Revocations
from tests.support.admission import Replica, concurrency, gcra, principal, quota, replica, route, verdict
from tests.support.redis_server import KINDS, RedisServer, redis_server, run, until

ALICE = principal("alice")


@pytest.fixture(params=KINDS)
def own_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server that the test may stop and empty."""
    with redis_server(request.param) as server:
        yield server


async def replicas(stack: AsyncExitStack, url: str, count: int) -> list[Replica]:
    return [await stack.enter_async_context(replica(url, f"replica-{number}")) for number in range(count)]


async def revoked_by(one: Replica, who: str = "alice") -> str:
    """What the store says of somebody, through this replica."""
    return (await verdict(one.admission, one.admission.plan(route(gcra(1000, 1))), principal(who))).revoked


def test_a_revocation_reaches_every_mirror(server: RedisServer) -> None:
    """V3, V6: what one replica has acknowledged the others know within milliseconds, its removal too."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            first, second, third = await replicas(stack, server.url, 3)
            for number in range(100):
                await first.revocations.revoke(Revocation(kind="subject", value=f"user-{number}"))
            assert first.mirror.revoked(principal("user-99")) == "subject"
            for one in (second, third):
                await until(lambda one=one: len(one.mirror) == 100, "the mirror to have everything")  # type: ignore[misc]
                assert {one.mirror.revoked(principal(f"user-{number}")) for number in range(100)} == {"subject"}
                assert one.mirror.revoked(principal("user-100")) == ""
                assert len(one.propagated) == 100
                assert sorted(one.propagated)[50] < 1
            assert await second.revocations.remove("subject", "user-7")
            await until(lambda: third.mirror.revoked(principal("user-7")) == "", "the removal to arrive")
            assert third.mirror.revoked(principal("user-8")) == "subject"

    run(main())


def test_a_mirror_begins_with_a_snapshot(server: RedisServer) -> None:
    """V3: a replica is not ready before it knows what was revoked earlier; more entries than one step of the snapshot has."""

    async def main() -> None:
        async with replica(server.url, "first") as first:
            for start in range(0, 1200, 10):
                batch = [Revocation(kind="jti", value=f"token-{number}") for number in range(start, start + 10)]
                await asyncio.gather(*map(first.revocations.revoke, batch))
            await first.revocations.remove("jti", "token-3")
            async with replica(server.url, "second") as second:
                assert second.together.ready
                assert second.mirror.age_seconds < 5
                known = [second.mirror.revoked(principal("x", token_id=f"token-{number}")) for number in range(1200)]
                assert known.count("jti") == 1199
                assert known[3] == ""

    run(main())


@pytest.mark.parametrize("journal", ["deleted", "trimmed"])
def test_a_gap_in_the_journal_leads_to_a_new_snapshot(server: RedisServer, journal: str) -> None:
    """V3: who missed records notices, by the chain of the records or by the journal's end, and reads everything again."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            first, second = await replicas(stack, server.url, 2)
            await first.revocations.revoke(Revocation(kind="subject", value="somebody"))
            await until(lambda: len(second.mirror) == 1, "the first entry")
            # One that no record tells of, as if the record had been trimmed before it was read.
            await Revocations(first.store).revoke(Revocation(kind="subject", value="alice"))
            with server.client() as client:
                (key,) = client.keys("*revocation-journal")
                if journal == "deleted":
                    client.delete(key)
                else:
                    client.xadd(key, {"previous": "1-1", "at": "1", "entry": "", "document": ""})
            await until(lambda: second.mirror.revoked(ALICE) == "subject", "a new snapshot")
            await first.revocations.revoke(Revocation(kind="subject", value="bob"))
            await until(lambda: second.mirror.revoked(principal("bob")) == "subject", "the journal to go on")

    run(main())


def test_what_is_flushed_is_back_before_anybody_is_admitted(own_server: RedisServer) -> None:
    """V4, F-7: FLUSHALL under an open connection; every replica refuses the revoked token at once, and lets others in."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            first, second = await replicas(stack, own_server.url, 2)
            for number in range(500):
                await first.revocations.revoke(Revocation(kind="session", value=f"session-{number}"))
            await first.revocations.revoke(Revocation(kind="subject", value="alice"))
            await until(lambda: len(second.mirror) == 501, "both mirrors")
            for turn in range(5):
                with own_server.client() as client:
                    client.flushall()
                one, other = (first, second) if turn % 2 else (second, first)
                assert await asyncio.gather(*(revoked_by(one) for _ in range(20))) == ["subject"] * 20
                assert await revoked_by(other) == "subject"
                assert await revoked_by(other, "bob") == ""
                assert len(await one.revocations.list()) == 501

    run(main())


def test_a_store_that_was_killed_and_is_empty_again_gets_everything_back(own_server: RedisServer) -> None:
    """V4: kill -9, then a start with nothing; scripts are loaded again, too."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            first, second = await replicas(stack, own_server.url, 2)
            await first.revocations.revoke(Revocation(kind="client", value="lab-7", issued_before=5_000.0))
            await until(lambda: len(second.mirror) == 1, "both mirrors")
            own_server.kill()
            await until(lambda: not second.admission.ready, "the loss to be noticed")
            own_server.start_again()
            await until(lambda: second.admission.ready, "the store to be used again")
            plan = second.admission.plan(route(concurrency(5), quota(5)))
            assert (await verdict(second.admission, plan, principal("x", client="lab-7"))).revoked == "client"
            assert (await verdict(second.admission, plan, principal("x", client="lab-7", issued_at=6_000))).allowed

    run(main())


def test_an_older_copy_of_the_store_gets_the_last_revocations_back(own_server: RedisServer) -> None:
    """V4, F-7: a server that took over, or came back, without the last acknowledged changes: they are there before anybody is admitted."""

    async def main() -> None:
        async with replica(own_server.url) as one:
            await one.revocations.revoke(Revocation(kind="subject", value="alice"))
            await one.revocations.revoke(Revocation(kind="subject", value="carol"))
            with own_server.client() as client:
                client.save()
            await one.revocations.revoke(Revocation(kind="subject", value="bob"))
            await one.revocations.remove("subject", "carol")
            own_server.kill()
            await until(lambda: not one.admission.ready, "the loss to be noticed")
            own_server.start_again()
            await until(lambda: one.admission.ready, "the store to be used again")
            assert [await revoked_by(one, who) for who in ("alice", "bob", "carol")] == ["subject", "subject", ""]

    run(main())


def test_a_replica_that_missed_a_removal_does_not_bring_the_entry_back(server: RedisServer) -> None:
    """V3, V4: of two states of an entry the later one holds, whoever writes it."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            first, second = await replicas(stack, server.url, 2)
            await first.revocations.revoke(Revocation(kind="subject", value="alice"))
            await until(lambda: len(second.mirror) == 1, "both mirrors")
            await second.together.journal.close()
            assert await first.revocations.remove("subject", "alice")
            assert second.mirror.revoked(ALICE) == "subject"
            await second.together.reconciler.reload(0, second.store.run)
            assert await revoked_by(first) == await revoked_by(second) == ""
            assert second.mirror.revoked(ALICE) == ""
            await second.revocations.revoke(Revocation(kind="subject", value="alice"))
            assert await revoked_by(first) == "subject"

    run(main())


def test_entries_leave_mirror_and_store_when_they_end(server: RedisServer) -> None:
    """V1, V3, F-10: no mirror grows for ever, and no key stays without an end."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            first, second = await replicas(stack, server.url, 2)
            soon = Revocations(first.store, publish=first.together.journal.publish, maximum_lifetime_seconds=0.3)
            await soon.revoke(Revocation(kind="subject", value="alice"))
            await until(lambda: second.mirror.revoked(ALICE) == "subject", "the entry")
            await until(lambda: second.mirror.revoked(ALICE) == "", "its end")
            await first.revocations.revoke(Revocation(kind="subject", value="bob"))
            await until(lambda: len(second.mirror) == 1, "nothing but the second entry")
            with server.client() as client:
                assert all(client.pttl(key) > 0 for key in client.keys("*"))
                assert client.hlen("gw:{s00}:revocations") == 1

    run(main())


def test_replicas_know_of_each_other() -> None:
    """L11: heartbeats tell how many replicas live and which of them one is; who leaves is counted out."""

    async def main() -> None:
        with redis_server("valkey") as server:
            await look(server)

    async def look(server: RedisServer) -> None:
        async with replica(server.url, "replica-b") as second:
            async with replica(server.url, "replica-a") as first:
                await until(lambda: second.together.heartbeat.live == ("replica-a", "replica-b"), "the other one")
                assert first.together.heartbeat.place == (2, 0)
                assert second.together.heartbeat.place == (2, 1)
                described = await second.together.heartbeat.describe()
                assert [(one["name"], one["pid"]) for one in described] == [("replica-a", 1), ("replica-b", 1)]
                assert second.together.heartbeat.store_time() is not None
            assert [one["name"] for one in await second.together.heartbeat.describe()] == ["replica-b"]
            await until(lambda: second.together.heartbeat.live == ("replica-b",), "the other one to be counted out")

    run(main())
