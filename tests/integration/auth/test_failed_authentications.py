"""Clients that fail to prove anything again and again, at gateways that share a store (SPEC A8, S-40)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import jwt
import pytest

from gateway import BackendAPIGateway
from gateway.auth.failures import FailureLimit, FailureLimits, NoFailureLimit
from gateway.auth.jwk import VerificationKey
from gateway.errors import RateLimited
from gateway.telemetry.exposition import render
from tests.support.admission import FixedFacts, admitting, gcra
from tests.support.gateway_process import ADAPTERS, Adapter, RunningGateway, run, serving
from tests.support.recording_upstream import recording_upstream
from tests.support.redis_server import KINDS, RedisServer, any_server, until
from tests.support.tokens import secret_file

SECRET = "a secret that is long enough for HS256"
#: A little more than any test takes, so that nothing drains meanwhile.
SLOW = "5/hour"


@asynccontextmanager
async def gateway(
    directory: Path, store: str, upstream: str, failures: Any, adapter: Adapter = "wire", budget: str = "2s", **authentication: Any
) -> AsyncIterator[RunningGateway]:
    """A gateway that believes what any client of this machine says of its own address."""
    issuer = {"name": "i", "issuer": "https://i", "audience": ["a"], "algorithms": ["HS256"], "secret_file": secret_file(directory, SECRET)}
    app = BackendAPIGateway(
        state={"url": store, "budget": budget},
        server={"trusted_proxies": ["127.0.0.0/8"]},
        audit={"sink": [f"file:{directory / 'audit.jsonl'}"]},
        authentication={"issuers": [issuer], "failures": failures, **authentication},
    )
    app.service("s", instances=[upstream])
    app.proxy("/s/{rest:path}", "s")
    app.proxy("/optional", "s", authentication="optional")
    async with serving(app, directory, adapter) as running:
        # Without the store each would count by itself, which is right, and not what is asked here.
        await until(lambda: running.runtime.admission.ready, "the store")
        yield running


def token(number: int = 0, secret: str = SECRET) -> str:
    return jwt.encode({"iss": "https://i", "aud": "a", "sub": "alice", "jti": str(number), "iat": 1, "exp": 4_000_000_000}, secret, "HS256")


async def ask(gateway: RunningGateway, client_ip: str, credentials: str = "", path: str = "/s/x") -> tuple[int, str]:
    """Status and code of a request from an address."""
    field = f"Authorization: {credentials}\r\n" if credentials else ""
    head = f"GET {path} HTTP/1.1\r\nHost: gateway\r\nX-Forwarded-For: {client_ip}\r\n{field}\r\n"
    response = await gateway.ask(head.encode())
    return response.status, response.problem["code"] if response.status >= 400 else ""


def bad(number: int) -> str:
    return f"Bearer {token(number, 'another secret that is long enough')}"


GOOD = f"Bearer {token()}"
REFUSED, LIMITED, SERVED = (401, "token_invalid"), (429, "rate_limited"), (200, "")


@pytest.fixture(scope="module", params=KINDS)
def shared(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with any_server(request.param) as server:
        yield server


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_limit_is_that_of_all_replicas(shared: RedisServer, tmp_path: Path, adapter: Adapter) -> None:
    """A8, S-40: five failures at two gateways together; a third one learns it from its first. Other addresses are served."""
    mine, other = ("192.0.2.1", "192.0.2.2") if adapter == "wire" else ("192.0.2.3", "192.0.2.4")

    async def scenario() -> None:
        async with (
            recording_upstream() as upstream,
            gateway(tmp_path / "a", shared.url, upstream.url, {"rate": SLOW}, adapter) as first,
            gateway(tmp_path / "b", shared.url, upstream.url, {"rate": SLOW}, adapter) as second,
        ):
            outcomes = [await ask(each, mine, bad(number)) for number, each in enumerate((first, second) * 4)]
            assert outcomes == [REFUSED] * 5 + [LIMITED] * 3
            assert await ask(first, mine, GOOD) == LIMITED
            assert await ask(first, other, GOOD) == SERVED
            # What was verified before is not verified again, so it is no matter for this limit.
            assert await ask(first, mine, GOOD) == SERVED
            assert await ask(first, mine) == (401, "unauthorized")
            assert await ask(first, mine, path="/optional") == SERVED
            record = await first.record(lambda record: record["response"]["status"] == 429, of=2)
            assert (record["decision"], record["reason"], record["limited"]) == ("deny", "rate_limited", ["authentication.failures"])
            assert b'gateway_limited_total{limit="authentication.failures"' in render(first.runtime.telemetry.metrics)

    run(scenario())


def test_the_answer_has_the_fields_of_a_limit(shared: RedisServer, tmp_path: Path) -> None:
    """A8: Retry-After, RateLimit, RateLimit-Policy, and the problem document."""

    async def scenario() -> None:
        async with recording_upstream() as upstream, gateway(tmp_path, shared.url, upstream.url, {"rate": "1/hour"}) as running:
            head = b"GET /s/x HTTP/1.1\r\nHost: g\r\nX-Forwarded-For: 198.51.100.1\r\nAuthorization: Bearer %b\r\n\r\n"
            assert (await running.ask(head % b"nonsense")).status == 401
            response = await running.ask(head % b"nonsense")
            assert response.status == 429
            assert response.problem["violated-policies"] == ["authentication.failures"]
            [wait] = response.values(b"retry-after")
            assert 3500 < int(wait) <= 3601
            assert response.values(b"ratelimit") == [b'"authentication.failures";r=0;t=' + wait]
            assert response.values(b"ratelimit-policy") == [b'"authentication.failures";q=1;w=3600']

    run(scenario())


def test_beyond_the_limit_no_signature_is_verified(shared: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A8: bad tokens can't burn CPU, also when they all come at once."""
    verified: list[int] = []
    verifies = VerificationKey.verifies

    def counted(key: VerificationKey, signing_input: bytes, signature: bytes) -> bool:
        verified.append(1)
        return verifies(key, signing_input, signature)

    monkeypatch.setattr(VerificationKey, "verifies", counted)

    async def scenario() -> None:
        async with recording_upstream() as upstream, gateway(tmp_path, shared.url, upstream.url, {"rate": SLOW}) as running:
            outcomes = await asyncio.gather(*(ask(running, "198.51.100.2", bad(number)) for number in range(60)))
            assert sorted(outcomes) == [REFUSED] * 5 + [LIMITED] * 55
            before = len(verified)
            assert [await ask(running, "198.51.100.2", bad(number)) for number in range(20)] == [LIMITED] * 20
            assert len(verified) == before

    run(scenario())


