"""Which instances of a service take requests now, and with what weight: out go the ejected and the unhealthy, newcomers begin slowly.

Computed when something changes, never for a request: a pick goes to a balancer that holds those in use only.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from discovery.balance import Balancer, ConsistentHash, Policy, balancer
from discovery.endpoint import Endpoint

#: Share of its weight that a newcomer begins with (SPEC B6); also the size of the steps in which it grows.
FIRST_SHARE = 0.1
_STEPS = round(1 / FIRST_SHARE)


@dataclass(frozen=True, slots=True)
class Selection:
    """How to choose now.

    Args:
        balancer: among those in use.
        panic: fewer than half of the endpoints are usable, so all are in use (SPEC B5).
        changes_in: seconds after which to select again, because a share has grown; 0 when nothing changes by itself.
    """

    balancer: Balancer
    panic: bool = False
    changes_in: float = 0.0


class Selector:
    """Of one set of instances.

    Args:
        policy: a key of `POLICIES`.
        endpoints: distinct ones.
        weights: one for each.
        slow_start_seconds: from the first to the full share; 0 for none. Not with `consistent_hash`: keys would move with every step.
    """

    __slots__ = ("_endpoints", "_policy", "_slow_start_seconds", "_weights", "everybody")

    def __init__(self, policy: Policy, endpoints: Sequence[Endpoint], weights: Sequence[int], slow_start_seconds: float) -> None:
        self._policy: Policy = policy
        self._endpoints = list(endpoints)
        self._weights = list(weights)
        self._slow_start_seconds = 0.0 if policy == "consistent_hash" else slow_start_seconds
        self.everybody = balancer(policy, endpoints, weights)

    def select(self, now: float) -> Selection:
        """The selection as of `now`, monotonic seconds."""
        usable = [pair for pair in zip(self._endpoints, self._weights, strict=True) if pair[0].usable]
        out = len(self._endpoints) - len(usable)
        if len(usable) * 2 < len(self._endpoints):
            return Selection(self.everybody, panic=True)
        shares = [self._share(endpoint, now) for endpoint, _ in usable] if self._slow_start_seconds else []
        ramping = any(share != 1 for share in shares)
        if not out and not ramping:
            return Selection(self.everybody)
        chosen = self._among(usable, shares if ramping else [1.0] * len(usable))
        on_trial = [endpoint for endpoint in self._endpoints if endpoint.state == "half_open"]
        changes_in = self._slow_start_seconds / _STEPS if ramping else 0.0
        return Selection(Probing(chosen, on_trial) if on_trial else chosen, changes_in=changes_in)

    def _among(self, usable: list[tuple[Endpoint, int]], shares: list[float]) -> Balancer:
        endpoints = [endpoint for endpoint, _ in usable]
        if isinstance(self.everybody, ConsistentHash):
            return self.everybody.without(set(self._endpoints) - set(endpoints))
        weights = [max(1, round(weight * share * _STEPS)) for (_, weight), share in zip(usable, shares, strict=True)]
        return balancer(self._policy, endpoints, weights)

    def _share(self, endpoint: Endpoint, now: float) -> float:
        """From 0.1 to 1, in steps of a tenth."""
        if not endpoint.joined_at:
            return 1.0
        step = int((now - endpoint.joined_at) / self._slow_start_seconds * _STEPS)
        return min(1.0, max(1, step) / _STEPS)


class Probing:
    """Lets one request try each endpoint that is on trial, and leaves all others to a balancer (F-37)."""

    __slots__ = ("_balancer", "_on_trial")

    def __init__(self, others: Balancer, on_trial: Sequence[Endpoint]) -> None:
        self._balancer = others
        self._on_trial = tuple(on_trial)

    def pick(self, key: bytes | None = None, exclude: Container[Endpoint] = ()) -> Endpoint | None:
        """An endpoint on trial that nobody is trying; a request that is tried again already is no probe."""
        if not exclude:
            for endpoint in self._on_trial:
                if endpoint.standing == "half_open":
                    endpoint.standing = "probing"
                    return endpoint
        return self._balancer.pick(key, exclude)


NOBODY = Selector("random", (), (), 0.0)
