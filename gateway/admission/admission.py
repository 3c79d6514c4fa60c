"""Admission: whether a request's token still holds and whether its limits have room, decided in the shared store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from gateway.admission.group import AdmissionObserver, Group
from gateway.admission.keys import Facts
from gateway.admission.leases import Leases
from gateway.admission.plan import AdmissionPlan, Ticket
from gateway.admission.reconcile import NOTHING_TO_RECONCILE, Reconciliation
from gateway.admission.revocation import shard_keys
from gateway.admission.settled import SettledLine
from gateway.admission.spread import Refunds, Spread
from gateway.admission.verdict import ALLOWED, Verdict
from gateway.auth.principal import Principal
from gateway.errors import Unavailable
from gateway.route import Route
from gateway.store.error import StoreError
from gateway.store.lines import Lines, OnChange
from gateway.store.script import Script

__all__ = ["Admission", "AdmissionObserver", "AdmissionPlan", "Facts", "SharedStore", "Verdict"]

_LUA = Path(__file__).parent / "lua"


class SharedStore(Protocol):
    """What admission needs of the store."""

    @property
    def shards(self) -> int: ...

    def shard_of(self, key: bytes | str) -> int: ...

    def tag(self, shard: int) -> bytes: ...

    def lines(self, prepare: Sequence[bytes], on_change: OnChange) -> Lines: ...


class Admission:
    """Admits requests. One for a process; belongs to the loop that started it.

    Args:
        store: the shared store.
        budget_seconds: the longest that a request waits for its verdict.
        observer: is told about calls and changes of mode.
        reconciliation: what is settled with a server before it decides about anything.
    """

    def __init__(
        self,
        store: SharedStore,
        *,
        budget_seconds: float,
        observer: AdmissionObserver,
        reconciliation: Reconciliation = NOTHING_TO_RECONCILE,
    ) -> None:
        self._store = store
        self._reconciliation = reconciliation
        self._budget_seconds = budget_seconds
        self._observer = observer
        self._admit_script = Script.read(_LUA / "admit.lua")
        self._lease_script = Script.read(_LUA / "leases.lua")
        self._refund_script = Script.read(_LUA / "refund.lua")
        # From start to end
        self._lanes: _Lanes | None = None
        self._groups: Sequence[Group] = ()
        self._mode = "unavailable"
        #: Whether the store was ever there.
        self.met = False
        # Names of leases: unique among all processes by the random part, within this one by the number.
        self._lease_prefix = os.urandom(8).hex().encode()
        self._lease_number = 0

    def __repr__(self) -> str:
        return f"<Admission {self.mode} {self._lanes}>"

    @property
    def ready(self) -> bool:
        """Whether requests can be admitted now."""
        return self._mode == "shared"

    @property
    def mode(self) -> str:
        """`shared` while the store decides, else `unavailable`."""
        return self._mode

    async def start(self) -> None:
        """Connects and loads the scripts. When the store is away this returns all the same, and admission becomes ready by itself."""
        self._lanes = _Lanes(self)
        self._groups = self._lanes.groups
        await self._lanes.open()

    async def close(self) -> None:
        """Gives leases back and ends the connections. Requests that still wait are refused."""
        lanes, self._lanes, self._groups = self._lanes, None, ()
        if lanes is not None:
            lanes.leases.close()
            await lanes.close()
            for group in lanes.groups:
                group.close()
        self._mode = "unavailable"
        self.met = False

    def plan(self, route: Route) -> AdmissionPlan:
        """Compiles the limits of a route, at start. Raises ConfigError, naming route and limit, for what can't work."""
        return AdmissionPlan(route, self._store, self._store.shards)

    def admit(self, plan: AdmissionPlan, principal: Principal | None, facts: Facts) -> Awaitable[Verdict]:
        """Decides about a request and counts it.

        Where `plan.needs(principal)` is False there is nothing to ask, and no call is made.

        Returns:
            Something to await once. It raises `Unavailable` (`store_unavailable`) when the store does not answer within the budget or
            can't decide; a request is never admitted without a decision (SPEC L9).
        """
        if not plan.needs(principal):
            return self._unasked()
        return self._submit(plan, plan.ticket(principal, facts))

    def peek(self, plan: AdmissionPlan, principal: Principal | None, facts: Facts) -> Awaitable[Verdict]:
        """What `admit` would find, without counting anything: `remaining` tells whether the request's cost would fit."""
        if not plan.needs(principal):
            return self._unasked()
        return self._submit(plan, plan.peek_ticket(principal, facts))

    def release(self, verdict: Verdict) -> None:
        """Says that the request is over: its concurrency leases are given back. For any verdict, any number of times, without waiting.

        Until then they are renewed, however long the request takes.
        """
        if verdict.leases and self._lanes is not None:
            self._lanes.leases.release(verdict)

    def reaches(self, plan: AdmissionPlan, principal: Principal | None, facts: Facts) -> bool:
        """Whether there is a connection to the server that would decide."""
        if self._mode == "shared" or self._lanes is None:
            return self._lanes is not None
        return self._lanes.settled[plan.ticket(principal, facts).shard].up

    def _submit(self, plan: AdmissionPlan, ticket: Ticket) -> asyncio.Future[Verdict]:
        try:
            group = self._groups[ticket.shard]
        except IndexError:
            raise Unavailable("store_unavailable", reason="store_closed") from None
        if ticket.rest:
            assert self._lanes is not None
            return asyncio.ensure_future(self._lanes.spread.decide(plan, ticket))
        return group.submit(ticket, self._next_lease() if ticket.leased else b"")

    def _unasked(self) -> asyncio.Future[Verdict]:
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        future.set_result(ALLOWED)
        return future

    def _next_lease(self) -> bytes:
        self._lease_number += 1
        return b"$32\r\n%b%016x\r\n" % (self._lease_prefix, self._lease_number)

    def _lines_changed(self, up: bool) -> None:
        mode = "shared" if up else "unavailable"
        self.met = self.met or up
        if mode != self._mode:
            self._mode = mode
            self._observer.mode(mode)


