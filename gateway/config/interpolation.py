"""Values from the environment: `${NAME}`, `${NAME:-default}`, and `$$` for a dollar sign."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gateway.config.problems import Wrong

_REFERENCE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|(?P<broken>\{))")


def interpolate(text: str, environ: Mapping[str, str]) -> str:
    """Replaces the references in `text`. What a variable holds is not looked at again.

    The default holds when the variable is unset or empty, as in a shell. A dollar sign before anything else stays.

    Raises:
        Wrong: a variable is unset and has no default, or a reference is malformed.
    """

    def replaced(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        if match["broken"]:
            raise Wrong("malformed reference to the environment", "${NAME}, ${NAME:-default}, or $${ for the characters themselves")
        return _value(match["name"], match["default"], environ)

    return _REFERENCE.sub(replaced, text)


def _value(name: str, default: str | None, environ: Mapping[str, str]) -> str:
    value = environ.get(name)
    if default is not None:
        return value or default
    if value is None:
        raise Wrong(f"the environment variable {name} is not set", f"set it, or write ${{{name}:-default}}")
    return value
