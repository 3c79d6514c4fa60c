"""Signed tokens: from the bytes of a credential to a principal, or a 401 (SPEC A1-A3, A5; RFC 7515, 7519, 8725, 9068)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gateway.auth import claims as reading
from gateway.auth.cache import PrincipalCache
from gateway.auth.compact import Compact, parse
from gateway.auth.jwk import KeySet, VerificationKey
from gateway.auth.keys import KeySource
from gateway.auth.principal import Principal
from gateway.auth.refusals import expired, invalid
from gateway.errors import ConfigError, Unavailable
from gateway.settings import Issuer


class ClaimPolicy:
    """What the claims of one issuer must say, compiled from its settings.

    Raises:
        ConfigError: the settings would accept anybody's tokens.
    """

    def __init__(self, issuer: Issuer) -> None:
        where = f"issuer {issuer.name!r}"
        if not issuer.issuer:
            raise ConfigError(f"{where}: issuer must be the exact `iss` of its tokens")
        if not issuer.audience or not all(issuer.audience):
            raise ConfigError(f"{where}: audience must name at least one audience, none of them empty")
        if issuer.leeway < 0 or issuer.maximum_lifetime < 0:
            raise ConfigError(f"{where}: leeway and maximum_lifetime must not be negative")
        self._issuer = issuer.issuer
        self._audience = frozenset(issuer.audience)
        self._leeway = issuer.leeway
        self._maximum_lifetime = issuer.maximum_lifetime
        self._required = tuple(reading.claim_reader(name) for name in issuer.required_claims)
        self._own_id_required = "jti" in issuer.required_claims
        self._subject = reading.claim_reader(issuer.claims.subject)
        self._scope = reading.claim_reader(issuer.claims.scope)
        self._roles = reading.claim_reader(issuer.claims.roles)
        self._session = reading.claim_reader(issuer.claims.session)
        self._client = reading.claim_reader(issuer.claims.client)

    def principal(self, claims: dict[str, Any], payload: bytes, now: float) -> Principal:
        """Who the claims of a verified token are about.

        Args:
            claims: what the payload says.
            payload: the document itself, which names a token that has no id of its own.
            now: seconds since the epoch.

        Raises:
            Unauthorized: `token_expired`, or `token_invalid` for everything else.
        """
        if not reading.names_audience(claims.get("aud"), self._audience):
            raise invalid("token_audience")
        if any(read(claims) is None for read in self._required):
            raise invalid("token_claim_missing")
        issued_at, expires_at = self._check_times(claims, now)
        client = self._client_of(claims)
        return Principal(
            subject=self._subject_of(claims, client),
            issuer=self._issuer,
            method="jwt",
            scopes=reading.scopes(self._scope(claims)),
            roles=reading.roles(self._roles(claims)),
            token_id=self._token_id_of(claims, payload),
            session=reading.optional_text(self._session(claims)),
            client=client,
            issued_at=int(issued_at or 0),
            expires_at=expires_at,
            claims=claims,
        )

    def _check_times(self, claims: Mapping[str, Any], now: float) -> tuple[float | None, float]:
        expires_at = reading.numeric_date(claims, "exp")
        not_before = reading.numeric_date(claims, "nbf")
        issued_at = reading.numeric_date(claims, "iat")
        if expires_at is None:
            # A token without end can't be bounded by revocation either, so it is refused whatever `required_claims` says.
            raise invalid("token_claim_missing")
        if now >= expires_at + self._leeway:
            raise expired()
        if max(not_before or 0.0, issued_at or 0.0) > now + self._leeway:
            raise invalid("token_not_yet_valid")
        if self._maximum_lifetime and (issued_at is None or expires_at - issued_at > self._maximum_lifetime):
            raise invalid("token_lifetime")
        return issued_at, expires_at

    def _token_id_of(self, claims: Mapping[str, Any], payload: bytes) -> str:
        """What revocation names the token by: its `jti`, else its content (S-30)."""
        own = reading.usable_token_id(claims.get("jti"))
        if own is not None:
            return own
        if self._own_id_required:
            raise invalid("token_claim_missing")
        return reading.content_id(payload)

    def _client_of(self, claims: dict[str, Any]) -> str | None:
        client = self._client(claims)
        return reading.optional_text(claims.get("client_id") if client is None else client)

    def _subject_of(self, claims: dict[str, Any], client: str | None) -> str:
        # A token without a subject is its client's own. One with neither has nobody whom limits and revocations could be about.
        subject = reading.optional_text(self._subject(claims)) or client
        if subject is None:
            raise invalid("token_claim_missing")
        return subject


class TrustedIssuer:
    """One issuer: its keys, and what its claims must say."""

    def __init__(self, settings: Issuer, keys: KeySource) -> None:
        self.settings = settings
        self.policy = ClaimPolicy(settings)
        self._keys = keys
        self._algorithms = frozenset(settings.algorithms)

    async def verify(self, token: Compact) -> VerificationKey:
        """The key that signed the token.

        Raises:
            Unauthorized: no key of the issuer did.
            Unavailable: its keys are not known now.
        """
        if token.algorithm not in self._algorithms:
            raise invalid("token_algorithm")
        candidates = _candidates(self._keys.keys, token) or await self._ask_again(token)
        for key in candidates:
            if key.verifies(token.signing_input, token.signature):
                return key
        raise invalid("token_signature")

    async def _ask_again(self, token: Compact) -> tuple[VerificationKey, ...]:
        keys = self._keys.keys
        if keys is None or not keys.knows(token.key_id):
            await self._keys.refetch(token.key_id)
            keys = self._keys.keys
        if keys is None:
            raise Unavailable("overloaded", "Tokens can't be verified now.", reason="keys_unavailable", retry_after=5)
        candidates = _candidates(keys, token)
        if not candidates:
            raise invalid("token_key_unknown")
        return candidates


class Verifier:
    """Verifies tokens of every trusted issuer and keeps those that hold in a cache until they expire.

    Raises:
        ConfigError: two issuers have the same `iss`.
    """

    def __init__(self, issuers: Iterable[TrustedIssuer], cache: PrincipalCache, clock: Callable[[], float] = time.time) -> None:
        self._cache = cache
        self._clock = clock
        self._issuers: dict[str, TrustedIssuer] = {}
        for issuer in issuers:
            name = issuer.settings.issuer
            if name in self._issuers:
                both = f"{self._issuers[name].settings.name!r} and {issuer.settings.name!r}"
                raise ConfigError(f"issuers {both} have the same issuer {name!r}; it must be unique")
            self._issuers[name] = issuer

    async def verify(self, token: bytes) -> Principal:
        """The principal of a compact JWS.

        Raises:
            Unauthorized: `token_invalid` or `token_expired`, for any bytes whatever.
            Unavailable: the issuer's keys are not known now.
        """
        compact = parse(token)
        issuer = self._issuer_of(compact)
        key = await issuer.verify(compact)
        principal = issuer.policy.principal(compact.claims(), compact.payload, self._clock())
        # Nothing is awaited between the look at the key set and this, so a key can't leave unnoticed in between.
        self._cache.put(token, principal, principal.expires_at, key.fingerprint)
        return principal

    def _issuer_of(self, token: Compact) -> TrustedIssuer:
        issuer = self._issuers.get(token.issuer) if isinstance(token.issuer, str) else None
        if issuer is None:
            raise invalid("token_issuer_unknown")
        return issuer


def _candidates(keys: KeySet | None, token: Compact) -> tuple[VerificationKey, ...]:
    return () if keys is None else keys.candidates(token.key_id, token.algorithm)
