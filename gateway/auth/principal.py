"""Who is asking: the outcome of authentication, whatever the credential was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, eq=False)
class Principal:
    """A verified identity. It is cached with its token, so what is computed from it can be kept in `memo`.

    Args:
        subject: `sub` (or what the issuer's claim names say), or the owner of an API key.
        issuer: the exact `iss`; the introspection URL or `api-key` for the other kinds.
        method: what proved it.
        scopes, roles: as granted.
        token_id: what a revocation names this one credential by: `jti`, the content of a signed token that has none (`sha256:...`), the id
            of an API key; None for an introspected token without `jti`.
        session, client: `sid` and `azp`/`client_id`, None when absent.
        issued_at, expires_at: seconds since the epoch; 0 when unknown (`expires_at` 0: never).
        claims: everything the token said.
        memo: bytes that steps of the pipeline built from this principal, keyed by the plan that built them. Only steps of the pipeline
            write here; it dies with the cache entry.
    """

    subject: str
    issuer: str
    method: Literal["jwt", "introspection", "api_key"]
    scopes: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    token_id: str | None = None
    session: str | None = field(default=None, repr=False)
    client: str | None = None
    issued_at: int = 0
    expires_at: float = 0.0
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False)
    memo: dict[object, Any] = field(default_factory=dict, repr=False)
