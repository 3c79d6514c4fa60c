"""Pure: a histogram that costs one bisection to fill."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate


class Histogram:
    """Counts values in fixed buckets.

    `counts` has one item a bound and a last one for what is above them all; they are not cumulative. Callers on the request path may
    fill `counts` and `total` themselves, as `observe` does.

    Args:
        bounds: upper bounds, inclusive, ascending.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Pairs of `le` and the number of values up to it, `+Inf` last, as the exposition formats want them."""
        names = [*(repr(float(bound)) for bound in self.bounds), "+Inf"]
        return [(name, float(count)) for name, count in zip(names, accumulate(self.counts), strict=True)]