@pytest.mark.parametrize(
    "credentials",
    ["Bearer nonsense", "Basic YTpi", "Bearer ", f"Bearer {token(7, 'x' * 32)}", "Bearer " + "a" * 9000],
    ids=["no token", "another scheme", "nothing", "wrong signature", "too large"],
)
def test_whatever_does_not_hold_counts(shared: RedisServer, tmp_path: Path, credentials: str) -> None:
    """A8: a guess is a guess, whatever it looks like."""
    address = f"203.0.113.{1 + crc32(credentials.encode()) % 250}"

    async def scenario() -> None:
        async with recording_upstream() as upstream, gateway(tmp_path, shared.url, upstream.url, {"rate": "2/hour"}) as running:
            outcomes = [(await ask(running, address, credentials))[0] for _ in range(4)]
            assert outcomes == [401, 401, 429, 429]

    run(scenario())


def test_without_the_store_each_process_counts_by_itself(tmp_path: Path) -> None:
    """A8, L9: a store that is away is no way in, and no way around the limit."""

    async def scenario(server: RedisServer) -> None:
        async with recording_upstream() as upstream, gateway(tmp_path, server.url, upstream.url, {"rate": SLOW}) as running:
            assert await ask(running, "192.0.2.1", bad(0)) == REFUSED
            await asyncio.to_thread(server.kill)
            assert [await ask(running, "192.0.2.1", bad(number)) for number in range(6)] == [REFUSED] * 4 + [LIMITED] * 2
            assert await ask(running, "192.0.2.9", bad(0)) == REFUSED

    with any_server("redis") as server:
        run(scenario(server))


def test_a_silent_store_delays_a_refusal_by_its_budget_and_admits_nobody(tmp_path: Path) -> None:
    """A8, L9: those that come at once wait together; the signature of no more than the limit's count is verified."""

    async def scenario(server: RedisServer) -> None:
        async with recording_upstream() as upstream, gateway(tmp_path, server.url, upstream.url, {"rate": SLOW}, budget="300ms") as running:
            assert await ask(running, "192.0.2.1", bad(0)) == REFUSED
            server.pause()
            try:
                started = time.monotonic()
                outcomes = await asyncio.gather(*(ask(running, "192.0.2.1", bad(number)) for number in range(12)))
                # Several budgets, for a busy machine: one is what an idle one takes.
                assert time.monotonic() - started < 5
            finally:
                server.resume()
            assert sorted(outcomes) == [REFUSED] * 4 + [LIMITED] * 8

    with any_server("redis") as server:
        run(scenario(server))


