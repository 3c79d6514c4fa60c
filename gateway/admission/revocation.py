"""Revocations: what is revoked, for whom, until when; written and listed here, checked inside the admission call."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import orjson

from gateway.admission.keys import identity
from gateway.errors import BadRequest
from gateway.store.script import Script

RevocationKind = Literal["jti", "subject", "session", "client", "issuer"]
KINDS: tuple[RevocationKind, ...] = get_args(RevocationKind)
#: How long an entry without an expiry lasts: as long as any token may live, unless the configuration says more.
DEFAULT_LIFETIME_SECONDS = 24 * 3600.0
MAXIMUM_VALUE_BYTES = 2048
MAXIMUM_REASON_BYTES = 512
#: 9999-12-31; beyond it a time is a mistake, mostly milliseconds.
_LATEST_SECONDS = 253_402_214_400.0
#: Members of an entry that the script keeps for itself.
_OURS = frozenset({"expires_at_us", "version"})
REVOCATIONS_SCRIPT = Script.read(Path(__file__).parent / "lua" / "revocations.lua")
Publish = Callable[[Iterable[tuple[bytes, bytes]]], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """Tokens that no longer hold.

    Args:
        kind: what `value` is.
        value: a jti, subject, session, client or issuer, exactly as tokens carry it.
        issuer: only tokens of this issuer; None for any. Not for `kind` issuer, whose value it is.
        subject: only tokens of this subject; None for any. Only for `kind` jti.
        issued_before: only tokens with an `iat` at or before this, seconds since the epoch; tokens without an `iat` count as older. None
            for tokens of any age.
        expires_at: when the entry ends by itself, seconds since the epoch: when the last token that it concerns has expired. 0 for the
            longest that a token lives.
        reason: for people.
        created_at: seconds since the epoch; filled in by `Revocations.revoke`.
    """

    kind: RevocationKind
    value: str
    issuer: str | None = None
    subject: str | None = None
    issued_before: float | None = None
    expires_at: float = 0.0
    reason: str = ""
    created_at: float = 0.0


class RevocationStore(Protocol):
    """What revocations need of the store."""

    @property
    def shards(self) -> int: ...

    def shard_of(self, key: bytes | str) -> int: ...

    def tag(self, shard: int) -> bytes: ...

    async def run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | int]) -> Any: ...

    async def hash_values(self, key: bytes) -> list[bytes]: ...


class Revocations:
    """Writes and lists revocations. An entry that `revoke` has returned for is seen by every later admission of every replica (SPEC V2).

    All methods raise StoreError when the store can't do it; whether an entry was written is then unknown, and writing it again is safe.

    Args:
        store: the shared store.
        maximum_lifetime_seconds: how long an entry lasts that names no expiry: at least as long as any accepted token.
        clock: seconds since the epoch.
        publish: tells the mirrors of all replicas; given the (name, JSON) pairs that were written.
    """

    def __init__(
        self,
        store: RevocationStore,
        *,
        maximum_lifetime_seconds: float = DEFAULT_LIFETIME_SECONDS,
        clock: Callable[[], float] = time.time,
        publish: Publish | None = None,
    ) -> None:
        self._store = store
        self._publish = publish or _unpublished
        self._maximum_lifetime_seconds = maximum_lifetime_seconds
        self._clock = clock

    def last_for(self, maximum_lifetime_seconds: float) -> None:
        """Entries that name no expiry last so long from now on."""
        self._maximum_lifetime_seconds = maximum_lifetime_seconds

    async def revoke(self, revocation: Revocation) -> Revocation:
        """Writes an entry; one with the same kind, value, issuer and subject is replaced.

        Returns:
            The entry as it was written, with its expiry and the time of its creation.

        Raises:
            BadRequest: a field is not acceptable; the detail says which.
        """
        entry = self._completed(revocation)
        identified, expiry_us = identity(entry.kind, entry.value), int(entry.expires_at * 1e6)
        field = identified + identity("issuer", entry.issuer) + identity("subject", entry.subject)
        document = orjson.dumps(asdict(entry) | {"expires_at_us": expiry_us})
        version = 0
        for shard in self._shards_of(entry):
            _, written = await self._run(shard, b"revoke", field, document, expiry_us, version)
            version = orjson.loads(written)["version"]
        await self._publish([(field, written)])
        return entry

    async def list(self) -> list[Revocation]:
        """All entries that have not expired, the newest first."""
        now = self._clock()
        found: set[Revocation] = set()
        for shard in range(self._store.shards):
            for document in await self._store.hash_values(shard_keys(self._store.tag(shard))[1]):
                members = orjson.loads(document)
                if not members.get("removed"):
                    found.add(Revocation(**{name: value for name, value in members.items() if name not in _OURS}))
        return sorted((entry for entry in found if entry.expires_at > now), key=lambda entry: entry.created_at, reverse=True)

    async def remove(self, kind: str, value: str) -> bool:
        """Removes every entry of this kind and value, whatever issuer and subject it names.

        Returns:
            Whether there was one.

        Raises:
            BadRequest: the kind is unknown.
        """
        if kind not in KINDS:
            raise BadRequest(_kinds_allowed())
        removed: dict[bytes, bytes] = {}
        for shard in range(self._store.shards):
            reply = await self._run(shard, b"remove", identity(kind, value), _version(removed))
            removed.update(zip(reply[::2], reply[1::2], strict=True))
        await self._publish(removed.items())
        return bool(removed)

    async def _run(self, shard: int, *arguments: bytes | int) -> Any:
        return await self._store.run(REVOCATIONS_SCRIPT, shard_keys(self._store.tag(shard)), arguments)

    def _shards_of(self, entry: Revocation) -> Sequence[int]:
        """Where it is looked for: on the shard of its subject, or, when that is not known, everywhere."""
        subject = entry.value if entry.kind == "subject" else entry.subject
        return range(self._store.shards) if subject is None else (self._store.shard_of(subject),)

    def _completed(self, revocation: Revocation) -> Revocation:
        _check(revocation)
        now = self._clock()
        expires_at = revocation.expires_at or now + self._maximum_lifetime_seconds
        if expires_at <= now:
            raise BadRequest("expires_at must be in the future.")
        return replace(revocation, expires_at=expires_at, created_at=now)


def shard_keys(tag: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """The keys that hold a shard's revocations: identities, entries, entries by expiry, the name of the history."""
    return b"gw:%b:revoked" % tag, b"gw:%b:revocations" % tag, b"gw:%b:revocations-by-expiry" % tag, b"gw:%b:history" % tag


