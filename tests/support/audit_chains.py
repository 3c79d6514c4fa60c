"""Chains of audit records, made without a gateway."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from gateway.telemetry.chain import GENESIS, seal


@dataclass
class ChainMaker:
    """Makes the records of one process, one after the other."""

    replica: str
    seq: int = 0
    hash: bytes = GENESIS
    lines: list[bytes] = field(default_factory=list)

    def add(self, event: str = "request", **detail: object) -> bytes:
        """The next record, as it stands in a file."""
        self.seq += 1
        record = {
            "time": f"2026-11-23T00:00:{self.seq % 60:02}.000000Z",
            "seq": self.seq,
            "replica": self.replica,
            "event": event,
            "detail": detail,
        }
        pieces, self.hash = seal([json.dumps(record, separators=(",", ":")).encode() + b"\n"], self.hash)
        line = b"".join(pieces)
        self.lines.append(line)
        return line

    @property
    def head(self) -> dict[str, object]:
        """The last record, as the record of a later start names it."""
        return {"replica": self.replica, "seq": self.seq, "hash": self.hash.decode()}


def whole_chain(replica: str, requests: int, *, stopped: bool = True, previous: tuple[ChainMaker, ...] = ()) -> ChainMaker:
    """A process that started, served and stopped."""
    chain = ChainMaker(replica)
    chain.add("start", previous=[before.head for before in previous])
    for number in range(requests):
        chain.add("request", number=number)
    if stopped:
        chain.add("checkpoint")
        chain.add("stop")
    return chain
