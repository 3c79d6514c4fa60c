"""Concurrency leases that requests of this process hold: kept alive, given back in batches."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from gateway.admission.group import Line
from gateway.admission.verdict import Lease, Verdict
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
        line: where calls go.
        script: the lease script.
    """

    def __init__(self, line: Line, script: Script) -> None:
        self._line = line
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
        """The store came back: gives back what was released in the meantime."""
        self._plan_flush()

    def close(self) -> None:
        """Gives back everything that is left, if the store can be reached."""
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
        while self._returned and self._line.up:
            leases = self._returned[:_MAXIMUM_A_CALL]
            del self._returned[:_MAXIMUM_A_CALL]
            self._call([(lease, _ZERO) for lease in leases])

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
        if self._line.up:
            for lease in due:
                lease.renewed_at = now
            for first in range(0, len(due), _MAXIMUM_A_CALL):
                self._call([(lease, bulk(b"%d" % lease.life_us)) for lease in due[first : first + _MAXIMUM_A_CALL]])
        if self._held:
            self._arm()

    def _call(self, items: list[tuple[Lease, bytes]]) -> None:
        payload = _payload(self._script.by_sha, items)
        self._line.send(payload, self._again(items))

    def _again(self, items: list[tuple[Lease, bytes]]) -> Callable[[Any], None]:
        """Sends the text once where the server does not know the script. Other failures need nothing: leases end by themselves."""

        def on_reply(reply: Any) -> None:
            if getattr(reply, "kind", "") == "no_script" and self._line.up:
                self._line.send(_payload(self._script.by_text, items), _ignore)

        return on_reply


def _ignore(_: Any) -> None:
    """For replies that change nothing."""


def _payload(verb: bytes, items: list[tuple[Lease, bytes]]) -> bytes:
    count = len(items)
    keys = b"".join(lease.key for lease, _ in items)
    arguments = b"".join(lease.name + life for lease, life in items)
    return b"*%d\r\n%b%b%b%b" % (3 + 3 * count, verb, bulk(b"%d" % count), keys, arguments)
