"""What is fuzzed: a function that takes any bytes and asserts what has to hold of whatever the gateway makes of them.

The same function is driven by atheris (`make fuzz`), by hypothesis and by the files of the corpus (`make test`). It returns when everything
held, also where the gateway refused the bytes in one of the ways that the target names; anything that it raises is a finding.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent
CORPUS, CRASHES = _HERE / "corpus", _HERE / "crashes"
#: What a header field can be when it comes from the HTTP parser (RFC 9110 sections 5.1 and 5.5).
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_NO_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Target:
    """One function to fuzz.

    Args:
        name: of its folders in `corpus/` and `crashes/`.
        check: takes any bytes; raises when a property doesn't hold.
        modules: what is tested; `make fuzz` tells how much of it was reached.
        allowed: the exceptions that are answers to bad input; everything else that the gateway raises is a finding.
        words: pieces that inputs are made of, for the mutation of inputs.
        most_bytes: longest input.
    """

    name: str
    check: Callable[[bytes], None]
    modules: tuple[str, ...]
    allowed: tuple[type[Exception], ...]
    words: tuple[bytes, ...] = ()
    most_bytes: int = 2048

    def __repr__(self) -> str:
        return f"<Target {self.name}>"

    def kept(self) -> list[Path]:
        """The inputs that are kept: seeds of ours, and what once was a finding."""
        return sorted(path for folder in (CORPUS, CRASHES) for path in (folder / self.name).glob("*"))


def random_cuts(data: bytes, longest: int = 24) -> list[bytes]:
    """The bytes in random reads, always the same for the same bytes."""
    randomly = random.Random(zlib.crc32(data))
    reads: list[bytes] = []
    at = 0
    while at < len(data):
        size = randomly.randint(1, longest)
        reads.append(data[at : at + size])
        at += size
    return reads


def single_bytes(data: bytes) -> list[bytes]:
    """The bytes one by one."""
    return [data[at : at + 1] for at in range(len(data))]


def field_lines(text: bytes) -> list[tuple[bytes, bytes]]:
    """Lines of `name: value` as the parser hands fields out: lower-case names, values without white space before them.

    What it would never hand out is left away.
    """
    split = [(name.lower(), value.lstrip(b" \t")) for name, colon, value in (line.partition(b":") for line in text.split(b"\n")) if colon]
    return [(name, value) for name, value in split if _NAME.fullmatch(name) and not _NO_VALUE.search(value)]
