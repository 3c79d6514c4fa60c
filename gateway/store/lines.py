"""Lines: what calls of one shard go over, wherever its keys live at the moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from gateway.store.error import StoreError
from gateway.store.wire import LONGEST_PAUSE_SECONDS, Connector, Wire

#: Told about a shard: None when calls can be sent, else why they can't.
OnChange = Callable[[int, StoreError | None], None]


class Line(Protocol):
    """Where the calls of one shard go. Whoever holds it may keep it: it leads to the right server for as long as its `Lines` are open."""

    @property
    def up(self) -> bool:
        """Whether calls can be sent."""

    def send(self, payload: bytes, on_reply: Callable[[Any], None]) -> None:
        """Sends a whole command. `on_reply` is called once, with the reply or a StoreError, never from within this call.

        A StoreError of the kind `redirected` says that nothing was done and that the same call may be sent again.
        """

    def abort(self, why: StoreError) -> None:
        """Gives up the connection; a new one is opened."""


class Lines(Protocol):
    """The lines of all shards."""

    def line(self, shard: int) -> Line:
        """The line of a shard."""

    async def open(self) -> None:
        """Starts to keep connections; returns after the first attempt, whatever came of it."""

    async def close(self) -> None:
        """Ends them for good. What waits for a reply gets an error."""


class SharedLine:
    """One connection for all shards: they live on one server.

    Args:
        connector: opens the connection.
        prepare: whole commands that are sent first on each connection.
        shards: how many there are.
        on_change: is told about each shard.
        longest_pause_seconds: between two attempts to connect.
    """

    def __init__(
        self,
        connector: Connector,
        prepare: Sequence[bytes],
        shards: int,
        on_change: OnChange,
        longest_pause_seconds: float = LONGEST_PAUSE_SECONDS,
    ) -> None:
        self._shards = range(shards)
        self._on_change = on_change
        self.wire = Wire(connector, tuple(prepare), self._changed, longest_pause_seconds=longest_pause_seconds)

    def __repr__(self) -> str:
        return f"<SharedLine {self.wire}>"

    def line(self, shard: int) -> Line:
        """The one connection itself, so that it costs nothing."""
        return self.wire

    async def open(self) -> None:
        await self.wire.open()

    async def close(self) -> None:
        await self.wire.close()

    def _changed(self, why: StoreError | None) -> None:
        for shard in self._shards:
            self._on_change(shard, why)
