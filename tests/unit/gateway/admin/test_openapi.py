"""The admin API's document, held against the routes that there are and the copy that is published."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import jsonschema_rs
import orjson

from gateway.admin.api import FOR_EVERYBODY, AdminSite
from gateway.admin.openapi import document, text

ROOT = Path(__file__).resolve().parents[4]
COPY = ROOT / "docs" / "admin-api.json"
VERSION = orjson.loads(COPY.read_bytes())["info"]["version"]


def served() -> dict[str, set[str]]:
    """Methods by path, as the application answers them."""
    resources = AdminSite(cast(Any, None), cast(Any, None)).resources()
    return {re.sub(r":\w+}", "}", path): {method.lower() for method in endpoints} for path, endpoints in resources.items()}


def test_every_path_and_method_is_in_the_document() -> None:
    """CONTRACT section 6."""
    described = {path: {method for method in item if method != "parameters"} for path, item in document(VERSION)["paths"].items()}
    assert described == served()


def test_the_copy_is_in_step() -> None:
    assert COPY.read_bytes() == text(VERSION), "run scripts/write-admin-api"


def test_only_the_probes_and_the_metrics_need_no_token() -> None:
    """CONTRACT section 6, S-41."""
    operations = {
        (path, method): operation
        for path, item in document(VERSION)["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    }
    assert (
        {path for (path, _), operation in operations.items() if operation.get("security") == []}
        == FOR_EVERYBODY
        == {"/livez", "/readyz", "/metrics"}
    )
    assert all("401" in operation["responses"] for operation in operations.values() if "security" not in operation)


def test_every_schema_is_used_and_every_reference_resolves() -> None:
    described = document(VERSION)
    names = set(described["components"]["schemas"])
    used = set(re.findall(r"#/components/schemas/(\w+)", orjson.dumps(described).decode()))
    assert used == names


def test_every_schema_is_one() -> None:
    for schema in document(VERSION)["components"]["schemas"].values():
        jsonschema_rs.meta.validate({**schema, "$schema": "https://json-schema.org/draft/2020-12/schema"})
