"""Upstream paths: `rewrite`, `strip_prefix` and `add_prefix`, compiled once a route.

All of them cut the path at its slashes and keep the bytes in between as they came, so a parameter goes upstream in the spelling in which
it was sent. The result passes the path policy again: parts that are harmless alone may not be so together.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from gateway.errors import ConfigError, GatewayError
from gateway.paths import canonical
from gateway.route import Route
from gateway.template import Template, parse_route

#: From the path as it came to the path that the upstream gets. Raises MalformedMessage when the result is ambiguous.
Rewrite = Callable[[bytes], bytes]

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def keep(path: bytes) -> bytes:
    """The rewrite of a route that has none."""
    return path


def compile_rewrite(route: Route) -> Rewrite:
    """Compile what a route does to the path.

    Args:
        route: its `rewrite` may use every parameter of its `path`, anywhere, as `{name}`. Its `strip_prefix` is what the path template
            starts with, whole segments.

    Returns:
        a function to be called with paths that the route matched and that passed `paths.canonical`; `keep` when nothing is to be done.

    Raises:
        ConfigError: the rewrite can't be used; the message says where it was declared.
    """
    if not (route.rewrite or route.strip_prefix or route.add_prefix):
        return keep
    if route.rewrite and (route.strip_prefix or route.add_prefix):
        raise _problem(route, "rewrite excludes strip_prefix and add_prefix: put all of it into rewrite")
    template = parse_route(route)
    if route.rewrite:
        return _compile_template(route, template)
    return _compile_prefixes(route)


def _problem(route: Route, message: str) -> ConfigError:
    return ConfigError(f"{route.line}: route {route.name!r}: {message}" if route.line else f"route {route.name!r}: {message}")


def _compile_template(route: Route, template: Template) -> Rewrite:
    # Split by a pattern with one group: literals at even places, names at odd ones.
    parts = _PLACEHOLDER.split(route.rewrite)
    for name in parts[1::2]:
        if name not in template.parameters:
            allowed = ", ".join(template.parameters) or "none, the path has no parameters"
            raise _problem(route, f"rewrite {route.rewrite!r} uses {_braced(name)}; parameters: {allowed}")
    if any(brace in part for part in parts[::2] for brace in "{}"):
        raise _problem(route, f"rewrite {route.rewrite!r} has a brace that is no {{name}}")
    _check_literal(route, "rewrite", "x".join(parts[::2]))
    literals = [part.encode("ascii") for part in parts[::2]]
    # The leading slash makes the first piece of a split path empty, so segment n of the template is piece n + 1.
    positions = [1 + _position(template, name) for name in parts[1::2]]
    # A tail is the last segment of a template; splitting no further than that leaves it in one piece.
    cuts = len(template.segments) if template.segments[-1].kind == "tail" else -1
    return _template_rewrite(literals, positions, cuts)


def _braced(name: str) -> str:
    return f"{{{name}}}" if name.isprintable() else ascii(f"{{{name}}}")


def _position(template: Template, name: str) -> int:
    return next(n for n, segment in enumerate(template.segments) if segment.kind != "literal" and segment.text == name)


def _template_rewrite(literals: list[bytes], positions: list[int], cuts: int) -> Rewrite:
    pairs = list(zip(positions, literals[1:], strict=True))
    first = literals[0]

    def rewrite(path: bytes) -> bytes:
        pieces = path.split(b"/", cuts)
        # The bare path of a mount has no piece for its tail.
        pieces.append(b"")
        result = first + b"".join([pieces[position] + literal for position, literal in pairs])
        canonical(result)
        return result

    return rewrite


def _compile_prefixes(route: Route) -> Rewrite:
    stripped = route.strip_prefix.rstrip("/")
    added = route.add_prefix.rstrip("/")
    for key, prefix in (("strip_prefix", stripped), ("add_prefix", added)):
        if prefix and not prefix.startswith("/"):
            raise _problem(route, f"{key} {prefix!r} must start with a slash")
    if stripped and route.path != stripped and not route.path.startswith(stripped + "/"):
        raise _problem(route, f"strip_prefix {route.strip_prefix!r} is not how the path {route.path!r} starts, segment by segment")
    if added:
        _check_literal(route, "add_prefix", added)
    return _prefix_rewrite(stripped.count("/"), added.encode("ascii"))


def _prefix_rewrite(stripped_segments: int, added: bytes) -> Rewrite:
    # Counting segments instead of comparing bytes strips every spelling that the template matches.
    def rewrite(path: bytes) -> bytes:
        pieces = path.split(b"/", stripped_segments + 1)
        rest = pieces[stripped_segments + 1] if len(pieces) > stripped_segments + 1 else b""
        result = added + b"/" + rest
        canonical(result)
        return result

    return rewrite


def _check_literal(route: Route, key: str, path: str) -> None:
    try:
        canonical(path.encode("ascii"))
    except UnicodeEncodeError as exc:
        raise _problem(route, f"{key} {path!r} must be percent-encoded: it goes to the upstream as it is") from exc
    except GatewayError as exc:
        raise _problem(route, f"{key} {path!r} is not a path: {exc.detail}") from exc
