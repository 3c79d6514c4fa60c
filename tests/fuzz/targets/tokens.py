"""A compact token before its signature is looked at (SPEC A1, A3; S-22, S-26, S-27, S-28)."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

from gateway.auth.compact import MAX_KEY_ID_CHARACTERS, Compact, parse
from gateway.auth.strict_json import MAX_DEPTH, loads_object
from gateway.errors import Unauthorized
from tests.fuzz.target import Target


def check(data: bytes) -> None:
    """A token; or, with a line end in it, a header and a payload to make one of.

    It is refused as `token_invalid`, or has no other spelling, and both of its documents mean to Python's reader what they mean to ours.
    """
    check_document(data)
    header, line_end, payload = data.partition(b"\n")
    token = b".".join(map(spelled, (header, payload, b"signature"))) if line_end else data
    try:
        read = parse(token)
    except Unauthorized as error:
        assert error.code == "token_invalid"
        return
    assert b".".join(map(spelled, (read.header, read.payload, read.signature))) == token
    assert read.signing_input == token.rpartition(b".")[0]
    assert read.key_id is None or 0 < len(read.key_id) <= MAX_KEY_ID_CHARACTERS
    check_claims(read)


def check_claims(read: Compact) -> None:
    """What becomes of it once the signature holds."""
    try:
        claims = read.claims()
    except Unauthorized as error:
        assert error.code == "token_invalid"
        return
    assert claims == json.loads(read.payload)
    header = json.loads(read.header)
    assert (header["alg"], header.get("kid")) == (read.algorithm, read.key_id)
    assert not {"crit", "b64", "zip", "enc"} & header.keys()
    assert claims.get("iss") == read.issuer


def check_document(data: bytes) -> None:
    """Our strict reading of a JSON object is Python's, or a ValueError."""
    try:
        value = loads_object(data)
    except ValueError:
        return
    assert value == json.loads(data.decode("utf-8"))
    assert depth_of(value) <= MAX_DEPTH
    assert all_finite(value)
    json.dumps(value, ensure_ascii=False).encode("utf-8")


def depth_of(value: Any) -> int:
    """Levels of objects and lists."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if children is None else 1 + max(map(depth_of, children), default=0)


def all_finite(value: Any) -> bool:
    """Whether every number is one."""
    if isinstance(value, (dict, list)):
        return all(map(all_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def spelled(octets: bytes) -> bytes:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=")


TARGET = Target(
    "tokens",
    check,
    ("gateway.auth.compact", "gateway.auth.strict_json"),
    (Unauthorized, ValueError),
    (
        b'{"alg":"RS256","kid":"a"}\n',
        b'"iss":"a"',
        b'"crit":["x"]',
        b'"typ":"JWT"',
        b'"cty"',
        b'"b64":false',
        b"\\u0000",
        b"\\ud800",
        b"1e999",
        b"NaN",
        b"[[[[[[[[[[[[[[[[[",
        b'{"a":1,"a":2}',
        b"eyJhbGciOiJub25lIn0",
    ),
)
