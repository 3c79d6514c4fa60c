from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.auth.api_keys import ApiKey, ApiKeyStore, CreatedApiKey, pepper_from_environment
from gateway.errors import ConfigError, Unauthorized, Unavailable
from tests.support.tokens import FakeClock

GOOD = b"hmsk_abcdefgh234567ab_" + b"A" * 43


class Away:
    """A store that can't be reached; counts who tried."""

    def __init__(self) -> None:
        self.commands = 0

    async def execute_command(self, *args: object, **options: object) -> object:
        self.commands += 1
        raise RedisConnectionError("refused")


MALFORMED = {
    "empty": b"",
    "prefix only": b"hmsk_",
    "other prefix": b"sk_abcdefgh234567ab_" + b"A" * 43,
    "upper-case prefix": b"HMSK_abcdefgh234567ab_" + b"A" * 43,
    "short id": b"hmsk_abc_" + b"A" * 43,
    "id of another alphabet": b"hmsk_abcdefgh01890189_" + b"A" * 43,
    "id of the pepper": b"hmsk_:pepper_" + b"A" * 43,
    "short secret": GOOD[:-1],
    "long secret": GOOD + b"A",
    "newline": GOOD + b"\n",
    "space": b" " + GOOD,
    "non-ASCII": GOOD[:-2] + "é".encode(),
    "huge": b"hmsk_" + b"a" * 100_000,
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_key_is_refused_without_asking_the_store(text: bytes) -> None:
    """A6: a key has one shape."""
    store = Away()
    with pytest.raises(Unauthorized) as caught:
        asyncio.run(ApiKeyStore(store).verify(text))
    assert caught.value.code == "token_invalid"
    assert store.commands == 0


def test_a_store_that_is_away_is_a_503_and_soon_not_asked_any_more() -> None:
    """A6, F-1: never a 401, never an admission; a dead store costs nothing after three tries."""
    store, clock = Away(), FakeClock(0.0)

    async def scenario() -> None:
        keys = ApiKeyStore(store, monotonic=clock)
        for _ in range(10):
            with pytest.raises(Unavailable) as caught:
                await keys.verify(GOOD)
            assert (caught.value.code, caught.value.reason) == ("store_unavailable", "api_keys_unavailable")
        assert store.commands == 3
        clock.advance(1.0)
        with pytest.raises(Unavailable):
            await keys.list()
        assert store.commands == 4

    asyncio.run(scenario())


def test_a_store_that_hangs_is_a_503_within_the_deadline() -> None:
    """F-1: every call to the store has a deadline."""

    class Hanging:
        async def execute_command(self, *args: object, **options: object) -> object:
            return await asyncio.Event().wait()

    with pytest.raises(Unavailable):
        asyncio.run(ApiKeyStore(Hanging(), timeout_seconds=0.01).verify(GOOD))


def test_the_pepper_of_the_environment() -> None:
    """A6: the operator may keep it outside of the store."""
    assert pepper_from_environment({}) is None
    assert pepper_from_environment({"GATEWAY_API_KEY_PEPPER": "x" * 32}) == b"x" * 32
    with pytest.raises(ConfigError, match="has 31 bytes, at least 32"):
        pepper_from_environment({"GATEWAY_API_KEY_PEPPER": "x" * 31})


def test_no_secret_in_a_repr() -> None:
    """O4: a created key shows its id only."""
    assert repr(CreatedApiKey(ApiKey(id="abc", subject="a"), "hmsk_abc_secret")) == "<CreatedApiKey abc>"
