"""The limit on failed authentications, on a clock that the test moves, with a store that the test plays (SPEC A8)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace

import pytest

from gateway.admission.plan import AdmissionPlan
from gateway.admission.verdict import Verdict
from gateway.auth import failures
from gateway.auth.failures import NO_FAILURE_LIMIT, FailureLimit, FailureLimits
from gateway.auth.principal import Principal
from gateway.errors import ConfigError, RateLimited, Unavailable
from gateway.route import Route
from gateway.settings import FAILURES
from tests.support.admission import SECOND_US, FixedFacts, gcra
from tests.unit.gateway.admission.test_fallback import Clock
from tests.unit.gateway.test_pipeline import NoShards

HERE, THERE = FixedFacts("192.0.2.1"), FixedFacts("192.0.2.2")
THREE = gcra(3, 60, name="authentication.failures", key=("client_ip",))


class Shared:
    """A store that says what the test tells it to: seconds to wait, or that it is away."""

    def __init__(self, *, wait_seconds: int = 0, reached: bool = True, broken: bool = False) -> None:
        self.wait_seconds = wait_seconds
        self.reached = reached
        self.broken = broken
        self.asked = 0

    def plan(self, route: Route) -> AdmissionPlan:
        return AdmissionPlan(route, NoShards(), 1)

    def reaches(self, plan: AdmissionPlan, principal: Principal | None, facts: object) -> bool:
        return self.reached

    def admit(self, plan: AdmissionPlan, principal: Principal | None, facts: object) -> Awaitable[Verdict]:
        self.asked += 1
        return self._answer()

    async def _answer(self) -> Verdict:
        if self.broken:
            raise Unavailable("store_unavailable", reason="store_timeout")
        return Verdict(not self.wait_seconds, retry_after_seconds=self.wait_seconds)


def refused(limit: FailureLimit, facts: FixedFacts) -> int:
    """Seconds that a client has to wait before it is worth a try; 0 when it is."""
    try:
        limit.check(facts)
    except RateLimited as error:
        return int(dict(error.headers)[b"retry-after"])
    return 0


def fail(limit: FailureLimit, facts: FixedFacts, times: int = 1) -> list[int]:
    """How each of so many failures ended: 401, or 429."""

    async def one() -> int:
        try:
            await limit.count(facts)
        except RateLimited as error:
            return error.status
        return 401

    async def all_of_them() -> list[int]:
        return [await one() for _ in range(times)]

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("shared", [Shared(), Shared(reached=False), Shared(broken=True)], ids=["shared", "no connection", "silent"])
def test_a_client_may_fail_so_often_and_no_more(shared: Shared) -> None:
    """A8: with the store and without it; another address does not pay for it."""
    clock = Clock()
    limit = FailureLimit(THREE, shared, clock)
    assert refused(limit, HERE) == 0
    assert fail(limit, HERE, 5) == [401, 401, 401, 429, 429]
    assert refused(limit, HERE) == 20 + 1
    assert refused(limit, THERE) == 0
    assert fail(limit, THERE) == [401]
    clock.now += 21 * SECOND_US
    assert refused(limit, HERE) == 0
    assert fail(limit, HERE, 2) == [401, 429]


def test_the_store_is_asked_once_a_failure_and_never_once_it_is_plain() -> None:
    """A8: what this process has seen itself needs no question."""
    shared = Shared()
    limit = FailureLimit(THREE, shared, Clock())
    fail(limit, HERE, 100)
    assert shared.asked == 3


def test_what_the_store_says_is_remembered_until_then() -> None:
    """A8: other replicas have seen the failures; here the first one is enough to know."""
    clock = Clock()
    shared = Shared(wait_seconds=7)
    limit = FailureLimit(THREE, shared, clock)
    assert refused(limit, HERE) == 0
    assert fail(limit, HERE) == [429]
    assert refused(limit, HERE) in (7, 8)
    assert fail(limit, HERE, 10) == [429] * 10
    assert shared.asked == 1
    clock.now += 7 * SECOND_US
    assert refused(limit, HERE) == 0


def test_the_answer_says_when_to_come_back_and_why() -> None:
    """A8: 429 with the fields of any limit, and a fixed sentence."""
    limit = FailureLimit(THREE, Shared(wait_seconds=7), Clock())
    with pytest.raises(RateLimited) as caught:
        asyncio.run(limit.count(HERE))
    assert (caught.value.status, caught.value.code, caught.value.policies) == (429, "rate_limited", ("authentication.failures",))
    assert caught.value.headers == [
        (b"retry-after", b"7"),
        (b"ratelimit", b'"authentication.failures";r=0;t=7'),
        (b"ratelimit-policy", b'"authentication.failures";q=3;w=60'),
    ]


def test_a_network_of_ipv6_is_one_client() -> None:
    """A8: a subscriber has all of a /64."""
    limit = FailureLimit(THREE, Shared(), Clock())
    assert [fail(limit, FixedFacts(f"2001:db8::{number}")) for number in range(4)] == [[401], [401], [401], [429]]
    assert refused(limit, FixedFacts("2001:db8:0:1::1")) == 0


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A8, H6: addresses beyond the bound push out the oldest; the store still knows those."""
    monkeypatch.setattr(failures, "MAXIMUM_ADDRESSES", 10)
    limit = FailureLimit(THREE, Shared(), Clock())
    for number in range(100):
        fail(limit, FixedFacts(f"192.0.2.{number}"))
    assert len(limit._counters) == 10


def test_without_a_limit_nothing_is_counted() -> None:
    """A8: `failures: off`."""
    assert FailureLimits(Shared()).against(None) is NO_FAILURE_LIMIT
    limit = FailureLimit(THREE, Shared(), Clock())
    fail(limit, HERE, 4)
    assert refused(limit, HERE)
    NO_FAILURE_LIMIT.check(HERE)
    asyncio.run(NO_FAILURE_LIMIT.count(HERE))


def test_a_reload_forgives_nobody() -> None:
    """A8, G3: the same limit goes on counting, also when a configuration between was refused; another one begins anew."""
    limits = FailureLimits(Shared())
    first = limits.against(THREE)
    refused = limits.against(FAILURES)
    assert refused is not first
    del refused
    assert limits.against(replace(THREE)) is first
    assert len(limits._at_work) == 1


def test_what_is_no_limit_fails_the_start() -> None:
    """A8: keyword settings have not been through the file's checks."""
    with pytest.raises(ConfigError, match="count 0 must be from 1"):
        FailureLimit(replace(THREE, count=0), Shared())
