"""Some limits that one call decides about: as the script reads them, and what its reply says about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import gcd
from struct import pack

from gateway.admission.limits import capacity, counted_together
from gateway.admission.reading import Reading
from gateway.admission.verdict import REVOKED, Verdict
from gateway.route import Limit
from gateway.store.script import bulk

_KIND_CODES = {"gcra": 1, "sliding_window": 2, "quota": 3, "concurrency": 4}


class Share:
    """All limits of a plan, decided in one call.

    Args:
        real, shadow: the limits.
        cost: what a request counts.
        policy_line: the `ratelimit-policy` line of the route.

    Attributes:
        width: integers of the reply that a request which is not revoked takes.
        lease_limits: (number, life in microseconds) of the concurrency limits.
    """

    def __init__(self, real: Sequence[Limit], shadow: Sequence[Limit], cost: int, policy_line: bytes) -> None:
        every = [*real, *shadow]
        self.lease_limits = tuple((at, limit.period_us) for at, limit in enumerate(every) if limit.kind == "concurrency")
        self._charged = bulk(_parameters(real, shadow, cost))
        self._peeked = bulk(_parameters(real, shadow, 0))
        reading = Reading(real, shadow, policy_line)
        self.width = reading.width
        self._read = reading.read

    def arguments(self, cost: int) -> bytes:
        """The plan as the script reads it; with a cost of 0 it only tells."""
        return self._charged if cost else self._peeked

    def verdict(self, reply: Sequence[int], at: int) -> Verdict:
        """What the script's reply says about the request whose part begins `at`."""
        code = reply[at]
        return REVOKED[code] if code > 0 else self._read(reply, at)


class PartShare(Share):
    """The limits of a plan that live on one of several shards.

    Args:
        numbers: which of the plan's limits they are.
    """

    def __init__(self, numbers: tuple[int, ...], real: Sequence[Limit], shadow: Sequence[Limit], cost: int) -> None:
        super().__init__(real, shadow, cost, b"")
        self.numbers = numbers
        self.real = real
        self._cost = cost
        self._counting = [(at, limit, _numbers(limit)) for at, limit in enumerate(real) if limit.kind != "concurrency"]

    def verdict(self, reply: Sequence[int], at: int) -> Verdict:
        code = reply[at]
        if code > 0:
            return REVOKED[code]
        return PartVerdict(code == 0, reply[at + 1 : at + self.width], reply[-1])

    def refunds(self, keys: Sequence[bytes], verdict: PartVerdict) -> Iterator[tuple[bytes, bytes]]:
        """(key, argument) for each limit that has counted an admitted request which another shard refuses; see lua/refund.lua."""
        for at, limit, (a, b, c) in self._counting:
            given = self._cost * (a if limit.kind == "gcra" else 1.0)
            left, wait_us = verdict.numbers[2 * at : 2 * at + 2]
            # What the bucket held afterwards, to a microsecond: `wait` is when there is room for one event more than is left now.
            level = max(0.0, b - (left + 1) * a + (wait_us - 1) * c)
            yield keys[at], bulk(pack("<Bddddd", _KIND_CODES[limit.kind], given, b, c, verdict.decided_at_us, level))


class PartVerdict(Verdict):
    """What one of several shards decided about its limits.

    Attributes:
        numbers: remaining events and microseconds until there are more, for each limit; see lua/admit.lua.
        decided_at_us: when, by the store's clock.
    """

    __slots__ = ("decided_at_us", "numbers")

    def __init__(self, allowed: bool, numbers: Sequence[int], decided_at_us: int) -> None:
        super().__init__(allowed)
        self.numbers = numbers
        self.decided_at_us = decided_at_us

    def lefts_and_waits(self, share: PartShare, cost: int) -> Iterator[tuple[int, int]]:
        """Both for each limit, as they are once `cost` has been given back. Shadow limits keep what they counted."""
        real = share.real
        for at, (left, wait) in enumerate(zip(self.numbers[::2], self.numbers[1::2], strict=True)):
            if cost and at < len(real):
                events = 1 if real[at].kind == "concurrency" else cost
                yield min(capacity(real[at]), left + events), wait
            else:
                yield left, wait


def _parameters(real: Sequence[Limit], shadow: Sequence[Limit], cost: int) -> bytes:
    """The plan as the script reads it; see lua/admit.lua."""
    if not real and not shadow:
        return b""
    parts = [pack("<BBddd", _KIND_CODES[limit.kind], 0, *_numbers(limit)) for limit in real]
    parts += [pack("<BBddd", _KIND_CODES[limit.kind], 1, *_numbers(limit)) for limit in shadow]
    return pack("<d", cost) + b"".join(parts)


def _numbers(limit: Limit) -> tuple[float, float, float]:
    if limit.kind == "sliding_window":
        return float(limit.count), float(limit.period_us), float(counted_together(limit.count))
    if limit.kind != "gcra":
        return float(limit.count), float(limit.period_us), 0.0
    # A bucket in units of 1/count microseconds: an event adds `period`, each microsecond drains `count`. All whole numbers, so no rate
    # is rounded; dividing by what they share keeps them small.
    shared = gcd(limit.period_us, limit.count)
    increment = limit.period_us // shared
    return float(increment), float(limit.burst * increment), float(limit.count // shared)
