from __future__ import annotations

from typing import Any

import pytest

from gateway.auth.authorization import allow_anybody, compile_rule, require_principal
from gateway.auth.principal import Principal
from gateway.errors import ConfigError, Forbidden, Unauthorized
from gateway.route import Route


def route(**changes: Any) -> Route:
    return Route(name="r", path="/", target="s", **changes)


def principal(scopes: str = "", roles: tuple[str, ...] = (), **claims: Any) -> Principal:
    return Principal(subject="alice", issuer="i", method="jwt", scopes=frozenset(scopes.split()), roles=frozenset(roles), claims=claims)


UNIT: dict[str, Any] = {"https://example.gov/unit": "er"}
ALLOWED: list[tuple[dict[str, Any], Principal]] = [
    ({"scopes": ("a",)}, principal("a b")),
    ({"scopes": ("a", "b")}, principal("b a c")),
    ({"any_scope": ("a", "b")}, principal("b")),
    ({"roles": ("nurse", "doctor")}, principal(roles=("doctor",))),
    ({"claims": {"dept": ("cardio", "er")}}, principal(dept="er")),
    ({"claims": {"dept": ("cardio", "er")}}, principal(dept=["x", "er"])),
    ({"claims": {"org.unit": ("er",)}}, principal(org={"unit": "er"})),
    ({"claims": {"https://example.gov/unit": ("er",)}}, principal(**UNIT)),
    ({"claims": {"level": (1, 2)}}, principal(level=2)),
    ({"claims": {"level": (1,)}}, principal(level=1.0)),
    ({"claims": {"verified": (True,)}}, principal(verified=True)),
    ({"claims": {"dept": ("er",), "level": (1,)}}, principal(dept="er", level=1)),
    ({"scopes": ("a",), "roles": ("nurse",)}, principal("a", ("nurse",))),
]

REFUSED: list[tuple[dict[str, Any], Principal, str]] = [
    ({"scopes": ("a",)}, principal(), "a"),
    ({"scopes": ("a", "b")}, principal("a"), "a b"),
    ({"scopes": ("a",)}, principal("A aa a:b"), "a"),
    ({"any_scope": ("a", "b")}, principal("c"), "a b"),
    ({"roles": ("nurse",)}, principal(roles=("Nurse",)), ""),
    ({"roles": ("nurse",)}, principal("nurse"), ""),
    ({"claims": {"dept": ("er",)}}, principal(), ""),
    ({"claims": {"dept": ("er",)}}, principal(dept="ER"), ""),
    ({"claims": {"dept": ("er",)}}, principal(dept=[]), ""),
    ({"claims": {"dept": ("er",)}}, principal(dept=[["er"]]), ""),
    ({"claims": {"dept": ("er",)}}, principal(dept={"er": True}), ""),
    ({"claims": {"dept": ("er",)}}, principal(dept=None), ""),
    ({"claims": {"org.unit": ("er",)}}, principal(org="unit"), ""),
    ({"claims": {"level": (1,)}}, principal(level=True), ""),
    ({"claims": {"level": (0,)}}, principal(level=False), ""),
    ({"claims": {"level": (True,)}}, principal(level=1), ""),
    ({"claims": {"level": (1,)}}, principal(level="1"), ""),
    ({"claims": {"level": ("1",)}}, principal(level=1), ""),
    ({"claims": {"level": (1,)}}, principal(level=[True]), ""),
    ({"claims": {"dept": ("er",), "level": (1,)}}, principal(dept="er", level=2), ""),
    ({"scopes": ("a",), "roles": ("nurse",)}, principal("a"), ""),
    ({"scopes": ("a",), "roles": ("nurse",)}, principal(roles=("nurse",)), "a"),
]


@pytest.mark.parametrize(("requirements", "who"), ALLOWED)
def test_allows(requirements: dict[str, Any], who: Principal) -> None:
    """CONTRACT section 4: all scopes, one of any_scope, one role, each claim."""
    compile_rule(route(**requirements))(who)


@pytest.mark.parametrize(("requirements", "who", "scope"), REFUSED)
def test_refuses_and_names_the_scopes_only_when_they_are_what_is_missing(requirements: dict[str, Any], who: Principal, scope: str) -> None:
    """CONTRACT section 5: 403 with error="insufficient_scope" and the scopes that would do (RFC 6750 section 3.1)."""
    with pytest.raises(Forbidden) as caught:
        compile_rule(route(**requirements))(who)
    field = b'Bearer realm="gateway", error="insufficient_scope"' + (f', scope="{scope}"'.encode() if scope else b"")
    assert caught.value.headers == [(b"www-authenticate", field)]
    assert caught.value.code == "forbidden"


@pytest.mark.parametrize("authentication", ["required", "optional"])
@pytest.mark.parametrize("requirements", [{"scopes": ("a",)}, {"any_scope": ("a",)}, {"roles": ("a",)}, {"claims": {"a": ("b",)}}])
def test_requirements_need_a_principal_also_where_authentication_is_optional(authentication: Any, requirements: dict[str, Any]) -> None:
    """S-21: deny by default."""
    with pytest.raises(Unauthorized):
        compile_rule(route(authentication=authentication, **requirements))(None)


def test_a_route_without_requirements_needs_what_its_authentication_says() -> None:
    """S-21: required is the default; optional and none let anybody through."""
    assert compile_rule(route()) is require_principal
    assert compile_rule(route(authentication="optional")) is allow_anybody
    assert compile_rule(route(authentication="none")) is allow_anybody
    allow_anybody(None)
    require_principal(principal())
    with pytest.raises(Unauthorized) as caught:
        require_principal(None)
    assert caught.value.headers == [(b"www-authenticate", b'Bearer realm="gateway"')]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"authentication": "none", "scopes": ("a",)}, "need authentication"),
        ({"scopes": ("a b",)}, "'a b' is not a scope"),
        ({"scopes": ('a"',)}, "is not a scope"),
        ({"any_scope": ("a\r\nX: y",)}, "is not a scope"),
        ({"claims": {"dept": ()}}, "claims: dept"),
        ({"claims": {"dept": (None,)}}, "claims: dept"),
        ({"claims": {"dept": (["er"],)}}, "claims: dept"),
    ],
)
def test_a_rule_that_can_not_be_kept_fails_the_start(changes: dict[str, Any], message: str) -> None:
    """S-21: fails at start, with the place and the name."""
    with pytest.raises(ConfigError, match=r"gateway.yaml:12: r: ") as caught:
        compile_rule(route(line="gateway.yaml:12", **changes))
    assert message in str(caught.value)