def _version(written: dict[bytes, bytes]) -> int:
    """The version that another shard has given a change; 0 when there was none."""
    return max((orjson.loads(document)["version"] for document in written.values()), default=0)


async def _unpublished(_: Iterable[tuple[bytes, bytes]]) -> None:
    """There are no mirrors to tell."""


def _check(revocation: Revocation) -> None:
    if revocation.kind not in KINDS:
        raise BadRequest(_kinds_allowed())
    if revocation.kind == "issuer" and revocation.issuer is not None:
        raise BadRequest("issuer is not allowed when the kind is issuer: the value names it.")
    if revocation.kind != "jti" and revocation.subject is not None:
        raise BadRequest("subject is only allowed when the kind is jti.")
    for name in ("value", "issuer", "subject"):
        _check_text(name, getattr(revocation, name))
    if len(revocation.reason.encode("utf-8", "surrogatepass")) > MAXIMUM_REASON_BYTES:
        raise BadRequest(f"reason must have at most {MAXIMUM_REASON_BYTES} bytes.")
    for name in ("issued_before", "expires_at"):
        seconds = getattr(revocation, name)
        if seconds is not None and not 0 <= seconds <= _LATEST_SECONDS:
            raise BadRequest(f"{name} must be seconds since 1970, before the year 10000.")


def _check_text(name: str, value: str | None) -> None:
    if value is not None and not 1 <= len(value.encode("utf-8", "surrogatepass")) <= MAXIMUM_VALUE_BYTES:
        raise BadRequest(f"{name} must have 1 to {MAXIMUM_VALUE_BYTES} bytes.")


def _kinds_allowed() -> str:
    return f"kind must be one of {', '.join(KINDS)}."
