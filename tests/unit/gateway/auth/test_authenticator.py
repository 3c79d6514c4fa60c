from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import orjson
import pytest

from gateway.auth.authenticator import Authenticator
from gateway.errors import ConfigError, Unauthorized
from gateway.settings import ApiKeys, AuthenticationSettings, Introspection
from tests.support.tokens import ISSUER, NOW, FakeClock, claims, issuer, token

INTROSPECTION = Introspection(url="https://login.example.gov/introspect", client_id="a", client_secret="b")
GOOD = b"Bearer " + token()
API_KEY = b"hmsk_abcdefgh234567ab_" + b"A" * 43


class Store:
    """A state store without keys."""

    async def execute_command(self, *args: object, **options: object) -> object:
        return [None, None]


def using(scenario: Callable[[Authenticator], Awaitable[Any]], clock: FakeClock | None = None, **settings: Any) -> Any:
    async def introspect(request: httpx.Request) -> httpx.Response:
        async def body() -> Any:
            yield orjson.dumps({"active": True, "sub": "opaque", "exp": NOW + 600})

        return httpx.Response(200, content=body())

    async def main() -> Any:
        chosen = AuthenticationSettings(**({"issuers": (issuer(),)} | settings))
        async with httpx.AsyncClient(transport=httpx.MockTransport(introspect)) as http:
            authenticator = Authenticator(chosen, http, Store(), clock=clock or FakeClock())
            await authenticator.start()
            try:
                return await scenario(authenticator)
            finally:
                await authenticator.close()

    return asyncio.run(main())


def test_no_credentials_are_no_principal() -> None:
    """S-21: whether that is enough is the route's decision."""
    assert using(lambda it: it.authenticate(None, None)) is None


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER ", b"bEaReR ", b"Bearer    "])
def test_the_scheme_is_read_in_any_case(scheme: bytes) -> None:
    """S-31: RFC 9110 section 11.1."""
    assert using(lambda it: it.authenticate(scheme + token(), None)).subject == "alice"


@pytest.mark.parametrize(
    "field",
    [
        b"",
        b"Basic YTpi",
        b"Digest x",
        b"Negotiate x",
        b"DPoP " + token(),
        b"Bearer" + token(),
        b"Bearer\t" + token(),
        b" Bearer " + token(),
        b"Token x",
        token(),
    ],
)
def test_another_scheme_is_a_401_without_error(field: bytes) -> None:
    """S-31: code `unauthorized`; the challenge says what is accepted."""
    with pytest.raises(Unauthorized) as caught:
        using(lambda it: it.authenticate(field, None))
    assert caught.value.code == "unauthorized"
    assert caught.value.headers == [(b"www-authenticate", b'Bearer realm="gateway"')]


@pytest.mark.parametrize(
    "field",
    [
        b"Bearer",
        b"Bearer ",
        b"Bearer   ",
        b"Bearer x",
        b"Bearer a.b.c",
        GOOD + b" ",
        GOOD + b"=",
        GOOD + b", " + GOOD,
        b"Bearer " + b"x" * 9000,
        b"Bearer \xff\x00",
    ],
)
def test_a_bearer_credential_that_is_no_token_is_token_invalid(field: bytes) -> None:
    """A3, S-31: a 401 whatever the bytes."""
    with pytest.raises(Unauthorized) as caught:
        using(lambda it: it.authenticate(field, None))
    assert caught.value.code == "token_invalid"


def test_a_token_and_an_api_key_together_are_refused() -> None:
    """S-31: exactly one credential; also when the token is cached already."""

    async def scenario(it: Authenticator) -> None:
        await it.authenticate(GOOD, None)
        assert it.cached(GOOD, API_KEY) is None
        with pytest.raises(Unauthorized) as caught:
            await it.authenticate(GOOD, API_KEY)
        assert (caught.value.code, caught.value.reason) == ("unauthorized", "several_credentials")

    using(scenario, api_keys=ApiKeys())


def test_without_api_keys_their_field_belongs_to_the_service() -> None:
    """CONTRACT section 4: API keys are off unless configured."""

    async def scenario(it: Authenticator) -> None:
        assert it.api_keys is None
        assert await it.authenticate(None, API_KEY) is None
        assert (await it.authenticate(GOOD, API_KEY)) is it.cached(GOOD, API_KEY)

    using(scenario)


def test_an_unknown_api_key_is_a_401() -> None:
    """A6: fails closed."""
    with pytest.raises(Unauthorized) as caught:
        using(lambda it: it.authenticate(None, API_KEY), api_keys=ApiKeys())
    assert (caught.value.code, caught.value.reason) == ("token_invalid", "api_key_unknown")


def test_cached_answers_what_was_verified_until_it_expires() -> None:
    """A5: sync, and the same principal object, so that its memo lives on."""
    clock = FakeClock()

    async def scenario(it: Authenticator) -> None:
        assert it.cached(GOOD, None) is None
        principal = await it.authenticate(GOOD, None)
        assert it.cached(GOOD, None) is principal
        assert await it.authenticate(GOOD, None) is principal
        assert await it.authenticate(b"bearer  " + token(), None) is principal
        for other in (None, b"", b"Basic x", b"bearer " + token(), GOOD + b"=", GOOD[:-1], b"Bearer " + b"x" * 9000):
            assert it.cached(other, None) is None
        clock.advance(600)
        assert it.cached(GOOD, None) is None

    using(scenario, clock)


