"""Choosing among endpoints. A balancer is built once for a snapshot, so that a pick is a few table look-ups; nothing here does I/O.

`balancer()` is the way in. It takes the endpoints with their weights and the name of a policy, and settles the special cases (no
endpoint, one endpoint) at construction.

Every policy honours weights. They become positions in a *sequence* in which each endpoint stands in proportion to its weight, spread
evenly; round robin walks through it, the others draw from it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Container, Sequence
from hashlib import shake_128
from itertools import cycle
from math import gcd, log, log1p
from operator import attrgetter
from random import random, randrange
from sys import byteorder
from time import monotonic
from typing import Literal, Protocol
from zlib import crc32

from discovery.endpoint import Endpoint

Policy = Literal["round_robin", "random", "least_request", "ewma", "consistent_hash"]

#: Longest weighted sequence, unless there are more endpoints. It bounds memory and the time of a rebuild; the price is that a share is
#: exact to 1/2048 of the traffic only.
MAXIMUM_POSITIONS = 2048
#: Slots of the table of consistent hashing, a power of two. At 10 endpoints a share is off by 5 % (one sigma).
#: It may not depend on the number of endpoints: every key would move when it changed.
SLOTS = 4096
#: No endpoint gets more than this times its fair share of the requests in flight (Mirrokni, Thorup, Zadimoghaddam 2016).
LOAD_FACTOR = 1.25

_LOG_SCORES = log(2**64)
_active = attrgetter("active")


class Balancer(Protocol):
    """Chooses an endpoint for a request."""

    def pick(self, key: bytes | None, exclude: Container[Endpoint]) -> Endpoint | None:
        """The endpoint to use, or None when there is none or all are excluded.

        Args:
            key: what consistent hashing hashes; others ignore it. Without one it chooses at random.
            exclude: endpoints that were tried already; empty for a first try.
        """


def balancer(policy: Policy, endpoints: Sequence[Endpoint], weights: Sequence[int]) -> Balancer:
    """The balancer of a snapshot.

    Args:
        policy: a key of `POLICIES`.
        endpoints: distinct ones.
        weights: one for each endpoint, at least 1.
    """
    if not endpoints:
        return Empty()
    if len(endpoints) == 1:
        return Single(endpoints[0])
    return POLICIES[policy](endpoints, weights)


class Empty:
    """No endpoint."""

    __slots__ = ()

    def pick(self, key: bytes | None = None, exclude: Container[Endpoint] = ()) -> Endpoint | None:
        """None."""
        return None


class Single:
    """One endpoint: there is nothing to choose."""

    __slots__ = ("_endpoint",)

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def pick(self, key: bytes | None = None, exclude: Container[Endpoint] = ()) -> Endpoint | None:
        """The endpoint, unless it is excluded."""
        endpoint = self._endpoint
        return None if exclude and endpoint in exclude else endpoint


class RoundRobin:
    """Weighted round robin, smooth: an endpoint's turns lie as far apart as they can. It starts at a random place, so that many
    gateways that learn of a change together do not all begin with the same endpoint (SPEC B2)."""

    __slots__ = ("_next", "_positions")

    def __init__(self, endpoints: Sequence[Endpoint], weights: Sequence[int]) -> None:
        turns = [endpoints[index] for index in sequence(weights)]
        start = randrange(len(turns))
        self._positions = len(turns)
        self._next: Callable[[], Endpoint] = cycle(turns[start:] + turns[:start]).__next__

    def pick(self, key: bytes | None = None, exclude: Container[Endpoint] = ()) -> Endpoint | None:
        """Whose turn it is."""
        endpoint = self._next()
        return self._next_but(exclude) if exclude and endpoint in exclude else endpoint

    def _next_but(self, exclude: Container[Endpoint]) -> Endpoint | None:
        for _ in range(self._positions - 1):
            endpoint = self._next()
            if endpoint not in exclude:
                return endpoint
        return None


class Random:
    """Weighted random choice."""

    __slots__ = ("_positions", "_turns")

    def __init__(self, endpoints: Sequence[Endpoint], weights: Sequence[int]) -> None:
        self._turns = [endpoints[index] for index in sequence(weights)]
        self._positions = len(self._turns)

    def pick(self, key: bytes | None = None, exclude: Container[Endpoint] = ()) -> Endpoint | None:
        """A random endpoint."""
        endpoint = self._turns[int(random() * self._positions)]
        return first_after(self._turns, endpoint, exclude) if exclude and endpoint in exclude else endpoint


class LeastRequest:
    """Power of two choices on the requests in flight (SPEC B1; Mitzenmacher 2001).

    The first candidate is drawn by weight, the second evenly among the others, and the second wins only when it has fewer requests in
    flight for its weight. So an idle service is used by weight, and a busy one is levelled by weight.
    """

    __slots__ = ("_count", "_draw", "_endpoints", "_others", "_positions", "_weights")

    def __init__(self, endpoints: Sequence[Endpoint], weights: Sequence[int]) -> None:
        self._endpoints = list(endpoints)
        self._weights = list(weights)
        self._count = len(endpoints)
        self._others = len(endpoints) - 1
        self._draw = sequence(weights)
        self._positions = len(self._draw)

    def pick(self, key: bytes | None = None, exclude: Container[Endpoint] = ()) -> Endpoint | None:
        """The less busy one of two."""
        first = self._draw[int(random() * self._positions)]
        # Negative indexes count from the end: first - 1, first - 2, ... are the others, without a modulo.
        second = first - 1 - int(random() * self._others)
        one, other = self._endpoints[first], self._endpoints[second]
        if other.active * self._weights[first] < one.active * self._weights[second]:
            one = other
        return first_after(self._endpoints, one, exclude) if exclude and one in exclude else one


class PeakEwma:
    """Power of two choices on latency times requests in flight, for instances of unequal speed (Finagle's peak EWMA).

    Candidates are drawn as for `LeastRequest`.
    """

    __slots__ = ("_draw", "_endpoints", "_others", "_positions", "_weights")

    def __init__(self, endpoints: Sequence[Endpoint], weights: Sequence[int]) -> None:
        self._endpoints = list(endpoints)
        self._weights = list(weights)
        self._others = len(endpoints) - 1
        self._draw = sequence(weights)
        self._positions = len(self._draw)

    def pick(self, key: bytes | None = None, exclude: Container[Endpoint] = ()) -> Endpoint | None:
        """The one of two that will be done sooner."""
        first = self._draw[int(random() * self._positions)]
        second = first - 1 - int(random() * self._others)
        one, other = self._endpoints[first], self._endpoints[second]
        now = monotonic()
        if other.load(now) * self._weights[first] < one.load(now) * self._weights[second]:
            one = other
        return first_after(self._endpoints, one, exclude) if exclude and one in exclude else one


class ConsistentHash:
    """Weighted rendezvous hashing (Thaler and Ravishankar 1998) with bounded load, read from a table (SPEC B3).

    A key's CRC selects a slot; a slot belongs to the endpoint with the highest score there. When an endpoint leaves, only its own slots
    change hands. An endpoint that has its bound of requests in flight passes the key on to the owner of the next slot.
    """

    __slots__ = ("_bounds", "_endpoints", "_table", "_weights")

    def __init__(self, endpoints: Sequence[Endpoint], weights: Sequence[int]) -> None:
        table = [endpoints[index] for index in owners([endpoint.address for endpoint in endpoints], weights)]
        self._use(table, endpoints, weights)

    def _use(self, table: list[Endpoint], endpoints: Sequence[Endpoint], weights: Sequence[int]) -> None:
        total = sum(weights)
        self._table = table
        self._endpoints = list(endpoints)
        self._weights = list(weights)
        # Share of the requests in flight that an endpoint may have.
        self._bounds = {endpoint: LOAD_FACTOR * weight / total for endpoint, weight in zip(endpoints, weights, strict=True)}

    def without(self, out: Container[Endpoint]) -> ConsistentHash:
        """The same without some endpoints (not all): their slots fall to the next slot's owner, everything else stays where it is.

        It is built in a hundredth of the time that a table of its own takes, so that an ejection stops nobody.
        """
        kept = [pair for pair in zip(self._endpoints, self._weights, strict=True) if pair[0] not in out]
        table = self._table[:]
        owner = next(endpoint for endpoint in table if endpoint not in out)
        for slot in range(SLOTS - 1, -1, -1):
            if table[slot] in out:
                table[slot] = owner
            else:
                owner = table[slot]
        fewer = ConsistentHash.__new__(ConsistentHash)
        fewer._use(table, *zip(*kept, strict=True))
        return fewer

    def pick(self, key: bytes | None = None, exclude: Container[Endpoint] = ()) -> Endpoint | None:
        """The owner of the key, or the next one that has room."""
        slot = randrange(SLOTS) if key is None else crc32(key) & (SLOTS - 1)
        endpoint = self._table[slot]
        # Every bound is at least one request, so an idle endpoint has room: no need to add up.
        if endpoint.active or (exclude and endpoint in exclude):
            return self._with_room(slot, exclude)
        return endpoint

    def _with_room(self, slot: int, exclude: Container[Endpoint]) -> Endpoint | None:
        in_flight = sum(map(_active, self._endpoints)) + 1
        bounds = self._bounds
        table = self._table
        # The bounds add up to more than what is in flight, so this ends soon unless those with room are excluded.
        for place in range(slot - SLOTS, slot):
            endpoint = table[place]
            if endpoint.active < bounds[endpoint] * in_flight and not (exclude and endpoint in exclude):
                return endpoint
        allowed = [endpoint for endpoint in self._endpoints if endpoint not in exclude]
        return min(allowed, key=lambda endpoint: endpoint.active / bounds[endpoint], default=None)


POLICIES: dict[Policy, Callable[[Sequence[Endpoint], Sequence[int]], Balancer]] = {
    "round_robin": RoundRobin,
    "random": Random,
    "least_request": LeastRequest,
    "ewma": PeakEwma,
    "consistent_hash": ConsistentHash,
}


def first_after(turns: Sequence[Endpoint], endpoint: Endpoint, exclude: Container[Endpoint]) -> Endpoint | None:
    """The first endpoint after `endpoint` that is not excluded, going round."""
    start = turns.index(endpoint)
    for place in range(start + 1 - len(turns), start + 1):
        if turns[place] not in exclude:
            return turns[place]
    return None


def sequence(weights: Sequence[int]) -> list[int]:
    """Indexes in which each stands in proportion to its weight, spread evenly (turn k of weight w lies at (k + 1/2) / w)."""
    shares = _shares(weights)
    turns = [((turn + 0.5) / share, index) for index, share in enumerate(shares) for turn in range(share)]
    turns.sort()
    return [index for _, index in turns]


def _shares(weights: Sequence[int]) -> list[int]:
    divisor = gcd(*weights)
    shares = [weight // divisor for weight in weights]
    total = sum(shares)
    if total <= MAXIMUM_POSITIONS or total == len(shares):
        return shares
    return [max(1, round(share * MAXIMUM_POSITIONS / total)) for share in shares]


def owners(addresses: Sequence[str], weights: Sequence[int]) -> list[int]:
    """For each slot the index of the address that owns it: the one with the highest score there."""
    columns = [_scores(address) for address in addresses]
    if len(set(weights)) == 1:
        return [row.index(max(row)) for row in zip(*columns, strict=True)]
    # For u uniform in (0, 1), -ln(u) / w is lowest in proportion to w; with equal weights it orders as u does, the other way round.
    delays = [[(_LOG_SCORES - each) / weight for each in map(log1p, column)] for column, weight in zip(columns, weights, strict=True)]
    return [row.index(min(row)) for row in zip(*delays, strict=True)]


def _scores(address: str) -> array[int]:
    # An extendable-output hash gives all the scores of an address in one call; the same ones in every process.
    scores = array("Q")
    scores.frombytes(shake_128(address.encode()).digest(SLOTS * scores.itemsize))
    if byteorder == "big":
        scores.byteswap()
    return scores
