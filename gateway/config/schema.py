"""The JSON Schema of `gateway.yaml`, for editors."""

from __future__ import annotations

from typing import Any

from gateway.config.models import File
from gateway.config.values import DURATION_PATTERN, duration_text

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
    _tidy_default(node)
    if isinstance(node.get("anyOf"), list):
        node["anyOf"] = [choice for choice in node["anyOf"] if choice != {"type": "null"}]
    for value in node.values():
        _tidy(value)


def _tidy_default(node: dict[str, Any]) -> None:
    """Defaults as the file would say them; a section has those of its keys."""
    if "default" not in node:
        return
    if node["default"] is None or "$ref" in node or (isinstance(node["default"], dict) and node["default"]):
        del node["default"]
    elif DURATION_PATTERN in (node.get("pattern"), *(choice.get("pattern") for choice in node.get("anyOf", []))):
        node["default"] = duration_text(node["default"])
