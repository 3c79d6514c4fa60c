"""Cross-origin rules of a route, compiled to header lines [Fetch standard, section 3.2].

The gateway answers preflights itself and adds the fields that let a script read the answer to the request after it. It decides nothing
else: a request of a foreign origin is served like any other, and the browser withholds the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from gateway.errors import ConfigError
from gateway.route import Cors

PREFLIGHT_STATUS = 204

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?|null")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PREFLIGHT_VARY = b"vary: origin, access-control-request-method, access-control-request-headers\r\n"
_VARY = b"vary: origin\r\n"


class CorsRules(Protocol):
    """What a route does about origins. Header lines are whole: `b"name: value\\r\\n"` each, nothing when empty."""

    def preflight(self, origin: bytes, method: bytes, headers: bytes) -> bytes | None:
        """Header lines of the answer to a preflight, which has status `PREFLIGHT_STATUS` and no body.

        Args:
            origin: `Origin`.
            method: `Access-Control-Request-Method`.
            headers: `Access-Control-Request-Headers`; empty when the request has none.

        Returns:
            None when the route has no rules: the OPTIONS request is then one like others. When origin or method are not allowed, the
            lines permit nothing, which is how a browser is told.
        """
        ...

    def simple(self, origin: bytes | None) -> bytes:
        """Header lines to add to every answer of the route, errors included. `origin` is None when the request names none."""
        ...


class NoCors:
    """The rules of a route without any."""

    def preflight(self, origin: bytes, method: bytes, headers: bytes) -> None:
        return None

    def simple(self, origin: bytes | None) -> bytes:
        return b""


NO_CORS = NoCors()


@dataclass(frozen=True, slots=True)
class _Compiled:
    """Every answer there can be, by origin; `other` is for origins that aren't in the table."""

    simple_lines: dict[bytes, bytes]
    simple_other: bytes
    preflight_lines: dict[bytes, bytes]
    preflight_other: bytes
    methods: frozenset[bytes]
    headers: frozenset[bytes]

    def preflight(self, origin: bytes, method: bytes, headers: bytes) -> bytes:
        asked = {name.strip().lower() for name in headers.split(b",")} - {b""}
        if method not in self.methods or not asked <= self.headers:
            return _PREFLIGHT_VARY
        return self.preflight_lines.get(origin, self.preflight_other)

    def simple(self, origin: bytes | None) -> bytes:
        return self.simple_lines.get(origin, self.simple_other) if origin is not None else self.simple_other


def compile_cors(cors: Cors | None, methods: Iterable[str], where: str = "") -> CorsRules:
    """Compile the rules of a route.

    Args:
        cors: the declaration; None for a route without rules.
        methods: what the route accepts, for rules that name no methods.
        where: the place it was declared, for messages.

    Raises:
        ConfigError: an origin that browsers never send, a wildcard with credentials, or a name that isn't one.
    """
    if cors is None:
        return NO_CORS
    allowed = tuple(cors.methods or methods)
    _check(cors, allowed, where)
    preflight = _preflight_lines(cors, allowed)
    simple = (b"access-control-expose-headers: " + _joined(cors.expose) + b"\r\n") if cors.expose else b""
    if "*" in cors.origins:
        everyone = b"access-control-allow-origin: *\r\n"
        simple_other, preflight_other = everyone + simple, everyone + preflight + _PREFLIGHT_VARY
        simple_lines, preflight_lines = {}, {}
    else:
        # The answer depends on the origin even where it grants nothing: a cache must keep the two apart.
        simple_other, preflight_other = _VARY, _PREFLIGHT_VARY
        origins = {origin.encode("ascii"): _origin_lines(cors, origin) for origin in cors.origins}
        simple_lines = {origin: lines + simple + _VARY for origin, lines in origins.items()}
        preflight_lines = {origin: lines + preflight + _PREFLIGHT_VARY for origin, lines in origins.items()}
    return _Compiled(
        simple_lines,
        simple_other,
        preflight_lines,
        preflight_other,
        frozenset(method.encode("ascii") for method in allowed),
        frozenset(name.lower().encode("ascii") for name in cors.headers),
    )


def _joined(names: Iterable[str]) -> bytes:
    return ", ".join(names).encode("ascii")


def _origin_lines(cors: Cors, origin: str) -> bytes:
    lines = b"access-control-allow-origin: " + origin.encode("ascii") + b"\r\n"
    return lines + b"access-control-allow-credentials: true\r\n" if cors.credentials else lines


def _preflight_lines(cors: Cors, methods: tuple[str, ...]) -> bytes:
    lines = b"access-control-allow-methods: " + _joined(methods) + b"\r\n"
    if cors.headers:
        lines += b"access-control-allow-headers: " + _joined(cors.headers) + b"\r\n"
    return lines + b"access-control-max-age: %d\r\n" % cors.max_age


def _check(cors: Cors, methods: tuple[str, ...], where: str) -> None:
    start = f"{where}: cors" if where else "cors"
    if not cors.origins:
        raise ConfigError(f"{start} needs at least one origin, such as https://clinic.example.gov, or *")
    if "*" in cors.origins and (cors.credentials or len(cors.origins) > 1):
        raise ConfigError(f"{start} has the origin *, which excludes credentials and other origins; name the origins instead")
    for origin in cors.origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                f"{start} has the origin {origin!r}; allowed: scheme://host or scheme://host:port in lower case, no path, or *"
            )
    if cors.credentials and "null" in cors.origins:
        raise ConfigError(f"{start} allows credentials to the origin null, which every sandboxed page has; name the origins instead")
    for name in (*methods, *cors.headers, *cors.expose):
        if not _TOKEN.fullmatch(name) or name == "*":
            raise ConfigError(f"{start} has the name {name!r}, which is no method or field name (RFC 9110 section 5.6.2)")
    if cors.max_age < 0:
        raise ConfigError(f"{start} has max_age {cors.max_age}; allowed: seconds, 0 or more")
