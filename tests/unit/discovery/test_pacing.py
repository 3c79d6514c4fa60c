"""How often Consul may be asked."""

import pytest

from discovery.pacing import Backoff, TokenBucket


def test_a_burst_of_two_passes_and_then_one_an_interval() -> None:
    """D2: the loop is limited by a token bucket with a burst of two."""
    bucket = TokenBucket(2, 0.25)
    assert [bucket.take(100.0) for _ in range(4)] == [0.0, 0.0, 0.25, 0.5]


def test_the_bucket_fills_with_time_up_to_its_burst() -> None:
    """D2: a long blocking query earns no more than the burst."""
    bucket = TokenBucket(2, 0.25)
    for _ in range(2):
        bucket.take(100.0)
    assert bucket.take(100.25) == 0.0
    assert [bucket.take(10_000.0) for _ in range(3)] == [0.0, 0.0, 0.25]


def test_delays_double_to_the_cap_with_jitter() -> None:
    """D2: jittered exponential back-off, cap 30 s."""
    backoff = Backoff()
    delays = [backoff.failed() for _ in range(12)]
    for delay, bound in zip(delays, [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30, 30], strict=True):
        assert bound / 2 <= delay <= bound
    assert len(set(delays)) == 12


def test_success_begins_anew() -> None:
    backoff = Backoff()
    for _ in range(9):
        backoff.failed()
    backoff.succeeded()
    assert backoff.failed() <= 0.25


@pytest.mark.parametrize("cap", [0.1, 3.0])
def test_the_cap_holds_from_the_first_delay(cap: float) -> None:
    backoff = Backoff(cap_seconds=cap)
    assert all(backoff.failed() <= cap for _ in range(10))
