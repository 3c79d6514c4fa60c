"""The journal of revocations: what is written goes to the mirrors of all replicas within milliseconds (SPEC V3, V6).

A reader that missed something (records were trimmed, the server lost them, it was emptied) notices by the chain of records, reads
everything again, and tells the server what that has lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from discovery.ending import end
from gateway.admission.mirror import Mirror
from gateway.store.error import StoreError
from gateway.store.script import Run, Script

_SCRIPT = Script.read(Path(__file__).parent / "lua" / "journal.lua")
#: How long one read waits for news; then the end of the journal is compared. Below the client's time-out for any answer.
_READ_MS = 1000
_RECORDS_A_READ = 500
_LONGEST_PAUSE_SECONDS = 0.5
#: How long a start waits for the first snapshot before it goes on without.
_START_SECONDS = 2.0
#: No record: the beginning.
_NO_RECORD = b"0-0"
logger = logging.getLogger("gateway.admission")


class JournalStore(Protocol):
    """What the journal needs of the store."""

    @property
    def shards(self) -> int: ...

    def tag(self, shard: int) -> bytes: ...

    async def run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | int]) -> Any: ...

    async def command(self, *words: bytes | str | int) -> Any: ...


class Reloading(Protocol):
    """Reads a shard anew and writes back what it has lost."""

    async def reload(self, shard: int, run: Run) -> None: ...


class Journal:
    """Follows the journal for this process's mirror, and writes to it. Belongs to the loop that started it.

    Args:
        store: the shared store.
        mirror: is fed.
        reconciler: reads everything when something was missed.
        store_time: the store's clock, seconds since the epoch; None while it is not known.
        propagated: told how many seconds after it was written a change arrived here.
    """

    def __init__(
        self,
        store: JournalStore,
        mirror: Mirror,
        reconciler: Reloading,
        store_time: Callable[[], float | None] = time.time,
        propagated: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._reconciler = reconciler
        self._store_time = store_time
        self._propagated = propagated
        self._key = b"gw:%b:revocation-journal" % store.tag(0)
        self._last = _NO_RECORD
        self._following: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._first_attempt = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Journal last={self._last.decode()}>"

    async def start(self) -> None:
        """Begins to follow; returns when the mirror holds everything, or, when the store is away, without."""
        self._following = asyncio.get_running_loop().create_task(self._follow())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                await self._first_attempt.wait()

    async def close(self) -> None:
        """Stops following."""
        await end(self._calls)
        if self._following is not None:
            await end((self._following,))

    async def publish(self, written: Iterable[tuple[bytes, bytes]]) -> None:
        """Tells all replicas of (name, JSON) pairs that were written, this one first: what is acknowledged must not live in one place only.

        Raises:
            StoreError: the others may not know.
        """
        pairs = list(written)
        self._mirror.merge(pairs)
        for pair in pairs:
            await self._append(*pair)

    def look_again(self) -> None:
        """Has every replica read everything again, soon: a store that had lost entries got some of them back."""
        task = asyncio.get_running_loop().create_task(self._call_for_look())
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _call_for_look(self) -> None:
        # Where it fails, the store is away again, and the next connection compares anew.
        with contextlib.suppress(StoreError):
            await self._append(b"", b"")

    async def _append(self, name: bytes, document: bytes) -> None:
        await self._store.run(_SCRIPT, [self._key], [b"append", name, document])

    # Following

    async def _follow(self) -> None:
        while True:
            try:
                if not self._mirror.loaded:
                    await self._load()
                self._first_attempt.set()
                if not await self._read():
                    logger.info("the journal of revocations has a gap; everything is read again")
                    await self._load()
            except StoreError:
                # Of an outage the admission's own connection tells. Jitter, or all replicas would come back in one moment.
                self._first_attempt.set()
                await asyncio.sleep(random.uniform(0.1, 1.0) * _LONGEST_PAUSE_SECONDS)

    async def _load(self) -> None:
        # First the end of the journal: what is written while we read comes after it.
        last = await self._end()
        for shard in range(self._store.shards):
            await self._reconciler.reload(shard, self._store.run)
        self._last = last
        self._mirror.confirm()

    async def _end(self) -> bytes:
        last: bytes = await self._store.run(_SCRIPT, [self._key], [b"last"])
        return last

    async def _read(self) -> bool:
        """Takes the next records in, or finds that there are none. False when some are missing."""
        reply = await self._store.command("XREAD", "COUNT", _RECORDS_A_READ, "BLOCK", _READ_MS, "STREAMS", self._key, self._last)
        records = _records(reply)
        if not records:
            if await self._end() != self._last:
                # Perhaps only because a record came just now: then the next read gets it.
                return await self._catch_up()
            self._mirror.confirm()
            return True
        return self._take(records)

    async def _catch_up(self) -> bool:
        records = _records(await self._store.command("XREAD", "COUNT", _RECORDS_A_READ, "STREAMS", self._key, self._last))
        return bool(records) and self._take(records)

    def _take(self, records: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> bool:
        now = self._store_time()
        for record_id, fields in records:
            if fields[b"previous"] != self._last:
                return False
            self._last = record_id
            if not fields[b"entry"]:
                return False
            self._mirror.merge([(fields[b"entry"], fields[b"document"])])
            if now is not None:
                self._propagated(max(0.0, now - int(fields[b"at"]) / 1e6))
        if len(records) < _RECORDS_A_READ:
            self._mirror.confirm()
        return True


def _records(reply: Any) -> list[tuple[bytes, Mapping[bytes, bytes]]]:
    """What XREAD has found, whichever protocol the connection speaks."""
    if not reply:
        return []
    _, records = next(iter(reply.items())) if isinstance(reply, dict) else reply[0]
    # RESP3 nests the list once more.
    return records[0] if records and isinstance(records[0], list) and not isinstance(records[0][0], bytes) else records
