"""Settings for people to read."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from discovery.instance import ConsulAgent
from gateway.admin.redaction import redacted
from gateway.route import HeaderRules, Local, Route
from gateway.settings import AdminSettings, AuthenticationSettings, Introspection, Issuer, Settings, StateSettings

SECRET = "canary"


def test_every_secret_is_left_out() -> None:
    """O4: wherever in the settings it is."""
    settings = Settings(
        admin=AdminSettings(token=SECRET),
        state=StateSettings(url=f"redis://user:{SECRET}@store:6379/0"),
        consul=ConsulAgent(token=SECRET),
        authentication=AuthenticationSettings(
            issuers=(Issuer(name="x", issuer="x", audience=("x",), secret=SECRET.encode()),),
            introspection=Introspection(url="https://x", client_id="x", client_secret=SECRET),
        ),
    )
    plain: Any = redacted(settings)
    assert SECRET not in str(plain)
    assert plain["state"]["url"] == "redis://***@store:6379/0"
    assert plain["admin"]["token"] == plain["consul"]["token"] == "***"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("embedded://", "embedded://"),
        ("unix:///run/store.sock?db=1", "unix:///run/store.sock"),
        ("rediss://store:6379/0", "rediss://store:6379/0"),
        (f"redis://:{SECRET}@store/0?password={SECRET}", "redis://***@store/0"),
        (f"redis://a@b:{SECRET}@store/0", "redis://***@store/0"),
    ],
)
def test_url_shows_where_and_not_who(url: str, shown: str) -> None:
    """O4: a URL carries passwords in two places."""
    plain: Any = redacted(StateSettings(url=url))
    assert plain["url"] == shown


def test_fields_that_are_set_show_by_name_only() -> None:
    """O4: what is set towards a service may be what the service knows us by."""
    rules = HeaderRules(set={"x-api-token": SECRET}, remove=("x-debug",))
    plain: Any = redacted(Route(name="x", path="/x", target="x", request_headers=rules, response_headers=rules))
    assert plain["request_headers"] == plain["response_headers"] == {"set": {"x-api-token": "***"}, "remove": ["x-debug"]}
    assert SECRET not in repr(rules)


def test_the_query_of_any_url_is_left_out() -> None:
    """O4: a key server may want a key of its own."""
    issuer = Issuer(name="x", issuer="x", audience=("x",), jwks_url=f"https://keys.example.gov/jwks?key={SECRET}")
    plain: Any = redacted(issuer)
    assert plain["jwks_url"] == "https://keys.example.gov/jwks"
    assert SECRET not in repr(issuer)
    plain = redacted(Introspection(url=f"https://login.example.gov/introspect?key={SECRET}", client_id="x"))
    assert plain["url"] == "https://login.example.gov/introspect?***"


def test_missing_secret_shows_as_missing() -> None:
    plain: Any = redacted(AdminSettings())
    assert plain["token"] == ""


async def _app(scope: Any, receive: Any, send: Any) -> None:
    """Answers nothing."""


def test_values_that_json_lacks_are_named() -> None:
    plain: Any = redacted(Route(name="x", path="/x", target=Local(_app)))
    assert plain["target"]["app"] == "_app"
    assert plain["methods"] == []


def test_fields_that_are_called_secrets_are_marked_as_such() -> None:
    """O4: whoever adds a secret to the settings has to mark it: the mark is what hides it."""
    found = [
        (type(value).__name__, field.name)
        for value in _settings_of(_full())
        for field in fields(value)
        if _sounds_secret(field.name) and field.repr
    ]
    assert found == []


def _full() -> Settings:
    issuer = Issuer(name="x", issuer="x", audience=("x",))
    return Settings(
        consul=ConsulAgent(), authentication=AuthenticationSettings(issuers=(issuer,), introspection=Introspection(url="x", client_id="x"))
    )


def _settings_of(value: Any) -> list[Any]:
    if isinstance(value, tuple):
        return [each for item in value for each in _settings_of(item)]
    if not is_dataclass(value):
        return []
    return [value, *(each for field in fields(value) for each in _settings_of(getattr(value, field.name)))]


def _sounds_secret(name: str) -> bool:
    return any(word in name for word in ("token", "secret", "password")) and not name.endswith("_file")
