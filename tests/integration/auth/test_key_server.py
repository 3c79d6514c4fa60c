"""Keys from a real HTTP server that rotates, is slow, talks garbage, is huge, or is gone."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from gateway.auth.authenticator import Authenticator
from gateway.auth.keys import KeyTimings
from gateway.errors import Unauthorized, Unavailable
from tests.support.authenticating import authenticating as authenticating_by
from tests.support.authenticating import outcome
from tests.support.identity_provider import Answer, IdentityProvider, identity_provider
from tests.support.tokens import claims, jwk, jwks, rsa_key, token

FIRST, SECOND = jwk(rsa_key(), kid="k1"), jwk(rsa_key(which=1), kid="k2")
WITH_FIRST = b"Bearer " + token()
WITH_SECOND = b"Bearer " + token(None, rsa_key(which=1), kid="k2")
#: Background fetches far apart: what a test sees was asked for by a token.
QUIET = KeyTimings(refresh=1000.0, retry_first=1000.0, retry_last=1000.0, timeout=1.0)
BUSY = KeyTimings(refresh=0.02, retry_first=0.02, retry_last=0.02, timeout=1.0)


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with identity_provider() as running:
        running.answers["/keys"] = Answer(jwks(FIRST))
        yield running


def authenticating(provider: IdentityProvider, timings: KeyTimings = QUIET, **changes: Any) -> AbstractAsyncContextManager[Authenticator]:
    return authenticating_by(timings, **({"jwks_url": provider.url + "/keys"} | changes))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - conditions of a server in another thread
            await asyncio.sleep(0.005)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    asyncio.run(main())


def test_the_first_request_waits_for_the_first_keys(provider: IdentityProvider) -> None:
    """A4: a token that comes before the keys is not refused for it; one fetch serves all."""

    async def scenario() -> None:
        async with authenticating(provider) as authenticator:
            assert not authenticator.ready
            subjects = await asyncio.gather(*(outcome(authenticator, WITH_FIRST) for _ in range(20)))
            assert set(subjects) == {"alice"}
            assert authenticator.ready
            assert provider.asked("/keys") == 1

    run(scenario)


def test_a_new_key_is_fetched_when_a_token_names_it(provider: IdentityProvider) -> None:
    """A4: rotation costs one fetch and no refusal."""

    async def scenario() -> None:
        async with authenticating(provider) as authenticator:
            await until(lambda: authenticator.ready)
            provider.answers["/keys"] = Answer(jwks(FIRST, SECOND))
            subjects = await asyncio.gather(*(outcome(authenticator, WITH_SECOND) for _ in range(50)))
            assert set(subjects) == {"alice"}
            assert provider.asked("/keys") == 2

    run(scenario)


def test_unknown_keys_do_not_become_a_flood(provider: IdentityProvider) -> None:
    """A4: a hundred invented key ids are at most one refetch."""

    async def scenario() -> None:
        async with authenticating(provider) as authenticator:
            await until(lambda: authenticator.ready)
            for number in range(100):
                assert await outcome(authenticator, b"Bearer " + token(kid=f"x{number}")) == "401 token_key_unknown"
            assert provider.asked("/keys") == 2

    run(scenario)


def test_a_key_that_left_stops_verifying_cached_or_not(provider: IdentityProvider) -> None:
    """A4, A5: the background refresh notices, and the cache forgets."""

    async def scenario() -> None:
        async with authenticating(provider, BUSY) as authenticator:
            assert await outcome(authenticator, WITH_FIRST) == "alice"
            assert authenticator.cached(WITH_FIRST, None) is not None
            provider.answers["/keys"] = Answer(jwks(SECOND))
            await until(lambda: authenticator.cached(WITH_FIRST, None) is None)
            assert await outcome(authenticator, WITH_FIRST) == "401 token_key_unknown"
            assert await outcome(authenticator, WITH_SECOND) == "alice"

    run(scenario)


BROKEN: dict[str, Answer] = {
    "500": Answer(jwks(SECOND), 500),
    "404": Answer(b"", 404),
    "redirect": Answer(jwks(SECOND), 302, {"location": "/elsewhere"}),
    "garbage": Answer(b"\x00\xff<html>"),
    "empty": Answer(b""),
    "huge": Answer(b" " * 2_000_000),
    "endless by its length": Answer(jwks(SECOND), declared=10**12),
    "cut short": Answer(jwks(SECOND)[:50], declared=5000),
    "hangs up": Answer(cut=True),
    "zipped": Answer(b"\x1f\x8b\x08\x00", headers={"content-encoding": "gzip"}),
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_server_keeps_the_last_good_keys(provider: IdentityProvider, answer: Answer) -> None:
    """A4: stale-while-error; an unknown key is a 401, never a 500."""

    async def scenario() -> None:
        async with authenticating(provider) as authenticator:
            await until(lambda: authenticator.ready)
            provider.answers["/keys"] = answer
            provider.answers["/elsewhere"] = Answer(jwks(SECOND))
            assert await outcome(authenticator, WITH_SECOND) == "401 token_key_unknown"
            assert await outcome(authenticator, WITH_FIRST) == "alice"
            assert provider.asked("/keys") == 2
            assert provider.asked("/elsewhere") == 0

    run(scenario)


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
def test_a_server_that_was_always_broken_is_a_503_and_not_ready(provider: IdentityProvider, answer: Answer) -> None:
    """A4: the start does not fail; and it recovers by itself."""
    provider.answers["/keys"] = answer

    async def scenario() -> None:
        async with authenticating(provider, BUSY) as authenticator:
            with pytest.raises(Unavailable) as caught:
                await authenticator.authenticate(WITH_FIRST, None)
            assert (caught.value.code, caught.value.reason) == ("overloaded", "keys_unavailable")
            assert not authenticator.ready
            provider.answers["/keys"] = Answer(jwks(FIRST))
            await until(lambda: authenticator.ready)
            assert await outcome(authenticator, WITH_FIRST) == "alice"

    run(scenario)


def test_a_slow_server_delays_only_tokens_with_unknown_keys(provider: IdentityProvider) -> None:
    """A4: bounded wait; what can be verified is verified at once."""
    gate = threading.Event()

    async def scenario() -> None:
        async with authenticating(provider, KeyTimings(refresh=1000.0, timeout=0.2)) as authenticator:
            await until(lambda: authenticator.ready)
            provider.answers["/keys"] = Answer(jwks(SECOND), gate=gate)
            waiting = asyncio.create_task(outcome(authenticator, WITH_SECOND))
            await until(lambda: provider.asked("/keys") == 2)
            assert await outcome(authenticator, WITH_FIRST) == "alice"
            assert not waiting.done()
            assert await waiting == "401 token_key_unknown"
            gate.set()

    run(scenario)


def test_a_server_that_is_gone(provider: IdentityProvider) -> None:
    """A4: connection refused is like any other failure."""

    async def scenario() -> None:
        async with authenticating(provider, jwks_url="http://127.0.7.1:1/keys") as authenticator:
            assert await outcome(authenticator, WITH_FIRST) == "503 keys_unavailable"

    run(scenario)


def test_closing_ends_a_fetch_in_flight(provider: IdentityProvider) -> None:
    """G1: a hanging server does not hold up the stop."""
    gate = threading.Event()
    provider.answers["/keys"] = Answer(jwks(FIRST), gate=gate)

    async def scenario() -> None:
        async with asyncio.timeout(5):
            async with authenticating(provider, KeyTimings(timeout=60.0)):
                await until(lambda: provider.asked("/keys") == 1)
            gate.set()

    run(scenario)


# OpenID discovery


def test_keys_are_found_through_the_openid_configuration(provider: IdentityProvider) -> None:
    """A4: `discovery: true`."""
    configuration = {"issuer": provider.url, "jwks_uri": provider.url + "/keys"}
    provider.answers["/.well-known/openid-configuration"] = Answer(json.dumps(configuration).encode())

    async def scenario() -> None:
        async with authenticating(provider, jwks_url="", discovery=True, issuer=provider.url) as authenticator:
            assert await outcome(authenticator, b"Bearer " + token(claims(iss=provider.url))) == "alice"

    run(scenario)


@pytest.mark.parametrize("name", ["https://evil.example", "", "URL/"])
def test_the_configuration_of_another_issuer_gives_no_keys(provider: IdentityProvider, name: str) -> None:
    """A4: its `issuer` must match exactly."""
    configuration = {"issuer": name.replace("URL", provider.url), "jwks_uri": provider.url + "/keys"}
    provider.answers["/.well-known/openid-configuration"] = Answer(json.dumps(configuration).encode())

    async def scenario() -> None:
        async with authenticating(provider, jwks_url="", discovery=True, issuer=provider.url) as authenticator:
            assert await outcome(authenticator, b"Bearer " + token(claims(iss=provider.url))) == "503 keys_unavailable"
            assert provider.asked("/keys") == 0

    run(scenario)


def test_a_token_of_an_unknown_issuer_asks_nobody(provider: IdentityProvider) -> None:
    """S-33: a token never decides whom we talk to."""
    elsewhere = token(claims(iss=provider.url + "/evil"), jku=provider.url + "/evil", kid=provider.url + "/evil")

    async def scenario() -> None:
        async with authenticating(provider) as authenticator:
            with pytest.raises(Unauthorized):
                await authenticator.authenticate(b"Bearer " + elsewhere, None)
            await until(lambda: authenticator.ready)
            assert {question.path for question in provider.questions} == {"/keys"}

    run(scenario)
