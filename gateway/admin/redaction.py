"""Settings as plain data for people to read: secrets left out, whatever is added to the settings later.

A field that does not show in its dataclass's `repr` holds a secret; that one mark decides here, in logs and in tracebacks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass

REDACTED = "***"
#: Up to the last `@`: a password may hold others.
_PASSWORD = re.compile(r"(?<=://)[^/]*@")


def redacted(value: object) -> object:
    """The value as JSON can say it, with `***` for what is secret and not empty."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _field(getattr(value, field.name), shown=field.repr) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(item) for item in value]
    if isinstance(value, str) and "://" in value:
        # The URL of a key set may have a key of its own in its query.
        place, question, _ = value.partition("?")
        return f"{place}?{REDACTED}" if question else value
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return REDACTED if isinstance(value, bytes) else getattr(value, "__qualname__", type(value).__name__)


def _field(value: object, *, shown: bool) -> object:
    if shown:
        return redacted(value)
    if isinstance(value, str) and "://" in value:
        # Of a URL only the user information is secret.
        return _PASSWORD.sub(f"{REDACTED}@", value).partition("?")[0]
    if isinstance(value, Mapping):
        return {str(name): REDACTED for name in value}
    return REDACTED if value else ""
