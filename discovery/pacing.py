"""How often we may ask: a token bucket for answers that come too fast, exponential back-off for failures. Pure; the caller sleeps."""

from __future__ import annotations

from random import random


class TokenBucket:
    """Lets a burst through and then one call an interval.

    Args:
        burst: calls that may come at once.
        interval_seconds: time after which one more is allowed.
    """

    __slots__ = ("_burst", "_filled_at", "_interval_seconds", "_tokens")

    def __init__(self, burst: int, interval_seconds: float) -> None:
        self._burst = burst
        self._interval_seconds = interval_seconds
        self._tokens = float(burst)
        self._filled_at = 0.0

    def take(self, now: float) -> float:
        """Take one token, on credit if need be.

        Returns:
            seconds to wait before the call that it pays for; 0 when there was one.
        """
        earned = (now - self._filled_at) / self._interval_seconds
        self._tokens = min(float(self._burst), self._tokens + earned) - 1.0
        self._filled_at = now
        return max(0.0, -self._tokens * self._interval_seconds)


class Backoff:
    """Delays that double from failure to failure, each drawn from the upper half of its range so that many clients spread out.

    Args:
        first_seconds: upper bound of the first delay.
        cap_seconds: upper bound of all.
    """

    __slots__ = ("_cap_seconds", "_first_seconds", "_next_seconds")

    def __init__(self, first_seconds: float = 0.25, cap_seconds: float = 30.0) -> None:
        self._first_seconds = min(first_seconds, cap_seconds)
        self._cap_seconds = cap_seconds
        self._next_seconds = self._first_seconds

    def failed(self) -> float:
        """Seconds to wait after one more failure."""
        bound = self._next_seconds
        self._next_seconds = min(bound * 2, self._cap_seconds)
        return bound * (1 + random()) / 2

    def succeeded(self) -> None:
        """Begin anew."""
        self._next_seconds = self._first_seconds
