"""JSON from strangers, read strictly (RFC 8259, RFC 7493): one spelling, no surprises, bounded work.

Python's own reader takes the last of two equal members, NaN, UTF-16, numbers of any length and any depth its stack allows. Each of these
lets a signed document mean two things to two readers, or lets an unauthenticated sender burn time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

#: Deeper than any claim set in the wild (an issuer's nested roles take 4), far below the interpreter's stack.
MAX_DEPTH = 16
#: An int64 has 19 digits and a sign; no claim or key parameter is a longer JSON number.
MAX_INTEGER_CHARACTERS = 20
MAX_FLOAT_CHARACTERS = 40


def loads_object(document: bytes) -> dict[str, Any]:
    """The JSON object that `document` is.

    Raises:
        ValueError: not UTF-8, not one JSON object, a duplicate member, NaN or Infinity, an overlong number, a lone surrogate, nested
            deeper than 16. Nothing else is ever raised.
    """
    try:
        value = _DECODER.decode(document.decode("utf-8"))
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    if not isinstance(value, dict):
        raise ValueError("not an object")
    # Both checks walk the document, so they are made only when its bytes say that they could fail.
    if document.count(b"{") + document.count(b"[") > MAX_DEPTH and _is_deeper_than(value, MAX_DEPTH):
        raise ValueError("nested too deeply")
    if b"\\u" in document:
        # A lone surrogate can't be encoded: UnicodeEncodeError is a ValueError.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member")
    return members


def _bounded_integer(digits: str) -> int:
    if len(digits) > MAX_INTEGER_CHARACTERS:
        raise ValueError("integer too long")
    return int(digits)


def _finite_float(digits: str) -> float:
    if len(digits) > MAX_FLOAT_CHARACTERS:
        raise ValueError("number too long")
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("number out of range")
    return value


def _no_constant(name: str) -> float:
    raise ValueError("NaN and Infinity are not JSON")


def _is_deeper_than(value: dict[str, Any], limit: int) -> bool:
    level: list[Any] = [value]
    for _ in range(limit):
        level = [child for node in level for child in _children(node) if isinstance(child, (dict, list))]
        if not level:
            return False
    return True


def _children(node: dict[str, Any] | list[Any]) -> Iterator[Any]:
    return iter(node.values()) if isinstance(node, dict) else iter(node)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_members, parse_int=_bounded_integer, parse_float=_finite_float, parse_constant=_no_constant
)
