"""The compact serialisation of a signed token (RFC 7515 section 7.1), read before anything is believed or verified.

Everything that has more than one spelling is refused here: a token is accepted in the bytes its issuer wrote, and in no others
(RFC 8725 section 3.7). Encrypted tokens, nested tokens, compressed payloads, detached payloads and extensions are refused as well
(RFC 7515 section 4.1.11, RFC 7797 section 7); keys that a token brings along (`jwk`, `jku`, `x5u`, `x5c`) are not looked at.

Reading goes in two steps, because strictness costs: 8 KiB of small numbers take a millisecond to read strictly. `parse` takes what choosing
a key needs, with a fast reader; `Compact.claims` reads both documents strictly, and is for tokens whose signature has been verified.
Nothing is accepted before it.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.auth.refusals import invalid
from gateway.auth.strict_json import loads_object

#: Header fields are bounded by the server too; this is what one token may cost (SPEC A3).
MAX_TOKEN_BYTES = 8 * 1024
#: A key id is a name in a fixed set; thumbprints and UUIDs are below 100.
MAX_KEY_ID_CHARACTERS = 256

_SEGMENTS = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_TO_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
# The bits of the last character that no octet uses must be zero (RFC 4648 section 3.5), else a segment has several spellings.
_PADDING = {0: b"", 2: b"==", 3: b"="}
_LAST_CHARACTERS = {2: frozenset(b"AQgw"), 3: frozenset(b"AEIMQUYcgkosw048")}
#: Members whose presence alone changes what the token means.
_REFUSED_MEMBERS = frozenset(("crit", "b64", "zip", "enc", "epk", "apu", "apv"))


@dataclass(frozen=True, slots=True)
class Compact:
    """A token in its parts, nothing of it verified.

    Args:
        algorithm, key_id: from the protected header.
        issuer: the `iss` of the payload, whatever it is.
        header, payload: the documents, as octets.
        signing_input: the octets that the signature covers.
    """

    algorithm: str
    key_id: str | None = field(repr=False)
    issuer: object = field(repr=False)
    header: bytes = field(repr=False)
    payload: bytes = field(repr=False)
    signing_input: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    def claims(self) -> dict[str, Any]:
        """The payload of a token whose signature holds.

        Raises:
            Unauthorized: `token_invalid`: one of the two documents is not strict JSON, or means something else when it is read strictly.
        """
        try:
            agrees = _check_header(loads_object(self.header)) == (self.algorithm, self.key_id)
            claims = loads_object(self.payload)
        except ValueError as exc:
            raise invalid("token_malformed") from exc
        if not agrees or claims.get("iss") != self.issuer:
            raise invalid("token_malformed")
        return claims


def parse(token: bytes) -> Compact:
    """Take a compact JWS apart.

    Raises:
        Unauthorized: `token_invalid`; for any input whatever.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise invalid("token_too_large")
    match = _SEGMENTS.fullmatch(token)
    if match is None:
        raise invalid("token_malformed")
    try:
        header, payload, signature = decode_base64url(match[1]), decode_base64url(match[2]), decode_base64url(match[3])
        algorithm, key_id = _check_header(_glance(header))
        issuer = _glance(payload).get("iss")
    except ValueError as exc:
        raise invalid("token_malformed") from exc
    return Compact(algorithm, key_id, issuer, header, payload, token[: match.end(2)], signature)


def _glance(document: bytes) -> dict[str, Any]:
    value = orjson.loads(document)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def decode_base64url(segment: bytes) -> bytes:
    """Octets of an unpadded, canonical base64url segment whose alphabet was checked before.

    Raises:
        ValueError: an impossible length, or unused bits that are not zero.
    """
    remainder = len(segment) % 4
    if remainder == 1 or (remainder and segment[-1] not in _LAST_CHARACTERS[remainder]):
        raise ValueError("not canonical base64url")
    return binascii.a2b_base64(segment.translate(_TO_STANDARD_ALPHABET) + _PADDING[remainder])


def is_key_id(value: object) -> bool:
    """Whether a `kid` can be a name in a key set."""
    return isinstance(value, str) and 0 < len(value) <= MAX_KEY_ID_CHARACTERS


def _check_header(header: dict[str, Any]) -> tuple[str, str | None]:
    if not _REFUSED_MEMBERS.isdisjoint(header):
        raise ValueError("an extension, or no signed token")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str):
        raise ValueError("alg is no string")
    key_id = header.get("kid")
    if "kid" in header and not is_key_id(key_id):
        raise ValueError("kid is no bounded string")
    _check_media_types(header)
    return algorithm, key_id


def _check_media_types(header: dict[str, Any]) -> None:
    kind, content = header.get("typ", "JWT"), header.get("cty", "")
    if not isinstance(kind, str) or not isinstance(content, str):
        raise ValueError("typ or cty is no string")
    if content.lower().removeprefix("application/") == "jwt":
        raise ValueError("a nested token")
    # A token that says it is something else (`logout+jwt`, `dpop+jwt`) was not made for access (RFC 8725 sections 3.11 and 3.12).
    kind = kind.lower()
    if kind.endswith("jwe") or (kind.endswith("+jwt") and not kind.endswith("at+jwt")):
        raise ValueError("not an access token")
