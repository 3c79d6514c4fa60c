"""What ends a benchmark run early."""

from __future__ import annotations


class BenchmarkError(Exception):
    """The run can't give a figure that means what it says: something is missing, did not start, or does not do what is claimed for it."""
