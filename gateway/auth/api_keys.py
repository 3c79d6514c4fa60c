"""API keys: long-lived credentials that we issue ourselves, kept in the state store as keyed hashes (SPEC A6).

A key reads `hmsk_<id>_<secret>`: a prefix that scanners for leaked credentials recognise, an id that may be shown, and 256 random bits
that are shown once, when the key is made. Redis has one hash, `{gateway}:api-keys`: id -> JSON record with HMAC-SHA-256(pepper, key).

The pepper comes from the environment (`GATEWAY_API_KEY_PEPPER`, at least 32 bytes, the same on every replica), so that somebody who can
write to the store still can't make a key. Without it one is made by whoever creates the first key, and kept in the same hash, where it
is read together with the record: replicas always agree on it, also after the store was emptied. Changing the pepper ends every key.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
from redis.exceptions import RedisError

from gateway.auth import claims as reading
from gateway.auth.breaker import Breaker
from gateway.auth.cache import PrincipalCache
from gateway.auth.principal import Principal
from gateway.auth.refusals import expired, invalid
from gateway.auth.shared_calls import SharedCalls
from gateway.errors import BadRequest, ConfigError, Unavailable

log = logging.getLogger("gateway.auth")

PEPPER_VARIABLE = "GATEWAY_API_KEY_PEPPER"
MIN_PEPPER_BYTES = 32
#: How long a verified key is believed without asking the store: the longest that a deleted key goes on working.
CACHE_SECONDS = 5.0
_CACHE_CAPACITY = 10_000

_STORE_KEY = "{gateway}:api-keys"
#: No id has a colon, so this field can't be mistaken for a key.
_PEPPER_FIELD = ":pepper"
_KEY = re.compile(rb"hmsk_([a-z2-7]{16})_([A-Za-z0-9_-]{43})")
_ID = re.compile(r"[a-z2-7]{16}")
_ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
#: A Redis that does not answer within this is taken to be away. Longer than an admission's budget: it happens once in CACHE_SECONDS.
_TIMEOUT_SECONDS = 0.25
_BREAKER_THRESHOLD = 3
_BREAKER_PAUSE_SECONDS = 1.0
ISSUER = "api-key"


class CommandExecutor(Protocol):
    """The one method of a redis-py client, standalone or cluster, that is needed here."""

    def execute_command(self, *args: Any, **options: Any) -> Awaitable[Any]:
        """Send a command and return its reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What is known of a key, without its secret.

    Args:
        id: names it; also the `token_id` of its principal, so that it can be revoked like a token.
        created_at, expires_at: whole seconds since the epoch; `expires_at` 0 for never.
    """

    id: str
    subject: str
    scopes: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    client: str | None = None
    created_at: int = 0
    expires_at: int = 0


@dataclass(frozen=True, slots=True)
class CreatedApiKey:
    """A new key and its text, which can't be had again."""

    key: ApiKey
    text: str

    def __repr__(self) -> str:
        return f"<CreatedApiKey {self.key.id}>"


