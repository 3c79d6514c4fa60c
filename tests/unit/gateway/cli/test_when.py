"""Moments on the command line."""

from __future__ import annotations

import pytest

from gateway.cli.when import parse_when

NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", NOW),
        ("+1h", NOW + 3600),
        ("-5m", NOW - 300),
        ("+1h30m", NOW + 5400),
        ("1767225600", 1_767_225_600),
        ("1767225600.5", 1_767_225_600.5),
        ("2026-01-01T00:00:00Z", 1_767_225_600),
        ("2026-01-01t00:00:00z", 1_767_225_600),
        ("2026-01-01T01:30:00.250+01:30", 1_767_225_600.25),
    ],
)
def test_every_form_of_a_moment(text: str, expected: float) -> None:
    """CONTRACT §3: WHEN."""
    assert parse_when(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "soon", "1h", "+", "+1", "2026-01-01", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00", "-1.x", "1e5"])
def test_anything_else_is_refused_with_the_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"^'"):
        parse_when(text, NOW)
