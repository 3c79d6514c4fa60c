"""Takes instances out that fail again and again, from what requests find (SPEC B4, F-37). Envoy calls it outlier detection.

An instance that is out comes back on trial: when its time is over, one request may try it, and what comes of that decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Protocol

from discovery.endpoint import Endpoint
from discovery.instance import Outlier

LONGEST_EJECTION_SECONDS = 300.0

Later = Callable[[float, Callable[[], None]], object]


class Detector(Protocol):
    """Told of failures."""

    def failed(self, endpoint: Endpoint, peers: Sequence[Endpoint]) -> None:
        """A connect error, a reset, a time-out or a gateway's error (502, 503, 504) of an endpoint. Peers: all of its service, itself too.

        Called before the endpoint's `finished()`.
        """


class NoDetector:
    """Ejects nobody."""

    def failed(self, endpoint: Endpoint, peers: Sequence[Endpoint]) -> None:
        """Failures still make a row: another service may eject the address."""
        endpoint.failures_in_a_row += 1


class OutlierDetector:
    """The detection of one service.

    Args:
        policy: when, for how long, how many.
        on_ejected: told of each ejection, with its length in seconds.
        later: calls something after so many seconds; the running loop's `call_later` when None.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        policy: Outlier,
        on_ejected: Callable[[Endpoint, float], None],
        *,
        later: Later | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._policy = policy
        self._on_ejected = on_ejected
        self._later = later or asyncio.get_running_loop().call_later
        self._clock = clock

    def failed(self, endpoint: Endpoint, peers: Sequence[Endpoint]) -> None:
        """See `Detector`."""
        endpoint.failures_in_a_row += 1
        if endpoint.standing == "available":
            if endpoint.failures_in_a_row >= self._policy.consecutive_failures and self._has_room(endpoint, peers):
                self._eject(endpoint)
        elif endpoint.standing != "ejected":
            # The trial failed. It was out before, so there is room.
            self._eject(endpoint)

    def _has_room(self, endpoint: Endpoint, peers: Sequence[Endpoint]) -> bool:
        """Whether one more may be out: a share of all, but one always, and never the last usable one."""
        out = sum(peer.standing != "available" for peer in peers)
        others = any(peer.usable for peer in peers if peer is not endpoint)
        return others and out + 1 <= max(1, int(len(peers) * self._policy.maximum_ejected))

    def _eject(self, endpoint: Endpoint) -> None:
        endpoint.ejections = max(0, endpoint.ejections - self._forgiven(endpoint))
        seconds = min(self._policy.base_seconds * (endpoint.ejections + 1), LONGEST_EJECTION_SECONDS)
        endpoint.eject()
        self._later(seconds, endpoint.half_open)
        self._on_ejected(endpoint, seconds)

    def _forgiven(self, endpoint: Endpoint) -> int:
        """Ejections that are forgotten: one for each `base_seconds` in good health. None while it is on trial."""
        if endpoint.standing != "available" or not endpoint.returned_at:
            return 0
        return int((self._clock() - endpoint.returned_at) / self._policy.base_seconds)


def detector(policy: Outlier, on_ejected: Callable[[Endpoint, float], None]) -> Detector:
    """The detection that a policy asks for."""
    if not policy.consecutive_failures or not policy.maximum_ejected:
        return NoDetector()
    return OutlierDetector(policy, on_ejected)