class ApiKeyStore:
    """Creates, lists, deletes and verifies API keys.

    Args:
        redis: where they live.
        pepper: from the environment; None to keep one in the store.
        clock: wall time, for expiry; `monotonic` rules the cache.
    """

    def __init__(
        self,
        redis: CommandExecutor,
        pepper: bytes | None = None,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        timeout_seconds: float = _TIMEOUT_SECONDS,
    ) -> None:
        self._redis = redis
        self._pepper = pepper
        self._clock = clock
        self._monotonic = monotonic
        self._timeout_seconds = timeout_seconds
        self._cache = PrincipalCache(_CACHE_CAPACITY, monotonic)
        self._calls: SharedCalls[tuple[Any, Any]] = SharedCalls()
        self._breaker = Breaker(_BREAKER_THRESHOLD, _BREAKER_PAUSE_SECONDS, monotonic)

    def cached(self, text: bytes) -> Principal | None:
        """The principal of a key that was verified in the last five seconds."""
        return self._cache.get(text)

    async def verify(self, text: bytes) -> Principal:
        """The principal of a key.

        Raises:
            Unauthorized: no such key, or it has expired.
            Unavailable: the store can't be asked.
        """
        match = _KEY.fullmatch(text)
        if match is None:
            raise invalid("api_key_malformed")
        principal = self._cache.get(text)
        if principal is not None:
            return principal
        key_id = match[1].decode("ascii")
        try:
            pepper, record = await self._calls.run(match[1], lambda: self._read(key_id))
        except Unavailable as exc:
            # The outcome is shared with other callers; each gets an error of its own.
            raise _unavailable() from exc
        principal = self._principal(self._matching(key_id, text, pepper, record))
        self._cache.put(text, principal, self._monotonic() + self._lifetime(principal))
        return principal

    async def create(
        self,
        subject: str,
        *,
        scopes: Sequence[str] = (),
        roles: Sequence[str] = (),
        client: str | None = None,
        expires_at: int = 0,
    ) -> CreatedApiKey:
        """Make a key.

        Raises:
            BadRequest: a value that could not be handed on to a service, or an expiry in the past.
            Unavailable: the store can't be asked.
        """
        now = int(self._clock())
        _check_new(subject, scopes, roles, client, expires_at, now)
        key = ApiKey(
            id="".join(secrets.choice(_ID_ALPHABET) for _ in range(16)),
            subject=subject,
            scopes=tuple(scopes),
            roles=tuple(roles),
            client=client,
            created_at=now,
            expires_at=expires_at,
        )
        text = f"hmsk_{key.id}_{secrets.token_urlsafe(32)}"
        pepper = await self._own_pepper()
        await self._execute("HSET", _STORE_KEY, key.id, _write(key, _digest(pepper, text.encode())))
        return CreatedApiKey(key, text)

    async def list(self) -> tuple[ApiKey, ...]:
        """Every key, expired ones too, oldest first.

        Raises:
            Unavailable: the store can't be asked.
        """
        names = await self._execute("HKEYS", _STORE_KEY)
        ids = [name for name in map(_text, names) if _ID.fullmatch(name)]
        records = await self._execute("HMGET", _STORE_KEY, *ids) if ids else []
        pairs = (_parse(key_id, record) for key_id, record in zip(ids, records, strict=True) if record is not None)
        return tuple(sorted((pair[0] for pair in pairs if pair is not None), key=lambda key: (key.created_at, key.id)))

    async def delete(self, key_id: str) -> bool:
        """End a key, here at once, on other replicas within five seconds. False when there was none.

        Raises:
            Unavailable: the store can't be asked.
        """
        if _ID.fullmatch(key_id) is None:
            return False
        removed = await self._execute("HDEL", _STORE_KEY, key_id)
        self._cache.discard(lambda principal: principal.token_id == key_id)
        return bool(removed)

    async def close(self) -> None:
        """End the questions in flight."""
        await self._calls.close()

    async def _read(self, key_id: str) -> tuple[Any, Any]:
        pepper, record = await self._execute("HMGET", _STORE_KEY, _PEPPER_FIELD, key_id)
        return pepper, record

    def _matching(self, key_id: str, text: bytes, stored_pepper: Any, record: Any) -> ApiKey:
        pepper = self._pepper if self._pepper is not None else _pepper_of(stored_pepper)
        if pepper is None or record is None:
            raise invalid("api_key_unknown")
        parsed = _parse(key_id, record)
        if parsed is None:
            log.error("api key %s: its record in the store is damaged", key_id)
            raise invalid("api_key_unknown")
        key, digest = parsed
        if not hmac.compare_digest(digest, _digest(pepper, text)):
            raise invalid("api_key_unknown")
        if key.expires_at and self._clock() >= key.expires_at:
            raise expired()
        return key

    def _principal(self, key: ApiKey) -> Principal:
        return Principal(
            subject=key.subject,
            issuer=ISSUER,
            method="api_key",
            scopes=frozenset(key.scopes),
            roles=frozenset(key.roles),
            token_id=key.id,
            client=key.client,
            issued_at=key.created_at,
            expires_at=float(key.expires_at),
        )

    def _lifetime(self, principal: Principal) -> float:
        if not principal.expires_at:
            return CACHE_SECONDS
        return min(CACHE_SECONDS, principal.expires_at - self._clock())

    async def _own_pepper(self) -> bytes:
        if self._pepper is not None:
            return self._pepper
        await self._execute("HSETNX", _STORE_KEY, _PEPPER_FIELD, secrets.token_hex(MIN_PEPPER_BYTES))
        pepper = _pepper_of(await self._execute("HGET", _STORE_KEY, _PEPPER_FIELD))
        if pepper is None:
            raise _unavailable()
        return pepper

    async def _execute(self, *command: str) -> Any:
        if not self._breaker.allows():
            raise _unavailable()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                reply = await self._redis.execute_command(*command)
        except (RedisError, OSError) as exc:
            if self._breaker.failed():
                log.warning("api keys: the store does not answer: %s", type(exc).__name__)
            raise _unavailable() from exc
        if self._breaker.succeeded():
            log.info("api keys: the store answers again")
        return reply


