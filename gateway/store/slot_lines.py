"""Lines into a cluster: each leads to the node that owns the shard's slot, also while slots move and nodes fail."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from redis.asyncio.connection import AbstractConnection

from discovery.ending import end
from gateway.store.address import Address, Node
from gateway.store.connecting import connect_soon
from gateway.store.error import StoreError
from gateway.store.lines import Line, OnChange
from gateway.store.script import bulk
from gateway.store.slots import INFO_COMMAND, SLOTS_COMMAND, Nodes, View, newest, parse_redirection, parse_view
from gateway.store.wire import OnReply, Wire

#: The map of slots is asked for again at most so often, however many calls say that it is wrong.
_PAUSE_SECONDS = 0.1
#: And at least so often: a node that stopped without a word is noticed by that too.
_REVIEW_SECONDS = 10.0
_ANSWER_SECONDS = 0.25
#: The longest pause before another attempt to connect to a node: it may have been made the owner of a shard in the meantime.
_LONGEST_PAUSE_SECONDS = 0.2
#: Calls in a row of one shard that follow a redirection at once; then nodes disagree, and the next one waits.
_QUICK_REDIRECTS = 2
_REDIRECT_PAUSE_SECONDS = 0.005
_ASKING = b"*1\r\n" + bulk(b"ASKING")
_log = logging.getLogger("gateway.store")


class SlotLines:
    """The lines of all shards, over one connection for each node that owns some.

    Args:
        address: how to connect to a node.
        nodes: asks nodes when none is connected.
        slots: the slot of each shard.
        prepare: whole commands that are sent first on each connection.
        on_change: is told about each shard.
    """

    def __init__(self, address: Address, nodes: Nodes, slots: Sequence[int], prepare: tuple[bytes, ...], on_change: OnChange) -> None:
        self._address = address
        self._nodes = nodes
        self._slots = slots
        self._prepare = prepare
        self._on_change = on_change
        self._lines = [_SlotLine(self, shard) for shard in range(len(slots))]
        self._wires: dict[Node, Wire] = {}
        self._unused: set[Node] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._stale = asyncio.Event()
        self._opened = asyncio.Event()
        self._failing = False

    def __repr__(self) -> str:
        return f"<SlotLines {', '.join(f'{node} {wire}' for node, wire in self._wires.items())}>"

    def line(self, shard: int) -> Line:
        return self._lines[shard]

    async def open(self) -> None:
        self._keeper = asyncio.get_running_loop().create_task(self._keep())
        await self._opened.wait()

    async def close(self) -> None:
        if self._keeper is not None:
            await end((self._keeper,))
        await asyncio.gather(*(wire.close() for wire in self._wires.values()))

    # For the lines

    def refresh(self) -> None:
        """Something says that the map of slots is not what it was."""
        self._stale.set()

    def moved(self, shard: int, node: Node) -> None:
        """A node says that another one owns the slot now, and knows better than any map. Others have moved too, so the map is asked for."""
        self._assign(shard, node)
        self.refresh()

    def wire_to(self, node: Node) -> Wire:
        """The connection to a node, opened when there is none yet."""
        wire = self._wires.get(node)
        if wire is None:
            name = f"the store's node {node}"
            wire = Wire(
                _NodeConnector(self._address, node),
                self._prepare,
                lambda why: self._wire_changed(node, wire, why),
                name=name,
                longest_pause_seconds=_LONGEST_PAUSE_SECONDS,
            )
            self._wires[node] = wire
            wire.start()
        return wire

    # Following the owners

    def _wire_changed(self, node: Node, wire: Wire | None, why: StoreError | None) -> None:
        if self._wires.get(node) is not wire:
            # Given up, and perhaps replaced: it speaks for nobody any more, also when it gets through after all.
            return
        for shard, line in enumerate(self._lines):
            if line.node == node:
                self._on_change(shard, why)
        if why is not None:
            self.refresh()

    def _assign(self, shard: int, node: Node) -> None:
        line = self._lines[shard]
        if line.node == node:
            return
        was_up = line.up
        line.node, line.wire = node, self.wire_to(node)
        if was_up:
            # Also where the other node is connected: it may know less than the one before.
            self._on_change(shard, StoreError("unavailable", f"its keys moved to {node}"))
        if line.up:
            self._on_change(shard, None)

    async def _keep(self) -> None:
        while True:
            self._stale.clear()
            try:
                await self._follow(await self._view())
            except StoreError as exc:
                self._tell_failed(exc)
            self._opened.set()
            # Jitter, or every replica would ask in the same millisecond.
            await asyncio.sleep(_PAUSE_SECONDS * random.uniform(0.5, 1.0))
            if all(line.up for line in self._lines):
                await _wait(self._stale, _REVIEW_SECONDS)

    async def _follow(self, view: View) -> None:
        self._nodes.saw(view)
        for shard, slot in enumerate(self._slots):
            owner = view.owner(slot)
            if owner is not None:
                self._assign(shard, owner)
        await self._close_unused()
        if not self._opened.is_set():
            await asyncio.gather(*(wire.attempted() for wire in self._wires.values()))
        self._failing = False

    async def _close_unused(self) -> None:
        """Closes connections that no shard has used since the last look: while an owner changes, nodes differ for a moment."""
        unused = set(self._wires) - {line.node for line in self._lines}
        closing = [node for node in unused & self._unused if self._wires[node].idle]
        self._unused = unused
        # All of them are out of use before anything is waited for.
        await asyncio.gather(*[wire.close() for wire in [self._wires.pop(node) for node in closing]])

    async def _view(self) -> View:
        """From the nodes that are connected already, or else from any."""
        connected = [(node, wire) for node, wire in self._wires.items() if wire.up]
        views = await asyncio.gather(*(self._view_of(node, wire) for node, wire in connected), return_exceptions=True)
        known = [view for view in views if isinstance(view, View)]
        return newest(known) if known else await self._nodes.ask_all()

    async def _view_of(self, node: Node, wire: Wire) -> View:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                slots, info = await asyncio.gather(wire.ask(SLOTS_COMMAND), wire.ask(INFO_COMMAND))
        except TimeoutError as exc:
            # Nothing else may be asked of it for long, and nobody would notice (F-12).
            silent = StoreError("timeout", f"no answer within {_ANSWER_SECONDS} s")
            wire.abort(silent)
            raise silent from exc
        return parse_view(slots, info, node)

    def _tell_failed(self, why: StoreError) -> None:
        """One line an outage, however often it is tried."""
        if not self._failing:
            self._failing = True
            _log.warning("the store's map of slots can't be had: %s", " ".join(str(why).split()))


class _NodeConnector:
    """Opens connections to one node."""

    def __init__(self, address: Address, node: Node) -> None:
        self._address = address
        self._node = node

    async def connect(self) -> AbstractConnection:
        return await connect_soon(self._address, self._node)


class _SlotLine:
    """The line of one shard."""

    def __init__(self, lines: SlotLines, shard: int) -> None:
        self._lines = lines
        self._shard = shard
        self._redirects = 0
        # Set by SlotLines
        self.node: Node | None = None
        self.wire: Wire | None = None

    def __repr__(self) -> str:
        return f"<_SlotLine {self._shard} {self.node} {'up' if self.up else 'down'}>"

    @property
    def up(self) -> bool:
        return self.wire is not None and self.wire.up

    def send(self, payload: bytes, on_reply: OnReply) -> None:
        assert self.wire is not None, "the line is down"
        self.wire.send(payload, partial(self._answered, payload, on_reply))

    def abort(self, why: StoreError) -> None:
        if self.wire is not None:
            self.wire.abort(why)

    def _answered(self, payload: bytes, on_reply: OnReply, reply: Any) -> None:
        if not isinstance(reply, StoreError):
            self._redirects = 0
            on_reply(reply)
            return
        _ON_ERROR.get(reply.kind, _SlotLine._failed)(self, payload, on_reply, reply)

    def _failed(self, payload: bytes, on_reply: OnReply, why: StoreError) -> None:
        if why.kind in ("unavailable", "read_only"):
            # CLUSTERDOWN, MASTERDOWN, LOADING: there may be another owner already.
            self._lines.refresh()
        on_reply(why)

    def _moved(self, payload: bytes, on_reply: OnReply, why: StoreError) -> None:
        node = self._redirection(why)
        if node is None:
            on_reply(why)
            return
        self._lines.moved(self._shard, node)
        self._redirects += 1
        if self._redirects <= _QUICK_REDIRECTS:
            on_reply(StoreError("redirected", why.message))
        else:
            self._later(on_reply, why)

    def _asked(self, payload: bytes, on_reply: OnReply, why: StoreError) -> None:
        node = self._redirection(why)
        if node is None:
            on_reply(why)
            return
        wire = self._lines.wire_to(node)
        if wire.up:
            wire.send(_ASKING, _ignore)
            wire.send(payload, partial(self._answered, payload, on_reply))
        else:
            self._later(on_reply, why)

    def _try_again(self, payload: bytes, on_reply: OnReply, why: StoreError) -> None:
        self._later(on_reply, why)

    def _later(self, on_reply: OnReply, why: StoreError) -> None:
        """Has the call sent again in a moment, within its requests' budgets."""
        asyncio.get_running_loop().call_later(_REDIRECT_PAUSE_SECONDS, on_reply, StoreError("redirected", why.message))

    def _redirection(self, why: StoreError) -> Node | None:
        assert self.node is not None
        try:
            return parse_redirection(why.message, self.node)[1]
        except ValueError:
            return None


_OnError = Callable[[_SlotLine, bytes, OnReply, StoreError], None]
_ON_ERROR: dict[str, _OnError] = {"moved": _SlotLine._moved, "asked": _SlotLine._asked, "try_again": _SlotLine._try_again}


def _ignore(_: Any) -> None:
    """For the answer to ASKING."""


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
