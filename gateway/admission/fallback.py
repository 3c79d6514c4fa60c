"""Limits without the store: what one replica may admit by itself while it is away, so that all together keep to the limit (SPEC L11). Pure.

Each replica takes its share of every limit: the count divided by the replicas that were alive when the store was last heard. What cannot be
divided into whole events is stretched in time instead, so nobody gets nothing and the sum over time is that of the limit:

    rate (GCRA)      count/N events a period, at most burst/N at once
    sliding window   count/N events in any span of a window, what is left over goes to the first replicas; from 0 at the first outage
    quota            the same in a calendar window
    concurrency      count/N requests at once, what is left over goes to the first replicas; requests from before the outage don't count
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.admission.keys import Facts
from gateway.admission.limits import capacity, counted_together
from gateway.admission.plan import AdmissionPlan
from gateway.admission.reading import Reading
from gateway.admission.verdict import Lease, Verdict
from gateway.auth.principal import Principal
from gateway.route import Limit

#: Keys that are counted apart; beyond it the oldest are forgotten.
MAXIMUM_KEYS = 100_000
#: Names a place of a concurrency limit that this process alone has given.
LOCAL = b""
_SHARD = -1
#: Of a sliding window's part; fewer than in the store, since a process may have to hold very many keys.
_WINDOW_PARTS = 16
#: How soon a full concurrency limit may be tried again.
_RETRY_US = 1_000_000
#: What adding fractions may be off by, as a share of an event.
_ROUNDING = 1e-9

#: Microseconds of some clock.
Clock = Callable[[], float]
#: What is counted of one key; which numbers, its portion knows.
State = list[float]


def steady_us() -> float:
    """Microseconds of a clock that is never set."""
    return time.monotonic() * 1e6


def wall_us() -> float:
    """Microseconds since the epoch."""
    return time.time() * 1e6


class Portion(Protocol):
    """One replica's part of a limit. Only `take` changes a state."""

    @property
    def capacity(self) -> int:
        """Events that fit when it was not used."""

    def fresh(self) -> State:
        """The state of a key that was not used."""

    def wait(self, state: State, cost: int) -> float:
        """Microseconds until `cost` more events fit; 0 when they fit now, infinite when they never do."""

    def take(self, state: State, cost: int) -> None:
        """Counts events."""

    def left(self, state: State) -> int:
        """Events that fit now."""


