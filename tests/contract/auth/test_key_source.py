"""What every source of keys promises the verifier and the authenticator, whatever it reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.auth.keys import KeyTimings, MaintainedKeys, key_source
from tests.support.tokens import SECRET, issuer, jwk, jwks, rsa_key

URL = "https://login.example.gov/keys"
DOCUMENT = jwks(jwk(rsa_key(), kid="k1"))
KINDS = ("document", "secret", "file", "url")


def settings_of(kind: str, directory: Path) -> dict[str, Any]:
    path = directory / "jwks.json"
    path.write_bytes(DOCUMENT)
    settings: dict[str, dict[str, Any]] = {
        "document": {"jwks": DOCUMENT},
        "secret": {"jwks": b"", "secret": SECRET, "algorithms": ("HS256",)},
        "file": {"jwks": b"", "jwks_file": str(path)},
        "url": {"jwks": b"", "jwks_url": URL},
    }
    return settings[kind]


async def _provide(request: httpx.Request) -> httpx.Response:
    async def body() -> AsyncIterator[bytes]:
        yield DOCUMENT

    return httpx.Response(200, content=body())


@pytest.fixture(params=KINDS)
def using(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Callable[[MaintainedKeys], Awaitable[None]]], None]:
    """Runs a scenario with a source of each kind."""

    def run(scenario: Callable[[MaintainedKeys], Awaitable[None]]) -> None:
        async def main() -> None:
            def nothing(fingerprints: Collection[bytes]) -> None:
                raise AssertionError("no key left")

            async with httpx.AsyncClient(transport=httpx.MockTransport(_provide)) as http, asyncio.timeout(10):
                source = key_source(issuer(**settings_of(request.param, tmp_path)), http, nothing, KeyTimings())
                try:
                    await scenario(source)
                finally:
                    await source.close()

        asyncio.run(main())

    return run


Using = Callable[[Callable[[MaintainedKeys], Awaitable[None]]], None]


def test_keys_are_there_after_start_and_one_question(using: Using) -> None:
    """A4: whatever the source, `start` and `refetch` lead to keys."""

    async def scenario(source: MaintainedKeys) -> None:
        await source.start()
        await source.refetch("k1")
        assert source.keys is not None
        assert len(source.keys) == 1

    using(scenario)


def test_asking_for_a_key_that_is_nowhere_returns_and_changes_nothing(using: Using) -> None:
    """A4: an unknown key is no error of the source."""

    async def scenario(source: MaintainedKeys) -> None:
        await source.start()
        await source.refetch("k1")
        before = source.keys
        for key_id in ("unknown", None, "unknown"):
            await source.refetch(key_id)
        assert before is not None
        assert source.keys is not None
        assert source.keys.fingerprints == before.fingerprints

    using(scenario)


def test_close_may_come_early_and_twice(using: Using) -> None:
    """G1: a start that failed elsewhere closes what never started."""

    async def scenario(source: MaintainedKeys) -> None:
        await source.close()
        await source.start()
        await source.close()
        assert len(asyncio.all_tasks()) == 1

    using(scenario)
