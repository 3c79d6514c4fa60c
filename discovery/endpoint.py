"""The live state of one address. It outlives snapshots and reloads: what we learned about an address stays true when the catalog moves."""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from time import monotonic

from discovery.instance import Instance

#: Time constant of the latency average, as in Finagle's peak EWMA: long enough to ride out noise, short enough to forgive.
DECAY_SECONDS = 10.0
#: What a failure counts as, at least. Otherwise an instance that fails at once looks like the quickest of all.
FAILURE_SECONDS = 1.0


class Endpoint:
    """One address, with what is going on there now.

    The one who sends a request adds 1 to `active` before, and when the exchange is over takes it off again and then calls `finished()`.
    Everything happens on the event loop's thread. `connections` belongs to the upstream pool; other attributes are for reading.
    """

    __slots__ = (
        "active",
        "address",
        "connections",
        "failures",
        "failures_in_a_row",
        "instance",
        "latency_at",
        "latency_seconds",
        "not_before",
        "on_idle",
        "requests",
        "scheme",
    )

    def __init__(self, instance: Instance) -> None:
        #: The newest registration at this address. Weights are the snapshot's: two services may give one address different ones.
        self.instance = instance
        self.scheme = instance.scheme
        self.address = instance.address
        #: The upstream pool hangs its own state of this endpoint here.
        self.connections: object | None = None
        # Per-request state
        self.active = 0
        self.requests = 0
        self.failures = 0
        self.failures_in_a_row = 0
        #: Peak EWMA of the latency as of `latency_at` (monotonic seconds); 0 before the first answer.
        self.latency_seconds = 0.0
        self.latency_at = 0.0
        #: When it wants to be tried again, by its last `Retry-After` (monotonic seconds); 0 when it didn't say.
        self.not_before = 0.0
        #: Set by the directory while the endpoint is in no snapshot: called when its last request has finished.
        self.on_idle: Callable[[Endpoint], None] | None = None

    def __repr__(self) -> str:
        left = ", left" if self.on_idle is not None else ""
        return f"<Endpoint {self.scheme}://{self.address} active={self.active} requests={self.requests} failures={self.failures}{left}>"

    def finished(self, latency_seconds: float, failed: bool) -> None:
        """A request is over, and no longer counted in `active`.

        Args:
            latency_seconds: from sending to the end of the response's header, or to the failure.
            failed: connect error, reset, or an answer that counts against the instance.
        """
        self.requests += 1
        if failed:
            self.failures += 1
            self.failures_in_a_row += 1
            if latency_seconds < FAILURE_SECONDS:
                latency_seconds = FAILURE_SECONDS
        elif self.failures_in_a_row:
            self.failures_in_a_row = 0
        self._observe(latency_seconds, monotonic())
        if self.on_idle is not None and self.active == 0:
            self.on_idle(self)

    def _observe(self, latency_seconds: float, now: float) -> None:
        # Peak sensitive: up at once, down slowly (Finagle, `PeakEwma.Metric.observe`).
        average = self.latency_seconds
        if latency_seconds < average:
            keep = exp((self.latency_at - now) / DECAY_SECONDS)
            latency_seconds += (average - latency_seconds) * keep
        self.latency_seconds = latency_seconds
        self.latency_at = now

    def load(self, now: float) -> float:
        """Expected seconds of work here for one more request: the latency, fading while nothing is heard, times those in flight.

        An endpoint that has never answered gets one request to be known by, and no second one before that answered.
        """
        latency = self.latency_seconds
        if latency == 0.0:
            return self.active * FAILURE_SECONDS
        return latency * exp((self.latency_at - now) / DECAY_SECONDS) * (self.active + 1)
