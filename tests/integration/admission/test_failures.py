"""Whatever goes wrong with the store: 503 `store_unavailable`, never an admission, never a 500 (SPEC L9, L10; F-1..F-6, F-11, F-12)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from gateway.admission.admission import Admission, AdmissionPlan, Verdict
from gateway.admission.revocation import Revocation, Revocations
from gateway.auth.principal import Principal
from gateway.route import Limit
from gateway.settings import StateSettings
from gateway.store.error import StoreError
from gateway.store.redis import Store
from tests.support.admission import FixedFacts, Recorder, admitting, concurrency, gcra, outcome, principal, quota, route, sliding, verdict
from tests.support.ports import free_port
from tests.support.redis_server import KINDS, LOOPS, RedisServer, redis_server, run, until

BUDGET_SECONDS = 0.1
#: How soon it is back: a second, and what a busy machine makes of it.
BACK_SECONDS = 5.0
#: What a busy machine may add to any wait.
SLACK_SECONDS = 2.0


@pytest.fixture(params=KINDS)
def own_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server that the test may stop, pause and configure."""
    with redis_server(request.param) as server:
        yield server


async def timed(admission: Admission, plan: AdmissionPlan, who: Principal) -> tuple[Verdict | str, float]:
    started = time.monotonic()
    found = await outcome(admission, plan, who)
    return found, time.monotonic() - started


def test_a_store_that_is_away_at_the_start_is_taken_when_it_comes(own_server: RedisServer) -> None:
    """L9, L10: start does not fail, requests get 503, and admission becomes ready by itself."""
    own_server.kill()

    async def main() -> None:
        recorder = Recorder()
        async with admitting(own_server.url, budget_seconds=BUDGET_SECONDS, observer=recorder) as (_, admission):
            plan, someone = admission.plan(route(gcra(5, 1))), principal()
            assert not admission.ready
            assert admission.mode == "unavailable"
            assert isinstance(await outcome(admission, plan, someone), str)
            own_server.start_again()
            await until(lambda: admission.ready, "admission to be ready")
            assert (await verdict(admission, plan, someone)).allowed
            assert recorder.modes == ["shared"]

    run(main())


def test_a_store_that_dies_costs_nothing_and_is_back_within_a_second(own_server: RedisServer) -> None:
    """L10: connection loss is noticed at once; then a refusal takes no time; back within one probe interval."""

    async def main() -> None:
        recorder = Recorder()
        async with admitting(own_server.url, budget_seconds=BUDGET_SECONDS, observer=recorder) as (_, admission):
            plan, someone = admission.plan(route(quota(100))), principal()
            assert (await verdict(admission, plan, someone)).allowed
            own_server.kill()
            await until(lambda: not admission.ready, "the loss to be noticed")
            lost_at = time.monotonic()
            while time.monotonic() < lost_at + 2 * BUDGET_SECONDS:
                found, seconds = await timed(admission, plan, someone)
                assert isinstance(found, str)
                assert seconds < BUDGET_SECONDS + SLACK_SECONDS
            took = [(await timed(admission, plan, someone))[1] for _ in range(50)]
            assert sorted(took)[25] < BUDGET_SECONDS / 5
            own_server.start_again()
            back_at = time.monotonic()
            await until(lambda: admission.ready, "admission to be back")
            assert time.monotonic() - back_at < BACK_SECONDS
            assert (await verdict(admission, plan, someone)).allowed
            assert recorder.modes == ["shared", "unavailable", "shared"]

    run(main())


