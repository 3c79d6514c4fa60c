"""What settings that are loaded later have in common with those of the start."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.errors import ConfigError
from gateway.origin import Origin
from gateway.route import Route
from gateway.settings import AdminSettings, AuthenticationSettings, Issuer, Settings

PRIVATE = Route(name="private", path="/", target="s")
PUBLIC = replace(PRIVATE, authentication="none")
ISSUER = Issuer(name="login", issuer="https://login.example.gov", audience=("hms",), jwks_file="keys.json")


@pytest.fixture(autouse=True)
def development(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATEWAY_ENV", raising=False)


def with_issuer(settings: Settings) -> Settings:
    return replace(settings, authentication=AuthenticationSettings(issuers=(ISSUER,)))


def test_what_the_start_made_up_stays() -> None:
    """G3: tokens of the development issuer and the printed admin token go on working."""
    declared = Settings(routes=(PRIVATE,))
    origin = Origin(declared, lambda: replace(declared, routes=(PRIVATE, PUBLIC)))
    again = origin.read_again()
    assert again.authentication == origin.settings.authentication
    assert again.admin.token == origin.settings.admin.token != ""
    assert len(again.routes) == 2


def test_what_is_configured_comes_before_what_the_start_made_up() -> None:
    """G3: an issuer and a token that are configured later take their place."""
    declared = Settings(routes=(PRIVATE,))
    origin = Origin(declared, lambda: with_issuer(replace(declared, admin=AdminSettings(token="configured-later"))))
    again = origin.read_again()
    assert (again.authentication.issuers, again.admin.token) == ((ISSUER,), "configured-later")


def test_running_gateway_makes_no_development_issuer() -> None:
    """G3: taking the last issuer away must not open a gateway to tokens that anybody could read in its log."""
    declared = with_issuer(Settings(routes=(PRIVATE,)))
    origin = Origin(declared, lambda: Settings(routes=(PRIVATE,)))
    with pytest.raises(ConfigError, match="no issuer is configured any more"):
        origin.read_again()
    origin.renew()
    assert origin.settings.authentication.issuers == (ISSUER,), "the last good ones stay"


def test_public_routes_need_no_issuer() -> None:
    declared = with_issuer(Settings(routes=(PRIVATE,)))
    origin = Origin(declared, lambda: Settings(routes=(PUBLIC,)))
    origin.renew()
    assert origin.settings.routes == (PUBLIC,)
