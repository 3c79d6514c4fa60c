"""An authenticator with one issuer whose keys come over HTTP, and how tokens fare with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from gateway.auth.authenticator import Authenticator
from gateway.auth.keys import KeyTimings
from gateway.errors import GatewayError
from gateway.settings import AuthenticationSettings
from tests.support.tokens import FakeClock, issuer


@asynccontextmanager
async def authenticating(timings: KeyTimings, **changes: Any) -> AsyncIterator[Authenticator]:
    """Started, on a clock that stands still; closed at the end. `changes` are of the issuer's settings, and say where the keys are."""
    settings = issuer(**({"jwks": b""} | changes))
    async with httpx.AsyncClient(trust_env=False) as http:
        authenticator = Authenticator(AuthenticationSettings(issuers=(settings,)), http, clock=FakeClock(), timings=timings)
        await authenticator.start()
        try:
            yield authenticator
        finally:
            await authenticator.close()


async def outcome(authenticator: Authenticator, field: bytes) -> str:
    """The subject, or status and reason of the refusal."""
    try:
        principal = await authenticator.authenticate(field, None)
    except GatewayError as error:
        return f"{error.status} {error.reason}"
    return principal.subject if principal else "nobody"
