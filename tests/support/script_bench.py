"""The scripts on a real server whose clock is the test's."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import gateway.admission.admission as admission_module
from gateway.admission.group import NO_HISTORY, Group
from gateway.admission.plan import AdmissionPlan, Ticket
from gateway.admission.verdict import Verdict
from gateway.auth.principal import Principal
from gateway.settings import StateSettings
from gateway.store.redis import Store
from gateway.store.script import Script, bulk
from gateway.store.wire import Wire
from tests.support.admission import SECOND_US, FixedFacts, Recorder
from tests.support.redis_server import RedisServer

#: Aligned to no window, and late enough for real ones.
START_US = 1_790_000_012_345_678
CLOCK = "redis.call('TIME')"
SHIM = "redis.call('HMGET', 'test:clock', 'seconds', 'microseconds')"


def shimmed(name: str) -> Script:
    """A script of the package whose clock is a hash that the test writes."""
    text = (Path(admission_module.__file__).parent / "lua" / name).read_text()
    assert text.count(CLOCK) == 1
    return Script(text.replace(CLOCK, SHIM))


class Bench:
    """A group over a real connection, with the test's clock."""

    def __init__(self, server: RedisServer) -> None:
        self.store = Store.open(StateSettings(url=server.url))
        self.script = shimmed("admit.lua")
        self.wire = Wire(self.store, (self.script.load,), lambda why: self.group.line_changed(why))
        keys = (b"gw:{s00}:revoked", b"gw:{s00}:revocations")
        self.group = Group(self.wire, self.script, keys, 5.0, Recorder(), lambda verdict, awaited: None)
        self.leases = 0

    async def at(self, now: int) -> None:
        await self.store.client.hset("test:clock", mapping={"seconds": now // SECOND_US, "microseconds": now % SECOND_US})

    async def ask(self, asked: list[tuple[AdmissionPlan, Principal, int]]) -> list[Verdict]:
        """All of them in one call."""
        futures = []
        for plan, someone, cost in asked:
            ticket = plan.ticket(someone, FixedFacts()) if cost else plan.peek_ticket(someone, FixedFacts())
            self.leases += 1
            futures.append(self.group.submit(ticket, b"$32\r\n%032x\r\n" % self.leases if ticket.leased else b""))
        return list(await asyncio.gather(*futures))

    async def numbers(self, ticket: Ticket) -> list[int]:
        """What the script itself replies to one request about one limit: code, remaining events, wait in microseconds."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        fixed = b"".join(map(bulk, (b"3", b"gw:{s00}:revoked", b"gw:{s00}:revocations")))
        self.wire.send(b"*9\r\n" + self.script.by_sha + fixed + ticket.keys + NO_HISTORY + ticket.arguments, reply.set_result)
        return list(await reply)[:3]

    async def close(self) -> None:
        await self.wire.close()
        self.group.close()
        await self.store.close()


async def on_bench(server: RedisServer, scenario: Any) -> None:
    bench = Bench(server)
    await bench.store.client.flushall()
    await bench.wire.open()
    try:
        await scenario(bench)
    finally:
        await bench.close()