def test_an_opaque_token_is_introspected_and_cached() -> None:
    """A7: opaque is what has not three segments."""

    async def scenario(it: Authenticator) -> None:
        for opaque in (b"opaque", b"a.b", b"a.b.c.d"):
            principal = await it.authenticate(b"Bearer " + opaque, None)
            assert principal is not None
            assert (principal.subject, principal.method) == ("opaque", "introspection")
            assert it.cached(b"Bearer " + opaque, None) is principal
        assert (await it.authenticate(GOOD, None)).method == "jwt"  # type: ignore[union-attr]
        with pytest.raises(Unauthorized):
            await it.authenticate(b"Bearer " + token(claims(iss="https://evil.example")), None)

    using(scenario, introspection=INTROSPECTION)


def test_without_issuers_every_token_is_introspected() -> None:
    """A7: an authorization server may hand out tokens that look signed."""
    principal = using(lambda it: it.authenticate(GOOD, None), issuers=(), introspection=INTROSPECTION)
    assert principal.method == "introspection"


def test_local_keys_make_it_ready_and_the_repr_tells() -> None:
    """F-52: ready means that it can do its job."""

    async def scenario(it: Authenticator) -> None:
        assert it.ready
        assert repr(it) == "<Authenticator 1 issuers, 0 tokens cached, ready>"

    using(scenario)


def test_an_issuer_that_can_not_be_reached_leaves_it_not_ready() -> None:
    """A4, F-52: no failure of the start."""

    async def scenario(it: Authenticator) -> None:
        assert not it.ready

    using(
        scenario, issuers=(issuer(), issuer(name="far", issuer="https://far.example.gov", jwks=b"", jwks_url="https://far.example.gov/k"))
    )


def test_unusable_settings_fail_the_start() -> None:
    """A1: a start that fails leaves nothing running."""
    with pytest.raises(ConfigError, match="jwks_file"):
        using(
            lambda it: it.authenticate(None, None), issuers=(issuer(), issuer(name="b", issuer="https://b", jwks=b"", jwks_file="/nowhere"))
        )
    with pytest.raises(ConfigError, match="there is none"):
        Authenticator(AuthenticationSettings(api_keys=ApiKeys()), httpx.AsyncClient())


OTHER_ISSUER = "https://other.example.gov"
OTHER_TOKEN = token(claims(iss=OTHER_ISSUER))


def succeeding(
    before: AuthenticationSettings, after: AuthenticationSettings, scenario: Callable[[Authenticator, Authenticator], Awaitable[Any]]
) -> Any:
    """A second authenticator that takes the first one's place, after the first has verified a token of each issuer."""

    async def main() -> Any:
        async with httpx.AsyncClient() as http:
            first = Authenticator(before, http, Store(), clock=FakeClock())
            await first.start()
            for credential in (GOOD, b"Bearer " + OTHER_TOKEN):
                if any(each.issuer == (ISSUER if credential is GOOD else OTHER_ISSUER) for each in before.issuers):
                    await first.authenticate(credential, None)
            second = Authenticator(after, http, Store(), before=first, clock=FakeClock())
            await second.start()
            assert await second.wait_until_ready(1.0)
            second.take_over(first)
            try:
                return await scenario(first, second)
            finally:
                await first.close(keeping=[second])
                await second.close()

    return asyncio.run(main())


def both_issuers(**changes: Any) -> AuthenticationSettings:
    return AuthenticationSettings(issuers=(issuer(), issuer(name="other", issuer=OTHER_ISSUER, **changes)))


def test_tokens_of_an_issuer_that_has_not_changed_stay_verified() -> None:
    """G3, A5: those of the issuer that has are looked at again, under the new rules."""

    async def scenario(first: Authenticator, second: Authenticator) -> None:
        assert second.cached(GOOD, None) is first.cached(GOOD, None) is not None
        assert second.cached(b"Bearer " + OTHER_TOKEN, None) is None
        with pytest.raises(Unauthorized):
            await second.authenticate(b"Bearer " + OTHER_TOKEN, None)

    succeeding(both_issuers(), both_issuers(audience=("somebody else",)), scenario)


def test_tokens_of_an_issuer_that_left_are_not_believed() -> None:
    """G3: as soon as the new settings are at work."""

    async def scenario(first: Authenticator, second: Authenticator) -> None:
        assert second.cached(b"Bearer " + OTHER_TOKEN, None) is None
        with pytest.raises(Unauthorized) as caught:
            await second.authenticate(b"Bearer " + OTHER_TOKEN, None)
        assert caught.value.reason == "token_issuer_unknown"

    succeeding(both_issuers(), AuthenticationSettings(issuers=(issuer(),)), scenario)


def test_key_that_leaves_is_forgotten_by_both() -> None:
    """A4, G3: requests of the generation before are still under way."""

    async def scenario(first: Authenticator, second: Authenticator) -> None:
        fingerprints = [keys.keys.fingerprints for keys in second._sources.values() if keys.keys is not None]
        second._forget(fingerprints[0])
        assert first.cached(GOOD, None) is second.cached(GOOD, None) is None

    succeeding(both_issuers(), both_issuers(leeway=1.0), scenario)


def test_plans_that_left_leave_no_trace_at_principals() -> None:
    """F-43: a principal outlives many configurations."""

    async def scenario(first: Authenticator, second: Authenticator) -> None:
        principal = second.cached(GOOD, None)
        assert principal is not None
        principal.memo["plan"] = b"ticket"
        second.forget_plans()
        assert principal.memo == {}

    succeeding(both_issuers(), both_issuers(leeway=1.0), scenario)
