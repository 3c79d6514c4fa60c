"""S-34: changes of what the gateway depends on."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.telemetry.dependencies import Dependencies


def test_changes_are_recorded_once_between_start_and_end() -> None:
    """S-34: what is away at the start is told after it; then each change, once; nothing after the end."""
    told: list[Mapping[str, object]] = []
    dependencies = Dependencies(told.append)
    dependencies.note("store", False)
    dependencies.note("issuer:login", False)
    dependencies.note("issuer:login", True)
    assert told == []
    dependencies.begin()
    for answers in (True, True, False, False):
        dependencies.note("discovery:patients", answers)
    dependencies.note("store", True)
    dependencies.close()
    dependencies.note("store", False)
    assert told == [
        {"dependency": "store", "state": "away"},
        {"dependency": "discovery:patients", "state": "away"},
        {"dependency": "store", "state": "back"},
    ]
    assert repr(dependencies) == "<Dependencies away=['discovery:patients', 'store']>"
