"""The live state of one address. It outlives snapshots and reloads: what we learned about an address stays true when the catalog moves."""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from time import monotonic
from typing import Literal

from discovery.instance import Instance

#: Time constant of the latency average, as in Finagle's peak EWMA: long enough to ride out noise, short enough to forgive.
DECAY_SECONDS = 10.0
#: What a failure counts as, at least. Otherwise an instance that fails at once looks like the quickest of all.
FAILURE_SECONDS = 1.0

#: `ejected`: taken out after failures. `half_open`: the time is over, one request may try it. `probing`: that request is under way.
Standing = Literal["available", "ejected", "half_open", "probing"]
#: What metrics and the admin API show.
State = Literal["available", "ejected", "half_open", "unhealthy"]


def _ignore(endpoint: Endpoint) -> None:
    """Nobody wants to know."""


class Endpoint:
    """One address, with what is going on there now.

    The one who sends a request adds 1 to `active` before, and when the exchange is over takes it off again and then calls `finished()`.
    Everything happens on the event loop's thread. `connections` belongs to the upstream pool; other attributes are for reading.
    """

    __slots__ = (
        "active",
        "address",
        "connections",
        "ejections",
        "failing_checks",
        "failures",
        "failures_in_a_row",
        "instance",
        "joined_at",
        "latency_at",
        "latency_seconds",
        "not_before",
        "on_change",
        "on_idle",
        "requests",
        "returned_at",
        "scheme",
        "standing",
    )

    def __init__(self, instance: Instance, on_change: Callable[[Endpoint], None] = _ignore) -> None:
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
        #: Counted by the outlier detection of the services; an answer ends the row.
        self.failures_in_a_row = 0
        #: Peak EWMA of the latency as of `latency_at` (monotonic seconds); 0 before the first answer.
        self.latency_seconds = 0.0
        self.latency_at = 0.0
        #: When it wants to be tried again, by its last `Retry-After` (monotonic seconds); 0 when it didn't say.
        self.not_before = 0.0
        # State of health; times are monotonic seconds, 0 for never
        self.standing: Standing = "available"
        self.ejections = 0
        self.returned_at = 0.0
        #: When it began to take requests beside others that did already: the beginning of its slow start.
        self.joined_at = 0.0
        #: Names of the services whose active check it fails.
        self.failing_checks: set[str] = set()
        #: Called when whether it can be used has changed.
        self.on_change = on_change
        #: Set by the directory while the endpoint is in no snapshot: called when its last request has finished.
        self.on_idle: Callable[[Endpoint], None] | None = None

    def __repr__(self) -> str:
        state = "" if self.state == "available" else f", {self.state}"
        left = f"{state}, left" if self.on_idle is not None else state
        return f"<Endpoint {self.scheme}://{self.address} active={self.active} requests={self.requests} failures={self.failures}{left}>"

    @property
    def usable(self) -> bool:
        """Whether it takes requests like any other."""
        return self.standing == "available" and not self.failing_checks

    @property
    def state(self) -> State:
        """One word for its health."""
        if self.failing_checks:
            return "unhealthy"
        return "half_open" if self.standing == "probing" else self.standing

    def finished(self, latency_seconds: float, failed: bool | None, now: float = 0.0) -> None:
        """A request is over, and no longer counted in `active`.

        Args:
            latency_seconds: from sending to the end of the response's header, or to the failure.
            failed: connect error, reset, or an answer that counts against the instance; None when the client's leaving left that open.
            now: monotonic seconds, if they are known.
        """
        self.requests += 1
        if failed:
            self.failures += 1
            if latency_seconds < FAILURE_SECONDS:
                latency_seconds = FAILURE_SECONDS
        elif self.failures_in_a_row:
            self._answered(failed)
        now = now or monotonic()
        # Peak sensitive: up at once, down slowly (Finagle, `PeakEwma.Metric.observe`).
        average = self.latency_seconds
        if latency_seconds >= average:
            self.latency_seconds = latency_seconds
        elif self.latency_at != now:
            self.latency_seconds = latency_seconds + (average - latency_seconds) * exp((self.latency_at - now) / DECAY_SECONDS)
        self.latency_at = now
        if self.on_idle is not None and self.active == 0:
            self.on_idle(self)

    def _answered(self, failed: bool | None) -> None:
        """A request that follows failures is over: with an answer, or without anybody knowing."""
        if failed is None:
            if self.standing == "probing":
                self.standing = "half_open"
            return
        self.failures_in_a_row = 0
        if self.standing in ("half_open", "probing"):
            self.standing = "available"
            self.returned_at = self.joined_at = monotonic()
            self.on_change(self)

    def eject(self) -> None:
        """Take it out."""
        self.standing = "ejected"
        self.ejections += 1
        self.on_change(self)

    def half_open(self) -> None:
        """Its time is over: the next request to it is a probe."""
        if self.standing == "ejected":
            self.standing = "half_open"
            # So that the probe's success is noticed: nothing looks at successes that follow none of these.
            self.failures_in_a_row = max(1, self.failures_in_a_row)
            self.on_change(self)

    def checked(self, service: str, passed: bool) -> None:
        """An active check of a service says so."""
        if passed == (service not in self.failing_checks):
            return
        if passed:
            self.failing_checks.discard(service)
            self.joined_at = monotonic()
        else:
            self.failing_checks.add(service)
        self.on_change(self)

    def load(self, now: float) -> float:
        """Expected seconds of work here for one more request: the latency, fading while nothing is heard, times those in flight.

        An endpoint that has never answered gets one request to be known by, and no second one before that answered.
        """
        latency = self.latency_seconds
        if latency == 0.0:
            return self.active * FAILURE_SECONDS
        return latency * exp((self.latency_at - now) / DECAY_SECONDS) * (self.active + 1)
