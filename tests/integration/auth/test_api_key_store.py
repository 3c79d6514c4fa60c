"""API keys in a real Redis and a real Valkey."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import orjson
import pytest
from redis.asyncio import Redis

from gateway.auth.api_keys import CACHE_SECONDS, ApiKeyStore
from gateway.auth.authenticator import Authenticator
from gateway.errors import BadRequest, Unauthorized, Unavailable
from gateway.settings import ApiKeys, AuthenticationSettings
from tests.support.redis_server import RedisServer, redis_server
from tests.support.tokens import NOW, FakeClock

STORE_KEY = "{gateway}:api-keys"
PEPPER = b"p" * 32


def using(server: RedisServer, scenario: Callable[[Redis], Awaitable[Any]], decode_responses: bool = False) -> Any:
    async def main() -> Any:
        async with Redis.from_url(server.url, decode_responses=decode_responses) as client:
            return await scenario(client)

    return asyncio.run(main())


async def refusal(store: ApiKeyStore, text: str) -> str:
    with pytest.raises(Unauthorized) as caught:
        await store.verify(text.encode())
    return f"{caught.value.code} {caught.value.reason}"


@pytest.mark.parametrize("decode_responses", [False, True])
@pytest.mark.parametrize("pepper", [None, PEPPER])
def test_a_key_is_created_listed_verified_and_deleted(server: RedisServer, pepper: bytes | None, decode_responses: bool) -> None:
    """A6: the life of a key."""

    async def scenario(client: Redis) -> None:
        store = ApiKeyStore(client, pepper, clock=FakeClock())
        created = await store.create("batch", scopes=("a", "b"), roles=("nurse",), client="etl")
        assert created.text.startswith(f"hmsk_{created.key.id}_")
        principal = await store.verify(created.text.encode())
        assert (principal.subject, principal.client, principal.issuer, principal.method) == ("batch", "etl", "api-key", "api_key")
        assert (set(principal.scopes), set(principal.roles)) == ({"a", "b"}, {"nurse"})
        assert (principal.token_id, principal.issued_at, principal.expires_at) == (created.key.id, NOW, 0)
        assert await store.list() == (created.key,)
        assert await store.delete(created.key.id)
        assert not await store.delete(created.key.id)
        assert await store.list() == ()
        assert await refusal(store, created.text) == "token_invalid api_key_unknown"

    using(server, scenario, decode_responses)


def test_the_store_never_sees_a_secret(server: RedisServer) -> None:
    """A6: keyed hashes, and nothing of the key but its id."""

    async def scenario(client: Redis) -> None:
        created = await ApiKeyStore(client, PEPPER).create("batch")
        secret = created.text.split("_", 2)[2]
        stored = repr(await client.hgetall(STORE_KEY))
        assert created.key.id in stored
        assert secret not in stored
        assert PEPPER.decode() not in stored
        assert await client.keys("*") == [STORE_KEY.encode()]

    using(server, scenario)


def test_a_wrong_secret_or_pepper_is_refused(server: RedisServer) -> None:
    """A6: the whole key is what proves."""

    async def scenario(client: Redis) -> None:
        store = ApiKeyStore(client, PEPPER)
        first, second = await store.create("a"), await store.create("b")
        swapped = first.text[:22] + second.text[22:]
        flipped = first.text[:-1] + ("A" if first.text[-1] != "A" else "B")
        for text in (swapped, flipped):
            assert await refusal(store, text) == "token_invalid api_key_unknown"
        assert await refusal(ApiKeyStore(client, b"q" * 32), first.text) == "token_invalid api_key_unknown"
        assert await refusal(ApiKeyStore(client), first.text) == "token_invalid api_key_unknown"

    using(server, scenario)


def test_replicas_agree_on_the_pepper_in_the_store(server: RedisServer) -> None:
    """A6: made once, by whoever is first; also after the store was emptied."""

    async def scenario(client: Redis) -> None:
        one, two = ApiKeyStore(client), ApiKeyStore(client)
        created = await asyncio.gather(*(store.create("a") for store in (one, two) * 5))
        for key in created:
            assert (await one.verify(key.text.encode())).subject == "a"
            assert (await two.verify(key.text.encode())).subject == "a"
        await client.flushall()
        again = await two.create("b")
        assert (await one.verify(again.text.encode())).subject == "b"

    using(server, scenario)


def test_a_deleted_key_works_elsewhere_for_five_seconds_at_most(server: RedisServer) -> None:
    """A6: facts are cached briefly, and the cache says how long."""
    assert CACHE_SECONDS <= 5

    async def scenario(client: Redis) -> None:
        monotonic = FakeClock(0.0)
        here, elsewhere = ApiKeyStore(client), ApiKeyStore(client, monotonic=monotonic)
        created = await here.create("a")
        text = created.text.encode()
        principal = await elsewhere.verify(text)
        await here.verify(text)
        await here.delete(created.key.id)
        assert here.cached(text) is None
        assert elsewhere.cached(text) is principal
        monotonic.advance(CACHE_SECONDS)
        assert elsewhere.cached(text) is None
        assert await refusal(elsewhere, created.text) == "token_invalid api_key_unknown"

    using(server, scenario)


def test_a_key_ends_at_its_expiry(server: RedisServer) -> None:
    """A6: also when it is cached a moment before."""

    async def scenario(client: Redis) -> None:
        clock, monotonic = FakeClock(), FakeClock(0.0)
        store = ApiKeyStore(client, clock=clock, monotonic=monotonic)
        created = await store.create("a", expires_at=NOW + 10)
        text = created.text.encode()
        for passing in (clock, monotonic):
            passing.advance(9)
        assert (await store.verify(text)).expires_at == NOW + 10
        for passing in (clock, monotonic):
            passing.advance(1)
        assert store.cached(text) is None
        assert await refusal(store, created.text) == "token_expired token_expired"

    using(server, scenario)


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": ""},
        {"subject": "a\r\nb"},
        {"scopes": ("a b",)},
        {"scopes": ('"',)},
        {"roles": ("a\n",)},
        {"client": ""},
        {"expires_at": NOW},
        {"expires_at": -1},
    ],
)
def test_a_key_that_could_not_be_used_is_not_made(server: RedisServer, changes: dict[str, Any]) -> None:
    """S-29: told to the administrator, not to the first user."""

    async def scenario(client: Redis) -> None:
        store = ApiKeyStore(client, clock=FakeClock())
        with pytest.raises(BadRequest):
            await store.create(**{"subject": "a", **changes})
        assert await store.list() == ()

    using(server, scenario)


DAMAGED = [
    b"",
    b"{",
    b"[]",
    b"{}",
    orjson.dumps({"hash": "zz", "subject": "a", "scopes": [], "roles": [], "client": None, "created_at": 0, "expires_at": 0}),
    orjson.dumps({"hash": "", "subject": "a", "scopes": None, "roles": [], "client": None, "created_at": 0, "expires_at": 0}),
]


@pytest.mark.parametrize("record", DAMAGED)
def test_a_damaged_record_is_a_401_and_left_out_of_the_list(server: RedisServer, record: bytes) -> None:
    """A6: fails closed, never a 500."""

    async def scenario(client: Redis) -> None:
        store = ApiKeyStore(client)
        created, good = await store.create("a"), await store.create("b")
        await client.hset(STORE_KEY, created.key.id, record)
        assert await refusal(store, created.text) == "token_invalid api_key_unknown"
        assert await store.list() == (good.key,)

    using(server, scenario)


def test_a_damaged_pepper_is_never_a_500(server: RedisServer) -> None:
    """A6: keys fail closed, creation is a 503."""

    async def scenario(client: Redis) -> None:
        store = ApiKeyStore(client)
        created = await store.create("a")
        await client.hset(STORE_KEY, ":pepper", "not hex")
        assert await refusal(store, created.text) == "token_invalid api_key_unknown"
        with pytest.raises(Unavailable):
            await store.create("b")

    using(server, scenario)


def test_a_crowd_with_one_key_is_one_command(server: RedisServer) -> None:
    """F-1: an expired cache entry is no stampede."""

    async def scenario(client: Redis) -> None:
        store = ApiKeyStore(client)
        created = await store.create("a")
        before = server.calls_of("hmget")
        await asyncio.gather(*(store.verify(created.text.encode()) for _ in range(50)))
        assert server.calls_of("hmget") == before + 1

    using(server, scenario)


def test_through_the_authenticator(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A6: verified, then cached; the pepper comes from the environment when it is there."""
    monkeypatch.setenv("GATEWAY_API_KEY_PEPPER", PEPPER.decode())

    async def scenario(client: Redis) -> None:
        async with httpx.AsyncClient() as http:
            authenticator = Authenticator(AuthenticationSettings(api_keys=ApiKeys()), http, client)
            await authenticator.start()
            assert authenticator.ready
            assert authenticator.api_keys is not None
            text = (await authenticator.api_keys.create("batch")).text.encode()
            assert authenticator.cached(None, text) is None
            principal = await authenticator.authenticate(None, text)
            assert principal is not None
            assert authenticator.cached(None, text) is principal
            assert await client.hexists(STORE_KEY, ":pepper") == 0
            await authenticator.close()

    using(server, scenario)


def test_a_server_that_stops_answering_is_a_503_until_it_answers_again() -> None:
    """A6, F-1: bounded by the deadline, and back by itself."""
    with redis_server("redis") as server:
        assert server.process is not None
        process = server.process

        async def scenario(client: Redis) -> None:
            monotonic = FakeClock(0.0)
            store = ApiKeyStore(client, monotonic=monotonic, timeout_seconds=0.05)
            text = (await store.create("a")).text.encode()
            process.send_signal(signal.SIGSTOP)
            try:
                for _ in range(5):
                    with pytest.raises(Unavailable):
                        await store.verify(text)
            finally:
                process.send_signal(signal.SIGCONT)
            monotonic.advance(1.0)
            assert (await store.verify(text)).subject == "a"

        using(server, scenario)
