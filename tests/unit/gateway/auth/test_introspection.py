from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import httpx
import orjson
import pytest

from gateway.auth.cache import PrincipalCache
from gateway.auth.introspection import Introspector
from gateway.errors import ConfigError, GatewayError, Unauthorized, Unavailable
from gateway.settings import Introspection
from tests.support.tokens import NOW, FakeClock

URL = "https://login.example.gov/introspect"
SETTINGS = Introspection(url=URL, client_id="gate way", client_secret="s:e%c", cache=30.0)
ACTIVE: dict[str, Any] = {"active": True, "sub": "alice", "scope": "a b", "client_id": "portal", "jti": "t-1", "iat": NOW, "exp": NOW + 600}


class Endpoint:
    """What the authorization server answers, without a socket."""

    def __init__(self, reply: object = ACTIVE, status: int = 200) -> None:
        self.reply = reply if isinstance(reply, bytes) else orjson.dumps(reply)
        self.status = status
        self.requests: list[httpx.Request] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.requests.append(request)
        return httpx.Response(self.status, content=_streamed(self.reply))


async def _streamed(document: bytes) -> AsyncIterator[bytes]:
    yield document


def using(
    endpoint: Endpoint,
    scenario: Callable[[Introspector], Awaitable[Any]],
    clock: FakeClock | None = None,
    settings: Introspection = SETTINGS,
) -> Any:
    async def main() -> Any:
        now = clock or FakeClock()
        async with httpx.AsyncClient(transport=httpx.MockTransport(endpoint)) as http:
            introspector = Introspector(settings, http, PrincipalCache(10, now), now)
            try:
                return await scenario(introspector)
            finally:
                await introspector.close()

    return asyncio.run(main())


def test_an_active_token_becomes_a_principal() -> None:
    """A7: RFC 7662 section 2.2."""
    endpoint = Endpoint()
    principal = using(endpoint, lambda introspector: introspector.verify(b"opaque-1"))
    assert (principal.subject, principal.client, principal.token_id) == ("alice", "portal", "t-1")
    assert principal.scopes == {"a", "b"}
    assert (principal.issuer, principal.method) == (URL, "introspection")
    assert (principal.issued_at, principal.expires_at) == (NOW, NOW + 600)


def test_the_question_is_a_form_with_basic_credentials() -> None:
    """A7: client_secret_basic, both parts form-encoded first (RFC 6749 section 2.3.1)."""
    endpoint = Endpoint()
    using(endpoint, lambda introspector: introspector.verify(b"opaque-1"))
    (request,) = endpoint.requests
    assert request.method == "POST"
    assert parse_qs(request.content.decode()) == {"token": ["opaque-1"], "token_type_hint": ["access_token"]}
    assert base64.b64decode(request.headers["authorization"].removeprefix("Basic ")) == b"gate+way:s%3Ae%25c"


@pytest.mark.parametrize(("exp", "seconds"), [(NOW + 600, 30), (NOW + 10, 10), (None, 30)])
def test_an_answer_is_kept_at_most_for_the_cache_time_and_exp(exp: int | None, seconds: int) -> None:
    """A7: cached at most min(cache, exp)."""
    clock = FakeClock()
    cache = PrincipalCache(10, clock)
    reply = {name: value for name, value in {**ACTIVE, "exp": exp}.items() if value is not None}

    async def scenario() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(Endpoint(reply))) as http:
            await Introspector(SETTINGS, http, cache, clock).verify(b"t")
            clock.advance(seconds - 0.001)
            assert cache.get(b"t") is not None
            clock.advance(0.001)
            assert cache.get(b"t") is None

    asyncio.run(scenario())


@pytest.mark.parametrize("reply", [{"active": False}, {"active": False, "sub": "alice"}])
def test_an_inactive_token_is_a_401_and_not_asked_about_again_at_once(reply: dict[str, Any]) -> None:
    """A7: `active: false` -> 401."""
    endpoint, clock = Endpoint(reply), FakeClock()

    async def scenario(introspector: Introspector) -> None:
        for _ in range(3):
            with pytest.raises(Unauthorized) as caught:
                await introspector.verify(b"t")
            assert (caught.value.code, caught.value.reason) == ("token_invalid", "token_inactive")
        assert len(endpoint.requests) == 1
        clock.advance(10)
        with pytest.raises(Unauthorized):
            await introspector.verify(b"t")
        assert len(endpoint.requests) == 2

    using(endpoint, scenario, clock)


