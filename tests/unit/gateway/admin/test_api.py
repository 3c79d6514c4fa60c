"""Who is believed to be an administrator."""

from __future__ import annotations

import hmac
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.requests import Request

from gateway.admin.api import AdminSite

TOKEN = "the-admin-token"


def site() -> AdminSite:
    settings = SimpleNamespace(admin=SimpleNamespace(token=TOKEN))
    return AdminSite(cast(Any, SimpleNamespace(settings=settings)), cast(Any, None))


def request(authorization: str) -> Request:
    return Request({"type": "http", "method": "GET", "path": "/", "headers": [(b"authorization", authorization.encode("latin-1"))]})


@pytest.mark.parametrize(
    ("authorization", "believed"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer  {TOKEN} ", True),
        (f"Bearer {TOKEN[:-1]}", False),
        (f"Bearer {TOKEN}x", False),
        ("Bearer x", False),
        ("Bearer \xff", False),
        ("Bearer ", False),
    ],
)
def test_the_admin_token_is_compared_in_constant_time(authorization: str, believed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A6: whatever was given is compared as a whole, by the function whose time tells nothing of where two values begin to differ."""
    compared: list[tuple[bytes, bytes]] = []

    def compare_digest(given: bytes, expected: bytes) -> bool:
        compared.append((given, expected))
        return given == expected

    monkeypatch.setattr(hmac, "compare_digest", compare_digest)
    assert site()._is_admin(request(authorization)) is believed
    ((_, expected),) = compared
    assert expected == TOKEN.encode()
