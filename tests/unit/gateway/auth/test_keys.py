from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.auth.keys import (
    FileKeys,
    KeyTimings,
    MaintainedKeys,
    RemoteKeys,
    StaticKeys,
    discovery_url,
    jwks_uri,
    key_source,
)
from gateway.errors import ConfigError
from gateway.settings import Issuer
from tests.support.tokens import ISSUER, SECRET, FakeClock, issuer, jwk, jwks, rsa_key

URL = "https://login.example.gov/keys"
FIRST = jwk(rsa_key(), kid="k1")
SECOND = jwk(rsa_key(which=1), kid="k2")
#: No background fetch but the first during a test.
QUIET = KeyTimings(refresh=10_000.0, retry_first=10_000.0, retry_last=10_000.0)


class Provider:
    """What an identity provider answers, without a socket; counts the questions."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.document = jwks(*keys)
        self.status = 200
        self.requests: list[httpx.Request] = []
        self.hold: asyncio.Event | None = None
        self.error: Exception | None = None

    def serve(self, *keys: dict[str, Any]) -> None:
        self.document = jwks(*keys)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        return httpx.Response(self.status, content=_streamed(self.document))


async def _streamed(document: bytes) -> AsyncIterator[bytes]:
    yield document


class Removed(list[bytes]):
    """Fingerprints that were reported as gone."""

    def __call__(self, fingerprints: Collection[bytes]) -> None:
        self.extend(fingerprints)


@asynccontextmanager
async def running(
    provider: Provider, clock: FakeClock, removed: Removed | None = None, timings: KeyTimings = QUIET
) -> AsyncIterator[RemoteKeys]:
    async with httpx.AsyncClient(transport=httpx.MockTransport(provider)) as http:
        source = RemoteKeys(issuer(jwks=b"", jwks_url=URL), http, Removed() if removed is None else removed, timings, clock)
        await source.start()
        await until(lambda: len(provider.requests) > 0)
        if provider.hold is None:
            await settled()
        yield source
        await source.close()


async def settled() -> None:
    """Let every task that can go on go on."""
    for _ in range(50):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - conditions of code that knows nothing of the test
            await asyncio.sleep(0)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    asyncio.run(main())


def test_an_unknown_key_fetches_at_most_once_in_ten_seconds() -> None:
    """A4: unknown kid -> at most one refetch per issuer per 10 s."""

    async def scenario() -> None:
        provider, clock = Provider(FIRST), FakeClock(0.0)
        async with running(provider, clock) as source:
            for number in range(50):
                await source.refetch(f"unknown-{number}")
            assert len(provider.requests) == 2
            clock.advance(9.99)
            await source.refetch("another")
            assert len(provider.requests) == 2
            clock.advance(0.01)
            await source.refetch("another")
            assert len(provider.requests) == 3

    run(scenario)


def test_concurrent_requests_share_the_fetch() -> None:
    """A4: a hundred requests with the new key are one fetch."""

    async def scenario() -> None:
        provider, clock = Provider(FIRST), FakeClock(0.0)
        async with running(provider, clock) as source:
            provider.serve(FIRST, SECOND)
            provider.hold = asyncio.Event()
            waiting = [asyncio.create_task(source.refetch("k2")) for _ in range(100)]
            await until(lambda: len(provider.requests) == 2)
            provider.hold.set()
            await asyncio.gather(*waiting)
            assert len(provider.requests) == 2
            assert source.keys is not None
            assert source.keys.knows("k2")

    run(scenario)


def test_a_request_that_goes_away_does_not_end_the_fetch() -> None:
    """A4, R7: the others still get their keys."""

    async def scenario() -> None:
        provider, clock = Provider(FIRST), FakeClock(0.0)
        async with running(provider, clock) as source:
            provider.serve(SECOND)
            provider.hold = asyncio.Event()
            first, second = (asyncio.create_task(source.refetch("k2")) for _ in range(2))
            await until(lambda: len(provider.requests) == 2)
            first.cancel()
            provider.hold.set()
            await second
            assert source.keys is not None
            assert source.keys.knows("k2")

    run(scenario)


def test_a_key_that_a_fetch_did_not_bring_is_remembered() -> None:
    """A4: negative cache, until the set changes or some time has passed."""

    async def scenario() -> None:
        provider, clock = Provider(FIRST), FakeClock(0.0)
        async with running(provider, clock) as source:
            await source.refetch("k2")
            clock.advance(15)
            await source.refetch("k2")
            assert len(provider.requests) == 2
            clock.advance(15)
            await source.refetch("k2")
            assert len(provider.requests) == 3

    run(scenario)


def test_a_key_that_left_is_reported() -> None:
    """A4: a key that left stops verifying, cached tokens too."""

    async def scenario() -> None:
        provider, clock, removed = Provider(FIRST, SECOND), FakeClock(0.0), Removed()
        async with running(provider, clock, removed) as source:
            assert source.keys is not None
            (gone,) = source.keys.candidates("k1", "RS256")
            provider.serve(SECOND)
            await source.refetch("k3")
            assert removed == [gone.fingerprint]
            assert not source.keys.knows("k1")

    run(scenario)


def test_keys_are_believed_for_an_hour_without_the_provider_and_no_longer() -> None:
    """A4: stale-while-error, bounded."""

    async def scenario() -> None:
        provider, clock, removed = Provider(FIRST), FakeClock(0.0), Removed()
        async with running(provider, clock, removed) as source:
            provider.error = httpx.ConnectError("refused")
            clock.advance(3599.9)
            await source.refetch("k2")
            assert source.keys is not None
            clock.advance(0.1)
            assert source.keys is None
            clock.advance(10)
            await source.refetch("k1")
            assert len(removed) == 1
            provider.error = None
            clock.advance(10)
            await source.refetch("k1")
            assert source.keys is not None

    run(scenario)


BAD: dict[str, tuple[int, bytes]] = {
    "500": (500, jwks(SECOND)),
    "404": (404, b"not here"),
    "204": (204, b""),
    "redirect": (302, jwks(SECOND)),
    "HTML": (200, b"<html>"),
    "empty": (200, b""),
    "array": (200, b"[]"),
    "no keys": (200, b"{}"),
    "too many keys": (200, jwks(*[SECOND] * 101)),
    "huge": (200, b" " * (512 * 1024) + jwks(SECOND)),
    "duplicate members": (200, b'{"keys":[],"keys":[]}'),
    "deep": (200, b"[" * 100_000),
    "UTF-16": (200, jwks(SECOND).decode().encode("utf-16")),
}


@pytest.mark.parametrize(("status", "document"), BAD.values(), ids=BAD.keys())
def test_an_answer_that_is_no_key_set_keeps_the_last_good_one(status: int, document: bytes) -> None:
    """A4: never a 500, never an empty set from an error."""

    async def scenario() -> None:
        provider, clock = Provider(FIRST), FakeClock(0.0)
        async with running(provider, clock) as source:
            provider.status, provider.document = status, document
            await source.refetch("k2")
            assert len(provider.requests) == 2
            assert source.keys is not None
            assert source.keys.knows("k1")
            assert not source.keys.knows("k2")

    run(scenario)


def test_an_empty_set_is_believed() -> None:
    """A4: an issuer that withdraws every key is obeyed."""

    async def scenario() -> None:
        provider, clock, removed = Provider(FIRST), FakeClock(0.0), Removed()
        async with running(provider, clock, removed) as source:
            provider.serve()
            await source.refetch("k2")
            assert source.keys is not None
            assert len(source.keys) == 0
            assert len(removed) == 1

    run(scenario)


def test_requests_carry_no_state_of_the_client() -> None:
    """S-19: no cookies, no credentials, no encodings, and no redirect followed."""

    async def scenario() -> None:
        provider = Provider(FIRST)
        async with httpx.AsyncClient(
            transport=httpx.MockTransport(provider), cookies={"a": "b"}, auth=("u", "p"), follow_redirects=True
        ) as http:
            source = RemoteKeys(issuer(jwks=b"", jwks_url=URL), http, Removed(), QUIET, FakeClock(0.0))
            await source.refetch(None)
            (request,) = provider.requests
            assert "cookie" not in request.headers
            assert "authorization" not in request.headers
            assert request.headers["accept-encoding"] == "identity"
            assert source.keys is not None
            await source.close()

    run(scenario)


def test_a_failure_is_logged_once_and_so_is_the_recovery(caplog: pytest.LogCaptureFixture) -> None:
    """A4: an outage is one line, not one a request."""
    caplog.set_level(logging.INFO, "gateway.auth")

    async def scenario() -> None:
        provider, clock = Provider(FIRST), FakeClock(0.0)
        async with running(provider, clock) as source:
            provider.status = 503
            for _ in range(3):
                clock.advance(10)
                await source.refetch(f"k-{clock.now}")
            provider.status = 200
            clock.advance(10)
            await source.refetch("k2")

    run(scenario)
    messages = [record.getMessage() for record in caplog.records]
    assert messages.count("issuer login: keys can't be fetched: answered 503") == 1
    assert messages.count("issuer login: keys are fetched again") == 1


def test_a_dropped_key_is_warned_about_once_without_its_material(caplog: pytest.LogCaptureFixture) -> None:
    """A4: an unusable member is told, not repeated at every refresh."""

    async def scenario() -> None:
        provider, clock = Provider(FIRST, jwk(rsa_key(1024), kid="weak")), FakeClock(0.0)
        async with running(provider, clock) as source:
            clock.advance(10)
            await source.refetch("k2")

    run(scenario)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["issuer login: not used: key 1: RSA key of 1024 bits, at least 2048 are needed"]


# OpenID discovery


@pytest.mark.parametrize("name", ["https://login.example.gov/realms/hms", "https://login.example.gov/realms/hms/"])
def test_the_configuration_is_below_the_issuer(name: str) -> None:
    """A4: OpenID Connect Discovery 1.0 section 4."""
    assert discovery_url(name) == "https://login.example.gov/realms/hms/.well-known/openid-configuration"


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{}",
        b'{"issuer":"https://evil.example","jwks_uri":"https://login.example.gov/k"}',
        b'{"issuer":"https://login.example.gov/","jwks_uri":"https://login.example.gov/k"}',
        b'{"issuer":"https://login.example.gov"}',
        b'{"issuer":"https://login.example.gov","jwks_uri":7}',
        b'{"issuer":"https://login.example.gov","jwks_uri":"http://login.example.gov/k"}',
        b'{"issuer":"https://login.example.gov","jwks_uri":"file:///etc/keys"}',
    ],
)
def test_a_configuration_of_another_issuer_or_a_less_protected_address_is_refused(document: bytes) -> None:
    """A4: `issuer` must match exactly, and https never leads to http."""
    with pytest.raises(ValueError):
        jwks_uri(document, ISSUER)


def test_the_address_of_the_keys() -> None:
    """A4: discovery."""
    assert jwks_uri(b'{"issuer":"https://login.example.gov","jwks_uri":"https://cdn.example.gov/k"}', ISSUER) == "https://cdn.example.gov/k"


# Which source


async def _source(settings: Issuer) -> MaintainedKeys:
    async with httpx.AsyncClient() as http:
        return key_source(settings, http, Removed(), KeyTimings())


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({"algorithms": ("none",)}, "'none' given, allowed are"),
    "no algorithm": ({"algorithms": ()}, "none given, allowed are"),
    "lower case": ({"algorithms": ("rs256",)}, "'rs256' given"),
    "secp256k1": ({"algorithms": ("ES256K",)}, "'ES256K' given"),
    "encryption": ({"algorithms": ("RSA-OAEP",)}, "'RSA-OAEP' given"),
    "HS with RS": ({"algorithms": ("HS256", "RS256")}, "can't be used together"),
    "HS with keys": ({"algorithms": ("HS256",)}, "need a shared secret"),
    "secret with RS": ({"jwks": b"", "secret": SECRET}, "needs one of"),
    "no source": ({"jwks": b""}, "given: none"),
    "two sources": ({"jwks_url": URL}, "given: jwks, jwks_url"),
    "short secret": ({"jwks": b"", "secret": b"0123456789abcdef", "algorithms": ("HS256",)}, "16 bytes, HS256 needs at least 32"),
    "short for the hash": ({"jwks": b"", "secret": SECRET, "algorithms": ("HS512",)}, "32 bytes, HS512 needs at least 64"),
    "two HMACs": ({"jwks": b"", "secret": SECRET * 2, "algorithms": ("HS256", "HS512")}, "exactly one algorithm"),
    "FTP": ({"jwks": b"", "jwks_url": "ftp://login.example.gov/k"}, "not an http or https URL"),
    "no host": ({"jwks": b"", "jwks_url": "https:///k"}, "not an http or https URL"),
    "bad host": ({"jwks": b"", "jwks_url": "https://[::1/k"}, "not an http or https URL"),
    "discovery of a name": ({"jwks": b"", "discovery": True, "issuer": "login"}, "not an http or https URL"),
    "weak key in the settings": ({"jwks": jwks(FIRST, jwk(rsa_key(1024), kid="w"))}, "RSA key of 1024 bits"),
    "private key in the settings": ({"jwks": jwks({**FIRST, "d": "AQAB"})}, "private members"),
    "EdDSA under FIPS": ({"algorithms": ("EdDSA",), "fips": True}, "EdDSA is not in the FIPS-approved set: RS256, "),
    "exponent 3 under FIPS": ({"jwks": jwks({**FIRST, "e": "Aw"}), "fips": True}, "wants an even size and an odd exponent above 2^16"),
    "short secret under FIPS": (
        {"jwks": b"", "secret": b"0123456789abcdef", "algorithms": ("HS256",), "fips": True},
        "16 bytes, HS256 needs at least 32",
    ),
    "no key in the settings": ({"jwks": b'{"keys":[]}'}, "it has no keys"),
    "garbage in the settings": ({"jwks": b"{"}, "not a JWK Set"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_settings_that_are_not_safe_fail_the_start(changes: dict[str, Any], message: str) -> None:
    """A1, A9, S-22, S-32a: told at start, with the value and what is allowed."""
    with pytest.raises(ConfigError, match="issuer 'login'") as caught:
        asyncio.run(_source(issuer(**changes)))
    assert message in str(caught.value)
    assert SECRET.decode() not in str(caught.value)


def test_each_setting_has_its_source() -> None:
    """A4: URL, discovery, file, document, secret."""
    for changes, kind in (
        ({}, StaticKeys),
        ({"jwks": b"", "secret": SECRET, "algorithms": ("HS256",)}, StaticKeys),
        ({"jwks": b"", "jwks_file": "x"}, FileKeys),
        ({"jwks": b"", "jwks_url": URL}, RemoteKeys),
        ({"jwks": b"", "discovery": True}, RemoteKeys),
    ):
        assert isinstance(asyncio.run(_source(issuer(**changes))), kind)


def test_keys_without_tls_are_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    """A4: legal inside a cluster, dangerous elsewhere; loopback is neither."""
    asyncio.run(_source(issuer(jwks=b"", jwks_url="http://login/k")))
    asyncio.run(_source(issuer(jwks=b"", jwks_url="http://127.0.0.1/k")))
    asyncio.run(_source(issuer(jwks=b"", jwks_url="http://localhost/k")))
    assert [record.getMessage() for record in caplog.records] == [
        "issuer login: keys are fetched without TLS; whoever controls the network can forge tokens"
    ]


# Files

FAST = KeyTimings(file_poll=0.005)


async def _file_source(path: Path, removed: Removed) -> FileKeys:
    source = FileKeys(issuer(jwks=b"", jwks_file=str(path)), removed, FAST)
    await source.start()
    return source


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """A4: rotation without restart (S-39)."""
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(FIRST))
    removed = Removed()

    async def scenario() -> None:
        source = await _file_source(path, removed)
        assert source.keys.knows("k1")
        path.write_bytes(jwks(SECOND))
        await until(lambda: source.keys.knows("k2"))
        assert not source.keys.knows("k1")
        assert len(removed) == 1
        await source.close()

    run(scenario)


def test_a_file_that_turns_bad_or_vanishes_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A4: the last good keys stay."""
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(FIRST))

    async def scenario() -> None:
        source = await _file_source(path, Removed())
        path.write_bytes(b"{")
        await until(lambda: len(caplog.records) > 0)
        assert source.keys.knows("k1")
        path.unlink()
        await source.refetch("k2")
        assert source.keys.knows("k1")
        path.write_bytes(jwks(FIRST, SECOND))
        await until(lambda: source.keys.knows("k2"))
        await source.close()

    run(scenario)
    assert "the keys before it stay" in caplog.records[0].getMessage()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "can't be read"),
        (b"", "not a JWK Set"),
        (b'{"keys":[]}', "it has no keys"),
        (jwks(jwk(rsa_key(1024))), "RSA key of 1024 bits"),
        (jwks({**FIRST, "use": "enc"}), "`use` is not `sig`"),
        (b" " * (512 * 1024 + 1), "more than"),
    ],
)
def test_a_file_that_can_not_be_used_fails_the_start(tmp_path: Path, document: bytes | None, message: str) -> None:
    """S-32a: refused at start, not warned about."""
    path = tmp_path / "jwks.json"
    if document is not None:
        path.write_bytes(document)
    with pytest.raises(ConfigError, match="jwks_file") as caught:
        asyncio.run(_file_source(path, Removed()))
    assert message in str(caught.value)
