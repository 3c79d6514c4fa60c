"""Canaries: texts that are put where a secret could be, and looked for wherever somebody could read them, in every spelling.

A canary is a word of its own, in lower case letters and digits, so that header names, hosts and paths can carry it unchanged.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch

LENGTH = 20
#: A beginning or an end of so many characters is as good as the whole.
PART = 12
_CONTEXT = 60


@dataclass(frozen=True)
class Canary:
    """A text in one place.

    Args:
        where: what it was put into.
        told: sinks that are meant to show it, as patterns of their names.
    """

    where: str
    text: str = field(default_factory=lambda: "c" + secrets.token_hex(LENGTH // 2)[1:])
    told: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text


def _base64(text: bytes, offset: int) -> bytes:
    """The characters that stand for a text in base64 wherever it begins `offset` bytes after a multiple of three."""
    encoded = base64.urlsafe_b64encode(b"\0" * offset + text)
    return encoded[(offset * 8 + 5) // 6 : (offset + len(text)) * 8 // 6]


#: Name of a spelling -> how it is made of a text in lower case.
SPELLINGS: Mapping[str, Callable[[bytes], bytes]] = {
    "plain": lambda text: text,
    "beginning": lambda text: text[:PART],
    "end": lambda text: text[-PART:],
    "percent": lambda text: b"".join(b"%%%02x" % octet for octet in text),
    "hexadecimal": lambda text: text.hex().encode(),
    "JSON": lambda text: b"".join(b"\\u%04x" % octet for octet in text),
    "Python": lambda text: b"".join(b"\\x%02x" % octet for octet in text),
    "base64": lambda text: _base64(text, 0),
    "base64 after one byte": lambda text: _base64(text, 1),
    "base64 after two bytes": lambda text: _base64(text, 2),
}


def leaks(sink: str, content: bytes, canaries: Iterable[Canary]) -> list[str]:
    """What of the canaries can be read in a sink that is not meant to show it, a line each; letters in any case."""
    # Base64 is compared without case too: a coincidence of sixteen characters is still none.
    data = content.lower()
    found = []
    for canary in canaries:
        if any(fnmatch(sink, pattern) for pattern in canary.told):
            continue
        for spelling, spelled in SPELLINGS.items():
            at = data.find(spelled(canary.text.lower().encode()).lower())
            if at >= 0:
                around = content[max(0, at - _CONTEXT) : at + _CONTEXT]
                found.append(f"{sink}: {canary.where} ({spelling}): ...{around!r}...")
                break
    return found
