"""The admin API as an OpenAPI 3.1 document [https://spec.openapis.org/oas/v3.1.0], for clients, editors, and tests that ask anything.

A test holds the paths and methods against the routes of `gateway.admin.api`, and a copy of the document in `docs/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.admission.limits import MAXIMUM_COUNT
from gateway.admission.revocation import KINDS, MAXIMUM_REASON_BYTES, MAXIMUM_VALUE_BYTES

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
TEXTS: Schema = {"type": "array", "items": TEXT}
#: A moment as it is answered: seconds since the epoch.
SECONDS: Schema = {"type": "number", "minimum": 0, "description": "Seconds since the epoch."}
#: A moment as it is given.
MOMENT: Schema = {
    "oneOf": [
        {"type": "number", "minimum": 0, "exclusiveMaximum": 253402300800},
        {"type": "string", "format": "date-time"},
        {"type": "null"},
    ],
    "description": "Seconds since the epoch, or RFC 3339 with an offset.",
}
_NAMED: Schema = {"type": ["string", "null"], "minLength": 1, "maxLength": MAXIMUM_VALUE_BYTES}


def _object(properties: Mapping[str, Schema], *, optional: tuple[str, ...] = (), closed: bool = True, description: str = "") -> Schema:
    """An object that has all of these members but the optional ones, and when it is closed no others."""
    schema: Schema = {"type": "object", "properties": dict(properties), "required": [name for name in properties if name not in optional]}
    if closed:
        schema["additionalProperties"] = False
    return {**schema, "description": description} if description else schema


def _list(of: str) -> Schema:
    return {"type": "array", "items": _ref(of)}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_PROBLEM = {
    "type": {"type": "string", "format": "uri-reference"},
    "title": TEXT,
    "status": {"type": "integer", "minimum": 400, "maximum": 599},
    "detail": TEXT,
    "code": TEXT,
    "trace_id": TEXT,
}
_API_KEY = {
    "id": TEXT,
    "subject": TEXT,
    "scopes": TEXTS,
    "roles": TEXTS,
    "client": {"type": ["string", "null"]},
    "created_at": COUNT,
    "expires_at": {**COUNT, "description": "Seconds since the epoch; 0 for never."},
}

_SCHEMAS: dict[str, Schema] = {
    "Problem": _object(_PROBLEM, description="RFC 9457."),
    "ConfigProblem": _object({**_PROBLEM, "problems": {"type": "array", "items": TEXT, "minItems": 1}}),
    "Ready": _object({"ready": {"const": True}}),
    "NotReady": _object({"ready": {"const": False}, "waiting_for": TEXTS}),
    "Route": _object(
        {
            "name": TEXT,
            "path": TEXT,
            "target": {**TEXT, "description": "A service, or what a local handler is called."},
            "methods": TEXTS,
            "hosts": TEXTS,
            "authentication": {"enum": ["required", "optional", "none"]},
            "scopes": TEXTS,
            "cost": {"type": "integer", "minimum": 1, "maximum": MAXIMUM_COUNT},
            "line": {**TEXT, "description": "Where it was declared."},
        },
        closed=False,
        description="A row of the table, with every key that the file has for a route.",
    ),
    "Conflict": _object({"service": TEXT, "path": TEXT, "reason": TEXT, "applied": FLAG}),
    "Routes": _object({"generation": COUNT, "routes": _list("Route"), "conflicts": _list("Conflict")}),
    "Instance": _object(
        {
            "id": TEXT,
            "address": TEXT,
            "scheme": {"enum": ["http", "https"]},
            "weight": {"type": "integer", "minimum": 1},
            "health": {"enum": ["passing", "warning"]},
            "state": TEXT,
            "ejections": COUNT,
            "tags": TEXTS,
            "active": COUNT,
            "requests": COUNT,
            "failures": COUNT,
            "latency_seconds": NUMBER,
        }
    ),
    "Service": _object(
        {
            "name": TEXT,
            "source": TEXT,
            "balance": TEXT,
            "version": COUNT,
            "error": TEXT,
            "panic": FLAG,
            "rejected": TEXTS,
            "instances": _list("Instance"),
        },
        closed=False,
        description="Further members say how much the knowledge about the service is worth now.",
    ),
    "Services": _object({"services": _list("Service")}),
    "Replica": _object({"name": TEXT, "heard_seconds_ago": NUMBER}, optional=("heard_seconds_ago",), closed=False),
    "Replicas": _object({"this": TEXT, "store": TEXT, "replicas": _list("Replica")}),
    "Config": _object({"generation": COUNT, "replica": TEXT, "config": {"type": "object"}}),
    "Reloaded": _object({"generation": COUNT, "changed": FLAG, "workers": COUNT}, optional=("workers",)),
    "Draining": _object({"draining": {"const": True}}),
    "Revocation": _object(
        {
            "kind": {"enum": list(KINDS)},
            "value": TEXT,
            "issuer": {"type": ["string", "null"]},
            "subject": {"type": ["string", "null"]},
            "issued_before": {"oneOf": [SECONDS, {"type": "null"}]},
            "expires_at": SECONDS,
            "reason": TEXT,
            "created_at": SECONDS,
        }
    ),
    "NewRevocation": _object(
        {
            "kind": {"enum": ["token", *KINDS]},
            "value": {
                "type": "string",
                "minLength": 1,
                "description": "What tokens carry; for `token` the token itself, of which its jti, subject and issuer are kept.",
            },
            "issuer": {**_NAMED, "description": "Only tokens of this issuer. Not for the kind `issuer`."},
            "subject": {**_NAMED, "description": "Only tokens of this subject. For the kind `jti` only."},
            "issued_before": MOMENT,
            "expires_at": MOMENT,
            "reason": {"type": ["string", "null"], "maxLength": MAXIMUM_REASON_BYTES},
        },
        optional=("issuer", "subject", "issued_before", "expires_at", "reason"),
    ),
    "Revocations": _object({"revocations": _list("Revocation")}),
    "ApiKey": _object(_API_KEY),
    "ApiKeys": _object({"api_keys": _list("ApiKey")}),
    "CreatedApiKey": _object({**_API_KEY, "key": {**TEXT, "description": "The key. It is in this answer and nowhere else."}}),
    "NewApiKey": _object(
        {
            "subject": {"type": "string", "minLength": 1},
            "scopes": TEXTS,
            "roles": TEXTS,
            "client": {"type": ["string", "null"], "minLength": 1},
            "expires_at": MOMENT,
        },
        optional=("scopes", "roles", "client", "expires_at"),
    ),
    "OpenApi": {"type": "object", "required": ["openapi", "info", "paths"]},
}

_HEADERS: dict[str, Schema] = {
    "www-authenticate": {"description": "RFC 6750.", "required": True, "schema": {"type": "string", "pattern": "^Bearer realm="}},
    "allow": {"description": "The methods that there are.", "required": True, "schema": TEXT},
    "retry-after": {"description": "Seconds.", "required": True, "schema": {"type": "string", "pattern": "^[0-9]+$"}},
}
_REFUSALS: dict[int, tuple[str, str]] = {
    400: ("The parameters or the body are none that this takes.", ""),
    401: ("The admin token is missing, or is another one.", "www-authenticate"),
    404: ("There is no such thing.", ""),
    405: ("The path does not accept the method.", "allow"),
    413: ("The body is larger than 64 KiB.", ""),
    503: ("The store, or a worker, does not answer; whether a change was made is unknown.", "retry-after"),
}


def _answer(description: str, schema: str = "", media_type: str = "application/json") -> Schema:
    if not schema:
        return {"description": description}
    return {"description": description, "content": {media_type: {"schema": _ref(schema)}}}


def _refusal(status: int) -> Schema:
    description, header = _REFUSALS[status]
    answer = _answer(description, "Problem", "application/problem+json")
    return {**answer, "headers": {header: _HEADERS[header]}} if header else answer


def _open(summary: str, answers: Mapping[int, Schema]) -> Schema:
    """What everybody may ask who reaches the port."""
    return {"summary": summary, "security": [], "responses": _responses(answers, (405,))}


def _guarded(
    summary: str,
    status: int,
    schema: str = "",
    *,
    refusals: tuple[int, ...] = (),
    body: str = "",
    others: Mapping[int, Schema] | None = None,
) -> Schema:
    """What the admin token is needed for."""
    operation: Schema = {"summary": summary}
    if body:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(body)}}}
    answers = {status: _answer(summary, schema), **(others or {})}
    operation["responses"] = _responses(answers, (401, 405, *refusals))
    return operation


def _responses(answers: Mapping[int, Schema], refusals: tuple[int, ...]) -> Schema:
    every = {**answers, **{status: _refusal(status) for status in refusals}}
    return {str(status): every[status] for status in sorted(every)}


def _parameter(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": schema}


_PLAIN_TEXT: Schema = {"text/plain": {"schema": TEXT}}
_METRICS: Schema = {
    "description": "The Prometheus text format; OpenMetrics where the Accept field asks for it.",
    "content": {**_PLAIN_TEXT, "application/openmetrics-text": {"schema": TEXT}},
}

#: By path and lower-case method. HEAD is answered wherever GET is.
_PATHS: dict[str, Schema] = {
    "/livez": {"get": _open("Whether the process turns", {200: {"description": "It does.", "content": _PLAIN_TEXT}})},
    "/readyz": {
        "get": _open(
            "Whether it can do its job", {200: _answer("It can.", "Ready"), 503: _answer("It can't yet, or not any more.", "NotReady")}
        )
    },
    "/metrics": {"get": _open("Metrics", {200: _METRICS})},
    "/v1/openapi.json": {"get": _guarded("This document", 200, "OpenApi")},
    "/v1/routes": {"get": _guarded("The route table, in match order, and what services published that is not in it", 200, "Routes")},
    "/v1/services": {"get": _guarded("Services with their instances and live state", 200, "Services", refusals=(503,))},
    "/v1/replicas": {"get": _guarded("The replicas that live", 200, "Replicas", refusals=(503,))},
    "/v1/config": {"get": _guarded("The settings at work, secrets redacted", 200, "Config", refusals=(503,))},
    "/v1/reload": {
        "post": _guarded(
            "Load the configuration again",
            200,
            "Reloaded",
            refusals=(503,),
            others={422: _answer("It can't be used; the one before stays at work.", "ConfigProblem", "application/problem+json")},
        )
    },
    "/v1/drain": {"post": _guarded("Begin the end, as SIGTERM does", 202, "Draining", refusals=(503,))},
    "/v1/revocations": {
        "get": _guarded("All entries that have not expired", 200, "Revocations", refusals=(503,)),
        "post": _guarded(
            "Write an entry; every replica refuses what it concerns from now on",
            201,
            "Revocation",
            body="NewRevocation",
            refusals=(400, 413, 503),
        ),
    },
    "/v1/revocations/{kind}/{value}": {
        "parameters": [
            _parameter("kind", {"enum": list(KINDS)}),
            _parameter("value", {"type": "string", "minLength": 1, "description": "Percent-encoded; all that follows, slashes included."}),
        ],
        "delete": _guarded("Remove every entry of this kind and value", 204, refusals=(400, 404, 503)),
    },
    "/v1/api-keys": {
        "get": _guarded("What is known of every API key, without their secrets", 200, "ApiKeys", refusals=(404, 503)),
        "post": _guarded("Make a key", 201, "CreatedApiKey", body="NewApiKey", refusals=(400, 404, 413, 503)),
    },
    "/v1/api-keys/{id}": {
        "parameters": [_parameter("id", {"type": "string", "minLength": 1, "pattern": "^[^/]+$"})],
        "delete": _guarded("End a key", 204, refusals=(404, 503)),
    },
}


def document(version: str) -> Schema:
    """The document.

    Args:
        version: of the gateway.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "HMS Gateway admin API",
            "version": version,
            "description": "On a port of its own. Everything but the probes and the metrics needs the admin token.",
        },
        "security": [{"adminToken": []}],
        "paths": _PATHS,
        "components": {"securitySchemes": {"adminToken": {"type": "http", "scheme": "bearer"}}, "schemas": _SCHEMAS},
    }


def text(version: str) -> bytes:
    """The document as JSON."""
    return orjson.dumps(document(version), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