class RatePortion:
    """GCRA. State: the theoretical arrival time."""

    def __init__(self, limit: Limit, replicas: int, cost: int, clock: Clock) -> None:
        self._interval_us = limit.period_us * replicas / limit.count
        self.capacity = max(1, cost, capacity(limit) // replicas)
        self._clock = clock

    def fresh(self) -> State:
        return [0.0]

    def wait(self, state: State, cost: int) -> float:
        beyond = self._used_us(state) + (cost - self.capacity) * self._interval_us
        return max(0.0, beyond) if beyond > self._interval_us * _ROUNDING else 0.0

    def take(self, state: State, cost: int) -> None:
        state[0] = max(state[0], self._clock()) + cost * self._interval_us

    def left(self, state: State) -> int:
        return max(0, math.floor(self.capacity - self._used_us(state) / self._interval_us + _ROUNDING))

    def fill(self, state: State, wait_us: float) -> None:
        """Counts as many events as it takes until the next one has to wait so long."""
        state[0] = max(state[0], self._clock() + wait_us + (self.capacity - 1) * self._interval_us)

    def _used_us(self, state: State) -> float:
        return max(0.0, state[0] - self._clock())


def _part_of_window(limit: Limit, replicas: int, place: int, cost: int) -> tuple[int, float]:
    """Events and microseconds of a replica's window."""
    part, rest = divmod(limit.count, replicas)
    least = max(1, cost)
    if part >= least:
        return part + (place < rest), float(limit.period_us)
    # A part in which one request has no room: everybody has one in a longer window, so that the sum stays that of the limit.
    return least, limit.period_us * least * replicas / limit.count


class WindowPortion:
    """Any span of a window's length, counted as in lua/admit.lua. State: for each entry, the oldest first, the time of its last event and
    the number of its events."""

    def __init__(self, limit: Limit, replicas: int, place: int, cost: int, clock: Clock) -> None:
        self.capacity, self._window_us = _part_of_window(limit, replicas, place, cost)
        self._together = counted_together(self.capacity, _WINDOW_PARTS)
        self._clock = clock

    def fresh(self) -> State:
        return []

    def wait(self, state: State, cost: int) -> float:
        excess = self._used(state) + cost - self.capacity
        if excess <= 0:
            return 0.0
        entries = iter(state)
        for time_us, events in zip(entries, entries, strict=True):
            excess -= events
            if excess <= 0:
                # Never 0, which would mean that they fit.
                return max(1.0, time_us + self._window_us - self._clock())
        return math.inf

    def take(self, state: State, cost: int) -> None:
        now = self._clock()
        if state and (state[-2] == now or state[-1] + cost <= self._together):
            state[-2:] = [now, state[-1] + cost]
        else:
            state += [now, cost]

    def left(self, state: State) -> int:
        return max(0, self.capacity - int(self._used(state)))

    def _used(self, state: State) -> float:
        """Events that count, once those that no longer do are dropped."""
        horizon = self._clock() - self._window_us
        past = 0
        while past < len(state) and state[past] <= horizon:
            past += 2
        del state[:past]
        return sum(state[1::2])


class QuotaPortion:
    """A calendar window, UTC. State: number of the window, events in it."""

    def __init__(self, limit: Limit, replicas: int, place: int, cost: int, clock: Clock) -> None:
        self.capacity, self._window_us = _part_of_window(limit, replicas, place, cost)
        self._clock = clock

    def fresh(self) -> State:
        return [0.0, 0.0]

    def wait(self, state: State, cost: int) -> float:
        at = self._moved(state)
        return 0.0 if state[1] + cost <= self.capacity else self._window_us * (1 - at)

    def take(self, state: State, cost: int) -> None:
        self._moved(state)
        state[1] += cost

    def left(self, state: State) -> int:
        self._moved(state)
        return max(0, math.floor(self.capacity - state[1]))

    def _moved(self, state: State) -> float:
        number, at = divmod(self._clock() / self._window_us, 1.0)
        if number != state[0]:
            state[:] = [number, 0.0]
        return at


class PlacesPortion:
    """Requests at once. State: how many there are."""

    def __init__(self, limit: Limit, replicas: int, place: int) -> None:
        self.capacity = limit.count // replicas + (place < limit.count % replicas)

    def fresh(self) -> State:
        return [0.0]

    def wait(self, state: State, cost: int) -> float:
        return 0.0 if state[0] < self.capacity else _RETRY_US

    def take(self, state: State, cost: int) -> None:
        state[0] += 1

    def left(self, state: State) -> int:
        return max(0, self.capacity - int(state[0]))


def portion(limit: Limit, place: tuple[int, int], cost: int, steady: Clock = steady_us, wall: Clock = wall_us) -> Portion:
    """What a replica has of a limit.

    Args:
        place: how many replicas there are, and which of them it is, from 0.
        cost: what a request counts; every portion has room for at least one, places of a concurrency limit excepted.
    """
    replicas, number = place
    if limit.kind == "quota":
        return QuotaPortion(limit, replicas, number, cost, wall)
    if limit.kind == "concurrency":
        return PlacesPortion(limit, replicas, number)
    if limit.kind == "sliding_window":
        return WindowPortion(limit, replicas, number, cost, steady)
    return RatePortion(limit, replicas, cost, steady)


class Counters:
    """What this process has admitted by itself, by key. It outlives an outage, so that one after the other gives nothing for free."""

    def __init__(self, maximum_keys: int = MAXIMUM_KEYS) -> None:
        self._states: dict[bytes, State] = {}
        self._maximum_keys = maximum_keys

    def __len__(self) -> int:
        return len(self._states)

    def known(self, key: bytes) -> State | None:
        """The state of a key that was used before."""
        return self._states.get(key)

    def state(self, key: bytes, kind: Portion) -> State:
        """The state of a key."""
        found = self._states.get(key)
        if found is None:
            if len(self._states) >= self._maximum_keys:
                del self._states[next(iter(self._states))]
            found = self._states[key] = kind.fresh()
        return found

    def release(self, verdict: Verdict) -> None:
        """Gives back the places that a request held. A second time does nothing."""
        leases, verdict.leases = verdict.leases, ()
        for lease in leases:
            state = self._states.get(lease.key)
            if state is not None:
                state[0] = max(0.0, state[0] - 1)


class FairShare:
    """A route's limits at this replica's share. Shadow limits are not counted.

    Args:
        plan: the route's limits.
        counters: of this process.
        place: how many replicas live, and which of them this is.
    """

    def __init__(self, plan: AdmissionPlan, counters: Counters, place: Callable[[], tuple[int, int]]) -> None:
        self._plan = plan
        self.capacityers = counters
        self._place = place
        self._reading = Reading(plan.limits, (), plan.policy_line)
        self._divided: tuple[tuple[int, int], Sequence[Portion]] = ((0, 0), ())

    def decide(self, principal: Principal | None, facts: Facts) -> Verdict:
        """The verdict; what it admits is counted, all limits or none."""
        plan, cost = self._plan, self._plan.route.cost
        keys = plan.each_key(principal, facts)
        portions = self._portions()
        states = [self.capacityers.state(key, one) for key, one in zip(keys, portions, strict=True)]
        waits = [one.wait(state, cost) if cost else 0.0 for one, state in zip(portions, states, strict=True)]
        if any(waits):
            numbers = [self._refused(*each) for each in zip(portions, states, waits, strict=True)]
            return self._read(-1, numbers)
        if cost:
            for one, state in zip(portions, states, strict=True):
                one.take(state, cost)
        verdict = self._read(0, [self._admitted(one, state) for one, state in zip(portions, states, strict=True)])
        if cost:
            verdict.leases = tuple(
                Lease(_SHARD, key, LOCAL, limit.period_us, 0.0)
                for key, limit in zip(keys, plan.limits, strict=True)
                if limit.kind == "concurrency"
            )
        return verdict

    def _portions(self) -> Sequence[Portion]:
        place = self._place()
        if self._divided[0] != place:
            self._divided = place, [portion(limit, place, self._plan.route.cost) for limit in self._plan.limits]
        return self._divided[1]

    def _read(self, code: int, numbers: Sequence[tuple[int, int]]) -> Verdict:
        """As from a reply of the script; see lua/admit.lua."""
        return self._reading.read([code, *(value for pair in numbers for value in pair)], 0)

    def _refused(self, one: Portion, state: State, wait_us: float) -> tuple[int, int]:
        return (-1 - one.left(state), math.ceil(wait_us)) if wait_us else self._admitted(one, state)

    def _admitted(self, one: Portion, state: State) -> tuple[int, int]:
        left = one.left(state)
        return left, math.ceil(one.wait(state, left + 1)) if left < one.capacity else 0