@pytest.mark.parametrize("loop_factory", LOOPS, ids=["asyncio", "uvloop"])
def test_a_black_hole_costs_the_budget_then_nothing(own_server: RedisServer, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """L10, F-1, F-12: added latency within the budget; a silent connection is given up; its late answers reach nobody."""

    async def main() -> None:
        async with admitting(own_server.url, budget_seconds=BUDGET_SECONDS) as (_, admission):
            plan, someone = admission.plan(route(quota(1000))), principal()
            assert (await verdict(admission, plan, someone)).allowed
            own_server.pause()
            try:
                found = await asyncio.gather(*(timed(admission, plan, someone) for _ in range(20)))
                assert {one for one, _ in found} == {"store_timeout"}
                assert max(seconds for _, seconds in found) < BUDGET_SECONDS + SLACK_SECONDS
                await until(lambda: not admission.ready, "the connection to be given up")
                _, seconds = await timed(admission, plan, someone)
                assert seconds < BUDGET_SECONDS + SLACK_SECONDS
            finally:
                own_server.resume()
            await until(lambda: admission.ready, "admission to be back")
            assert (await verdict(admission, plan, someone)).allowed

    run(main(), loop_factory)


def test_an_admission_that_is_not_running_refuses() -> None:
    """L9: before the start and after the end, as while the store is away."""

    async def main() -> None:
        with redis_server("valkey") as server:
            async with admitting(server.url) as (store, admission):
                plan, someone = admission.plan(route(quota(1))), principal()
                assert await outcome(Admission(store, budget_seconds=1, observer=Recorder()), plan, someone) == "store_closed"
            assert await outcome(admission, plan, someone) == "store_closed"
            assert not admission.ready

    run(main())


def test_answers_never_reach_another_request(own_server: RedisServer) -> None:
    """F-11: requests that were cancelled or timed out leave nothing behind that a later one could be given."""

    async def main() -> None:
        async with admitting(own_server.url, budget_seconds=5.0) as (_, admission):
            plan = admission.plan(route(quota(1_000_000)))
            expected = dict.fromkeys(range(20), 0)
            for turn in range(40):
                asked = [(number, admission.admit(plan, principal(f"user-{number}"), FixedFacts())) for number in expected]
                for number, _ in asked:
                    expected[number] += number + 1
                extra = [admission.admit(plan, principal(f"user-{n}"), FixedFacts()) for n in expected for _ in range(n)]
                for future in extra[turn % 3 :: 3]:
                    assert isinstance(future, asyncio.Future)
                    asyncio.get_running_loop().call_soon(future.cancel)
                found = await asyncio.gather(*(future for _, future in asked))
                await asyncio.gather(*extra, return_exceptions=True)
                assert all(one.allowed for one in found)
            peeks = [await admission.peek(plan, principal(f"user-{number}"), FixedFacts()) for number in expected]
            # A cancelled request counts when it had been sent already; none counts for somebody else.
            for number, peek in enumerate(peeks):
                assert 40 <= 1_000_000 - peek.remaining[0][1] <= expected[number]

    run(main())


ACL_WITHOUT_SCRIPTS = ("~*", "&*", "+@all", "-@scripting")
ACL_WITHOUT_WRITES = ("~*", "&*", "+@all", "-set")
ACL_WITHOUT_KEYS = ("~other:*", "&*", "+@all")


@pytest.mark.parametrize("rules", [ACL_WITHOUT_SCRIPTS, ACL_WITHOUT_WRITES, ACL_WITHOUT_KEYS], ids=["scripts", "set", "keys"])
def test_a_user_without_the_permission_is_never_admitted(own_server: RedisServer, rules: tuple[str, ...]) -> None:
    """L9, F-6: NOPERM on scripts, on a command inside, or on our keys."""
    with own_server.client() as client:
        client.execute_command("ACL", "SETUSER", "limited", "on", ">secret", *rules)
    url = f"redis://limited:secret@127.0.0.1:{own_server.port}/0"

    async def main() -> None:
        async with admitting(url, budget_seconds=BUDGET_SECONDS) as (_, admission):
            plan = admission.plan(route(gcra(5, 1)))
            for _ in range(3):
                assert isinstance(await outcome(admission, plan, principal()), str)
            with own_server.client() as client:
                assert client.keys("*") == []

    run(main())


def test_a_wrong_password_is_never_admitted(own_server: RedisServer) -> None:
    """L9: WRONGPASS; ready as soon as the password holds."""
    url = f"redis://someone:secret@127.0.0.1:{own_server.port}/0"

    async def main() -> None:
        async with admitting(url, budget_seconds=BUDGET_SECONDS) as (_, admission):
            plan = admission.plan(route())
            assert isinstance(await outcome(admission, plan, principal()), str)
            with own_server.client() as client:
                client.execute_command("ACL", "SETUSER", "someone", "on", ">secret", "~*", "+@all")
            await until(lambda: admission.ready, "admission to be ready")
            assert (await verdict(admission, plan, principal())).allowed

    run(main())


def test_a_full_store_refuses_and_counts_nothing(own_server: RedisServer) -> None:
    """L9, F-6: OOM; revoking works all the same, and what was revoked is refused as soon as requests are decided again."""

    async def main() -> None:
        async with admitting(own_server.url) as (store, admission):
            plan = admission.plan(route(gcra(5, 1), quota(5)))
            with own_server.client() as client:
                client.config_set("maxmemory", 1)
                for _ in range(3):
                    assert await outcome(admission, plan, principal()) == "store_out_of_memory"
                assert client.keys("*") == []
                await Revocations(store).revoke(Revocation(kind="subject", value="alice"))
                client.config_set("maxmemory", 0)
            assert (await verdict(admission, plan, principal())).revoked == "subject"
            assert (await verdict(admission, plan, principal("bob"))).allowed

    run(main())


def test_a_demoted_primary_is_left(own_server: RedisServer) -> None:
    """F-5: READONLY refuses, the connection is given up and opened again; a primary is taken at once."""

    async def main() -> None:
        async with admitting(own_server.url, budget_seconds=BUDGET_SECONDS) as (_, admission):
            plan = admission.plan(route(quota(5)))
            with own_server.client() as client:
                client.replicaof("127.0.0.1", free_port())
                assert await outcome(admission, plan, principal()) == "store_read_only"
                client.replicaof("NO", "ONE")
            await until(lambda: admission.ready, "a new connection")
            assert (await verdict(admission, plan, principal())).allowed

    run(main())


def test_a_server_busy_with_another_script_is_unavailable(own_server: RedisServer) -> None:
    """F-6: BUSY."""

    async def main() -> None:
        async with admitting(own_server.url, budget_seconds=5.0) as (_, admission):
            plan = admission.plan(route(quota(5)))
            with own_server.client() as client:
                client.config_set("busy-reply-threshold", 10)
            loop = asyncio.get_running_loop()
            endless = loop.run_in_executor(None, _run_for_ever, own_server)
            with own_server.client() as client:
                await until(lambda: _is_busy(own_server), "the server to be busy")
                assert await outcome(admission, plan, principal()) == "store_unavailable"
                client.script_kill()
            await endless
            assert (await verdict(admission, plan, principal())).allowed

    run(main())


@pytest.mark.parametrize("limit", [gcra(5, 60), sliding(5, 60), quota(5), concurrency(5)], ids=lambda limit: limit.kind)
@pytest.mark.parametrize("damage", ["type", "value"])
def test_a_damaged_key_is_never_admitted(own_server: RedisServer, limit: Limit, damage: str) -> None:
    """L9: a wrong type or a cut value where our state should be; other limits of the request stay uncounted."""

    async def main() -> None:
        async with admitting(own_server.url) as (_, admission):
            plan = admission.plan(route(quota(100, name="other"), limit))
            with own_server.client() as client:
                assert (await verdict(admission, plan, principal())).allowed
                (key,) = [key for key in client.keys("*") if b":other:" not in key]
                client.delete(key)
                if damage == "type" and limit.kind != "concurrency":
                    client.hset(key, "a", "b")
                else:
                    client.set(key, b"cut")
                before = client.get(next(key for key in client.keys("*") if b":other:" in key))
                for _ in range(3):
                    assert await outcome(admission, plan, principal()) == "store_script"
                assert client.get(next(key for key in client.keys("*") if b":other:" in key)) == before

    run(main())


def test_a_reply_that_is_not_ours_is_never_admitted() -> None:
    """L9: a server that answers everything with OK."""

    async def main() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65_536):
                writer.write(b"+OK\r\n" * (data.count(b"EVALSHA") + data.count(b"SCRIPT") + data.count(b"CLIENT")))
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            async with admitting(url, budget_seconds=BUDGET_SECONDS) as (_, admission):
                assert await outcome(admission, admission.plan(route(quota(5))), principal()) == "store_script"

    run(main())


