"""Any order of revocations, restarts, losses and partitions over three replicas (SPEC V2, V3, V4, F-7)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.admission.revocation import Revocation
from gateway.auth.principal import Principal
from gateway.route import WhenUnavailable
from gateway.store.error import StoreError
from tests.support.admission import Replica, ask, gcra, principal, replica, route
from tests.support.redis_server import RedisServer, redis_server, run, until
from tests.support.relay import Relay, relay_to

REPLICAS = 3
PEOPLE = ("alice", "bob", "carol")
#: Nobody revokes anything of his.
INNOCENT = "zoe"
MODES: tuple[WhenUnavailable, ...] = ("open", "fair_share", "closed")

Step = tuple[str, int, int]
steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["revoke", "revoke", "remove", "ask", "ask"]), st.integers(0, 2), st.integers(0, 2)),
        st.tuples(st.sampled_from(["flush", "empty restart", "replica restart", "cut", "silence", "heal"]), st.integers(0, 2), st.just(0)),
    ),
    min_size=3,
    max_size=12,
)


@dataclass
class World:
    """Three replicas, each behind a relay of its own, and what was acknowledged."""

    server: RedisServer
    relays: list[Relay]
    replicas: list[Replica] = field(default_factory=list)
    stacks: list[AsyncExitStack] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)

    async def start(self, number: int) -> tuple[Replica, AsyncExitStack]:
        stack = AsyncExitStack()
        url = f"redis://127.0.0.1:{self.relays[number].port}/0"
        return await stack.enter_async_context(replica(url, f"replica-{number}", budget_seconds=0.1)), stack

    async def check(self, number: int, who: str) -> None:
        """The property: what was acknowledged is never admitted while the mirror knows it, nor by a store that does."""
        one, someone = self.replicas[number], principal(who)
        for mode in MODES:
            mirrored, stored = one.mirror.revoked(someone), self.stored(who)
            answer = await ask(one.gate(route(gcra(1000, 1), when_unavailable=mode)), someone)
            known = mirrored or (answer.mode == "shared" and stored)
            if who in self.acknowledged and known:
                assert answer.word != "admitted", f"{who} at {number}, {mode} decided as {answer.mode}, known to {known}"
            assert not answer.word.startswith("unexpected"), answer

    async def admits(self, number: int, who: str) -> None:
        """Waits until somebody is admitted by the store; until then a connection may just have been lost."""
        gate, deadline = self.replicas[number].gate(route(gcra(1000, 1))), time.monotonic() + 10
        while (answer := await ask(gate, principal(who))).word != "admitted":
            assert answer.word.startswith("store_"), answer
            assert time.monotonic() < deadline, answer
            await asyncio.sleep(0.01)

    def stored(self, who: str) -> str:
        """Whether the store itself has a live entry for somebody."""
        with self.server.client() as client:
            documents: list[bytes] = client.hvals("gw:{s00}:revocations")
        mine = b'"value":"%b"' % who.encode()
        return "the store" if any(mine in document and b'"removed"' not in document for document in documents) else ""

    # Steps

    async def revoke(self, number: int, person: int) -> None:
        with contextlib.suppress(StoreError):
            await self.replicas[number].revocations.revoke(Revocation(kind="subject", value=PEOPLE[person]))
            self.acknowledged.add(PEOPLE[person])

    async def remove(self, number: int, person: int) -> None:
        # From the moment of the attempt on nobody knows, until it is revoked again.
        self.acknowledged.discard(PEOPLE[person])
        with contextlib.suppress(StoreError):
            await self.replicas[number].revocations.remove("subject", PEOPLE[person])

    async def ask(self, number: int, person: int) -> None:
        await self.check(number, PEOPLE[person])

    async def flush(self, number: int, _: int) -> None:
        with self.server.client() as client:
            client.flushall()
        await self.check(number, PEOPLE[0])

    async def empty_restart(self, number: int, _: int) -> None:
        self.server.kill()
        self.server.start_again()
        await self.check(number, PEOPLE[1])

    async def replica_restart(self, number: int, _: int) -> None:
        await self.stacks[number].aclose()
        self.replicas[number], self.stacks[number] = await self.start(number)

    async def cut(self, number: int, _: int) -> None:
        self.relays[number].cut()

    async def silence(self, number: int, _: int) -> None:
        self.relays[number].silent = True

    async def heal(self, number: int, _: int) -> None:
        self.relays[number].heal()

    async def settled(self) -> None:
        """Everything heals; what any replica still knew is known to all, and the innocent were never touched."""
        for relay in self.relays:
            relay.heal()
        known = {who for who in self.acknowledged for one in self.replicas if one.mirror.revoked(principal(who))}
        await until(lambda: all(one.admission.ready and one.together.ready for one in self.replicas), "all to be ready")
        everybody = [principal(who) for who in sorted(known)]
        await until(lambda: all(_knows(one, everybody) for one in self.replicas), "all mirrors to agree")
        for number in range(REPLICAS):
            for who in sorted(known):
                await self.check(number, who)
            await self.admits(number, INNOCENT)


def _knows(one: Replica, everybody: list[Principal]) -> bool:
    return all(one.mirror.revoked(who) for who in everybody)


async def play(world: World, schedule: list[Step]) -> None:
    for word, number, person in schedule:
        step: Callable[[int, int], Coroutine[Any, Any, None]] = getattr(world, word.replace(" ", "_"))
        await step(number, person)
        await world.check(number, PEOPLE[person])
    await world.settled()


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(steps)
def test_nobody_is_admitted_whose_revocation_was_acknowledged(schedule: list[Step]) -> None:
    """V2, V3, V4, F-7: not while the store or the mirror knows it, in any order of events; and all replicas agree in the end."""

    async def main() -> None:
        with redis_server("valkey") as server:
            async with AsyncExitStack() as stack:
                relays = [await stack.enter_async_context(relay_to(server.port)) for _ in range(REPLICAS)]
                world = World(server, relays)
                try:
                    for number in range(REPLICAS):
                        one, its_stack = await world.start(number)
                        world.replicas.append(one)
                        world.stacks.append(its_stack)
                    await play(world, schedule)
                finally:
                    for its_stack in world.stacks:
                        await its_stack.aclose()

    run(main())
