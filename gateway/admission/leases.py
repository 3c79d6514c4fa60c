"""Concurrency leases that requests of this process hold: kept alive, given back in batches."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import attrgetter

from gateway.admission.sending import send
from gateway.admission.verdict import Lease, Verdict
from gateway.store.lines import Line
from gateway.store.script import Script, bulk

_ZERO = bulk(b"0")
#: What is kept for a store that is away; beyond it leases end by themselves.
_MAXIMUM_RETURNED = 10_000
#: Leases that one call renews or gives back.
_MAXIMUM_A_CALL = 512
#: A lease is renewed after a third of its life, looked at twice in that time.
_RENEW_AFTER = 1 / 3
_LOOKS_A_LIFE = 6


class Leases:
    """Renews what is held, gives back what is released.

    What a caller forgets to release is not renewed once its verdict is gone, so it ends by itself; so does everything after kill -9.

    Args:
        lines: where calls of each shard go.
        script: the lease script.
    """

    def __init__(self, lines: Sequence[Line], script: Script) -> None:
        self._lines = lines
        self._script = script
        self._loop = asyncio.get_running_loop()
        self._held: weakref.WeakSet[Verdict] = weakref.WeakSet()
        self._returned: list[Lease] = []
        self._flush_planned = False
        self._shortest_life_us = 0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Leases held={len(self._held)} returned={len(self._returned)}>"

    def granted(self, verdict: Verdict, awaited: bool) -> None:
        """Takes care of a verdict's leases; gives them back at once when nobody waits for the verdict any more."""
        if not awaited:
            self._give_back(verdict.leases)
            return
        self._held.add(verdict)
        life_us = min(lease.life_us for lease in verdict.leases)
        if self._timer is None or life_us < self._shortest_life_us:
            self._shortest_life_us = life_us
            self._arm()

    def release(self, verdict: Verdict) -> None:
        """Gives the leases back soon. A second time does nothing."""
        leases, verdict.leases = verdict.leases, ()
        self._held.discard(verdict)
        self._give_back(leases)

    def line_up(self) -> None:
        """A shard came back: gives back what was released in the meantime."""
        self._plan_flush()

    def close(self) -> None:
        """Gives back everything that is left, where the store can be reached."""
        if self._timer is not None:
            self._timer.cancel()
        for verdict in list(self._held):
            self.release(verdict)
        self._flush()

    def _give_back(self, leases: Iterable[Lease]) -> None:
        self._returned.extend(leases)
        del self._returned[:-_MAXIMUM_RETURNED]
        self._plan_flush()

    def _plan_flush(self) -> None:
        if self._returned and not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_planned = False
        self._returned = self._call(self._returned, lambda lease: _ZERO)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._shortest_life_us / 1e6 / _LOOKS_A_LIFE, self._renew)

    def _renew(self) -> None:
        self._timer = None
        now = self._loop.time()
        due = [
            lease
            for verdict in self._held
            for lease in verdict.leases
            if now - lease.renewed_at >= lease.life_us / 1e6 * (_RENEW_AFTER - 1 / (2 * _LOOKS_A_LIFE))
        ]
        later = self._call(due, lambda lease: bulk(b"%d" % lease.life_us))
        for lease in set(due).difference(later):
            lease.renewed_at = now
        if self._held:
            self._arm()

    def _call(self, leases: list[Lease], life: Callable[[Lease], bytes]) -> list[Lease]:
        """Sends calls where the store can be reached. Returns the leases of shards where it can't."""
        unsent: list[Lease] = []
        for shard, group in groupby(sorted(leases, key=_SHARD), _SHARD):
            line, items = self._lines[shard], list(group)
            if not line.up:
                unsent.extend(items)
                continue
            for first in range(0, len(items), _MAXIMUM_A_CALL):
                send(line, self._script, _arguments([(lease, life(lease)) for lease in items[first : first + _MAXIMUM_A_CALL]]))
        return unsent


_SHARD = attrgetter("shard")


def _arguments(items: Sequence[tuple[Lease, bytes]]) -> tuple[int, bytes]:
    """How many arguments a call has, and all of them."""
    count = len(items)
    keys = b"".join(lease.key for lease, _ in items)
    return 1 + 3 * count, bulk(b"%d" % count) + keys + b"".join(lease.name + life for lease, life in items)
