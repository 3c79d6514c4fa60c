"""What a revocation may say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from gateway.admission.keys import identity
from gateway.admission.revocation import Revocation, Revocations
from gateway.errors import BadRequest
from gateway.store.script import Script
from tests.support.redis_server import run

NOW = 1_000_000.0


class WrittenDown:
    """A store of two shards that keeps what it was asked to run."""

    shards = 2

    def __init__(self) -> None:
        self.runs: list[tuple[Sequence[bytes], Sequence[bytes | int]]] = []

    def shard_of(self, key: bytes | str) -> int:
        return len(key) % 2

    def tag(self, shard: int) -> bytes:
        return b"{s%02d}" % shard

    async def run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | int]) -> Any:
        self.runs.append((keys, arguments))
        document = arguments[2]
        assert isinstance(document, bytes)
        return [1, b'{"version":7,' + document[1:]]

    async def hash_values(self, key: bytes) -> list[bytes]:
        return []


def revoke(revocation: Revocation) -> tuple[Revocation, WrittenDown]:
    store = WrittenDown()
    return run(Revocations(store, maximum_lifetime_seconds=600, clock=lambda: NOW).revoke(revocation)), store


@pytest.mark.parametrize(
    ("revocation", "message"),
    [
        (Revocation(kind="token", value="x"), "kind must be one of jti, subject, session, client, issuer."),  # type: ignore[arg-type]
        (Revocation(kind="jti", value=""), "value must have 1 to 2048 bytes."),
        (Revocation(kind="jti", value="x" * 2049), "value must have 1 to 2048 bytes."),
        (Revocation(kind="jti", value="x", issuer=""), "issuer must have 1 to 2048 bytes."),
        (Revocation(kind="jti", value="x", subject="y" * 3000), "subject must have 1 to 2048 bytes."),
        (Revocation(kind="subject", value="x", subject="y"), "subject is only allowed when the kind is jti."),
        (Revocation(kind="issuer", value="x", issuer="y"), "issuer is not allowed when the kind is issuer"),
        (Revocation(kind="jti", value="x", reason="r" * 513), "reason must have at most 512 bytes."),
        (Revocation(kind="jti", value="x", expires_at=NOW), "expires_at must be in the future."),
        (Revocation(kind="jti", value="x", expires_at=1e12), "expires_at must be seconds since 1970"),
        (Revocation(kind="jti", value="x", issued_before=-1.0), "issued_before must be seconds since 1970"),
        (Revocation(kind="jti", value="x", issued_before=float("nan")), "issued_before must be seconds since 1970"),
    ],
)
def test_what_can_not_be_meant_is_refused(revocation: Revocation, message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        revoke(revocation)
    assert caught.value.detail.startswith(message)


def test_an_entry_without_an_expiry_lasts_as_long_as_a_token_may() -> None:
    """V1."""
    entry, store = revoke(Revocation(kind="subject", value="bob", reason="left"))
    assert (entry.expires_at, entry.created_at) == (NOW + 600, NOW)
    ((keys, arguments),) = store.runs
    assert keys == (b"gw:{s01}:revoked", b"gw:{s01}:revocations", b"gw:{s01}:revocations-by-expiry", b"gw:{s01}:history")
    assert arguments[:2] == (b"revoke", identity("subject", "bob") + bytes(32))
    assert isinstance(arguments[2], bytes)
    assert orjson.loads(arguments[2])["expires_at_us"] == arguments[3] == int((NOW + 600) * 1e6)


@pytest.mark.parametrize(
    ("revocation", "shards"),
    [
        (Revocation(kind="subject", value="bob"), 1),
        (Revocation(kind="jti", value="x", subject="alice2"), 1),
        (Revocation(kind="jti", value="x"), 2),
        (Revocation(kind="session", value="x"), 2),
        (Revocation(kind="client", value="x"), 2),
        (Revocation(kind="issuer", value="x"), 2),
    ],
)
def test_an_entry_is_where_its_requests_look(revocation: Revocation, shards: int) -> None:
    """On the principal's shard when the subject is known, else on all."""
    assert len(revoke(revocation)[1].runs) == shards


def test_only_known_kinds_can_be_removed() -> None:
    with pytest.raises(BadRequest):
        run(Revocations(WrittenDown()).remove("token", "x"))
