"""The policy of retries and their budget."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from gateway.route import Circuit as Limits
from gateway.route import Retry, Timeouts
from gateway.upstream.circuit import Circuit
from gateway.upstream.retry import PerTry, Retries, pause_seconds, per_try, retry_after_seconds


def retries(policy: Retry | None = None) -> tuple[Retries, Circuit]:
    load = Circuit(Limits())
    return Retries(policy or Retry(), load), load


def test_so_many_attempts_and_only_after_the_named_failures() -> None:
    """R1: `attempts` counts the tries after the first."""
    policy, _ = retries(Retry(attempts=2, on=("reset",)))
    assert [policy.wants("reset", tries) for tries in (1, 2, 3)] == [True, True, False]
    assert not policy.wants("connect_failure", 1)
    assert not retries(Retry(attempts=0))[0].wants("reset", 1)


@pytest.mark.parametrize(("first_tries", "allowed"), [(1, 3), (15, 3), (20, 4), (100, 20), (1000, 200)])
def test_the_budget_is_a_share_of_the_first_tries_but_never_less_than_the_minimum(first_tries: int, allowed: int) -> None:
    """R4: active retries <= max(3, 20 % of active requests)."""
    policy, load = retries()
    load.requests = first_tries
    granted = 0
    while policy.claim():
        granted += 1
        load.requests += 1  # it is followed by a new first try: the number of those stays the same
    assert (granted, load.retries, load.retries_denied) == (allowed, allowed, 1)
    policy.release()
    assert policy.claim()


def test_a_budget_of_nothing_allows_nothing() -> None:
    """R4: ratio 0 and minimum 0."""
    policy, load = retries(Retry(budget_ratio=0, budget_minimum=0))
    load.requests = 1000
    assert not policy.claim()
    assert policy.claim(stale=True), "F-31: a connection that had ended is no failure"


@pytest.mark.parametrize(("tries", "longest"), [(1, 0.025), (2, 0.075), (3, 0.175), (4, 0.25), (10, 0.25)])
def test_pauses_have_full_jitter_and_a_cap(tries: int, longest: float) -> None:
    """R3: 25 ms x (2^n - 1), cap 250 ms, from 0 on."""
    drawn = [pause_seconds(tries) for _ in range(2000)]
    assert 0 <= min(drawn) < longest * 0.02
    assert longest * 0.98 < max(drawn) <= longest
    assert sum(drawn) / len(drawn) == pytest.approx(longest / 2, rel=0.1)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"7", 7), (b" 120 ", 120), (b"0", 0), (b"soon", 0), (b"", 0), (b"-3", 0), (b"9" * 40, 999_999_999), (b"\xb2", 0)],
)
def test_retry_after_in_seconds(value: bytes, seconds: float) -> None:
    """R5 (RFC 9110 section 10.2.3): what makes no sense asks for nothing."""
    assert retry_after_seconds([(b"server", b"x"), (b"retry-after", value)]) == seconds


def test_retry_after_as_a_date() -> None:
    """R5: a moment that has passed asks for nothing."""
    later, earlier = (formatdate(time.time() + delta, usegmt=True).encode() for delta in (90, -90))
    assert retry_after_seconds([(b"retry-after", later)]) == pytest.approx(90, abs=2)
    assert retry_after_seconds([(b"retry-after", earlier)]) == 0
    assert retry_after_seconds([]) == 0


def test_per_try_shortens_the_wait_for_the_head_and_nothing_else() -> None:
    """R1: only where another try can follow at all, and only if it is the shorter one."""
    timeouts = Timeouts(response=15.0, total=7.0)
    assert per_try(timeouts, Retry()) == PerTry(response=5.0, total=7.0)
    for policy in (Retry(attempts=0), Retry(per_try=0), Retry(per_try=20.0), Retry(on=("reset",))):
        assert per_try(timeouts, policy) is timeouts
