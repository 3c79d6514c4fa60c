"""A dependency that keeps failing is not asked for a while, so that its time-out is not paid by every request."""

from __future__ import annotations

import time
from collections.abc import Callable


class Breaker:
    """Opens after some failures in a row; from then on one try each `pause_seconds` until one succeeds.

    Args:
        threshold: failures in a row that open it.
        pause_seconds: between tries while it is open.
    """

    def __init__(self, threshold: int, pause_seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._threshold = threshold
        self._pause_seconds = pause_seconds
        self._monotonic = monotonic
        self._failures = 0
        self._next_try = 0.0

    def __repr__(self) -> str:
        return f"<Breaker {'open' if self._failures >= self._threshold else 'closed'}, {self._failures} failures>"

    def allows(self) -> bool:
        """Whether to try now. A True while it is open is the one try of this pause."""
        if self._failures < self._threshold:
            return True
        now = self._monotonic()
        if now < self._next_try:
            return False
        self._next_try = now + self._pause_seconds
        return True

    def succeeded(self) -> bool:
        """Close it. Returns whether there had been failures."""
        failed, self._failures = self._failures > 0, 0
        return failed

    def failed(self) -> bool:
        """Count a failure. Returns whether it is the first in a row."""
        self._failures += 1
        self._next_try = self._monotonic() + self._pause_seconds
        return self._failures == 1
