"""Histograms."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.histogram import Histogram

BOUNDS = (0.1, 1.0, 10.0)


def test_bounds_are_inclusive() -> None:
    """The exposition format's `le`: less than or equal."""
    histogram = Histogram(BOUNDS)
    for value in (0.0, 0.1, 0.100001, 1.0, 10.0, 11.0):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1, 1]
    assert histogram.cumulative() == [("0.1", 2.0), ("1.0", 4.0), ("10.0", 5.0), ("+Inf", 6.0)]


@given(st.lists(st.floats(0, 100)))
def test_every_value_is_counted_once(values: list[float]) -> None:
    """The last cumulative count is the number of values, and each one is the number of values up to its bound."""
    histogram = Histogram(BOUNDS)
    for value in values:
        histogram.observe(value)
    assert [count for _, count in histogram.cumulative()] == [*(sum(v <= bound for v in values) for bound in BOUNDS), len(values)]
    assert histogram.total == sum(values)
