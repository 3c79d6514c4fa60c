"""What a limit counts apart, as bytes: from a request to the part of a key that stands for it.

Whatever a client may choose goes through SHA-256 with its length before it, so nobody can write into a neighbour's key, break a hash tag,
or make keys long (REQUIREMENTS F-10). Two different kinds of value never meet: each carries its kind.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, Protocol

from gateway.auth.principal import Principal
from gateway.certificates import ClientCertificate

DIGEST_BYTES = 16
NOTHING = bytes(DIGEST_BYTES)


class Facts(Protocol):
    """What a key may be made of besides the principal."""

    @property
    def client_ip(self) -> str:
        """The address of the client, as the trusted proxies told it."""

    @property
    def certificate(self) -> ClientCertificate | None:
        """What the client has shown on its connection."""

    @property
    def path_params(self) -> Mapping[str, object]:
        """The parameters of the route's path."""

    def header(self, name: bytes) -> bytes | None:
        """A request field by its lower-case name; several lines joined with `, `."""


#: The values that one part of a key stands for.
Part = Callable[[Principal | None, Facts], tuple[bytes, ...]]


def digest(*values: bytes) -> bytes:
    """16 bytes for a list of values; other lists, however cut, give others."""
    return sha256(b"".join(b"%d:%b" % (len(value), value) for value in values)).digest()[:DIGEST_BYTES]


def identity(kind: str, value: str | None) -> bytes:
    """What stands for a token's jti, subject, session, client or issuer in the revocation set; zeros for None."""
    return NOTHING if value is None else digest(kind.encode(), value.encode("utf-8", "surrogatepass"))


def home(principal: Principal | None, facts: Facts) -> bytes:
    """What chooses the shard of a request: its subject, or its client address when nobody in particular asks."""
    return network(facts.client_ip) if principal is None else _text(principal.subject)


def home_of_limit(parts: Sequence[tuple[bytes, ...]]) -> bytes:
    """What chooses the shard of a limit's counter. It depends on nothing but what the counter stands for, or requests that share it would
    count apart; where that includes a subject or a client address, it is the `home` of their requests."""
    for kind in (b"subject", b"client_ip"):
        for part in parts:
            if part[0] == kind:
                return part[-1]
    return digest(*(value for part in parts for value in part))


def key_part(name: str, route: str) -> Part:
    """The reader of one part of a limit's key. `name` is one of those that `limits.validated` accepts."""
    kind, _, argument = name.partition(":")
    if kind == "header":
        return _header(argument.lower().encode())
    if kind == "claim":
        return _claim(argument)
    if kind == "path":
        return lambda _, facts: (b"path", str(facts.path_params.get(argument, "")).encode("utf-8", "surrogatepass"))
    if kind == "route":
        return lambda _, __: (b"route", route.encode())
    return _PLAIN[kind]


#: Parts that need nothing but the principal, so that what is made of them can be kept with it.
PRINCIPAL_KEYS = frozenset({"subject", "client", "session", "route", "global"})


def of_principal_only(name: str) -> bool:
    """Whether the part is the same for all requests of one principal on one route."""
    return name in PRINCIPAL_KEYS or name.startswith("claim:")


def _text(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")


def _client_ip(_: Principal | None, facts: Facts) -> tuple[bytes, ...]:
    return (b"client_ip", network(facts.client_ip))


def _subject(principal: Principal | None, facts: Facts) -> tuple[bytes, ...]:
    if principal is None:
        return _client_ip(None, facts)
    return (b"subject", _text(principal.issuer), _text(principal.subject))


def _client_certificate(principal: Principal | None, facts: Facts) -> tuple[bytes, ...]:
    certificate = facts.certificate
    if certificate is None:
        return _subject(principal, facts)
    # A renewed certificate is the same client; two authorities may name two clients alike.
    return (b"client_certificate", _text(certificate.issuer), _text(certificate.name))


def _client(principal: Principal | None, facts: Facts) -> tuple[bytes, ...]:
    if principal is None or principal.client is None:
        return _subject(principal, facts)
    return (b"client", _text(principal.issuer), _text(principal.client))


def _session(principal: Principal | None, facts: Facts) -> tuple[bytes, ...]:
    if principal is None or principal.session is None:
        return _subject(principal, facts)
    return (b"session", _text(principal.issuer), _text(principal.session))


_PLAIN: dict[str, Part] = {
    "subject": _subject,
    "client": _client,
    "session": _session,
    "client_ip": _client_ip,
    "client_certificate": _client_certificate,
    "global": lambda _, __: (b"global",),
}


def _header(name: bytes) -> Part:
    def part(principal: Principal | None, facts: Facts) -> tuple[bytes, ...]:
        value = facts.header(name)
        # Leaving the field out must not lead into a bucket that everybody shares, nor out of all of them.
        return _subject(principal, facts) if value is None else (b"header", name, value)

    return part


def _claim(path: str) -> Part:
    def part(principal: Principal | None, facts: Facts) -> tuple[bytes, ...]:
        value = None if principal is None else _look_up(principal.claims, path)
        if principal is None or value is None:
            return _subject(principal, facts)
        return (b"claim", _text(path), _text(principal.issuer), json.dumps(value, sort_keys=True, default=str).encode())

    return part


def _look_up(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name, or else by its dotted path into nested objects."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


@lru_cache(maxsize=4096)
def network(address: str) -> bytes:
    """What one client is counted by: an IPv4 address, or the /64 of an IPv6 address, because a single subscriber has all of it."""
    if ":" not in address or len(address) > 64:
        return _text(address)
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return _text(address)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped).encode()
    return parsed.packed[:8]
