"""The two ways in which a credential fails. What the client reads is fixed; what was wrong goes into `reason`, for records only."""

from __future__ import annotations

from gateway.errors import Unauthorized


def invalid(reason: str) -> Unauthorized:
    """A credential that never held here: `token_invalid`."""
    return Unauthorized("The token is not valid.", code="token_invalid", reason=reason)


def expired() -> Unauthorized:
    """A credential that held once: `token_expired`."""
    return Unauthorized("The token has expired.", code="token_expired")
