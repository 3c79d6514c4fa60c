"""Requests whose limits live on several shards: one call after the other, taken back when a later one refuses (SPEC L12)."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from gateway.admission.group import Group
from gateway.admission.leases import Leases
from gateway.admission.plan import AdmissionPlan, Ticket
from gateway.admission.sending import send
from gateway.admission.share import PartShare, PartVerdict
from gateway.admission.verdict import Verdict
from gateway.store.lines import Line
from gateway.store.script import Script, bulk

#: Counts that one call gives back.
_MAXIMUM_A_CALL = 256

_Decided = list[tuple[Ticket, PartVerdict]]


class Spread:
    """Decides about such requests.

    The shards are asked in turn, the principal's own first, so that nobody who is refused there takes anything from what all share.

    Args:
        groups: where each shard is asked.
        leases: keeps the leases of a request together.
        refunds: gives back what was counted.
        next_lease: makes names for leases.
    """

    def __init__(self, groups: Sequence[Group], leases: Leases, refunds: Refunds, next_lease: Callable[[], bytes]) -> None:
        self._groups = groups
        self._leases = leases
        self._refunds = refunds
        self._next_lease = next_lease

    async def decide(self, plan: AdmissionPlan, first: Ticket) -> Verdict:
        """The verdict of all shards together. Raises `Unavailable` when one of them does not answer within the budget of the request."""
        asked = asyncio.get_running_loop().time()
        decided: _Decided = []
        try:
            for ticket in (first, *first.rest):
                verdict = await self._groups[ticket.shard].submit(ticket, self._next_lease() if ticket.leased else b"", asked)
                if not isinstance(verdict, PartVerdict):
                    # Revoked: known on the principal's own shard, so nothing has been counted.
                    return verdict
                decided.append((ticket, verdict))
                if not verdict.allowed:
                    self._take_back(decided[:-1])
                    return plan.joined(decided)
        except BaseException:
            self._take_back(decided)
            raise
        return self._admitted(plan, decided)

    def _admitted(self, plan: AdmissionPlan, decided: _Decided) -> Verdict:
        joined = plan.joined(decided)
        leases = tuple(lease for _, verdict in decided for lease in verdict.leases)
        if leases:
            joined.leases = leases
            self._leases.granted(joined, True)
        return joined

    def _take_back(self, decided: _Decided) -> None:
        for ticket, verdict in decided:
            self._leases.release(verdict)
            if ticket.charged:
                assert isinstance(ticket.share, PartShare)
                self._refunds.give_back(ticket.shard, ticket.share.refunds(ticket.each_key, verdict))


class Refunds:
    """Gives back counts, those of one turn of the loop together. What can't be sent stays counted: no limit admits more than it allows.

    Args:
        lines: where calls of each shard go.
        script: the refund script.
    """

    def __init__(self, lines: Sequence[Line], script: Script) -> None:
        self._lines = lines
        self._script = script
        self._loop = asyncio.get_running_loop()
        self._returned: defaultdict[int, list[tuple[bytes, bytes]]] = defaultdict(list)

    def give_back(self, shard: int, counts: Iterable[tuple[bytes, bytes]]) -> None:
        """Gives back some (key, argument) of a shard soon."""
        if not self._returned:
            self._loop.call_soon(self._flush)
        self._returned[shard].extend(counts)

    def _flush(self) -> None:
        returned, self._returned = self._returned, defaultdict(list)
        for shard, counts in returned.items():
            for first in range(0, len(counts), _MAXIMUM_A_CALL):
                if self._lines[shard].up:
                    send(self._lines[shard], self._script, _arguments(counts[first : first + _MAXIMUM_A_CALL]))


def _arguments(counts: Sequence[tuple[bytes, bytes]]) -> tuple[int, bytes]:
    keys, arguments = zip(*counts, strict=True)
    return 1 + 2 * len(counts), bulk(b"%d" % len(counts)) + b"".join(keys) + b"".join(arguments)
