"""Revocations as SPEC section 2 states them, on real servers."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.admission.admission import Admission
from gateway.admission.revocation import Revocation, RevocationKind, Revocations
from gateway.auth.principal import Principal
from gateway.settings import StateSettings
from gateway.store.redis import Store
from tests.support.admission import ISSUER, FixedFacts, Recorder, admitting, concurrency, principal, quota, route, verdict
from tests.support.redis_server import RedisServer, run, until

TOKEN = principal("alice", token_id="t-1", session="s-1", client="c-1", issued_at=5_000)
OTHERS = {
    "jti": principal("alice", token_id="t-2", session="s-1", client="c-1"),
    "subject": principal("bob", token_id="t-1", session="s-1", client="c-1"),
    "session": principal("alice", token_id="t-1", session="s-2", client="c-1"),
    "client": principal("alice", token_id="t-1", session="s-1", client="c-2"),
    "issuer": principal("alice", issuer="https://other", token_id="t-1", session="s-1", client="c-1"),
}
CASES: list[tuple[RevocationKind, str]] = [("jti", "t-1"), ("subject", "alice"), ("session", "s-1"), ("client", "c-1"), ("issuer", ISSUER)]


async def revoked(admission: Admission, someone: Principal) -> str:
    return (await verdict(admission, admission.plan(route()), someone)).revoked


@pytest.mark.parametrize(("kind", "value"), CASES)
def test_each_kind_refuses_its_tokens_and_no_others(server: RedisServer, kind: RevocationKind, value: str) -> None:
    """V1, V5: on a route without limits; the verdict names the kind; a token that differs in it goes on; removal ends it."""

    async def main() -> None:
        async with admitting(server.url) as (store, admission):
            revocations = Revocations(store)
            assert await revoked(admission, TOKEN) == ""
            await revocations.revoke(Revocation(kind=kind, value=value))
            assert await revoked(admission, TOKEN) == kind
            assert await revoked(admission, OTHERS[kind]) == ""
            assert await revocations.remove(kind, value)
            assert not await revocations.remove(kind, value)
            assert await revoked(admission, TOKEN) == ""

    run(main())


@pytest.mark.parametrize(("kind", "value"), CASES)
def test_an_entry_may_concern_old_tokens_only(server: RedisServer, kind: RevocationKind, value: str) -> None:
    """V1: only tokens issued at or before T; a token that does not say when it was issued counts as old."""

    async def main() -> None:
        async with admitting(server.url) as (store, admission):
            revocations = Revocations(store)
            await revocations.revoke(Revocation(kind=kind, value=value, issued_before=4_999))
            assert await revoked(admission, TOKEN) == ""
            silent = principal("alice", token_id="t-1", session="s-1", client="c-1", issued_at=0)
            assert await revoked(admission, silent) == kind
            await revocations.revoke(Revocation(kind=kind, value=value, issued_before=5_000))
            assert await revoked(admission, TOKEN) == kind

    run(main())


def test_an_entry_may_concern_one_issuer_or_one_subject_only(server: RedisServer) -> None:
    """S-30: entries of the same value for different issuers live side by side."""

    async def main() -> None:
        async with admitting(server.url) as (store, admission):
            revocations = Revocations(store)
            await revocations.revoke(Revocation(kind="subject", value="alice", issuer="https://elsewhere"))
            await revocations.revoke(Revocation(kind="jti", value="t-1", subject="mallory"))
            assert await revoked(admission, TOKEN) == ""
            await revocations.revoke(Revocation(kind="subject", value="alice", issuer=ISSUER))
            assert await revoked(admission, TOKEN) == "subject"
            assert await revoked(admission, principal("alice", issuer="https://third")) == ""
            assert await revoked(admission, principal("mallory", token_id="t-1")) == "jti"
            assert len(await revocations.list()) == 3
            assert await revocations.remove("subject", "alice")
            assert [entry.kind for entry in await revocations.list()] == ["jti"]

    run(main())


def test_entries_end_by_themselves(server: RedisServer) -> None:
    """V1: after its expiry an entry neither refuses nor is listed, and the store keeps nothing of it."""

    async def main() -> None:
        async with admitting(server.url) as (store, admission):
            revocations = Revocations(store)
            await revocations.revoke(Revocation(kind="jti", value="t-1", expires_at=time.time() + 0.3))
            assert await revoked(admission, TOKEN) == "jti"
            with server.client() as client:
                assert all(client.pttl(key) > 0 for key in client.keys("gw:*"))
                await until(lambda: client.dbsize() == 0, "the entry to end")
            assert await revoked(admission, TOKEN) == ""
            assert await revocations.list() == []

    run(main())


def test_expired_entries_do_not_pile_up_beside_living_ones(server: RedisServer) -> None:
    """V1: a later write removes what has expired."""

    async def main() -> None:
        async with admitting(server.url) as (store, admission):
            assert admission.ready
            revocations = Revocations(store)
            soon = time.time() + 0.2
            for number in range(20):
                await revocations.revoke(Revocation(kind="jti", value=f"short-{number}", expires_at=soon))
            await revocations.revoke(Revocation(kind="jti", value="long"))
            await until(lambda: time.time() > soon, "the short ones to expire")
            assert [entry.value for entry in await revocations.list()] == ["long"]
            await revocations.revoke(Revocation(kind="jti", value="another"))
            with server.client() as client:
                assert client.hlen("gw:{s00}:revocations") == 2
                assert client.zcard("gw:{s00}:revoked") == 2
                assert client.zcard("gw:{s00}:revocations-by-expiry") == 2

    run(main())


def test_a_shorter_entry_does_not_end_a_longer_one(server: RedisServer) -> None:
    """V1: entries for the same identity end each at its own time."""

    async def main() -> None:
        async with admitting(server.url) as (store, admission):
            revocations = Revocations(store)
            soon = time.time() + 0.2
            await revocations.revoke(Revocation(kind="subject", value="alice", issuer=ISSUER))
            await revocations.revoke(Revocation(kind="subject", value="alice", issuer="https://other", expires_at=soon))
            await until(lambda: time.time() > soon, "the shorter one to expire")
            assert await revoked(admission, TOKEN) == "subject"
            assert await revoked(admission, principal("alice", issuer="https://other")) == ""

    run(main())


def test_an_acknowledged_revocation_is_seen_by_every_replica_at_once(server: RedisServer) -> None:
    """V2: on every replica, whatever it had kept with the principal, in the middle of traffic."""

    async def main() -> None:
        async with admitting(server.url) as (store, first), admitting(server.url) as (_, second):
            plans = [(one, one.plan(route(quota(10_000)))) for one in (first, second)]
            someone, revoked_at = principal("alice"), asyncio.Event()
            late: list[str] = []

            async def traffic(one: int) -> None:
                admission, plan = plans[one]
                for _ in range(200):
                    was_revoked = revoked_at.is_set()
                    found = await verdict(admission, plan, someone)
                    if was_revoked:
                        late.append(found.revoked)

            runners = [asyncio.ensure_future(traffic(i % 2)) for i in range(8)]
            await asyncio.sleep(0)
            await Revocations(store).revoke(Revocation(kind="subject", value="alice"))
            revoked_at.set()
            await asyncio.gather(*runners)
            assert late
            assert set(late) == {"subject"}

    run(main())


def test_a_revoked_request_counts_nowhere(server: RedisServer) -> None:
    """V2 and "a refused request changes nothing": neither limits nor shadow limits nor leases."""

    async def main() -> None:
        async with admitting(server.url) as (store, admission):
            plan = admission.plan(route(quota(10), concurrency(2), shadow=(quota(10, name="planned"),)))
            await Revocations(store).revoke(Revocation(kind="subject", value="alice"))
            for _ in range(5):
                found = await verdict(admission, plan, principal("alice"))
                assert (found.revoked, found.allowed, found.header_block) == ("subject", False, b"")
            with server.client() as client:
                assert sorted(client.keys("*")) == [b"gw:{s00}:revocations", b"gw:{s00}:revocations-by-expiry", b"gw:{s00}:revoked"]
            assert (await verdict(admission, plan, principal("bob"))).allowed

    run(main())


def test_public_requests_make_no_call(server: RedisServer) -> None:
    """V5: nobody in particular on a route without limits is not checked."""

    async def main() -> None:
        recorder = Recorder()
        async with admitting(server.url, observer=recorder) as (_, admission):
            plan = admission.plan(route())
            assert not plan.needs(None)
            assert plan.needs(principal())
            assert (await admission.admit(plan, None, FixedFacts())).allowed
            assert recorder.sizes == []

    run(main())


def test_a_listing_tells_what_was_written_newest_first(server: RedisServer) -> None:
    async def main() -> None:
        store = Store.open(StateSettings(url=server.url))
        times = iter(range(1_000, 2_000))
        revocations = Revocations(store, maximum_lifetime_seconds=1e9 * 3, clock=lambda: float(next(times)))
        first = await revocations.revoke(Revocation(kind="client", value="app", reason="lost laptop"))
        second = await revocations.revoke(Revocation(kind="jti", value="t", subject="alice", issued_before=5.0, expires_at=3e9))
        assert (first.created_at, first.expires_at) == (1_000.0, 1_000 + 1e9 * 3)
        assert await revocations.list() == [second, first]
        await store.close()

    run(main())
