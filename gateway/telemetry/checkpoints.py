"""Checkpoints of the audit's chain: records that say how far it was, kept where whoever can change the file can't reach (SPEC O6)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import orjson

from discovery.ending import end
from gateway.store.error import StoreError
from gateway.telemetry.audit import Audit
from gateway.telemetry.chain import Head
from gateway.telemetry.lines import LineWriter
from gateway.telemetry.trail import Position, Trail
from gateway.telemetry.verification import heads

logger = logging.getLogger(__name__)

#: How long the store keeps the last checkpoint of a process after it was written. Each process has a name of its own, so the keys of those
#: that are gone have to end by themselves (F-10).
KEPT_SECONDS = 90 * 86_400
RETRY_SECONDS = 1.0
#: Of one exchange with the store.
STORE_SECONDS = 1.0
#: What the last checkpoint may take at the end of the process: to be written, and to be kept.
CLOSE_SECONDS = 1.0
POLL_SECONDS = 0.05
#: A process that has only started and stopped, because a port was taken, has nothing to prove to anybody.
NOTHING_DONE = 2
#: How much of a file is read for the chains that earlier processes left in it, and of how many of them the end is noted.
TAIL_BYTES = 256 * 1024
MAXIMUM_PREVIOUS = 16


class Keeper(Protocol):
    """What checkpoints need of the store."""

    def tag(self, shard: int) -> bytes: ...

    async def command(self, *words: bytes | str | int) -> Any: ...


class Checkpoints:
    """Makes a checkpoint every so often; the record of the stop is the last. Belongs to the loop that started it; no request waits for it.

    The record goes to the audit's sinks like any other. Once they have written it, its line goes to the witness, and its number and hash
    to the store: a process that is killed leaves no checkpoint behind that its file falls short of. While the store is away that is tried
    again, always with the newest.

    Args:
        witness: standard output, where somebody else keeps it; None when that is among the sinks.
        seconds: from one to the next.
        replica: whose chain it is.
    """

    def __init__(self, audit: Audit, trail: Trail, store: Keeper, *, witness: LineWriter | None, replica: str, seconds: float) -> None:
        self._audit = audit
        self._trail = trail
        self._store = store
        self._witness = witness
        self._replica = replica
        self._seconds = seconds
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        #: The newest that the store does not know, and how far the sinks are when they have it.
        self._newest: tuple[Head, bytes, Position] | None = None
        self._made = asyncio.Event()
        self._failing = False

    def start(self) -> None:
        """Begin; the first is due after one interval."""
        loop = asyncio.get_running_loop()
        self._tasks = (loop.create_task(self._make_on(), name="checkpoints"), loop.create_task(self._keep_on(), name="checkpoints kept"))

    async def close(self) -> None:
        """Record the stop and have that kept, in bounded time."""
        await end(self._tasks)
        head, line = self._audit.mark("stop")
        if head.seq <= NOTHING_DONE:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._written(line, self._trail.position())
                while not await self._kept(head):  # noqa: ASYNC110 - the store tells nobody that it is back
                    await asyncio.sleep(POLL_SECONDS)

    async def _make_on(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            self._newest = (*self._audit.mark("checkpoint"), self._trail.position())
            self._made.set()

    async def _keep_on(self) -> None:
        while True:
            await self._made.wait()
            self._made.clear()
            assert self._newest is not None
            head, line, position = self._newest
            await self._written(line, position)
            # Until it is kept, or a newer one says all that it would have.
            while not await self._kept(head) and not self._made.is_set():  # noqa: ASYNC110 - the store tells nobody that it is back
                await asyncio.sleep(RETRY_SECONDS)

    async def _written(self, line: bytes, position: Position) -> None:
        while not self._trail.written(position):  # noqa: ASYNC110 - by threads that know of no loop
            await asyncio.sleep(POLL_SECONDS)
        if self._witness is not None:
            self._witness.offer(line)

    async def _kept(self, head: Head) -> bool:
        value = orjson.dumps({"replica": self._replica, "seq": head.seq, "hash": head.hash})
        try:
            async with asyncio.timeout(STORE_SECONDS):
                await self._store.command("SET", checkpoint_key(self._store, self._replica), value, "EX", KEPT_SECONDS)
        except (StoreError, TimeoutError) as error:
            if not self._failing:
                self._failing = True
                logger.warning("the store does not keep the audit's checkpoints, trying again: %s", error or "no answer in time")
            return False
        if self._failing:
            self._failing = False
            logger.info("the store keeps the audit's checkpoints again")
        return True


def checkpoint_key(store: Keeper, replica: str) -> bytes:
    """Under which the store keeps the last checkpoint of a process."""
    return b"gw:%b:audit-checkpoint:%b" % (store.tag(0), replica.encode("utf-8", "replace"))


async def kept_checkpoint(store: Keeper, replica: str) -> Head | None:
    """The last checkpoint of a process, as the store knows it; None when it knows none. Raises StoreError."""
    value = await store.command("GET", checkpoint_key(store, replica))
    if value is None:
        return None
    kept = orjson.loads(value)
    return Head(kept["seq"], kept["hash"])


def previous_heads(sinks: Iterable[str]) -> list[dict[str, object]]:
    """Where the chains end that earlier processes left in the files among these sinks, the newest first: for the record of a start."""
    found: dict[str, Head] = {}
    for sink in sinks:
        kind, _, path = sink.partition(":")
        if kind == "file":
            found |= heads(_tail(path))
    newest = list(reversed(found.items()))[:MAXIMUM_PREVIOUS]
    return [{"replica": replica, "seq": head.seq, "hash": head.hash} for replica, head in newest]


def _tail(path: str) -> Iterator[bytes]:
    """The last lines of a file; none where there is no file that can be read."""
    if not os.path.isfile(path):
        return
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read(TAIL_BYTES).splitlines(keepends=True)
    except OSError:
        return
    yield from lines
