"""What each route does while the store is away, slow or wrong (SPEC L9, L10, L11, V3; F-1, F-3, F-12)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from gateway.admission.ladder import Gate
from gateway.admission.revocation import Revocation
from gateway.route import Limit, WhenUnavailable
from tests.support.admission import Answer, Replica, ask, concurrency, gcra, principal, quota, replica, route, sliding
from tests.support.ports import free_port
from tests.support.redis_server import KINDS, RedisServer, redis_server, run, until
from tests.support.relay import relay_to

BUDGET_SECONDS = 0.05
#: How soon it is back: a second, and what a busy machine makes of it.
BACK_SECONDS = 5.0
#: What a busy machine may add to any wait.
SLACK_SECONDS = 2.0
ALICE = principal("alice")
WITHOUT_STORE: tuple[WhenUnavailable, ...] = ("open", "fair_share")


@pytest.fixture(params=KINDS)
def own_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server that the test may stop, pause and configure."""
    with redis_server(request.param) as server:
        yield server


def gates(one: Replica, *limits: Limit) -> dict[str, Gate]:
    """A route of each kind with the same limits."""
    modes: tuple[WhenUnavailable, ...] = ("closed", "open", "fair_share")
    return {mode: one.gate(route(*limits, name=mode, when_unavailable=mode)) for mode in modes}


