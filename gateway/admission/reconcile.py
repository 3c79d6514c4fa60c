"""Makes a store and the mirror know the same revocations, before anybody is admitted by that store (SPEC V4).

A server that was emptied, or that took over without the last changes, is told again what this process knows. Two things show it: the name
of the store's history, which comes with every admission call and is gone from an emptied server, and the entries that this process saw
last, which are compared on each new connection.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.admission.group import NO_HISTORY
from gateway.admission.mirror import Mirror
from gateway.admission.revocation import REVOCATIONS_SCRIPT, shard_keys
from gateway.store.error import StoreError
from gateway.store.script import Run, Script, bulk

#: Entries that one call writes back: some milliseconds of the server's time.
_RESTORED_A_CALL = 200
logger = logging.getLogger("gateway.admission")


class Reconciliation(Protocol):
    """What is settled with a server before it decides about anything."""

    @property
    def scripts(self) -> tuple[Script, ...]:
        """What `settle` runs."""

    async def settle(self, shard: int, run: Run) -> None:
        """Called for each new connection, before it is used. Raises StoreError, and is called again for the next one."""

    def history(self, shard: int) -> bytes:
        """The name of the history that comes with each call, as an argument on the wire."""


class Tags(Protocol):
    """How keys are spread: the store."""

    @property
    def shards(self) -> int: ...

    def tag(self, shard: int) -> bytes: ...


class Reconciler:
    """Compares a shard with the mirror, takes over what is new there and writes back what is missing.

    Args:
        store: its shards and tags.
        mirror: what this process knows.
        restored: told how many entries a shard had lost.
    """

    scripts = (REVOCATIONS_SCRIPT,)

    def __init__(self, store: Tags, mirror: Mirror, restored: Callable[[int], None]) -> None:
        self._mirror = mirror
        self._restored = restored
        self._keys = [shard_keys(store.tag(shard)) for shard in range(store.shards)]
        self._names: list[bytes] = [b""] * store.shards
        self._arguments: list[bytes] = [NO_HISTORY] * store.shards

    def __repr__(self) -> str:
        return f"<Reconciler {[name.decode() for name in self._names]}>"

    def history(self, shard: int) -> bytes:
        """The name of the history that this process has settled with."""
        return self._arguments[shard]

    async def settle(self, shard: int, run: Run) -> None:
        """Returns once the server behind `run` knows all that this process knows.

        Raises:
            StoreError: it can't be told, or it was emptied again meanwhile.
        """
        name = self._names[shard]
        if not name or not await self._holds(shard, run, name):
            await self.reload(shard, run)

    async def reload(self, shard: int, run: Run) -> None:
        """The same without trusting the comparison: everything is read. Raises StoreError."""
        there = await self._scan(shard, run)
        missing = [entry for entry in self._mirror.entries(shard) if there.get(entry.name, b"") != entry.document]
        restored = 0
        for first in range(0, len(missing), _RESTORED_A_CALL):
            written: list[bytes | int] = [b"restore"]
            for entry in missing[first : first + _RESTORED_A_CALL]:
                written += (entry.name, entry.document, entry.expires_at_us)
            restored += await run(REVOCATIONS_SCRIPT, self._keys[shard], written)
        name: bytes = await run(REVOCATIONS_SCRIPT, self._keys[shard], [b"adopt", secrets.token_hex(12).encode()])
        if not await self._holds(shard, run, name):
            raise StoreError("emptied", "the store was emptied while revocations were written back")
        self._names[shard] = name
        self._arguments[shard] = bulk(name)
        if restored:
            logger.warning("the store had lost %d revocations; they were written back before anybody was admitted", restored)
            self._restored(restored)

    async def _holds(self, shard: int, run: Run, name: bytes) -> bool:
        latest: Sequence[bytes | int] = [part for entry in self._mirror.latest(shard) for part in entry]
        return bool(await run(REVOCATIONS_SCRIPT, self._keys[shard], [b"compare", name, *latest]))

    async def _scan(self, shard: int, run: Run) -> dict[bytes, bytes]:
        """Everything that the shard has; the mirror takes it over."""
        there: dict[bytes, bytes] = {}
        cursor = b"0"
        while True:
            cursor, pairs = await run(REVOCATIONS_SCRIPT, self._keys[shard], [b"scan", cursor])
            found = dict(zip(pairs[::2], pairs[1::2], strict=True))
            there |= found
            self._mirror.merge(found.items())
            if cursor == b"0":
                return there


class _Nothing:
    scripts: tuple[Script, ...] = ()

    async def settle(self, shard: int, run: Run) -> None:
        """Nothing could have been lost."""

    def history(self, shard: int) -> bytes:
        return NO_HISTORY


#: For a process that keeps no mirror.
NOTHING_TO_RECONCILE = _Nothing()
