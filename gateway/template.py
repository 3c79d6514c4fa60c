"""Path templates of routes: `/patients/{id}`, `/beds/{number:int}`, `/visits/{visit:uuid}`, `/records/{rest:path}`.

A parameter fills exactly one segment and is never empty; `{name:path}` takes all that is left, slashes included and perhaps nothing,
and so stands last. A trailing slash is part of the path: `/patients` and `/patients/` are two paths, and neither leads to the other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from gateway.errors import ConfigError, GatewayError
from gateway.paths import canonical
from gateway.route import Local, Route

Kind = Literal["literal", "uuid", "int", "any", "tail"]

_KINDS: dict[str | None, Kind] = {None: "any", "int": "int", "uuid": "uuid", "path": "tail"}
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([A-Za-z]+))?\}")
_ALLOWED = "a parameter fills a whole segment: {name}, {name:int}, {name:uuid}, or {name:path} as the last one"
_SHOWN_CHARACTERS = 80
#: The parameter that holds what is below a mount whose path names none.
MOUNT_PARAMETER = "path"


@dataclass(frozen=True, slots=True)
class Segment:
    """What stands between two slashes.

    Args:
        kind: how it matches.
        text: the decoded text of a literal, the name of a parameter.
    """

    kind: Kind
    text: str


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed path template.

    Args:
        source: as it was written.
        segments: without the leading slash; `/` has one, the empty literal.
        mounted: the last segment is a tail, and the path without it (`/x` of `/x/{path:path}`) matches as well.
    """

    source: str
    segments: tuple[Segment, ...]
    mounted: bool = False

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters, from left to right."""
        return tuple(segment.text for segment in self.segments if segment.kind != "literal")


def parse(path: str, where: str = "") -> Template:
    """Parse a template.

    Args:
        path: the template; literal segments may be percent-encoded or not, they match either spelling.
        where: the place it was declared, for the message.

    Raises:
        ConfigError: it isn't a template, or a request for it would be refused by the path policy.
    """
    if not path.startswith("/"):
        raise _problem(path, where, "must start with a slash")
    segments = tuple(_segment(path, where, part) for part in path.split("/")[1:])
    _check_parameters(path, where, segments)
    return Template(path, segments)


def parse_route(route: Route) -> Template:
    """The template of a route; that of a mount matches everything below its path, and the bare path.

    Raises:
        ConfigError: as `parse` does.
    """
    template = parse(route.path, route.line)
    if not (isinstance(route.target, Local) and route.target.mounted):
        return template
    segments = template.segments
    if segments[-1].kind != "tail":
        # `/x/` and `/x` mount the same: an empty last segment is the trailing slash.
        above = segments[:-1] if segments[-1] == Segment("literal", "") else segments
        segments = (*above, Segment("tail", MOUNT_PARAMETER))
        _check_parameters(route.path, route.line, segments)
    return Template(route.path, segments, mounted=True)


def overlap(one: Template, other: Template) -> bool:
    """Whether there is a path that both match. In doubt there is: a word that looks nearly like a UUID counts as one."""
    for first, second in zip(one.segments, other.segments, strict=False):
        if "tail" in (first.kind, second.kind):
            return True
        if not _meet(first, second):
            return False
    shorter, longer = sorted((one, other), key=lambda template: len(template.segments))
    rest = longer.segments[len(shorter.segments) :]
    # The bare path of a mount is without its tail.
    return not rest or (longer.mounted and len(rest) == 1)


def _meet(first: Segment, second: Segment) -> bool:
    if first.kind == second.kind == "literal":
        return first.text == second.text
    literal = next((segment.text for segment in (first, second) if segment.kind == "literal"), None)
    if literal is None:
        return True
    return any(map(str.isdigit, literal)) if "int" in (first.kind, second.kind) else literal != ""


def _problem(path: str, where: str, message: str) -> ConfigError:
    return ConfigError(f"{where}: path {_shown(path)} {message}" if where else f"path {_shown(path)} {message}")


def _shown(text: str) -> str:
    """In quotes, and no longer than a message needs."""
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...")


def _segment(path: str, where: str, part: str) -> Segment:
    parameter = _PARAMETER.fullmatch(part)
    if parameter is None:
        return Segment("literal", _literal(path, where, part))
    name, type_name = parameter.groups()
    if type_name not in _KINDS:
        raise _problem(path, where, f"has the unknown parameter type {_shown(type_name)}; {_ALLOWED}")
    return Segment(_KINDS[type_name], name)


def _literal(path: str, where: str, part: str) -> str:
    if "{" in part or "}" in part:
        raise _problem(path, where, f"has the segment {_shown(part)}; {_ALLOWED}")
    if "?" in part or "#" in part:
        raise _problem(path, where, "must be a path without query and fragment")
    try:
        # ASCII stays as it is, so that the policy sees what was written; other letters may be written plainly here.
        return canonical(b"/" + quote(part, safe="".join(map(chr, range(0x80)))).encode("ascii"))[1:]
    except GatewayError as exc:
        raise _problem(path, where, f"has the segment {_shown(part)}, which requests may not have: {exc.detail}") from exc
    except UnicodeEncodeError as exc:
        raise _problem(path, where, f"has the segment {_shown(part)}, which is not valid Unicode") from exc


def _check_parameters(path: str, where: str, segments: tuple[Segment, ...]) -> None:
    seen: set[str] = set()
    for position, segment in enumerate(segments, start=1):
        last = position == len(segments)
        if segment == Segment("literal", "") and not last:
            raise _problem(path, where, "has an empty segment")
        if segment.kind == "tail" and not last:
            raise _problem(path, where, f"has {{{segment.text}:path}} before its end; {_ALLOWED}")
        if segment.kind != "literal" and segment.text in seen:
            raise _problem(path, where, f"uses the parameter {_shown(segment.text)} twice")
        seen.add(segment.text if segment.kind != "literal" else "")