class _Lanes:
    """What there is of each shard between start and end: a line, the requests on their way; and the leases of all."""

    def __init__(self, admission: Admission) -> None:
        store = admission._store
        reconciliation = admission._reconciliation
        scripts = (admission._admit_script, admission._lease_script, admission._refund_script, *reconciliation.scripts)
        self._changed = admission._lines_changed
        self.lines = store.lines([script.load for script in scripts], self._line_changed)
        self.settled = [
            SettledLine(self.lines.line(shard), shard, reconciliation, admission._budget_seconds, partial(self._settled_changed, shard))
            for shard in range(store.shards)
        ]
        self.leases = Leases(self.settled, admission._lease_script)
        self.groups = [
            Group(
                line,
                admission._admit_script,
                shard_keys(store.tag(shard))[:2],
                admission._budget_seconds,
                admission._observer,
                self.leases.granted,
                partial(reconciliation.history, shard),
            )
            for shard, line in enumerate(self.settled)
        ]
        refunds = Refunds(self.settled, admission._refund_script)
        self.spread = Spread(self.groups, self.leases, refunds, admission._next_lease)

    def __repr__(self) -> str:
        return f"{self.lines} {self.groups} {self.leases}"

    async def open(self) -> None:
        """Returns after the first attempt, whatever came of it."""
        await self.lines.open()
        for line in self.settled:
            await line.settled()

    async def close(self) -> None:
        for line in self.settled:
            await line.close()
        await self.lines.close()

    def _line_changed(self, shard: int, why: StoreError | None) -> None:
        self.settled[shard].line_changed(why)

    def _settled_changed(self, shard: int, why: StoreError | None) -> None:
        self.groups[shard].line_changed(why)
        if why is None:
            self.leases.line_up()
        self._changed(all(line.up for line in self.settled))
