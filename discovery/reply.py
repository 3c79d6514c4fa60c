"""What Consul answers to a question about a service's health: decoded, and refused where it can't be Consul's or can't be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import orjson

#: `stale`: any server answers from what it knows. `default`: the leader does. `consistent`: it asks its peers first whether it still leads.
Consistency = Literal["stale", "default", "consistent"]


class ConsulError(Exception):
    """Consul could not be asked, or its answer can't be trusted. The message is one line for operators."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A health reply: entries as decoded, and what its header fields say about it."""

    entries: list[object]
    index: int
    known_leader: bool
    last_contact_seconds: float


def decode(code: int, fields: Mapping[str, str], body: bytes) -> Reply:
    """The reply in a response.

    Args:
        fields: header fields, looked up without regard to case.

    Raises:
        ConsulError: it is an error, not Consul's, or emptied by access rules.
    """
    if code != 200:
        raise ConsulError(f"Consul answered HTTP {code}: {one_line(body.decode('utf-8', 'replace'))}")
    try:
        entries = orjson.loads(body)
        index = int(fields["X-Consul-Index"])
        last_contact_seconds = int(fields.get("X-Consul-LastContact", "0")) / 1000
    except (KeyError, ValueError, OverflowError) as exc:
        raise ConsulError("the answer is not Consul's: no JSON or no index in it") from exc
    if not isinstance(entries, list):
        raise ConsulError("the answer is not Consul's: no list of instances")
    if not entries and fields.get("X-Consul-Results-Filtered-By-ACLs") == "true":
        raise ConsulError("the ACL token may not read this service: every instance was filtered out")
    known_leader = fields.get("X-Consul-KnownLeader", "true") == "true"
    return Reply(entries, index, known_leader, last_contact_seconds)


def one_line(text: object) -> str:
    """Short, on one line, and without what could drive a terminal, for messages."""
    line = " ".join(str(text).split())[:200]
    return line if line.isprintable() else "".join(character if character.isprintable() else "?" for character in line)
