"""From plain data to models, piece by piece, so that one bad route does not hide what is wrong with the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

import gateway.config.models as models
import gateway.config.syntax as syntax
from gateway.config.document import unusable
from gateway.config.problems import KeyPath, Report, Wrong, alternatives, shown, unknown
from gateway.config.values import WRONG

S = TypeVar("S", bound=models.Section)


@dataclass(frozen=True, slots=True)
class Parts:
    """The pieces that are well-formed, and the names of those that are not: a reference to a broken limit is not a second problem."""

    server: models.Server
    admin: models.Admin
    state: models.State
    discovery: models.Discovery
    authentication: models.AuthenticationSection
    issuers: Mapping[int, models.Issuer]
    services: Mapping[str, models.ServiceSection]
    service_names: frozenset[str]
    limits: Mapping[str, models.LimitSection]
    limit_names: frozenset[str]
    routes: Mapping[int, models.RouteSection]
    telemetry: models.Telemetry
    audit: models.Audit


def parts(data: object, report: Report) -> Parts:
    """Validates a whole document; what is wrong goes into the report, and defaults stand in for it."""
    top = _mapping(data, (), report)
    _top_level(top, report)
    authentication = dict(_mapping(top.get("authentication", {}), ("authentication",), report))
    issuers = _list(authentication.pop("issuers", []), ("authentication", "issuers"), report)
    services = _mapping(top.get("services", {}), ("services",), report)
    limits = _mapping(top.get("limits", {}), ("limits",), report)
    return Parts(
        server=_section(models.Server, top, "server", report),
        admin=_section(models.Admin, top, "admin", report),
        state=_section(models.State, top, "state", report),
        discovery=_section(models.Discovery, top, "discovery", report),
        authentication=validate(models.AuthenticationSection, authentication, ("authentication",), report)
        or models.AuthenticationSection(),
        issuers=_each(models.Issuer, dict(enumerate(issuers)), ("authentication", "issuers"), report),
        services=_each(models.ServiceSection, _well_named(services, ("services",), report), ("services",), report),
        service_names=frozenset(services),
        limits=_each(models.LimitSection, _well_named(limits, ("limits",), report), ("limits",), report),
        limit_names=frozenset(limits),
        routes=_each(models.RouteSection, dict(enumerate(_list(top.get("routes", []), ("routes",), report))), ("routes",), report),
        telemetry=_section(models.Telemetry, top, "telemetry", report),
        audit=_section(models.Audit, top, "audit", report),
    )


def validate(model: type[S], value: object, path: KeyPath, report: Report) -> S | None:
    """One model, or None after its problems were reported."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            if not unusable(details["input"]):
                _report(model, value, path, details, report)
        return None


def _top_level(top: Mapping[str, object], report: Report) -> None:
    """The document's own keys and its version; the sections follow one by one."""
    for key in top:
        if key not in models.File.model_fields:
            _unknown_key((), key, models.File.model_fields, report)
    if "version" not in top:
        report.add((), 'missing key "version"', "version: 1")
    else:
        validate(models.File, {"version": top["version"]}, (), report)


def _section(model: type[S], top: Mapping[str, object], key: str, report: Report) -> S:
    return validate(model, top.get(key, {}), (key,), report) or model()


def _each(model: type[S], values: Mapping[Any, object], path: KeyPath, report: Report) -> dict[Any, S]:
    checked = {key: validate(model, value, (*path, key), report) for key, value in values.items()}
    return {key: section for key, section in checked.items() if section is not None}


def _well_named(section: Mapping[str, object], path: KeyPath, report: Report) -> dict[str, object]:
    """What stands under names that can be names of ours."""
    named = {}
    for name, value in section.items():
        try:
            named[syntax.name(name)] = value
        except Wrong as error:
            report.add((*path, name), error.message, error.allowed, key=True)
    return named


def _mapping(value: object, path: KeyPath, report: Report) -> Mapping[str, object]:
    if isinstance(value, Mapping):
        return value
    if not unusable(value):
        report.add(path, f"{shown(value)} is not a mapping", "keys with values")
    return {}


def _list(value: object, path: KeyPath, report: Report) -> list[object]:
    if isinstance(value, list | tuple):
        return list(value)
    if not unusable(value):
        report.add(path, f"{shown(value)} is not a list", "a list: [..., ...], or lines that start with -")
    return []


def _report(model: type[models.Section], value: object, path: KeyPath, details: ErrorDetails, report: Report) -> None:
    """Says one of pydantic's errors in our words, at the place where it is."""
    kind, location = details["type"], details["loc"]
    inner = _existing(value, location)
    if kind == "missing":
        key = str(location[-1])
        report.add((*path, *inner), f'missing key "{key}"', _describe(model, location))
    elif kind == "extra_forbidden":
        _unknown_key((*path, *inner[:-1]), str(location[-1]), _fields_at(model, location), report)
    elif kind == WRONG:
        in_key = location[-1:] == ("[key]",)
        report.add((*path, *inner), details["ctx"]["message"], details["ctx"]["allowed"], key=in_key)
    else:
        message, allowed = _shape(kind, details["input"])
        report.add((*path, *inner), message, allowed)


def _shape(kind: str, value: object) -> tuple[str, str]:
    if kind in ("list_type",):
        return f"{shown(value)} is not a list", "a list: [..., ...], or lines that start with -"
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"{shown(value)} is not a mapping", "keys with values"
    assert kind == "too_short", kind
    return "an empty list", "at least one item"


def _existing(value: object, location: tuple[int | str, ...]) -> KeyPath:
    """The part of pydantic's location that stands in the document: without union tags and such."""
    path: list[int | str] = []
    for part in location:
        if (isinstance(value, Mapping) and part in value) or (
            isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)
        ):
            value = value[part]  # type: ignore[index]
            path.append(part)
    return tuple(path)


def _fields_at(model: type[models.Section], location: tuple[int | str, ...]) -> dict[str, Any]:
    """Keys of the mapping in which the last part of the location stands."""
    current = [model]
    for part in location[:-1]:
        field = next((m.model_fields[part] for m in current if part in m.model_fields), None) if isinstance(part, str) else None
        if field is not None:
            current = _models_in(field.annotation)
    return {name: field for candidate in current for name, field in candidate.model_fields.items()}


def _models_in(annotation: object) -> list[type[models.Section]]:
    if isinstance(annotation, type) and issubclass(annotation, models.Section):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _describe(model: type[models.Section], location: tuple[int | str, ...]) -> str:
    key = str(location[-1])
    field = _fields_at(model, location).get(key)
    return f"{key}: {(field.description or '').rstrip('.')}" if field is not None else ""


def _unknown_key(path: KeyPath, key: str, fields: Mapping[str, object], report: Report) -> None:
    report.add((*path, key), unknown("key", key, fields), alternatives("allowed keys", fields), key=True)
