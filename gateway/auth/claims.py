"""Reading claims: where they are, and whether they are what they must be. Pure functions; a claim that is not is a 401."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

from gateway.auth.refusals import invalid

ClaimReader = Callable[[Mapping[str, Any]], Any]

#: A subject of OpenID Connect has at most 255 characters; other issuers put distinguished names there.
MAX_TEXT_CHARACTERS = 512
#: 9999-12-31: a later NumericDate is an error or an attack on somebody's arithmetic.
_MAX_NUMERIC_DATE = 253_402_300_800
#: scope-token of RFC 6749 section 3.3. The bound is ours.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}")


def claim_reader(path: str) -> ClaimReader:
    """A function that finds one claim: by its exact name, else by following a dotted path into nested objects; None when absent.

    The exact name goes first because collision-resistant names have dots in them (`https://example.gov/roles`).
    """
    steps = tuple(path.split("."))
    if len(steps) == 1:
        return lambda claims: claims.get(path)

    def read(claims: Mapping[str, Any]) -> Any:
        return claims[path] if path in claims else _follow(claims, steps)

    return read


def _follow(claims: Mapping[str, Any], steps: tuple[str, ...]) -> Any:
    value: Any = claims
    for step in steps:
        if not isinstance(value, dict):
            return None
        value = value.get(step)
    return value


def is_header_text(value: object) -> bool:
    """Whether a value can be copied into a header field and come out the same: printable, bounded, no space at the ends.

    `str.isprintable` excludes every control, format, surrogate and separator character but the space.
    """
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT_CHARACTERS and value.isprintable() and value.strip(" ") == value


def is_scope(value: object) -> bool:
    """Whether a value is one scope-token (RFC 6749 section 3.3)."""
    return isinstance(value, str) and _SCOPE.fullmatch(value) is not None


def optional_text(value: object) -> str | None:
    """A claim that names something, or None when it is absent.

    Raises:
        Unauthorized: it is there and can't be copied into a header field.
    """
    if value is None:
        return None
    if not is_header_text(value):
        raise invalid("token_claim_text")
    assert isinstance(value, str)
    return value


def usable_token_id(value: object) -> str | None:
    """The `jti`, or None when revocation could not name the token by it."""
    return value if isinstance(value, str) and is_header_text(value) else None


def content_id(payload: bytes) -> str:
    """The id of a token that has no usable `jti`: `sha256:` and the digest of its payload, decoded (S-30).

    Everything that a client could respell of a token without a key, its signature above all, is outside of it.
    """
    return f"sha256:{sha256(payload).hexdigest()}"


def numeric_date(claims: Mapping[str, Any], name: str) -> float | None:
    """A NumericDate in seconds since the epoch (RFC 7519 section 2), None when absent.

    Raises:
        Unauthorized: it is there and no JSON number (a bool is none), negative, or beyond the year 9999.
    """
    if name not in claims:
        return None
    value = claims[name]
    if type(value) not in (int, float) or not 0 <= value < _MAX_NUMERIC_DATE:
        raise invalid("token_claim_date")
    return float(value)


def scopes(value: object) -> frozenset[str]:
    """Granted scopes from a space-separated string (RFC 8693 section 4.2) or a list.

    Raises:
        Unauthorized: neither, or a member is no scope-token.
    """
    if value is None:
        return frozenset()
    members = [word for word in value.split(" ") if word] if isinstance(value, str) else value
    if not isinstance(members, list) or not all(map(is_scope, members)):
        raise invalid("token_claim_scope")
    return frozenset(members)


def roles(value: object) -> frozenset[str]:
    """Granted roles from a list, or from a string that is one role.

    Raises:
        Unauthorized: neither, or a member can't be copied into a header field.
    """
    if value is None:
        return frozenset()
    members = [value] if isinstance(value, str) else value
    if not isinstance(members, list) or not all(map(is_header_text, members)):
        raise invalid("token_claim_roles")
    return frozenset(members)


def names_audience(value: object, audience: frozenset[str]) -> bool:
    """Whether `aud`, a string or a list of strings, has an exact member of `audience` (RFC 7519 section 4.1.3)."""
    if isinstance(value, str):
        return value in audience
    if not isinstance(value, list) or not all(isinstance(member, str) for member in value):
        return False
    return not audience.isdisjoint(value)
