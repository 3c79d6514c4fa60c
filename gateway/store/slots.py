"""Which node of a cluster owns which slots, as the nodes themselves say."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.store.address import Address, Node
from gateway.store.connecting import answers, ask, connect_soon
from gateway.store.error import StoreError
from gateway.store.script import bulk

#: Both questions in one piece; their answers are `CLUSTER SLOTS` and `CLUSTER INFO` [redis.io: commands].
SLOTS_COMMAND = b"*2\r\n" + bulk(b"CLUSTER") + bulk(b"SLOTS")
INFO_COMMAND = b"*2\r\n" + bulk(b"CLUSTER") + bulk(b"INFO")
#: How many nodes are asked at once where none is connected.
_MAXIMUM_ASKED = 8


@dataclass(frozen=True, slots=True)
class View:
    """How one node sees the cluster.

    Attributes:
        healthy: whether it takes itself for a part of a working cluster; one that was cut off does not.
        epoch: number of the newest election that it knows.
        ranges: (first slot, last slot, owner).
        nodes: all owners and their replicas.
    """

    healthy: bool
    epoch: int
    ranges: tuple[tuple[int, int, Node], ...]
    nodes: frozenset[Node]

    def owner(self, slot: int) -> Node | None:
        """Who owns a slot; None when nobody does."""
        return next((node for first, last, node in self.ranges if first <= slot <= last), None)


def parse_view(slots: Any, info: bytes, asked: Node) -> View:
    """A view from a node's answers. A node that does not know its own name means itself, the one that was asked.

    Raises:
        StoreError: it is no answer of a cluster.
    """
    try:
        facts = dict(line.split(":", 1) for line in info.decode().split("\r\n") if ":" in line)
        ranges = []
        nodes = set()
        for first, last, *owners in slots:
            known = [node for owner in owners if (node := _node(owner, asked)) is not None]
            nodes.update(known)
            if known and _node(owners[0], asked) == known[0]:
                ranges.append((int(first), int(last), known[0]))
        return View(facts["cluster_state"] == "ok", int(facts["cluster_current_epoch"]), tuple(ranges), frozenset(nodes))
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, OverflowError) as exc:
        raise StoreError("unavailable", f"{asked} does not answer like a node of a cluster") from exc


def parse_redirection(message: str, asked: Node) -> tuple[int, Node]:
    """Slot and node of `MOVED 3999 127.0.0.1:6381`, or `ASK ...`; a node without a host is on the one that answered. Raises ValueError."""
    _, slot, place = message.split(" ")[:3]
    host, _, port = place.rpartition(":")
    return int(slot), Node(host.strip("[]") or asked.host, int(port))


def _node(owner: Sequence[Any], asked: Node) -> Node | None:
    host, port = owner[0], int(owner[1])
    if host == b"?":
        # It does not know its name [CLUSTER SLOTS].
        return None
    return Node(host.decode() if host else asked.host, port)


def newest(views: Iterable[View]) -> View:
    """The view to believe: of a node that is not cut off, with the newest election."""
    return max(views, key=lambda view: (view.healthy, view.epoch))


class Nodes:
    """Asks nodes over connections of their own: for the first time, and when all that were connected are gone.

    Args:
        address: names some nodes. All that were ever seen are remembered.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._seeds = address.nodes
        self._seen: frozenset[Node] = frozenset()

    def saw(self, view: View) -> None:
        """Remembers the nodes of a view."""
        self._seen = view.nodes or self._seen

    async def ask_all(self) -> View:
        """The newest view of those who answer. Raises StoreError when nobody does."""
        candidates = [*dict.fromkeys([*self._seeds, *self._seen])]
        random.shuffle(candidates)
        view = newest(await answers(self._view(node) for node in candidates[:_MAXIMUM_ASKED]))
        self.saw(view)
        return view

    async def _view(self, node: Node) -> View:
        connection = await connect_soon(self._address, node)
        try:
            return parse_view(await ask(connection, "CLUSTER", "SLOTS"), await ask(connection, "CLUSTER", "INFO"), node)
        finally:
            await connection.disconnect(nowait=True)