def test_on_a_store_of_several_shards_an_address_has_one_place(shared: RedisServer) -> None:
    """A8, L12: two processes count together, whichever shard the address is on."""

    async def scenario() -> None:
        async with admitting(shared.url, shards=16) as (_, first), admitting(shared.url, shards=16) as (_, second):
            await until(lambda: first.ready and second.ready, "the store")
            limit = gcra(2, 3600, name="authentication.failures", key=("client_ip",))
            limits = [FailureLimits(each).against(limit) for each in (first, second)]
            for number in range(40):
                facts = FixedFacts(f"198.51.{100 + number}.7")
                outcomes = [await counted(limit, facts) for limit in limits * 2]
                assert outcomes == ["counted", "counted", "limited", "limited"], facts

    async def counted(limit: FailureLimit | NoFailureLimit, facts: FixedFacts) -> str:
        try:
            await limit.count(facts)
        except RateLimited:
            return "limited"
        return "counted"

    run(scenario())


def test_a_reload_forgives_nobody(shared: RedisServer, tmp_path: Path) -> None:
    """A8, G3: another configuration with the same limit goes on counting, and one without it stops."""

    async def scenario() -> None:
        async with recording_upstream() as upstream, gateway(tmp_path, shared.url, upstream.url, {"rate": SLOW}) as running:
            for number in range(5):
                assert await ask(running, "198.51.100.8", bad(number)) == REFUSED
            settings = running.runtime.settings
            server = replace(settings.server, timeouts=replace(settings.server.timeouts, idle=33.0))
            assert await running.runtime.adopt(replace(settings, server=server)) == 2
            assert await ask(running, "198.51.100.8", bad(9)) == LIMITED
            off = replace(settings, authentication=replace(settings.authentication, failures=None))
            assert await running.runtime.adopt(off) == 3
            assert await ask(running, "198.51.100.8", bad(9)) == REFUSED

    run(scenario())


def test_good_requests_ask_the_store_no_more_often_than_without_the_limit(shared: RedisServer, tmp_path: Path) -> None:
    """A8: the limit costs a request that holds no call: one admission each, with it and without it."""

    def calls(server: RedisServer) -> int:
        with server.client() as client:
            statistics: Any = client.info("commandstats")
            return int(statistics.get("cmdstat_evalsha", {}).get("calls", 0))

    async def scenario(failures: Any, directory: Path) -> int:
        async with recording_upstream() as upstream, gateway(directory, shared.url, upstream.url, failures) as running:
            before = await asyncio.to_thread(calls, shared)
            for number in range(20):
                assert await ask(running, "198.51.100.9", f"Bearer {token(number)}") == SERVED
            return await asyncio.to_thread(calls, shared) - before

    found: dict[str, int] = {}

    async def counted(name: str, failures: Any) -> None:
        found[name] = await scenario(failures, tmp_path / name)

    run(counted("with", {"rate": SLOW}))
    run(counted("without", "off"))
    # A heartbeat may fall between.
    assert 20 <= found["with"] <= found["without"] + 3


def test_off_limits_nothing(shared: RedisServer, tmp_path: Path) -> None:
    """A8: `failures: off`."""

    async def scenario() -> None:
        async with recording_upstream() as upstream, gateway(tmp_path, shared.url, upstream.url, "off") as running:
            assert {await ask(running, "198.51.100.3", bad(number)) for number in range(120)} == {REFUSED}

    run(scenario())


def test_a_hundred_a_minute_unless_told_otherwise(shared: RedisServer, tmp_path: Path) -> None:
    """A8: the default."""

    async def scenario() -> None:
        async with recording_upstream() as upstream, gateway(tmp_path, shared.url, upstream.url, {}) as running:
            outcomes = [await ask(running, "198.51.100.4", "Bearer nonsense") for _ in range(200)]
            assert outcomes[:100] == [REFUSED] * 100
            assert LIMITED in outcomes[100:]

    run(scenario())


def test_api_keys_that_nobody_has_count_too(shared: RedisServer, tmp_path: Path) -> None:
    """A8: guessing keys is guessing."""

    async def scenario() -> None:
        async with recording_upstream() as upstream, gateway(tmp_path, shared.url, upstream.url, {"rate": SLOW}, api_keys={}) as running:
            head = f"GET /s/x HTTP/1.1\r\nHost: g\r\nX-Forwarded-For: 198.51.100.5\r\nX-API-Key: hmsk_{'a' * 16}_{'b' * 43}\r\n\r\n"
            outcomes = [(await running.ask(head.encode())).status for _ in range(7)]
            assert outcomes == [401] * 5 + [429] * 2

    run(scenario())
