"""Routes: from their sections to rows of the table, with everything checked that needs more than one value."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import gateway.config.models as models
import gateway.config.syntax as syntax
from gateway.config.limits import reference
from gateway.config.problems import KeyPath, Report, Wrong, alternatives, shown, unknown
from gateway.errors import ConfigError
from gateway.rewrite import compile_rewrite
from gateway.route import CertificateRule, Cors, HeaderRules, Limit, Local, Route, WebSocket


@dataclass(frozen=True, slots=True)
class Names:
    """What routes may refer to.

    Args:
        services: names that are declared.
        limits: the limits that are well-formed.
        limit_names: all that are declared; a reference to a broken one is not a second problem.
    """

    services: Collection[str]
    limits: Mapping[str, Limit]
    limit_names: Collection[str]


def route(section: models.RouteFields, target: str | Local, names: Names, path: KeyPath, report: Report, *, line: str) -> Route:
    """One row from its section; problems go into the report."""
    parameters = frozenset(syntax.template_parameters(section.path))
    if isinstance(target, str) and target not in names.services:
        report.add((*path, "service"), unknown("service", target, names.services), alternatives("defined services", names.services))
    _check_lists(section, parameters, path, report)
    limits = _limits(section, "limits", names, parameters, path, report)
    shadows = _limits(section, "shadow_limits", names, parameters, path, report)
    _check_names_apart(limits, shadows, (*path, "shadow_limits"), report)
    row = Route(
        name=section.name or derived_name(section.methods, section.path),
        path=section.path,
        target=target,
        methods=tuple(section.methods),
        hosts=tuple(section.hosts),
        headers=MappingProxyType(dict(section.headers)),
        rewrite=section.rewrite,
        strip_prefix=section.strip_prefix,
        add_prefix=section.add_prefix,
        authentication=section.authentication,
        scopes=tuple(section.scopes),
        any_scope=tuple(section.any_scope),
        roles=tuple(section.roles),
        claims=MappingProxyType({claim: tuple(allowed) for claim, allowed in section.claims.items()}),
        client_certificate=_certificate_rule(section.client_certificate),
        limits=limits,
        shadow_limits=shadows,
        cost=section.cost,
        when_unavailable=section.when_unavailable or "",
        timeouts=MappingProxyType(section.timeouts.model_dump(exclude_none=True)),
        max_body_bytes=section.max.body_bytes or 0,
        cors=_cors(section.cors, (*path, "cors"), report),
        request_headers=_rules(section.request_headers, (*path, "request_headers"), report),
        response_headers=_rules(section.response_headers, (*path, "response_headers"), report),
        audit_path_params=tuple(section.audit.path_params),
        websocket=_websocket(section, target, (*path, "websocket"), report),
        line=line,
    )
    _check_rewrite(row, path, report)
    return row


def derived_name(methods: Iterable[str], path: str) -> str:
    """`get-patients-id` for GET /patients/{id}: the name of a route that has none."""
    words = [*(method.lower() for method in methods), *re.findall(r"[A-Za-z0-9_.]+", re.sub(r":[a-z]+\}", "}", path))]
    return ("-".join(words) or "root")[:64]


def check_unique(routes: Mapping[int, Route], explicit: Collection[int], report: Report) -> None:
    """Names tell routes apart in records and metrics, so each is used once."""
    first: dict[str, int] = {}
    for index, row in routes.items():
        if row.name not in first:
            first[row.name] = index
        elif index in explicit:
            report.add(
                ("routes", index, "name"), f"the name {shown(row.name)} is already taken by routes[{first[row.name]}]", "unique names"
            )
        else:
            message = f"the route's name would be {shown(row.name)}, which routes[{first[row.name]}] has"
            report.add(("routes", index), message, "give one of them another name")


def _check_rewrite(row: Route, path: KeyPath, report: Report) -> None:
    """What the route does to the path is compiled for its problems only."""
    used = [key for key in ("rewrite", "strip_prefix", "add_prefix") if getattr(row, key)]
    if used and isinstance(row.target, Local):
        report.add((*path, used[0]), f"{used[0]} applies to services only", "leave it out for a handler", key=True)
        return
    try:
        compile_rewrite(row)
    except ConfigError as error:
        message = str(error).removeprefix(f"{row.line}: ").removeprefix(f"route {row.name!r}: ")
        key = next((key for key in used if message.startswith(key)), used[0])
        report.add((*path, key), message)


def _check_lists(section: models.RouteFields, parameters: frozenset[str], path: KeyPath, report: Report) -> None:
    for key in ("methods", "hosts", "scopes", "any_scope", "roles"):
        _check_twice(getattr(section, key), (*path, key), report)
    for index, name in enumerate(section.audit.path_params):
        _check_parameter(name, "audit", parameters, (*path, "audit", "path_params", index), report)
    for name, allowed in section.claims.items():
        if not allowed:
            report.add((*path, "claims", name), "no value is allowed for this claim", "at least one value")


def _check_twice(values: list[str], path: KeyPath, report: Report) -> None:
    for index, value in enumerate(values):
        if value in values[:index]:
            report.add((*path, index), f"{shown(value)} is there twice", "each once")


def _check_parameter(name: str, what: str, parameters: frozenset[str], path: KeyPath, report: Report) -> None:
    if name not in parameters:
        report.add(path, f"{what}: the route's path has no parameter {shown(name)}", alternatives("its parameters", parameters))


def _limits(
    section: models.RouteFields, key: str, names: Names, parameters: frozenset[str], path: KeyPath, report: Report
) -> tuple[Limit, ...]:
    found: list[Limit] = []
    for index, text in enumerate(getattr(section, key)):
        place = (*path, key, index)
        try:
            limit = reference(text, names.limits)
        except Wrong as error:
            report.wrong(place, error)
            continue
        if limit is None:
            if text not in names.limit_names:
                report.add(place, unknown("limit", text, names.limit_names), alternatives("defined limits", names.limit_names))
            continue
        _check_names_apart((limit,), found, place, report)
        _check_keys(limit, parameters, place, report)
        found.append(limit)
    return tuple(found)


def _check_names_apart(limits: Iterable[Limit], others: Iterable[Limit], path: KeyPath, report: Report) -> None:
    taken = {limit.name for limit in others}
    for limit in limits:
        if limit.name in taken:
            report.add(
                path, f"the limit {shown(limit.name)} is on this route twice", "each limit once, either in limits or in shadow_limits"
            )


def _check_keys(limit: Limit, parameters: frozenset[str], path: KeyPath, report: Report) -> None:
    for key in limit.key:
        kind, _, name = key.partition(":")
        if kind == "path":
            _check_parameter(name, f"the limit {shown(limit.name)} counts by {key}", parameters, path, report)


def _certificate_rule(section: str | models.CertificateRule) -> CertificateRule | None:
    if isinstance(section, str):
        return CertificateRule() if section == "required" else None
    return CertificateRule(**{kind: tuple(values or ()) for kind, values in section.model_dump().items()})


def _cors(section: models.CorsSection | None, path: KeyPath, report: Report) -> Cors | None:
    if section is None:
        return None
    if section.credentials and "*" in section.origins:
        report.add((*path, "credentials"), "credentials are not allowed together with the origin *", "exact origins")
    if "*" in section.origins and len(section.origins) > 1:
        report.add((*path, "origins"), "* beside other origins", "either * or exact origins")
    return Cors(
        origins=tuple(section.origins),
        methods=tuple(section.methods),
        headers=tuple(section.headers),
        expose=tuple(section.expose),
        credentials=section.credentials,
        max_age=int(section.max_age),
    )


def _websocket(section: models.RouteFields, target: str | Local, path: KeyPath, report: Report) -> WebSocket | None:
    given = section.websocket
    if isinstance(given, bool):
        rules = WebSocket() if given else None
    else:
        _check_twice(given.origins, (*path, "origins"), report)
        _check_twice(given.protocols, (*path, "protocols"), report)
        if "*" in given.origins and len(given.origins) > 1:
            report.add((*path, "origins"), "* beside other origins", "either * or exact origins")
        rules = WebSocket(
            origins=tuple(given.origins),
            protocols=tuple(given.protocols),
            idle=given.idle,
            lifetime=given.lifetime,
            max_bytes=given.max_bytes,
        )
    if rules is None:
        return None
    if isinstance(target, Local):
        report.add(path, "websocket applies to services only", "leave it out for a handler", key=True)
    if "websocket" in rules.protocols and section.methods and "GET" not in section.methods:
        report.add(path, "a WebSocket begins with GET, which the route does not match", "GET among its methods")
    return rules


def _rules(section: models.HeaderRules, path: KeyPath, report: Report) -> HeaderRules:
    for index, name in enumerate(section.remove):
        if name in section.set:
            report.add(
                (*path, "remove", index), f"the header {shown(name)} is also set", "either set or remove; set replaces what is there"
            )
    return HeaderRules(set=MappingProxyType(dict(section.set)), remove=tuple(section.remove))
