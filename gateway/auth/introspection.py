"""Opaque tokens, asked about at the authorization server (RFC 7662; SPEC A7). What can't be asked is a 503, never an admission."""

from __future__ import annotations

import base64
import logging
import re
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any
from urllib.parse import quote_plus, urlsplit

import httpx

from gateway.auth import claims as reading
from gateway.auth.breaker import Breaker
from gateway.auth.cache import PrincipalCache
from gateway.auth.compact import MAX_TOKEN_BYTES
from gateway.auth.fetch import FetchError, fetch
from gateway.auth.keys import OnReached
from gateway.auth.principal import Principal
from gateway.auth.refusals import expired, invalid
from gateway.auth.shared_calls import SharedCalls
from gateway.auth.strict_json import loads_object
from gateway.errors import ConfigError, Unavailable
from gateway.settings import Introspection

log = logging.getLogger("gateway.auth")

#: b64token of RFC 6750 section 2.1: nothing else can be a bearer token.
_BEARER_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
#: A token that is not active is remembered this long, so that repeating it does not burden the server.
_INACTIVE_SECONDS = 10.0
_MAX_INACTIVE = 1000
#: Beyond this many questions in flight a new one is refused.
_MAX_IN_FLIGHT = 256
_TIMEOUT_SECONDS = 3.0
#: `token_type_hint`, RFC 7662 section 2.1.
_KIND = "access_token"
_BREAKER_THRESHOLD = 3
_BREAKER_PAUSE_SECONDS = 1.0


class Introspector:
    """Asks an RFC 7662 endpoint, authenticated by client_secret_basic. Equal tokens that come at once share one question.

    Args:
        cache: where answers are kept, at most `settings.cache` seconds and never beyond `exp`.

    Raises:
        ConfigError: the URL is no http or https URL, or the client has no secret.
    """

    def __init__(
        self,
        settings: Introspection,
        http: httpx.AsyncClient,
        cache: PrincipalCache,
        clock: Callable[[], float] = time.time,
        timeout_seconds: float = _TIMEOUT_SECONDS,
        on_reached: OnReached = lambda name, answers: None,
    ) -> None:
        _check(settings)
        self._on_reached = on_reached
        self._url = settings.url
        self._cache_seconds = settings.cache
        self._headers = {"authorization": _basic(settings.client_id, settings.client_secret)}
        self._http = http
        self._cache = cache
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._calls: SharedCalls[dict[str, Any]] = SharedCalls()
        self._breaker = Breaker(_BREAKER_THRESHOLD, _BREAKER_PAUSE_SECONDS)
        # Digest of an inactive token -> until when that is believed.
        self._inactive: dict[bytes, float] = {}

    async def verify(self, token: bytes) -> Principal:
        """The principal of an opaque token.

        Raises:
            Unauthorized: the endpoint says that it is not active, or what it says can't be used.
            Unavailable: the endpoint can't be asked; reason `introspection_unavailable`.
        """
        if len(token) > MAX_TOKEN_BYTES or _BEARER_TOKEN.fullmatch(token) is None:
            raise invalid("token_malformed")
        digest = sha256(token).digest()
        if self._clock() < self._inactive.get(digest, 0.0):
            raise invalid("token_inactive")
        reply = await self._ask(digest, token)
        if reply.get("active") is not True:
            self._remember_inactive(digest)
            raise invalid("token_inactive")
        now = self._clock()
        principal = self._principal(reply, now)
        until = now + self._cache_seconds
        self._cache.put(token, principal, min(until, principal.expires_at) if principal.expires_at else until)
        return principal

    async def close(self) -> None:
        """End the questions in flight."""
        await self._calls.close()

    async def _ask(self, digest: bytes, token: bytes) -> dict[str, Any]:
        if len(self._calls) >= _MAX_IN_FLIGHT or not self._breaker.allows():
            raise _unavailable()
        try:
            return await self._calls.run(digest, lambda: self._judged(token))
        except (FetchError, ValueError) as exc:
            raise _unavailable() from exc

    async def _judged(self, token: bytes) -> dict[str, Any]:
        # Counted once a question, however many callers share it.
        try:
            reply = await self._post(token)
        except (FetchError, ValueError) as exc:
            if self._breaker.failed():
                log.warning("introspection: no usable answer: %s", exc)
                self._on_reached("introspection", False)
            raise
        if self._breaker.succeeded():
            log.info("introspection: answers again")
            self._on_reached("introspection", True)
        return reply

    async def _post(self, token: bytes) -> dict[str, Any]:
        form = {"token": token.decode("ascii"), "token_type_hint": _KIND}
        body = await fetch(self._http, self._url, timeout_seconds=self._timeout_seconds, form=form, headers=self._headers)
        reply = loads_object(body)
        if not isinstance(reply.get("active"), bool):
            raise ValueError("`active` is not a boolean")
        return reply

    def _remember_inactive(self, digest: bytes) -> None:
        self._inactive.pop(digest, None)
        self._inactive[digest] = self._clock() + min(_INACTIVE_SECONDS, self._cache_seconds)
        if len(self._inactive) > _MAX_INACTIVE:
            del self._inactive[next(iter(self._inactive))]

    def _principal(self, reply: dict[str, Any], now: float) -> Principal:
        client = reading.optional_text(reply.get("client_id"))
        subject = reading.optional_text(reply.get("sub")) or reading.optional_text(reply.get("username")) or client
        if subject is None:
            raise invalid("token_claim_missing")
        issued_at, expires_at = _check_times(reply, now)
        return Principal(
            subject=subject,
            issuer=self._url,
            method="introspection",
            scopes=reading.scopes(reply.get("scope")),
            roles=reading.roles(reply.get("roles")),
            token_id=reading.usable_token_id(reply.get("jti")),
            session=reading.optional_text(reply.get("sid")),
            client=client,
            issued_at=int(issued_at),
            expires_at=expires_at,
            claims=reply,
        )


def _check_times(reply: dict[str, Any], now: float) -> tuple[float, float]:
    # The server has judged them already; a proxy between us may have kept its answer for too long.
    expires_at = reading.numeric_date(reply, "exp")
    if expires_at is not None and now >= expires_at:
        raise expired()
    return reading.numeric_date(reply, "iat") or 0.0, expires_at or 0.0


def _check(settings: Introspection) -> None:
    parts = urlsplit(settings.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"introspection: url: {settings.url!r} is not an http or https URL")
    if not settings.client_id or not settings.client_secret:
        raise ConfigError("introspection: client_id and client_secret_file are needed (RFC 7662 section 2.1)")
    if settings.cache < 0:
        raise ConfigError(f"introspection: cache: {settings.cache!r} is negative; 0 keeps nothing")


def _basic(client_id: str, client_secret: str) -> str:
    # Both parts are form-encoded before they are joined (RFC 6749 section 2.3.1).
    pair = f"{quote_plus(client_id)}:{quote_plus(client_secret)}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _unavailable() -> Unavailable:
    return Unavailable("overloaded", "Tokens can't be verified now.", reason="introspection_unavailable")
