"""Opaque tokens against a real HTTP endpoint."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import parse_qs

import httpx
import orjson
import pytest

from gateway.auth.authenticator import Authenticator
from gateway.errors import Unauthorized, Unavailable
from gateway.settings import AuthenticationSettings, Introspection
from tests.support.identity_provider import Answer, IdentityProvider, Question, identity_provider
from tests.support.tokens import NOW, FakeClock


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with identity_provider() as running:
        running.answers["/introspect"] = _introspect
        yield running


def _introspect(question: Question) -> Answer:
    """An authorization server that knows one token and one client."""
    if question.headers.get("authorization") != "Basic Z2F0ZXdheTpzZWNyZXQ=":
        return Answer(b'{"error":"invalid_client"}', 401)
    active = parse_qs(question.body.decode())["token"] == ["good"]
    reply = {"active": True, "sub": "alice", "scope": "a", "exp": NOW + 600} if active else {"active": False}
    return Answer(orjson.dumps(reply), headers={"content-type": "application/json", "set-cookie": "session=alice"})


def using(provider: IdentityProvider, scenario: Callable[[Authenticator], Awaitable[Any]], secret: str = "secret") -> Any:
    settings = Introspection(url=provider.url + "/introspect", client_id="gateway", client_secret=secret)

    async def main() -> Any:
        async with httpx.AsyncClient(trust_env=False) as http:
            authenticator = Authenticator(AuthenticationSettings(introspection=settings), http, clock=FakeClock())
            await authenticator.start()
            try:
                return await scenario(authenticator)
            finally:
                await authenticator.close()

    return asyncio.run(main())


def test_active_and_inactive_tokens(provider: IdentityProvider) -> None:
    """A7: the server's word, asked once, and no cookie of one user with another's question."""

    async def scenario(authenticator: Authenticator) -> None:
        for _ in range(3):
            principal = await authenticator.authenticate(b"Bearer good", None)
            assert principal is not None
            assert principal.subject == "alice"
        with pytest.raises(Unauthorized):
            await authenticator.authenticate(b"Bearer bad", None)

    using(provider, scenario)
    assert provider.asked("/introspect") == 2
    assert all("cookie" not in question.headers for question in provider.questions)


BROKEN = {
    "500": Answer(b"{}", 500),
    "redirect": Answer(b'{"active":true,"sub":"a"}', 307, {"location": "/open"}),
    "garbage": Answer(b"<html>"),
    "huge": Answer(b" " * 2_000_000),
    "cut short": Answer(b'{"active":true,"sub":"a"}', declared=1000),
    "hangs up": Answer(cut=True),
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_endpoint_is_a_503(provider: IdentityProvider, answer: Answer) -> None:
    """A7: failure -> 503, never an admission."""
    provider.answers["/introspect"] = answer
    provider.answers["/open"] = Answer(b'{"active":true,"sub":"a"}')
    with pytest.raises(Unavailable) as caught:
        using(provider, lambda it: it.authenticate(b"Bearer good", None))
    assert caught.value.reason == "introspection_unavailable"
    assert provider.asked("/open") == 0


def test_our_own_wrong_credentials_are_not_the_clients_fault(provider: IdentityProvider) -> None:
    """A7: a 401 of the endpoint is our 503."""
    with pytest.raises(Unavailable):
        using(provider, lambda it: it.authenticate(b"Bearer good", None), secret="wrong")


def test_a_crowd_is_one_question(provider: IdentityProvider) -> None:
    """A7: concurrent requests with one token share the answer."""
    gate = threading.Event()
    provider.answers["/introspect"] = Answer(b'{"active":true,"sub":"alice"}', gate=gate)

    async def scenario(authenticator: Authenticator) -> None:
        crowd = [asyncio.create_task(authenticator.authenticate(b"Bearer good", None)) for _ in range(50)]
        async with asyncio.timeout(5):
            while not provider.questions:  # noqa: ASYNC110 - a server in another thread
                await asyncio.sleep(0.005)
        crowd[0].cancel()
        gate.set()
        subjects = [principal.subject for principal in await asyncio.gather(*crowd[1:]) if principal]
        assert subjects == ["alice"] * 49

    using(provider, scenario)
    assert provider.asked("/introspect") == 1
