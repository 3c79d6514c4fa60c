"""A line to the store that is up only once the server behind it and this process know the same (SPEC V4)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from discovery.ending import end
from gateway.admission.reconcile import Reconciliation
from gateway.store.error import StoreError
from gateway.store.lines import Line
from gateway.store.script import Script

_ANSWER_SECONDS = 1.0
#: How often the same call follows its keys to another server.
_MAXIMUM_REDIRECTS = 5


class SettledLine:
    """The line of one shard, as admission may use it.

    The first answers also show how quick the server is: one that is slower than any request waits is left alone, and tried again with the
    next connection. So this is the breaker's probe, too.

    Args:
        line: where calls go.
        shard: whose line it is.
        reconciliation: what is settled first.
        patience_seconds: the longest that the quickest answer may take.
        on_change: told None when calls can be sent, else why they can't.
    """

    def __init__(
        self,
        line: Line,
        shard: int,
        reconciliation: Reconciliation,
        patience_seconds: float,
        on_change: Callable[[StoreError | None], None],
    ) -> None:
        self._line = line
        self._shard = shard
        self._reconciliation = reconciliation
        self._patience_seconds = patience_seconds
        self._on_change = on_change
        self._settling: asyncio.Task[None] | None = None
        self._quickest_seconds = float("inf")
        self.up = False

    def __repr__(self) -> str:
        return f"<SettledLine {self.up} {self._line}>"

    def send(self, payload: bytes, on_reply: Callable[[Any], None]) -> None:
        self._line.send(payload, on_reply)

    def abort(self, why: StoreError) -> None:
        self._line.abort(why)

    def line_changed(self, why: StoreError | None) -> None:
        """The line below came (None) or went."""
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        if why is None:
            self._settling = asyncio.get_running_loop().create_task(self._settle())
        elif self.up:
            self.up = False
            self._on_change(why)

    async def settled(self) -> None:
        """Waits for what is going on, if anything is."""
        if self._settling is not None:
            await asyncio.wait([self._settling])

    async def close(self) -> None:
        """Gives up what is going on."""
        if self._settling is not None:
            await end((self._settling,))

    async def _settle(self) -> None:
        self._quickest_seconds = float("inf")
        try:
            await self._reconciliation.settle(self._shard, self._run)
            if self._patience_seconds < self._quickest_seconds < float("inf"):
                raise StoreError("timeout", f"the quickest answer took {self._quickest_seconds * 1000:.0f} ms")
        except StoreError as exc:
            self._settling = None
            if self._line.up:
                self._line.abort(exc)
            return
        self._settling = None
        self.up = True
        self._on_change(None)

    async def _run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | int]) -> Any:
        """Runs a script on the very server that will decide."""
        for _ in range(_MAXIMUM_REDIRECTS):
            reply = await self._ask(script.call(keys, arguments))
            if not isinstance(reply, StoreError):
                return reply
            if reply.kind == "no_script":
                await self._ask(script.load)
            elif reply.kind != "redirected":
                raise reply
        raise StoreError("unavailable", "a call was sent from server to server")

    async def _ask(self, command: bytes) -> Any:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Any] = loop.create_future()

        def on_reply(reply: Any) -> None:
            if not answered.done():
                answered.set_result(reply)

        asked = loop.time()
        if not self._line.up:
            raise StoreError("unavailable", "the connection was lost")
        self._line.send(command, on_reply)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                reply = await answered
        except TimeoutError as exc:
            raise StoreError("timeout", "no answer while the connection was prepared") from exc
        self._quickest_seconds = min(self._quickest_seconds, loop.time() - asked)
        return reply
