"""Rows of the table of answers, and the words that they are written in.

A row is a name, the section of an RFC (or of SPEC or REQUIREMENTS) that it rests on, what an upstream sends, and what has to follow:

- `relayed`: the client gets this status, these fields and this body;
- `broken`: nothing of it reaches a client, who gets a 502;
- `broken_off`: the client gets a 502, or notices that the body is cut, as far as the head had gone out before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tests.support.gateway_process import ADAPTERS, Adapter
from tests.support.recording_upstream import Link

End = Literal["waits", "closes", "resets"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What an upstream sends, and what has to follow.

    Args:
        sent: its bytes.
        end: what it does then.
        fields: `name: value` of what the client gets besides framing, Date and request id, in order; names in lower case.
        interim: statuses before the final one.
        cut: the client may get the beginning of it, and then has to notice.
        reused: its connection is used again; None where that depends on how the bytes arrive.
        method: of the request.
    """

    name: str
    source: str
    sent: bytes
    status: int
    fields: tuple[bytes, ...] = ()
    body: bytes = b""
    interim: tuple[int, ...] = ()
    end: End = "waits"
    cut: bool = False
    reused: bool | None = False
    method: bytes = b"GET"
    adapters: tuple[Adapter, ...] = ADAPTERS

    def __repr__(self) -> str:
        return f"<{self.name} [{self.source}]>"

    async def play(self, link: Link, size: int) -> bool:
        """Send it in pieces of that size; returns whether the connection waits for another request."""
        for at in range(0, len(self.sent), size):
            await link.send(self.sent[at : at + size])
        if self.end == "resets":
            link.reset()
        return self.end == "waits"


def ok(*fields: bytes, body: bytes = b"", line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """A response with these fields, its framing among them."""
    return line + b"\r\n" + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


def chunks(body: bytes, *fields: bytes) -> bytes:
    """A response with these bytes, chunk sizes and all, as its chunked body."""
    return ok(b"Transfer-Encoding: chunked", *fields, body=body)


def relayed(
    name: str,
    source: str,
    sent: bytes,
    *fields: bytes,
    status: int = 200,
    body: bytes = b"",
    interim: tuple[int, ...] = (),
    end: End = "waits",
    reused: bool | None = True,
    method: bytes = b"GET",
) -> Answer:
    # ASGI has no interim responses.
    adapters: tuple[Adapter, ...] = ("wire",) if interim else ADAPTERS
    return Answer(name, source, sent, status, fields, body, interim, end, False, reused if end == "waits" else False, method, adapters)


def broken(name: str, source: str, sent: bytes, *, end: End = "waits", interim: tuple[int, ...] = (), method: bytes = b"GET") -> Answer:
    return Answer(name, source, sent, 502, interim=interim, end=end, method=method, adapters=("wire",) if interim else ADAPTERS)


def broken_off(name: str, source: str, sent: bytes, body: bytes = b"", *, end: End = "waits") -> Answer:
    return Answer(name, source, sent, 502, body=body, end=end, cut=True)