def test_scripts_are_sent_once_even_when_nobody_answers(own_server: RedisServer) -> None:
    """F-2: a counting script is never sent again because no answer came."""

    async def main() -> None:
        async with admitting(own_server.url, budget_seconds=BUDGET_SECONDS) as (_, admission):
            plan = admission.plan(route(quota(100)))
            assert (await verdict(admission, plan, principal())).allowed
            own_server.pause()
            found = await outcome(admission, plan, principal())
            own_server.resume()
            assert found == "store_timeout"
            await until(lambda: admission.ready, "admission to be back")
            left = (await admission.peek(plan, principal(), FixedFacts())).remaining[0][1]
            assert left in (98, 99)

    run(main())


def test_ordinary_calls_are_sent_once_and_end_in_time(own_server: RedisServer) -> None:
    """F-1, F-2: a revocation to a black hole fails within seconds, as `timeout`: nobody knows whether it was written."""

    async def main() -> None:
        store = Store.open(StateSettings(url=own_server.url))
        await store.client.ping()
        own_server.pause()
        started = time.monotonic()
        with pytest.raises(StoreError) as caught:
            await Revocations(store).revoke(Revocation(kind="subject", value="alice"))
        own_server.resume()
        assert caught.value.kind == "timeout"
        assert time.monotonic() - started < 15
        await store.close()

    run(main())


def _run_for_ever(server: RedisServer) -> None:
    with server.client() as client:
        with pytest.raises(redis.RedisError):
            client.eval("while true do end", 0)


def _is_busy(server: RedisServer) -> bool:
    with server.client() as client:
        try:
            client.ping()
        except redis.RedisError as error:
            return "BUSY" in str(error)
    return False
