"""What the store sends, as the connection to it reads it (SPEC L9; F-1)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection

from gateway.store.address import Node
from gateway.store.error import StoreError
from gateway.store.slots import parse_redirection, parse_view
from gateway.store.wire import Reply, _Link
from tests.fuzz.target import Target, random_cuts, single_bytes

#: Commands that wait for a reply when the bytes come.
_WAITING = 6
_ASKED = Node("192.0.2.1", 6379)


def check(data: bytes) -> None:
    """Every command gets one reply or one StoreError, in order, the same however the bytes are cut; bytes that are no replies, or that
    nobody asked for, end the connection, and nothing after them is read. Topologies in replies are read or refused."""
    asyncio.run(_check(data))
    check_topology(data)


async def _check(data: bytes) -> None:
    once = heard([data])
    assert heard(random_cuts(data)) == once
    if len(data) <= 400:
        assert heard(single_bytes(data)) == once


class _Transport:
    """The connection's transport: tells whether it was given up."""

    def __init__(self) -> None:
        self.aborted = False
        self.protocol: Any = SimpleNamespace(connection_lost=lambda exc: None)

    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def write(self, payload: bytes) -> None:
        """Nobody reads it."""

    def abort(self) -> None:
        self.aborted = True


def heard(reads: list[bytes]) -> list[str]:
    """What each command got, as text."""
    transport = _Transport()
    link = _Link(cast(AbstractConnection, SimpleNamespace(_writer=SimpleNamespace(transport=transport))))
    got: list[tuple[int, Reply]] = []
    for number in range(_WAITING):
        link.send(b"PING", lambda reply, number=number: got.append((number, reply)))  # type: ignore[misc]
    for read in reads:
        if transport.aborted:
            break
        link.data_received(read)
        assert not link.lost.done() or transport.aborted
    answered = len(got)
    link.connection_lost(None)
    assert [number for number, _ in got] == list(range(_WAITING))
    assert all(isinstance(reply, StoreError) for _, reply in got[answered:])
    return [repr(reply) for _, reply in got]


def check_topology(data: bytes) -> None:
    """`CLUSTER SLOTS`, `CLUSTER INFO`, `MOVED`: of a node that says anything."""
    slots, _, info = data.partition(b"\n--\n")
    with suppress(ValueError):
        parse_redirection(slots.decode("utf-8", "replace"), _ASKED)
    for reply in _values(slots):
        try:
            view = parse_view(reply, info, _ASKED)
        except StoreError:
            continue
        assert all(isinstance(node.port, int) and node.host for node in view.nodes)
        assert {owner for _, _, owner in view.ranges} <= view.nodes


def _values(data: bytes) -> list[Any]:
    """The replies that the bytes are, as far as they are any."""
    reader = hiredis.Reader()
    reader.feed(data)
    values: list[Any] = []
    try:
        while (value := reader.gets()) is not False and len(values) < _WAITING:
            values.append(value)
    except (hiredis.ProtocolError, TypeError):
        pass
    return values


TARGET = Target(
    "store_replies",
    check,
    ("gateway.store.wire", "gateway.store.error", "gateway.store.slots"),
    (StoreError, ValueError),
    (
        b"+OK\r\n",
        b"-ERR x\r\n",
        b"-MOVED 1 127.0.0.1:6379\r\n",
        b"-NOSCRIPT x\r\n",
        b":1\r\n",
        b"$-1\r\n",
        b"$2\r\nok\r\n",
        b"*2\r\n",
        b"*-1\r\n",
        b"%1\r\n",
        b"~1\r\n",
        b"_\r\n",
        b"#t\r\n",
        b",1.5\r\n",
        b",inf\r\n",
        b"(12345678901234567890\r\n",
        b"=7\r\ntxt:abc\r\n",
        b">2\r\n",
        b"|1\r\n",
        b"\n--\ncluster_state:ok\r\ncluster_current_epoch:3\r\n",
        b":0\r\n:5460\r\n*2\r\n$9\r\n127.0.0.1\r\n:6379\r\n",
    ),
)
