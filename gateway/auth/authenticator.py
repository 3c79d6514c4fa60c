"""The one object that the pipeline holds: credentials in, principal out."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable

import httpx

from gateway.auth.api_keys import ApiKeyStore, CommandExecutor, pepper_from_environment
from gateway.auth.cache import PrincipalCache
from gateway.auth.compact import MAX_TOKEN_BYTES
from gateway.auth.introspection import Introspector
from gateway.auth.keys import KeyTimings, MaintainedKeys, key_source
from gateway.auth.principal import Principal
from gateway.auth.refusals import invalid
from gateway.auth.tokens import TrustedIssuer, Verifier
from gateway.errors import ConfigError, Unauthorized
from gateway.settings import AuthenticationSettings

#: Verified bearer tokens that are kept (SPEC A5).
CACHE_CAPACITY = 10_000

# The scheme is matched in any case (RFC 9110 section 11.1), one or more spaces follow it (section 11.4).
_BEARER = re.compile(rb"bearer +([^ ].*)", re.IGNORECASE | re.DOTALL)
_MAX_FIELD_BYTES = len(b"Bearer ") + MAX_TOKEN_BYTES


class Authenticator:
    """Verifies bearer tokens, signed or opaque, and API keys.

    Args:
        settings: issuers, introspection endpoint, API keys.
        http: for key sets and introspection; used without its cookies, redirects and credentials.
        redis: the state store; needed for API keys only.
        clock: wall time in seconds; `monotonic` rules refreshes and the API key cache.
        timings: of key sets.

    Raises:
        ConfigError: settings under which tokens could not be verified safely.
    """

    def __init__(
        self,
        settings: AuthenticationSettings,
        http: httpx.AsyncClient,
        redis: CommandExecutor | None = None,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        timings: KeyTimings | None = None,
    ) -> None:
        timings = timings or KeyTimings()
        self._tokens = PrincipalCache(CACHE_CAPACITY, clock)
        self._sources: tuple[MaintainedKeys, ...] = tuple(
            key_source(issuer, http, self._tokens.drop, timings, monotonic) for issuer in settings.issuers
        )
        trusted = [TrustedIssuer(issuer, keys) for issuer, keys in zip(settings.issuers, self._sources, strict=True)]
        self._verifier = Verifier(trusted, self._tokens, clock)
        self._introspector = Introspector(settings.introspection, http, self._tokens, clock) if settings.introspection else None
        #: For the admin API; None when the settings have no API keys.
        self.api_keys: ApiKeyStore | None = None
        if settings.api_keys is not None:
            self.api_keys = _api_key_store(redis, clock, monotonic)
        self._ready = not self._sources

    def __repr__(self) -> str:
        return f"<Authenticator {len(self._sources)} issuers, {len(self._tokens)} tokens cached, {'ready' if self.ready else 'not ready'}>"

    async def start(self) -> None:
        """Load local keys and begin to fetch remote ones. An issuer that can't be reached does not fail the start, see `ready`.

        Raises:
            ConfigError: a local key set can't be used.
        """
        try:
            for source in self._sources:
                await source.start()
        except ConfigError:
            await self.close()
            raise

    async def close(self) -> None:
        """End all background work. The HTTP and Redis clients stay open: they are the caller's."""
        closing = [source.close() for source in self._sources]
        if self._introspector is not None:
            closing.append(self._introspector.close())
        if self.api_keys is not None:
            closing.append(self.api_keys.close())
        await asyncio.gather(*closing)

    @property
    def ready(self) -> bool:
        """Whether every issuer has had keys. Once True it stays so: an outage later on must not take every replica away at once."""
        self._ready = self._ready or all(source.keys for source in self._sources)
        return self._ready

    def cached(self, authorization: bytes | None, api_key: bytes | None) -> Principal | None:
        """The principal of credentials that were verified before; None when `authenticate` has to look at them.

        Args:
            authorization: the value of `Authorization`, None when the request has none.
            api_key: the value of the API key field, likewise.
        """
        if authorization is not None:
            if (
                authorization[:7] != b"Bearer "
                or len(authorization) > _MAX_FIELD_BYTES
                or (api_key is not None and self.api_keys is not None)
            ):
                return None
            return self._tokens.get(authorization[7:])
        if api_key is not None and self.api_keys is not None:
            return self.api_keys.cached(api_key)
        return None

    async def authenticate(self, authorization: bytes | None, api_key: bytes | None) -> Principal | None:
        """The principal of a request; None when it brings no credentials at all.

        An API key is only looked at when the settings have API keys; else the field belongs to the service behind.

        Raises:
            Unauthorized: `unauthorized` for another scheme than Bearer or for two credentials at once; `token_invalid` and
                `token_expired` for credentials that don't hold.
            Unavailable: what would decide can't be asked now.
        """
        if self.api_keys is None:
            api_key = None
        if authorization is None:
            return None if self.api_keys is None or api_key is None else await self.api_keys.verify(api_key)
        if api_key is not None:
            raise Unauthorized("Send either a bearer token or an API key, not both.", reason="several_credentials")
        token = _bearer_token(authorization)
        return self._tokens.get(token) or await self._verify(token)

    async def _verify(self, token: bytes) -> Principal:
        if self._introspector is not None and (not self._sources or token.count(b".") != 2):
            return await self._introspector.verify(token)
        return await self._verifier.verify(token)


def _bearer_token(authorization: bytes) -> bytes:
    match = _BEARER.fullmatch(authorization)
    if match is None:
        if authorization.strip().lower() == b"bearer":
            raise invalid("token_malformed")
        raise Unauthorized("This authentication scheme is not accepted; send a bearer token.", reason="scheme_not_accepted")
    if len(match[1]) > MAX_TOKEN_BYTES:
        raise invalid("token_too_large")
    return match[1]


def _api_key_store(redis: CommandExecutor | None, clock: Callable[[], float], monotonic: Callable[[], float]) -> ApiKeyStore:
    if redis is None:
        raise ConfigError("authentication: api_keys: they are kept in the state store, and there is none")
    return ApiKeyStore(redis, pepper_from_environment(), clock=clock, monotonic=monotonic)