async def median_of(gate: Gate, count: int = 50) -> float:
    return sorted([(await ask(gate, ALICE)).seconds for _ in range(count)])[count // 2]


async def words(gate: Gate, count: int) -> list[str]:
    return [(await ask(gate, ALICE)).word for _ in range(count)]


def test_each_route_does_what_it_says_when_the_store_is_killed(own_server: RedisServer) -> None:
    """L10, F-3: kill -9: decided at once and by the route's own rule; the store decides again within a second of its return."""

    async def main() -> None:
        async with replica(own_server.url, budget_seconds=BUDGET_SECONDS) as one:
            by = gates(one, quota(1000), gcra(4, 60))
            assert {(await ask(gate, ALICE)).mode for gate in by.values()} == {"shared"}
            own_server.kill()
            await until(lambda: not one.admission.ready, "the loss to be noticed")
            first = {mode: await ask(by[mode], ALICE) for mode in WITHOUT_STORE}
            assert {mode: (answer.word, answer.mode) for mode, answer in first.items()} == {
                "open": ("admitted", "open"),
                "fair_share": ("admitted", "fair_share"),
            }
            assert max(answer.seconds for answer in first.values()) < BUDGET_SECONDS
            await until(lambda: not one.admission.ready, "still away")
            assert set(await words(by["open"], 20)) == {"admitted"}
            assert await words(by["fair_share"], 6) == ["admitted"] * 3 + ["limited"] * 3
            await asyncio.sleep(BUDGET_SECONDS)
            assert (await ask(by["closed"], ALICE)).word == "store_down"
            assert all([await median_of(gate) < BUDGET_SECONDS / 5 for gate in by.values()])
            own_server.start_again()
            await until(lambda: one.admission.ready, "admission to be back", BACK_SECONDS)
            assert {(await ask(gate, ALICE)).mode for gate in by.values()} == {"shared"}
            assert {mode for _, mode, _ in one.decided} == {"open", "fair_share"}
            assert ("fair_share", "fair_share", "limited") in one.decided

    run(main())


def test_a_store_that_stops_answering_costs_the_budget_and_then_nothing(own_server: RedisServer) -> None:
    """L10, F-12: SIGSTOP: whoever is on the way waits for the budget and is then decided about; after that nobody waits."""

    async def main() -> None:
        async with replica(own_server.url, budget_seconds=BUDGET_SECONDS) as one:
            by = gates(one, gcra(1000, 1))
            assert (await ask(by["fair_share"], ALICE)).mode == "shared"
            own_server.pause()
            try:
                answers = await asyncio.gather(*(ask(by["fair_share"], ALICE) for _ in range(20)))
                assert {(answer.word, answer.mode) for answer in answers} == {("admitted", "fair_share")}
                assert max(answer.seconds for answer in answers) < BUDGET_SECONDS + SLACK_SECONDS
                await until(lambda: not one.admission.ready, "the connection to be given up")
                assert await median_of(by["open"]) < BUDGET_SECONDS / 5
                assert await median_of(by["fair_share"]) < BUDGET_SECONDS / 5
            finally:
                own_server.resume()
            await until(lambda: one.admission.ready, "admission to be back", BACK_SECONDS)
            assert (await ask(by["fair_share"], ALICE)).mode == "shared"

    run(main())


def test_a_store_that_is_always_too_slow_is_not_asked_again_and_again(own_server: RedisServer) -> None:
    """L10: answers that take longer than the budget are as good as none: the breaker stays open while its probes are slow."""

    # Far longer than a busy machine makes anybody wait who does not wait for the store.
    budget = 0.3

    async def main() -> None:
        async with relay_to(own_server.port) as proxy:
            async with replica(f"redis://127.0.0.1:{proxy.port}/0", budget_seconds=budget) as one:
                gate = one.gate(route(gcra(1000, 1), when_unavailable="fair_share"))
                assert (await ask(gate, ALICE)).mode == "shared"
                proxy.delay_seconds = 3 * budget
                answers: list[Answer] = []
                for _ in range(150):
                    answers.append(await ask(gate, ALICE))
                    await asyncio.sleep(0.01)
                waited = [answer for answer in answers if answer.seconds > budget / 2]
                assert len(waited) <= 6
                assert {answer.mode for answer in answers[10:]} == {"fair_share"}
                assert not one.admission.ready
                proxy.delay_seconds = 0.0
                await until(lambda: one.admission.ready, "admission to be back")
                assert (await ask(gate, ALICE)).mode == "shared"

    run(main())


def test_a_black_hole_is_noticed_and_left(own_server: RedisServer) -> None:
    """L10, F-12: connections stay open and say nothing, new ones too."""

    async def main() -> None:
        async with relay_to(own_server.port) as proxy:
            async with replica(f"redis://127.0.0.1:{proxy.port}/0", budget_seconds=BUDGET_SECONDS) as one:
                gate = one.gate(route(gcra(1000, 1), when_unavailable="open"))
                assert (await ask(gate, ALICE)).mode == "shared"
                proxy.silent = True
                first = await ask(gate, ALICE)
                assert (first.word, first.mode) == ("admitted", "open")
                assert BUDGET_SECONDS / 2 < first.seconds < BUDGET_SECONDS + SLACK_SECONDS
                await until(lambda: not one.admission.ready, "the connection to be given up")
                assert await median_of(gate) < BUDGET_SECONDS / 5
                proxy.silent = False
                await until(lambda: one.admission.ready, "admission to be back")

    run(main())


@pytest.mark.parametrize("mode", WITHOUT_STORE)
def test_the_mirror_decides_about_revocation_while_the_store_is_away(own_server: RedisServer, mode: WhenUnavailable) -> None:
    """V3, F-7: 401 for what was revoked before the outage, whoever revoked it; others are admitted."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(replica(own_server.url, "first", budget_seconds=BUDGET_SECONDS))
            second = await stack.enter_async_context(replica(own_server.url, "second", budget_seconds=BUDGET_SECONDS))
            gate = second.gate(route(when_unavailable=mode))
            await first.revocations.revoke(Revocation(kind="subject", value="alice"))
            await first.revocations.revoke(Revocation(kind="session", value="s-1", issued_before=500.0))
            await until(lambda: len(second.mirror) == 2, "the mirror")
            own_server.kill()
            await until(lambda: not second.admission.ready, "the loss to be noticed")
            asked = [
                ALICE,
                principal("bob"),
                principal("bob", session="s-1", issued_at=400),
                principal("bob", session="s-1", issued_at=600),
            ]
            answers = [await ask(gate, who) for who in asked]
            assert [answer.word for answer in answers] == ["subject", "admitted", "session", "admitted"]
            assert {answer.mode for answer in answers} == {mode}
            assert [outcome for _, _, outcome in second.decided] == ["revoked", "admitted", "revoked", "admitted"]

    run(main())


def test_a_mirror_that_is_too_old_does_not_decide(own_server: RedisServer) -> None:
    """V3, F-3: the stale copy is bounded: beyond its age requests with a principal are refused, others need no mirror."""

    async def main() -> None:
        async with replica(own_server.url, budget_seconds=BUDGET_SECONDS, mirror_age_seconds=1.5) as one:
            by = gates(one, gcra(1000, 1))
            own_server.kill()
            await until(lambda: not one.admission.ready, "the loss to be noticed")
            assert {(await ask(by[mode], ALICE)).word for mode in WITHOUT_STORE} == {"admitted"}
            await until(lambda: one.mirror.age_seconds > 1.5, "the mirror to be too old")
            assert {(await ask(by[mode], ALICE)).word for mode in WITHOUT_STORE} == {"mirror_stale"}
            assert {(await ask(by[mode], None)).word for mode in WITHOUT_STORE} == {"admitted"}
            own_server.start_again()
            await until(lambda: one.admission.ready, "admission to be back", BACK_SECONDS)
            assert {(await ask(gate, ALICE)).word for gate in by.values()} == {"admitted"}

    run(main())


@pytest.mark.parametrize("mode", WITHOUT_STORE)
def test_a_store_that_was_never_there_admits_nobody(mode: WhenUnavailable) -> None:
    """L9: a wrong address, password or right is no outage, whatever the route says."""

    async def main() -> None:
        async with replica(f"redis://127.0.0.1:{free_port()}/0", budget_seconds=BUDGET_SECONDS) as one:
            gate = one.gate(route(gcra(1000, 1), when_unavailable=mode))
            assert [(await ask(gate, who)).word for who in (ALICE, None)] == ["store_down", "store_down"]

    run(main())


@pytest.mark.parametrize("mode", WITHOUT_STORE)
def test_what_is_set_up_wrong_is_no_outage(own_server: RedisServer, mode: WhenUnavailable) -> None:
    """L9: NOPERM, and a key of a wrong type, are 503 on every route: never an admission that nobody decided."""

    async def main() -> None:
        with own_server.client() as client:
            client.execute_command("ACL", "SETUSER", "gateway", "on", ">secret", "~*", "&*", "+@all")
            url = f"redis://gateway:secret@127.0.0.1:{own_server.port}/0"
            async with replica(url, budget_seconds=1.0) as one:
                gate = one.gate(route(quota(1000), when_unavailable=mode))
                assert (await ask(gate, ALICE)).mode == "shared"
                (key,) = list(client.keys("*quota*"))
                client.delete(key)
                client.lpush(key, "what should not be there")
                assert await words(gate, 2) == ["store_script", "store_script"]
                client.delete(key)
                client.execute_command("ACL", "SETUSER", "gateway", "-set")
                assert set(await words(gate, 2)) <= {"store_script", "store_permission"}
                assert one.decided == []

    run(main())


@pytest.mark.parametrize("limit", [gcra(12, 60), sliding(12, 60), quota(12), concurrency(12)], ids=lambda limit: limit.kind)
def test_every_kind_of_limit_is_shared_out(server: RedisServer, limit: Limit) -> None:
    """L11: three replicas that know of each other admit a third each; a place that is given back is free again."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            with redis_server("valkey") as own:
                three = [await stack.enter_async_context(replica(own.url, f"replica-{n}", budget_seconds=BUDGET_SECONDS)) for n in range(3)]
                await until(lambda: all(one.together.heartbeat.place[0] == 3 for one in three), "all to know of each other")
                own.kill()
                await until(lambda: not any(one.admission.ready for one in three), "the loss to be noticed")
                for one in three:
                    gate = one.gate(route(limit, when_unavailable="fair_share"))
                    answers = [await ask(gate, ALICE) for _ in range(10)]
                    assert [answer.word for answer in answers] == ["admitted"] * 4 + ["limited"] * 6
                    first = answers[0].found
                    assert not isinstance(first, str)
                    assert first.header_block.startswith(b'ratelimit: "%b";r=3' % limit.name.encode())
                    one.ladder.release(first)
                    assert (await ask(gate, ALICE)).word == ("admitted" if limit.kind == "concurrency" else "limited")

    run(main())


def test_one_outage_after_the_other_gives_nothing_for_free(own_server: RedisServer) -> None:
    """L11: what was admitted without the store is remembered beyond its return."""

    async def main() -> None:
        async with replica(own_server.url, budget_seconds=BUDGET_SECONDS) as one:
            gate = one.gate(route(quota(5), when_unavailable="fair_share"))
            admitted = 0
            for _ in range(3):
                own_server.kill()
                await until(lambda: not one.admission.ready, "the loss to be noticed")
                admitted += (await words(gate, 10)).count("admitted")
                own_server.start_again()
                await until(lambda: one.admission.ready, "admission to be back", BACK_SECONDS)
            assert admitted == 5

    run(main())


def test_replicas_come_back_one_after_the_other() -> None:
    """F-12: after an outage the attempts are spread over time, and each replica opens only the connections that it needs."""
    replicas = 12

    async def main() -> None:
        async with AsyncExitStack() as stack:
            with redis_server("valkey") as own:
                every = [
                    await stack.enter_async_context(replica(own.url, f"replica-{n}", budget_seconds=BUDGET_SECONDS))
                    for n in range(replicas)
                ]
                own.kill()
                lost_at = time.monotonic()
                await until(lambda: not any(one.admission.ready for one in every), "the loss to be noticed")
                # Long enough for the pauses between attempts to have grown.
                await until(lambda: time.monotonic() - lost_at > 1.5, "the outage to last")
                own.start_again()
                back_at = time.monotonic()
                waits: dict[str, float] = {}
                while len(waits) < replicas:
                    waits.update({one.name: time.monotonic() - back_at for one in every if one.admission.ready and one.name not in waits})
                    assert time.monotonic() < back_at + 5
                    await asyncio.sleep(0.002)
                assert max(waits.values()) - min(waits.values()) > 0.1
                with own.client() as client:
                    opened = client.info("stats")["total_connections_received"]
                # One for admission, some for heartbeats and the journal, and what looks whether the server is there.
                assert opened <= 6 * replicas

    run(main())
