"""Whether a principal may use a route: decided on every request by a rule that was compiled once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gateway.auth.claims import ClaimReader, claim_reader, is_scope
from gateway.auth.principal import Principal
from gateway.errors import ConfigError, Forbidden, Unauthorized
from gateway.route import Route

Rule = Callable[[Principal | None], None]
Requirement = Callable[[Principal], None]


def compile_rule(route: Route) -> Rule:
    """The rule of a route. It returns when the principal may pass.

    All `scopes`, one of `any_scope`, one of `roles`, and for each of `claims` one allowed value are needed. The rule raises `Unauthorized`
    when there is no principal and one is needed (also on a route with optional authentication that has requirements), `Forbidden` with the
    scopes that would do when scopes are missing, and `Forbidden` without when something else is.

    Raises:
        ConfigError: the route is public and has requirements, or one of them can't be met by any token.
    """
    requirements = tuple(_requirements(route))
    if not requirements:
        return require_principal if route.authentication == "required" else allow_anybody
    if route.authentication == "none":
        raise ConfigError(f"{_where(route)}: scopes, any_scope, roles and claims need authentication `required` or `optional`")
    if len(requirements) == 1:
        return _single(requirements[0])
    return _all(requirements)


def allow_anybody(principal: Principal | None) -> None:
    """The rule of a route that needs nothing."""


def require_principal(principal: Principal | None) -> None:
    """The rule of a route that needs authentication and nothing else.

    Raises:
        Unauthorized: there is no principal.
    """
    if principal is None:
        raise Unauthorized


def _single(requirement: Requirement) -> Rule:
    def rule(principal: Principal | None) -> None:
        if principal is None:
            raise Unauthorized
        requirement(principal)

    return rule


def _all(requirements: tuple[Requirement, ...]) -> Rule:
    def rule(principal: Principal | None) -> None:
        if principal is None:
            raise Unauthorized
        for requirement in requirements:
            requirement(principal)

    return rule


def _requirements(route: Route) -> Iterable[Requirement]:
    # Scopes first: they are what a client can ask for more of.
    if route.scopes:
        yield _every_scope(_checked_scopes(route, route.scopes))
    if route.any_scope:
        yield _some_scope(_checked_scopes(route, route.any_scope))
    if route.roles:
        yield _some_role(frozenset(route.roles))
    for name, allowed in route.claims.items():
        yield _claim(claim_reader(name), _checked_values(route, name, allowed))


def _every_scope(scopes: tuple[str, ...]) -> Requirement:
    needed, challenge = frozenset(scopes), " ".join(scopes)

    def requirement(principal: Principal) -> None:
        if not needed <= principal.scopes:
            raise Forbidden("The token lacks a scope that this route needs.", scope=challenge, reason="scope_missing")

    return requirement


def _some_scope(scopes: tuple[str, ...]) -> Requirement:
    accepted, challenge = frozenset(scopes), " ".join(scopes)

    def requirement(principal: Principal) -> None:
        if accepted.isdisjoint(principal.scopes):
            raise Forbidden("The token has none of the scopes that this route accepts.", scope=challenge, reason="scope_missing")

    return requirement


def _some_role(roles: frozenset[str]) -> Requirement:
    def requirement(principal: Principal) -> None:
        if roles.isdisjoint(principal.roles):
            raise Forbidden(reason="role_missing")

    return requirement


def _claim(read: ClaimReader, allowed: tuple[object, ...]) -> Requirement:
    def requirement(principal: Principal) -> None:
        value = read(principal.claims)
        members = value if isinstance(value, list) else (value,)
        if not any(_is_same(member, accepted) for member in members for accepted in allowed):
            raise Forbidden(reason="claim_mismatch")

    return requirement


def _is_same(value: Any, accepted: object) -> bool:
    # Python calls True and 1 equal; an issuer that says `true` has not said 1.
    return bool(value == accepted) and isinstance(value, bool) == isinstance(accepted, bool)


def _checked_scopes(route: Route, scopes: tuple[str, ...]) -> tuple[str, ...]:
    for scope in scopes:
        if not is_scope(scope):
            raise ConfigError(f"{_where(route)}: {scope!r} is not a scope: printable ASCII without space, quote and backslash is allowed")
    return scopes


def _checked_values(route: Route, name: str, allowed: Iterable[object]) -> tuple[object, ...]:
    values = tuple(allowed)
    if not values or not all(isinstance(value, (str, int, float, bool)) for value in values):
        raise ConfigError(f"{_where(route)}: claims: {name}: a list of strings, numbers or booleans is needed, not {values!r}")
    return values


def _where(route: Route) -> str:
    return f"{route.line or 'route'}: {route.name}"
