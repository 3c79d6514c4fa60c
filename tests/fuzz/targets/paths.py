"""The path policy: one reading of every request target, or a refusal (SPEC H4; S-8, S-9)."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import quote, unquote

from gateway.errors import MalformedMessage
from gateway.paths import canonical, is_authority, split_target
from tests.fuzz.target import Target

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def check(data: bytes) -> None:
    """`METHOD TARGET`. What is accepted is cut nowhere, and servers that decode, split or normalise it otherwise read the same."""
    method, _, target = data.partition(b" ")
    try:
        split = split_target(target, method.decode("latin-1"))
        text = "*" if split.path == b"*" else canonical(split.path)
    except MalformedMessage:
        return
    whole = split.path + split.query
    if split.authority is not None:
        assert is_authority(split.authority.encode("ascii"))
        assert target.endswith(split.query)
        assert whole == b"*" or target.endswith(whole) or (split.path == b"/" and target.endswith(split.authority.encode() + split.query))
    else:
        assert whole == target
    assert not re.search(rb"[^\x21-\x7e]|#", whole)
    if text == "*":
        assert method == b"OPTIONS"
        return
    check_one_reading(split.path, text)


def check_one_reading(path: bytes, text: str) -> None:
    """That `text` is what every reader makes of `path`."""
    assert path.startswith(b"/")
    assert text == unquote(path.decode("ascii"), errors="strict")
    # Who decodes twice, or not at all, finds the same segments.
    assert unquote(text) == text
    assert text.count("/") == path.count(b"/")
    assert not _CONTROL.search(text)
    assert not set(text) & {";", "\\"}
    assert "//" not in text
    assert posixpath.normpath(text) == (text.rstrip("/") or "/")
    assert canonical(quote(text).encode("ascii")) == text


TARGET = Target(
    "paths",
    check,
    ("gateway.paths",),
    (MalformedMessage,),
    (
        b"GET ",
        b"OPTIONS *",
        b"http://",
        b"https://a:80",
        b"%2f",
        b"%2e",
        b"..",
        b"%25",
        b"%00",
        b"%c0%af",
        b"%ed%a0%80",
        b";",
        b"//",
        b"?",
        b"#",
        b"[::1]",
    ),
    512,
)
