"""Rows of the tables, and the few words that they are written in.

A row is a name, the section of an RFC (or of SPEC or REQUIREMENTS) that it rests on, the bytes, and what has to follow:

- `refused`: one answer with this status and the end of the connection; no upstream ever gets a whole request of it;
- `passed`: the upstream gets exactly this request; the fields are all that it gets besides those that we manage;
- `answered`: we answer by ourselves, and the connection goes on;
- `several`: what more than one message in a row leads to.

Whoever runs a row sends `AFTER` behind it: it is answered where the connection is kept, and is never seen upstream where it isn't.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.support.gateway_process import ADAPTERS, Adapter

HOST = b"api.example.gov"
#: What follows every row. Its answer says whether the connection is kept, and that no byte of the row was left over or taken too much.
AFTER = b"GET /s/after HTTP/1.1\r\nHost: api.example.gov\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as the upstream has to get it.

    Args:
        line: method and target.
        fields: `name: value`, names in lower case, in order: every field but the framing, Host, and those that we add.
        via: the protocol version that we received it with, as Via has to tell.
    """

    line: bytes
    fields: tuple[bytes, ...] = ()
    body: bytes = b""
    host: bytes = HOST
    via: bytes = b"1.1"
    #: Whether the client named the host.
    named: bool = True

    @property
    def forwarded_host(self) -> bytes:
        """The host that the client asked for."""
        return self.host if self.named else b""


@dataclass(frozen=True, slots=True)
class Case:
    """What a client sends, and what has to follow.

    Args:
        statuses: of the final answers, in order.
        kept: the connection can be used again.
        adapters: those under which the outcome is ours. What another ASGI server makes of malformed bytes its application never sees.
    """

    name: str
    source: str
    sent: bytes
    statuses: tuple[int, ...]
    seen: tuple[Seen, ...] = ()
    kept: bool = True
    adapters: tuple[Adapter, ...] = ADAPTERS

    def __repr__(self) -> str:
        return f"<{self.name} [{self.source}]>"

    @property
    def is_refusal(self) -> bool:
        """Whether it can't be trusted, so that nothing after it is read."""
        return not self.kept and not self.seen


def lines(*fields: bytes) -> bytes:
    """A field section with its end."""
    return b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def get(*fields: bytes, target: bytes = b"/s/x", method: bytes = b"GET", version: bytes = b"HTTP/1.1", host: bytes = HOST) -> bytes:
    """A request without a body, with Host as its first field."""
    return b"%b %b %b\r\n" % (method, target, version) + lines(b"Host: " + host, *fields)


def post(*fields: bytes, body: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    """A POST with these bytes behind its head; its framing is among the fields."""
    return get(*fields, method=b"POST", version=version) + body


def chunked(body: bytes, *fields: bytes) -> bytes:
    """A POST with these bytes, chunk sizes and all, as its chunked body."""
    return post(b"Transfer-Encoding: chunked", *fields, body=body)


def refused(name: str, source: str, sent: bytes, status: int = 400) -> Case:
    return Case(name, source, sent, (status,), kept=False)


def passed(
    name: str,
    source: str,
    sent: bytes,
    *fields: bytes,
    target: bytes = b"/s/x",
    method: bytes = b"",
    body: bytes = b"",
    host: bytes = HOST,
    via: bytes = b"1.1",
    kept: bool = True,
    named: bool = True,
) -> Case:
    seen = Seen(b"%b %b" % (method or sent.lstrip().partition(b" ")[0], target), fields, body, host, via, named)
    return Case(name, source, sent, (200,), (seen,), kept)


def answered(name: str, source: str, sent: bytes, status: int) -> Case:
    return Case(name, source, sent, (status,))


def several(name: str, source: str, sent: bytes, statuses: tuple[int, ...], *seen: Seen, kept: bool = True) -> Case:
    return Case(name, source, sent, statuses, seen, kept)


def on_the_wire(*cases: Case) -> tuple[Case, ...]:
    """Rows about bytes that only our own protocol reads."""
    return tuple(replace(case, adapters=("wire",)) for case in cases)


def refused_on_the_wire(*cases: Case) -> tuple[Case, ...]:
    """Rows about bytes of which an ASGI application sees only those that are legal."""
    return tuple(case if case.kept else replace(case, adapters=("wire",)) for case in cases)