def pepper_from_environment(environment: Mapping[str, str] = os.environ) -> bytes | None:
    """The pepper that the operator keeps outside of the store; None when there is none.

    Raises:
        ConfigError: it is too short to be one.
    """
    value = environment.get(PEPPER_VARIABLE, "").encode()
    if not value:
        return None
    if len(value) < MIN_PEPPER_BYTES:
        raise ConfigError(f"{PEPPER_VARIABLE} has {len(value)} bytes, at least {MIN_PEPPER_BYTES} are needed")
    return value


def _check_new(subject: str, scopes: Sequence[str], roles: Sequence[str], client: str | None, expires_at: int, now: int) -> None:
    if not reading.is_header_text(subject):
        raise BadRequest("`subject` must be 1 to 512 printable characters without spaces at the ends.")
    if not all(map(reading.is_scope, scopes)):
        raise BadRequest("`scopes` must be scope tokens (RFC 6749 section 3.3).")
    if not all(map(reading.is_header_text, roles)):
        raise BadRequest("`roles` must be printable strings without spaces at the ends.")
    if client is not None and not reading.is_header_text(client):
        raise BadRequest("`client` must be 1 to 512 printable characters without spaces at the ends.")
    if expires_at and expires_at <= now:
        raise BadRequest("`expires_at` must be in the future, in seconds since the epoch; 0 for never.")


def _digest(pepper: bytes, text: bytes) -> bytes:
    return hmac.digest(pepper, text, "sha256")


def _write(key: ApiKey, digest: bytes) -> str:
    record = {
        "hash": digest.hex(),
        "subject": key.subject,
        "scopes": key.scopes,
        "roles": key.roles,
        "client": key.client,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
    }
    return orjson.dumps(record).decode()


def _parse(key_id: str, record: bytes | str) -> tuple[ApiKey, bytes] | None:
    try:
        members = orjson.loads(record)
        key = ApiKey(
            id=key_id,
            subject=str(members["subject"]),
            scopes=tuple(members["scopes"]),
            roles=tuple(members["roles"]),
            client=members["client"],
            created_at=int(members["created_at"]),
            expires_at=int(members["expires_at"]),
        )
        return key, bytes.fromhex(members["hash"])
    except (ValueError, KeyError, TypeError):
        return None


def _pepper_of(stored: Any) -> bytes | None:
    try:
        return None if stored is None else bytes.fromhex(_text(stored))
    except ValueError:
        log.error("api keys: the pepper in the store is damaged")
        return None


def _text(value: bytes | str) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _unavailable() -> Unavailable:
    return Unavailable("store_unavailable", "API keys can't be verified now.", reason="api_keys_unavailable")
