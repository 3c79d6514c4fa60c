"""What a gateway without an issuer starts with."""

from __future__ import annotations

import jwt
import pytest

from gateway.development import development_settings, scopes_of
from gateway.errors import ConfigError
from gateway.route import Route
from gateway.settings import ApiKeys, AuthenticationSettings, Issuer, Settings

PRIVATE = Route(name="private", path="/a", target="patients", scopes=("b:read",), any_scope=("a:read", "b:read"))
PUBLIC = Route(name="public", path="/b", target="patients", authentication="none")


def test_issuer_is_made_and_its_token_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """CONTRACT section 2: loudly, with a token of every scope that the routes name, for one hour; on standard error only."""
    monkeypatch.delenv("GATEWAY_ENV", raising=False)
    settings = development_settings(Settings(routes=(PRIVATE, PUBLIC)))
    (issuer,) = settings.authentication.issuers
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("WARNING: no issuer is configured. A DEVELOPMENT issuer was created")
    claims = jwt.decode(said.err.split()[-1], options={"verify_signature": False})
    assert (claims["sub"], claims["scope"], claims["iss"]) == ("developer", "a:read b:read", issuer.issuer)
    assert claims["exp"] - claims["iat"] == 3600


@pytest.mark.parametrize(
    "authentication",
    [
        AuthenticationSettings(issuers=(Issuer(name="x", issuer="x", audience=("x",), jwks_url="https://x"),)),
        AuthenticationSettings(api_keys=ApiKeys()),
    ],
)
def test_who_has_an_issuer_keeps_what_there_is(
    authentication: AuthenticationSettings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CONTRACT section 2: in production too."""
    monkeypatch.setenv("GATEWAY_ENV", "production")
    settings = Settings(routes=(PRIVATE,), authentication=authentication)
    assert development_settings(settings) is settings
    assert capsys.readouterr().err == ""


def test_gateway_with_public_routes_only_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could use it."""
    monkeypatch.setenv("GATEWAY_ENV", "production")
    settings = Settings(routes=(PUBLIC,))
    assert development_settings(settings) is settings


@pytest.mark.parametrize("authentication", ["required", "optional"])
def test_production_refuses(authentication: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CONTRACT section 2: GATEWAY_ENV=production refuses to start that way."""
    monkeypatch.setenv("GATEWAY_ENV", "production")
    route = Route(name="x", path="/x", target="patients", authentication=authentication)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="GATEWAY_ENV=production refuses a development issuer"):
        development_settings(Settings(routes=(route,)))


def test_scopes_are_named_once_and_sorted() -> None:
    assert scopes_of(Settings(routes=(PRIVATE, PRIVATE, PUBLIC))) == ["a:read", "b:read"]