UNUSABLE: dict[str, tuple[object, int]] = {
    "500": (ACTIVE, 500),
    "401, our credentials are wrong": (ACTIVE, 401),
    "redirect": (ACTIVE, 302),
    "created": (ACTIVE, 201),
    "HTML": (b"<html>", 200),
    "empty": (b"", 200),
    "array": ([ACTIVE], 200),
    "active absent": ({"sub": "alice"}, 200),
    "active a string": ({**ACTIVE, "active": "true"}, 200),
    "active a number": ({**ACTIVE, "active": 1}, 200),
    "active null": ({**ACTIVE, "active": None}, 200),
    "active twice": (b'{"active":false,"active":true,"sub":"a"}', 200),
    "huge": (b" " * (512 * 1024) + orjson.dumps(ACTIVE), 200),
}


@pytest.mark.parametrize(("reply", "status"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_an_answer_that_is_none_is_a_503(reply: object, status: int) -> None:
    """A7: failure is never an admission."""
    with pytest.raises(Unavailable) as caught:
        using(Endpoint(reply, status), lambda introspector: introspector.verify(b"t"))
    assert (caught.value.code, caught.value.reason) == ("overloaded", "introspection_unavailable")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nobody": ({"sub": None, "client_id": None}, "token_claim_missing"),
    "sub with LF": ({"sub": "a\nb"}, "token_claim_text"),
    "sub a number": ({"sub": 1}, "token_claim_text"),
    "scope a number": ({"scope": 1}, "token_claim_scope"),
    "exp a string": ({"exp": "1"}, "token_claim_date"),
    "exp past": ({"exp": NOW}, "token_expired"),
    "exp zero": ({"exp": 0}, "token_expired"),
    "iat a bool": ({"iat": True}, "token_claim_date"),
}


@pytest.mark.parametrize(("changes", "reason"), WRONG.values(), ids=WRONG.keys())
def test_an_active_token_with_wrong_facts_is_a_401(changes: dict[str, Any], reason: str) -> None:
    """A7, S-29: the endpoint's word is checked as a token's is."""
    with pytest.raises(Unauthorized) as caught:
        using(Endpoint({**ACTIVE, **changes}), lambda introspector: introspector.verify(b"t"))
    assert caught.value.reason == reason


@pytest.mark.parametrize("text", [b"", b" ", b"a b", b"a\r\nb", b"a&token=b", "é".encode(), b"a=b", b"=", b"x" * 8193, b'a"b'])
def test_what_is_no_bearer_token_is_not_asked_about(text: bytes) -> None:
    """A3: b64token of RFC 6750 within 8 KiB, else nothing leaves."""
    endpoint = Endpoint()
    with pytest.raises(Unauthorized):
        using(endpoint, lambda introspector: introspector.verify(text))
    assert endpoint.requests == []


def test_a_crowd_with_one_token_is_one_question() -> None:
    """A7: concurrent requests share it."""
    endpoint = Endpoint()

    async def scenario(introspector: Introspector) -> None:
        principals = await asyncio.gather(*(introspector.verify(b"t") for _ in range(50)))
        assert {principal.subject for principal in principals} == {"alice"}

    using(endpoint, scenario)
    assert len(endpoint.requests) == 1


def test_an_endpoint_that_keeps_failing_is_left_alone_for_a_while() -> None:
    """A7, F-1: the breaker answers at once."""
    endpoint = Endpoint(status=500)

    async def scenario(introspector: Introspector) -> None:
        results: list[object] = [await _outcome(introspector, b"t-%d" % number) for number in range(20)]
        assert all(isinstance(result, Unavailable) for result in results)

    using(endpoint, scenario)
    assert len(endpoint.requests) == 3


async def _outcome(introspector: Introspector, text: bytes) -> object:
    try:
        return await introspector.verify(text)
    except GatewayError as error:
        return error


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Introspection(url="login/introspect", client_id="a", client_secret="b"), "not an http or https URL"),
        (Introspection(url=URL, client_id="", client_secret="b"), "client_id"),
        (Introspection(url=URL, client_id="a", client_secret=""), "client_secret_file"),
        (Introspection(url=URL, client_id="a", client_secret="b", cache=-1.0), "negative"),
    ],
)
def test_settings_that_can_not_work_fail_the_start(settings: Introspection, message: str) -> None:
    """A7: told at start."""
    with pytest.raises(ConfigError, match=message):
        using(Endpoint(), lambda introspector: introspector.verify(b"t"), settings=settings)
