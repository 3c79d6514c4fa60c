"""The one object that the pipeline holds: credentials in, principal out."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Collection
from functools import partial

import httpx

from gateway.auth.api_keys import ApiKeyStore, CommandExecutor, pepper_from_environment
from gateway.auth.cache import PrincipalCache
from gateway.auth.compact import MAX_TOKEN_BYTES
from gateway.auth.introspection import Introspector
from gateway.auth.keys import KeyTimings, MaintainedKeys, OnReached, key_source
from gateway.auth.principal import Principal
from gateway.auth.refusals import invalid
from gateway.auth.tokens import TrustedIssuer, Verifier
from gateway.errors import ConfigError, Unauthorized
from gateway.settings import AuthenticationSettings, Issuer

#: Verified bearer tokens that are kept (SPEC A5).
CACHE_CAPACITY = 10_000

#: Between looks at whether keys have come.
POLL_SECONDS = 0.02

# The scheme is matched in any case (RFC 9110 section 11.1), one or more spaces follow it (section 11.4).
_BEARER = re.compile(rb"bearer +([^ ].*)", re.IGNORECASE | re.DOTALL)
_MAX_FIELD_BYTES = len(b"Bearer ") + MAX_TOKEN_BYTES


class Authenticator:
    """Verifies bearer tokens, signed or opaque, and API keys.

    Args:
        settings: issuers, introspection endpoint, API keys.
        http: for key sets and introspection; used without its cookies, redirects and credentials.
        redis: the state store; needed for API keys only.
        before: the one whose place this will take. Key sets of issuers that have not changed, and API keys, are shared with it; `take_over`
            and `close` complete the change.
        clock: wall time in seconds; `monotonic` rules refreshes and the API key cache.
        timings: of key sets.
        on_reached: told when an issuer's key server or the introspection endpoint stops answering, and when it answers again.

    Raises:
        ConfigError: settings under which tokens could not be verified safely.
    """

    def __init__(
        self,
        settings: AuthenticationSettings,
        http: httpx.AsyncClient,
        redis: CommandExecutor | None = None,
        *,
        before: Authenticator | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        timings: KeyTimings | None = None,
        on_reached: OnReached = lambda name, answers: None,
    ) -> None:
        timings = timings or KeyTimings()
        self._settings = settings
        self._tokens = PrincipalCache(CACHE_CAPACITY, clock)
        shared = before._sources if before is not None else {}
        self._forget: _Forget = before._forget if before is not None else _Forget()
        self._forget.caches.append(self._tokens)
        self._sources: dict[Issuer, MaintainedKeys] = {
            issuer: shared.get(issuer) or key_source(issuer, http, self._forget, timings, monotonic, on_reached)
            for issuer in settings.issuers
        }
        self._new_sources = [source for issuer, source in self._sources.items() if issuer not in shared]
        self._verifier = Verifier([TrustedIssuer(issuer, self._sources[issuer]) for issuer in settings.issuers], self._tokens, clock)
        self._introspector = (
            Introspector(settings.introspection, http, self._tokens, clock, on_reached=on_reached) if settings.introspection else None
        )
        #: For the admin API; None when the settings have no API keys.
        self.api_keys: ApiKeyStore | None = None
        if settings.api_keys is not None:
            known = before.api_keys if before is not None else None
            self.api_keys = known or _api_key_store(redis, clock, monotonic)
        self._ready = not self._sources

    def __repr__(self) -> str:
        return f"<Authenticator {len(self._sources)} issuers, {len(self._tokens)} tokens cached, {'ready' if self.ready else 'not ready'}>"

    async def start(self) -> None:
        """Load local keys and begin to fetch remote ones. An issuer that can't be reached does not fail the start, see `ready`.

        Raises:
            ConfigError: a local key set can't be used.
        """
        for source in self._new_sources:
            await source.start()

    async def wait_until_ready(self, timeout_seconds: float) -> bool:
        """Whether every issuer has had keys, at the latest after so long."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while not self.ready:  # noqa: ASYNC110 - sources are many, and each is ready in its own way
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            return False
        return True

    def take_over(self, before: Authenticator) -> None:
        """Believe the tokens that `before` has verified under rules that have not changed, from now on in its place."""
        issuers = {issuer.issuer for issuer in self._settings.issuers if issuer in before._sources}
        same_endpoint = self._settings.introspection == before._settings.introspection

        def holds(principal: Principal) -> bool:
            return principal.issuer in issuers if principal.method == "jwt" else same_endpoint

        self._tokens.take_over(before._tokens, holds)

    def forget_plans(self) -> None:
        """The plans that have worked something out about principals are not in force any more."""
        self._tokens.forget_memos()

    async def close(self, keeping: Collection[Authenticator] = ()) -> None:
        """End all background work, except what others go on using. The HTTP and Redis clients stay open: they are the caller's."""
        if self._tokens in self._forget.caches:
            self._forget.caches.remove(self._tokens)
        sources = [source for source in self._sources.values() if not any(source in other._sources.values() for other in keeping)]
        closing = [source.close() for source in sources]
        if self._introspector is not None:
            closing.append(self._introspector.close())
        if self.api_keys is not None and not any(self.api_keys is other.api_keys for other in keeping):
            closing.append(self.api_keys.close())
        await asyncio.gather(*closing)

    @property
    def ready(self) -> bool:
        """Whether every issuer has had keys. Once True it stays so: an outage later on must not take every replica away at once."""
        self._ready = self._ready or all(source.keys for source in self._sources.values())
        return self._ready

    def recall(self, authorization: bytes | None, api_key: bytes | None) -> Callable[[], Principal | None]:
        """What tells the principal of credentials that were verified before, each time it is called; None when `authenticate` has to look.

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
                return _unknown
            return self._tokens.recall(authorization[7:])
        if api_key is not None and self.api_keys is not None:
            return partial(self.api_keys.cached, api_key)
        return _unknown

    def cached(self, authorization: bytes | None, api_key: bytes | None) -> Principal | None:
        """`recall` once."""
        return self.recall(authorization, api_key)()

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


class _Forget:
    """Has every cache forget what keys vouched for that have left their set: authenticators that share a key set have a cache each."""

    def __init__(self) -> None:
        self.caches: list[PrincipalCache] = []

    def __call__(self, proofs: Collection[bytes]) -> None:
        for cache in self.caches:
            cache.drop(proofs)


def _unknown() -> None:
    """Nothing is known of these credentials."""


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
