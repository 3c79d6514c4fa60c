"""How single values are written."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.problems import Wrong
from gateway.config.values import duration_seconds, duration_text, rate, ratio, size_bytes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10),
        ("250ms", 0.25),
        ("2m", 120),
        ("1h", 3600),
        ("12h", 43_200),
        ("1d", 86_400),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        (0, 0),
        ("0", 0),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert duration_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "10", 10, "s", "10 s", "-1s", "+1s", "10sec", "1h-30m", True, None, "1e3s", "٣s", [], "10S"])
def test_other_durations_are_refused(text: object) -> None:
    with pytest.raises(Wrong, match="is not a duration"):
        duration_seconds(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [(10, 10), ("10", 10), ("10B", 10), ("32KiB", 32_768), ("10 MiB", 10_485_760), ("1GiB", 1024**3), ("1kB", 1000), ("2MB", 2_000_000)],
)
def test_sizes(text: object, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "KiB", "1.5KiB", "1kib", "1K", -1, True, None, 1.0, "1TB"])
def test_other_sizes_are_refused(text: object) -> None:
    with pytest.raises(Wrong, match="is not a size"):
        size_bytes(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100/minute", (100, 60_000_000)),
        ("10/second", (10, 1_000_000)),
        ("600/hour", (600, 3_600_000_000)),
        ("10000/day", (10_000, 86_400_000_000)),
        ("100/15m", (100, 900_000_000)),
        ("5 / 250ms", (5, 250_000)),
    ],
)
def test_rates(text: str, expected: tuple[int, int]) -> None:
    assert rate(text) == expected


@pytest.mark.parametrize("text", ["", "100", 100, "/second", "0/second", "-1/second", "1/0s", "1/fortnight", "9" * 5000 + "/day", None])
def test_other_rates_are_refused(text: object) -> None:
    with pytest.raises(Wrong, match="is not a rate"):
        rate(text)


@pytest.mark.parametrize(("text", "expected"), [(0, 0), (1, 1), (0.25, 0.25), ("0.5", 0.5), ("50%", 0.5), ("0%", 0), ("100%", 1)])
def test_ratios(text: object, expected: float) -> None:
    assert ratio(text) == expected


@pytest.mark.parametrize("text", ["", "%", 2, -0.1, "nan", "inf", "101%", True, None, float("nan")])
def test_other_ratios_are_refused(text: object) -> None:
    with pytest.raises(Wrong, match="is not a share"):
        ratio(text)


@settings(deadline=None)
@given(st.integers(0, 10**4), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_a_duration_survives_a_round_trip_through_milliseconds(number: int, unit: str) -> None:
    seconds = duration_seconds(f"{number}{unit}")
    assert duration_seconds(f"{round(seconds * 1000)}ms") == seconds


@settings(deadline=None)
@given(st.integers(0, 10**9))
def test_a_duration_survives_a_round_trip_through_text(milliseconds: int) -> None:
    assert duration_seconds(duration_text(milliseconds / 1000)) == milliseconds / 1000
