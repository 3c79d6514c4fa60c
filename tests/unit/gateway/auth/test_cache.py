from __future__ import annotations

import pytest

from gateway.auth.cache import PrincipalCache
from gateway.auth.principal import Principal
from tests.support.tokens import FakeClock

ALICE = Principal(subject="alice", issuer="i", method="jwt")
BOB = Principal(subject="bob", issuer="i", method="jwt")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1000.0)


def test_keeps_until_the_time_and_not_a_moment_longer(clock: FakeClock) -> None:
    """A5: a cached verification holds until exp."""
    cache = PrincipalCache(10, clock)
    cache.put(b"t", ALICE, 1001.0)
    clock.now = 1000.999
    assert cache.get(b"t") is ALICE
    clock.now = 1001.0
    assert cache.get(b"t") is None
    assert len(cache) == 0


def test_a_time_already_past_keeps_nothing(clock: FakeClock) -> None:
    """A5: only what still holds is kept."""
    cache = PrincipalCache(10, clock)
    cache.put(b"t", ALICE, 1000.0)
    assert len(cache) == 0


def test_the_least_recently_used_makes_room(clock: FakeClock) -> None:
    """A5: the cache is bounded, and what is in use stays."""
    cache = PrincipalCache(2, clock)
    cache.put(b"a", ALICE, 2000.0)
    cache.put(b"b", BOB, 2000.0)
    assert cache.get(b"a") is ALICE
    cache.put(b"c", BOB, 2000.0)
    assert cache.get(b"b") is None
    assert cache.get(b"a") is ALICE
    assert repr(cache) == "<PrincipalCache 2/2>"


def test_drop_forgets_what_a_key_vouched_for(clock: FakeClock) -> None:
    """A4: a key that left stops verifying, cached or not."""
    cache = PrincipalCache(10, clock)
    cache.put(b"a", ALICE, 2000.0, b"key-1")
    cache.put(b"b", BOB, 2000.0, b"key-2")
    cache.drop({b"key-1"})
    assert cache.get(b"a") is None
    assert cache.get(b"b") is BOB


def test_discard_forgets_by_principal(clock: FakeClock) -> None:
    """A6: a deleted API key is forgotten at once where it was deleted."""
    cache = PrincipalCache(10, clock)
    cache.put(b"a", ALICE, 2000.0)
    cache.put(b"b", BOB, 2000.0)
    cache.discard(lambda principal: principal.subject == "alice")
    assert cache.get(b"a") is None
    assert cache.get(b"b") is BOB
