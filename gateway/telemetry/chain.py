"""Pure: the hash chain over audit records, by which a record that was changed, removed, added or moved is found (SPEC O6).

A sealed record is one line that ends with two more members:

    {"time":"...","seq":17,...,"prev":"<hash of record 16>","hash":"<hash of this one>"}

`hash` is the SHA-256, as 64 lower-case hexadecimal digits, of the line's own bytes from its `{` up to, and without, `,"hash":`. Those bytes
end with `prev`, so each hash stands for everything before it. Nothing is spelled anew to be hashed: there is no canonical form to disagree
about, and a line that was parsed and written again by something else can't be verified any more. The first record of a chain, number 1, has
64 zeros as its `prev`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson

#: Events whose records are kept elsewhere too: each says how far the chain was.
MARKS = ("checkpoint", "stop")
#: `prev` of the first record.
GENESIS = b"0" * 64
#: What sealing adds to a line: `,"prev":"`, `","hash":"` and `"`, and two hashes.
SEAL_BYTES = len(b',"prev":"' + GENESIS + b'","hash":"' + GENESIS + b'"')
_SEAL = re.compile(rb',"prev":"([0-9a-f]{64})","hash":"([0-9a-f]{64})"\}\Z')


@dataclass(frozen=True, slots=True)
class Head:
    """The last record of a chain: its number, and its hash in hexadecimal."""

    seq: int
    hash: str


def seal(lines: Iterable[bytes], prev: bytes) -> tuple[list[bytes], bytes]:
    """Lines (objects' JSON, each with its newline) sealed one after the other, and the hash of the last in hexadecimal.

    Each sealed line is two pieces: what was hashed, and the rest of it. Joining them here would cost as much as hashing them: they are a
    kilobyte long, and are joined with all others when they are written.
    """
    pieces = []
    for line in lines:
        hashed = line[:-2] + b',"prev":"' + prev + b'"'
        prev = sha256(hashed).hexdigest().encode()
        pieces.append(hashed)
        pieces.append(b',"hash":"' + prev + b'"}\n')
    return pieces, prev


@dataclass(frozen=True, slots=True)
class Sealed:
    """A record as it was read.

    Args:
        replica, seq, event: its members.
        prev, hash: as the line says.
        intact: whether the hash fits the line's bytes.
        members: all of it.
    """

    replica: str
    seq: int
    event: str
    prev: str
    hash: str
    intact: bool
    members: Mapping[str, Any]


class NotSealed(ValueError):
    """A line that is no sealed record.

    Attributes:
        record: whether it is an audit record, without a seal.
        sealed: whether it ends with a seal all the same.
        json: whether it is JSON.
    """

    def __init__(self, *, record: bool = False, sealed: bool = False, json: bool = True) -> None:
        super().__init__("no sealed record")
        self.record = record
        self.sealed = sealed
        self.json = json


def unseal(line: bytes) -> Sealed:
    """Read a line, without its newline.

    Raises:
        NotSealed: it is something else.
    """
    match = _SEAL.search(line, max(0, len(line) - SEAL_BYTES - 1))
    try:
        members = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise NotSealed(sealed=match is not None, json=False) from error
    if not isinstance(members, dict):
        raise NotSealed
    seq, replica, event = members.get("seq"), members.get("replica"), members.get("event")
    if type(seq) is not int or type(replica) is not str or type(event) is not str:
        raise NotSealed(sealed=match is not None)
    if match is None:
        raise NotSealed(record=True)
    prev, digest = match[1].decode(), match[2].decode()
    return Sealed(replica, seq, event, prev, digest, sha256(line[: match.end(1) + 1]).hexdigest() == digest, members)
