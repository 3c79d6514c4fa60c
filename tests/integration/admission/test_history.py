"""Replicas that share a store agree on its history (SPEC V4)."""

from __future__ import annotations

import asyncio
import time

from gateway.admission.revocation import Revocation
from tests.support.admission import Replica, principal, replica, route, verdict
from tests.support.redis_server import RedisServer, run, until


async def in_turn(replicas: list[Replica], turns: int) -> None:
    """Each replica admits a request, again and again."""
    plans = [(one, one.admission.plan(route())) for one in replicas]
    for _ in range(turns):
        for one, plan in plans:
            assert (await verdict(one.admission, plan, principal())).allowed
        await asyncio.sleep(0.01)


def test_replicas_of_an_empty_store_leave_each_other_alone(server: RedisServer) -> None:
    """V4: nothing was ever revoked, so nothing can have been lost: no replica takes the start of another one for a new history."""

    async def main() -> None:
        async with replica(server.url, "replica-1") as one, replica(server.url, "replica-2") as two:
            await in_turn([one, two], 20)
            async with replica(server.url, "replica-3") as three:
                await in_turn([one, two, three], 20)
            assert [found.recorder.modes for found in (one, two)] == [["shared"], ["shared"]]

    run(main())


def test_what_has_expired_ends_no_history(server: RedisServer) -> None:
    """V4, V1: the last revocation has ended, others are written, removed and listed, and replicas start: nobody is disturbed."""

    async def main() -> None:
        async with replica(server.url, "replica-1") as one, replica(server.url, "replica-2") as two:
            for subject, seconds in (("a", 0.2), ("b", 3600.0), ("c", 0.2)):
                await one.revocations.revoke(Revocation(kind="subject", value=subject, expires_at=time.time() + seconds))
            await two.revocations.remove("subject", "b")
            expired_at = time.time() + 0.25
            await until(lambda: time.time() > expired_at, "both to have ended")
            async with replica(server.url, "replica-3") as three:
                await in_turn([one, two, three], 10)
                await three.revocations.revoke(Revocation(kind="subject", value="d", expires_at=time.time() + 0.2))
                await in_turn([one, two, three], 10)
            assert [found.recorder.modes for found in (one, two)] == [["shared"], ["shared"]]

    run(main())
