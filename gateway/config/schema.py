"""The JSON Schema of `gateway.yaml`, for editors."""

from __future__ import annotations

from typing import Any

from gateway.config.models import File

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12. It is what an editor can check by itself; `gateway check` knows more.

    Values that are not text may also be written as a reference to the environment.
    """
    document = File.model_json_schema()
    _tidy(document)
    return {"$schema": DIALECT, "title": "gateway.yaml"} | {key: value for key, value in document.items() if key != "title"}


def _tidy(node: Any) -> None:
    """Takes out what pydantic adds for itself: titles made from names, and `null`, which the file does not have."""
    if isinstance(node, list):
        for item in node:
            _tidy(item)
    if not isinstance(node, dict):
        return
    if isinstance(node.get("title"), str) and ("type" in node or "anyOf" in node or "$ref" in node or "enum" in node or "not" in node):
        del node["title"]
    if node.get("default", ...) is None:
        del node["default"]
    if isinstance(node.get("anyOf"), list):
        node["anyOf"] = [choice for choice in node["anyOf"] if choice != {"type": "null"}]
    for value in node.values():
        _tidy(value)
