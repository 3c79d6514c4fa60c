"""A Lua script and the ways to call it."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any


def bulk(data: bytes) -> bytes:
    """One argument of a command on the wire [RESP, bulk string]."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


class Script:
    """A Lua script by its text. `sha` is how servers name it; SHA-1 is their choice, nothing rests on its strength.

    Attributes:
        load: the whole SCRIPT LOAD command.
        by_sha, by_text: what follows the argument count in a call, up to the number of keys: `EVALSHA sha` and `EVAL text`.
    """

    __slots__ = ("by_sha", "by_text", "load", "sha", "text")

    def __init__(self, text: str) -> None:
        source = text.encode()
        self.text = text
        self.sha = hashlib.sha1(source, usedforsecurity=False).hexdigest()
        self.load = b"*3\r\n" + bulk(b"SCRIPT") + bulk(b"LOAD") + bulk(source)
        self.by_sha = bulk(b"EVALSHA") + bulk(self.sha.encode())
        self.by_text = bulk(b"EVAL") + bulk(source)

    @classmethod
    def read(cls, path: Path) -> Script:
        """The script in a file of the package."""
        return cls(path.read_text("utf-8"))

    def call(self, keys: Sequence[bytes], arguments: Sequence[bytes | int]) -> bytes:
        """A whole EVALSHA command."""
        words = [*keys, *(b"%d" % word if isinstance(word, int) else word for word in arguments)]
        return b"*%d\r\n" % (3 + len(words)) + self.by_sha + bulk(b"%d" % len(keys)) + b"".join(map(bulk, words))


#: Runs a script with keys and arguments on one server and gives its reply. Raises StoreError.
Run = Callable[[Script, Sequence[bytes], Sequence[bytes | int]], Awaitable[Any]]
