"""What a gateway that was given no issuer starts with: loud in development, refused in production."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

from gateway.auth.development import DevelopmentIssuer
from gateway.errors import ConfigError
from gateway.settings import Settings

SUBJECT = "developer"
TOKEN_SECONDS = 3600


def lacks_issuer(settings: Settings) -> bool:
    """Whether nobody could prove anything, and a route asks for it."""
    authentication = settings.authentication
    if authentication.issuers or authentication.introspection or authentication.api_keys:
        return False
    return any(route.authentication != "none" for route in settings.routes)


def development_settings(settings: Settings) -> Settings:
    """The settings, with a development issuer where nobody could prove anything otherwise; its token is printed to stderr.

    Raises:
        ConfigError: `GATEWAY_ENV` is `production`.
    """
    if not lacks_issuer(settings):
        return settings
    if os.environ.get("GATEWAY_ENV") == "production":
        raise ConfigError(
            "authentication: no issuer is configured, and GATEWAY_ENV=production refuses a development issuer; "
            "add authentication.issuers, introspection or api_keys"
        )
    issuer = DevelopmentIssuer.create()
    token = issuer.sign(SUBJECT, scopes_of(settings), TOKEN_SECONDS)
    print(
        "WARNING: no issuer is configured. A DEVELOPMENT issuer was created; it trusts only tokens made here and ends with this process.\n"
        f"A token of subject {SUBJECT!r} with every scope of the routes, good for one hour:\n\n{token}\n",
        file=sys.stderr,
        flush=True,
    )
    return replace(
        settings, authentication=replace(settings.authentication, issuers=(replace(issuer.issuer, fips=settings.authentication.fips),))
    )


def scopes_of(settings: Settings) -> list[str]:
    """Every scope that a route names, sorted."""
    return sorted({scope for route in settings.routes for scope in (*route.scopes, *route.any_scope)})
