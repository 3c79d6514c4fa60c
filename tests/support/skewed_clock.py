"""Another time of day for a process that a test starts (libfaketime): its wall clock is off, its timers are not."""

from __future__ import annotations

from pathlib import Path


class FaketimeNotFound(RuntimeError):
    """libfaketime is not installed."""


def skewed_clock(seconds: float) -> dict[str, str]:
    """Environment variables that put a process' clock forward; none for 0. Raises FaketimeNotFound."""
    if not seconds:
        return {}
    return {"LD_PRELOAD": str(_library()), "FAKETIME": f"{seconds:+.3f}", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def _library() -> Path:
    places = (Path("/usr/lib"), Path("/usr/local/lib"))
    found = [
        path for place in places for path in (*place.glob("*/faketime/libfaketimeMT.so.1"), *place.glob("faketime/libfaketimeMT.so.1"))
    ]
    if not found:
        raise FaketimeNotFound("libfaketime is not installed: run scripts/install-test-parts, or install the package libfaketime")
    return found[0]
