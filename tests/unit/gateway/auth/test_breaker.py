from __future__ import annotations

from gateway.auth.breaker import Breaker
from tests.support.tokens import FakeClock


def test_opens_after_failures_in_a_row_and_lets_one_try_through_a_pause() -> None:
    """A7: a dependency that is away is not waited for by every request (F-1)."""
    clock = FakeClock(0.0)
    breaker = Breaker(2, 1.0, clock)
    assert breaker.allows()
    assert breaker.failed()
    assert breaker.allows()
    assert not breaker.failed()
    assert not breaker.allows()
    clock.advance(1.0)
    assert breaker.allows()
    assert not breaker.allows()
    assert repr(breaker) == "<Breaker open, 2 failures>"


def test_one_success_closes_it() -> None:
    """A7: back with the first answer."""
    breaker = Breaker(1, 1.0, FakeClock(0.0))
    breaker.failed()
    assert not breaker.allows()
    assert breaker.succeeded()
    assert breaker.allows()
    assert not breaker.succeeded()
