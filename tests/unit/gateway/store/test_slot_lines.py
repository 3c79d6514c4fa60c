"""The line of one shard of a cluster, over wires that the test answers by hand."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.settings import StateSettings
from gateway.store.address import Node, parse_address
from gateway.store.error import StoreError, reply_error
from gateway.store.slot_lines import SlotLines, _SlotLine
from gateway.store.slots import Nodes
from tests.support.redis_server import run, until

HERE, THERE = Node("127.0.3.1", 7001), Node("127.0.3.2", 7002)
CALL = b"*1\r\n$4\r\nPING\r\n"


class HandWire:
    """A wire whose replies the test gives."""

    def __init__(self) -> None:
        self.up = True
        self.sent: list[bytes] = []
        self.owed: deque[Callable[[Any], None]] = deque()

    def send(self, payload: bytes, on_reply: Callable[[Any], None]) -> None:
        self.sent.append(payload)
        self.owed.append(on_reply)

    def reply(self, reply: Any) -> None:
        self.owed.popleft()(reply_error(reply) if isinstance(reply, str) else reply)


class Bench:
    """One shard on HERE; THERE is another node."""

    def __init__(self) -> None:
        self.changes: list[tuple[int, bool]] = []
        address = parse_address(StateSettings(url=f"redis+cluster://{HERE}"))
        self.lines = SlotLines(address, Nodes(address), [0], (), lambda shard, why: self.changes.append((shard, why is None)))
        self.here, self.there = HandWire(), HandWire()
        self.lines._wires.update({HERE: self.here, THERE: self.there})  # type: ignore[dict-item]
        self.lines.moved(0, HERE)
        self.lines._stale.clear()
        self.changes.clear()
        self.got: list[Any] = []

    @property
    def line(self) -> _SlotLine:
        return self.lines._lines[0]

    def send(self) -> None:
        self.line.send(CALL, self.got.append)

    def kinds(self) -> list[str]:
        return [getattr(reply, "kind", "reply") for reply in self.got]


def on_bench(scenario: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario(Bench())

    run(main())


def test_a_moved_shard_is_followed_and_the_call_may_be_sent_again() -> None:
    """F-6, F-2: nothing was done; the line leads to the other node before its caller hears of it."""

    async def scenario(bench: Bench) -> None:
        bench.send()
        bench.here.reply(f"MOVED 0 {THERE}")
        assert bench.kinds() == ["redirected"]
        assert bench.line.node == THERE
        assert bench.changes == [(0, False), (0, True)]
        assert bench.lines._stale.is_set()
        bench.send()
        bench.there.reply(b"PONG")
        assert bench.got[1:] == [b"PONG"]
        assert bench.here.sent == bench.there.sent == [CALL]

    on_bench(scenario)


def test_nodes_that_send_a_call_to_each_other_are_asked_slowly() -> None:
    async def scenario(bench: Bench) -> None:
        for turn in range(2):
            bench.send()
            (bench.here if turn % 2 == 0 else bench.there).reply(f"MOVED 0 {THERE if turn % 2 == 0 else HERE}")
        assert bench.kinds() == ["redirected"] * 2
        bench.send()
        bench.here.reply(f"MOVED 0 {THERE}")
        assert len(bench.got) == 2
        await until(lambda: len(bench.got) == 3, "the third to be told")
        bench.send()
        bench.there.reply(b"PONG")
        assert bench.line._redirects == 0

    on_bench(scenario)


def test_a_slot_on_its_way_is_asked_for_once_where_it_goes() -> None:
    """ASK: behind ASKING, and the map stays as it is."""

    async def scenario(bench: Bench) -> None:
        bench.send()
        bench.here.reply(f"ASK 0 {THERE}")
        assert bench.there.sent == [b"*1\r\n$6\r\nASKING\r\n", CALL]
        bench.there.reply(b"OK")
        bench.there.reply(b"PONG")
        assert bench.got == [b"PONG"]
        assert (bench.line.node, bench.changes) == (HERE, [])
        bench.there.up = False
        bench.send()
        bench.here.reply(f"ASK 0 {THERE}")
        await until(lambda: len(bench.got) == 2, "the second to be told")
        assert bench.kinds()[1:] == ["redirected"]

    on_bench(scenario)


def test_keys_that_are_here_and_there_are_waited_for() -> None:
    """TRYAGAIN."""

    async def scenario(bench: Bench) -> None:
        bench.send()
        bench.here.reply("TRYAGAIN Multiple keys request during rehashing of slot")
        assert bench.got == []
        await until(lambda: len(bench.got) == 1, "the call to be told")
        assert bench.kinds() == ["redirected"]

    on_bench(scenario)


@pytest.mark.parametrize(
    ("reply", "kind", "asks"),
    [
        ("CLUSTERDOWN The cluster is down", "unavailable", True),
        ("MASTERDOWN Link with MASTER is down", "unavailable", True),
        ("LOADING Redis is loading the dataset in memory", "unavailable", True),
        ("READONLY You can't write against a read only replica.", "read_only", True),
        ("NOSCRIPT No matching script.", "no_script", False),
        ("OOM command not allowed", "out_of_memory", False),
        ("MOVED somewhere else", "moved", False),
        ("ASK 1 nowhere", "asked", False),
    ],
)
def test_other_errors_are_the_callers_and_some_make_the_map_doubtful(reply: str, kind: str, asks: bool) -> None:
    """F-6."""

    async def scenario(bench: Bench) -> None:
        bench.send()
        bench.here.reply(reply)
        assert bench.kinds() == [kind]
        assert bench.lines._stale.is_set() is asks
        assert isinstance(bench.got[0], StoreError)
        assert bench.line.node == HERE

    on_bench(scenario)


def test_a_line_is_shown_with_its_node() -> None:
    async def scenario(bench: Bench) -> None:
        assert repr(bench.line) == "<_SlotLine 0 127.0.3.1:7001 up>"
        bench.here.up = False
        assert not bench.line.up
        await asyncio.sleep(0)

    on_bench(scenario)


def test_a_connection_that_was_given_up_speaks_for_nobody() -> None:
    """It may get through all the same: a cancellation can get lost while it is opened."""

    async def scenario(bench: Bench) -> None:
        stale: Any = HandWire()
        bench.lines._wire_changed(HERE, stale, None)
        bench.lines._wire_changed(HERE, stale, StoreError("unavailable", "closed"))
        assert bench.changes == []
        current: Any = bench.here
        bench.lines._wire_changed(HERE, current, None)
        bench.lines._wire_changed(THERE, stale, None)
        assert bench.changes == [(0, True)]

    on_bench(scenario)
