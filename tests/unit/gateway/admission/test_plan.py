"""From a request to the script's arguments, from its reply to a verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.plan import AdmissionPlan
from gateway.admission.reading import Reading
from gateway.errors import ConfigError
from gateway.route import Limit, Route
from tests.support.admission import FixedFacts, concurrency, gcra, principal, quota, route, sliding

FACTS = FixedFacts()


class OneShard:
    def shard_of(self, key: bytes | str) -> int:
        return 0

    def tag(self, shard: int) -> bytes:
        return b"{s%02d}" % shard


class ByLength(OneShard):
    """Two shards, chosen by the length of the name."""

    def shard_of(self, key: bytes | str) -> int:
        return len(key) % 2


def plan_of(declared: Route) -> AdmissionPlan:
    return AdmissionPlan(declared, OneShard(), 1)


def test_who_must_be_asked_about() -> None:
    """V5: public routes without limits are not checked; everything else is."""
    assert not plan_of(route()).needs(None)
    assert plan_of(route()).needs(principal())
    assert plan_of(route(gcra(1, 1))).needs(None)
    assert plan_of(route(shadow=(gcra(1, 1),))).needs(None)


def test_a_ticket_is_kept_with_its_principal_unless_the_request_matters() -> None:
    kept, fresh = plan_of(route(gcra(1, 1))), plan_of(route(gcra(1, 1, key=("subject", "client_ip"))))
    someone = principal()
    assert kept.ticket(someone, FACTS) is kept.ticket(someone, FixedFacts("198.51.100.9"))
    assert kept.ticket(someone, FACTS) is not kept.ticket(principal(), FACTS)
    assert fresh.ticket(someone, FACTS).keys != fresh.ticket(someone, FixedFacts("198.51.100.9")).keys
    assert set(someone.memo) == {kept, "admission.who"}
    assert not kept.peek_ticket(someone, FACTS).charged
    assert kept.ticket(someone, FACTS).charged


def test_keys_name_shard_kind_and_limit() -> None:
    plan = AdmissionPlan(route(gcra(1, 1), sliding(1, 60), quota(1), concurrency(1), shadow=(quota(1),)), ByLength(), 2)
    words = plan.ticket(principal("odd"), FACTS).keys.split(b"\r\n")[1::2]
    assert [word.rpartition(b":")[0] for word in words] == [
        b"gw:{s01}:gcra:rate",
        b"gw:{s01}:sliding-log60:window",
        b"gw:{s01}:quota86400:quota",
        b"gw:{s01}:concurrency:parallel",
        b"gw:{s01}:shadow-quota86400:quota",
    ]
    assert plan.ticket(principal("even"), FACTS).keys.startswith(b"$51\r\ngw:{s00}:gcra:rate:")


def test_a_limit_is_shared_by_the_routes_that_name_it() -> None:
    first, second = plan_of(route(gcra(1, 1), name="a")), plan_of(route(gcra(1, 1), name="b"))
    assert first.ticket(principal(), FACTS).keys == second.ticket(principal(), FACTS).keys
    apart = [plan_of(route(gcra(1, 1, key=("route", "subject")), name=name)).ticket(principal(), FACTS).keys for name in "ab"]
    assert apart[0] != apart[1]


def test_one_limit_admitted() -> None:
    plan = plan_of(route(gcra(100, 60, name="per-client")))
    found = plan.verdict([0, 37, 1_200_000], 0)
    assert (found.allowed, found.violated, found.remaining, found.retry_after_seconds) == (True, (), (("per-client", 37),), 0)
    assert found.header_block == b'ratelimit: "per-client";r=37;t=2\r\nratelimit-policy: "per-client";q=100;w=60\r\n'


def test_one_limit_refusing() -> None:
    """Headers: Retry-After is at least 1 and not earlier than t; an unused rest shows when the cost was larger."""
    plan = plan_of(route(gcra(100, 60, name="per-client"), cost=5))
    found = plan.verdict([-1, -1 - 3, 1_000_001], 0)
    assert (found.allowed, found.violated, found.remaining, found.retry_after_seconds) == (False, ("per-client",), (("per-client", 3),), 2)
    assert found.header_block.startswith(b'ratelimit: "per-client";r=3;t=2\r\n')
    assert plan.verdict([-1, -1, 1], 0).retry_after_seconds == 1


def test_several_limits_show_the_nearest_to_exhaustion_first() -> None:
    plan = plan_of(route(gcra(100, 60, name="a"), quota(10_000, name="b"), sliding(10, 60, name="c")))
    found = plan.verdict([9, 9, 0, 50, 1, 9_000, 2_000_000, 2, 3_000_000], 2)
    assert found.header_block.splitlines()[0] == b'ratelimit: "c";r=2;t=3, "a";r=50;t=1, "b";r=9000;t=2'
    refused = plan.verdict([-1, 0, 1, -1, 7_500_000, -1, 500_000], 0)
    assert refused.violated == ("b", "c")
    assert refused.retry_after_seconds == 8
    assert refused.header_block.splitlines()[0] == b'ratelimit: "b";r=0;t=8, "c";r=0;t=1, "a";r=0;t=1'


@given(st.data())
def test_a_quick_reading_says_what_the_full_one_says(data: st.DataObject) -> None:
    """Routes with up to four limits and no shadow limits have a reading of their own for admitted requests."""
    count = data.draw(st.integers(1, 5))
    limits = [gcra(data.draw(st.integers(1, 50)), 60, name=f"l{number}%") for number in range(count)]
    plan = plan_of(route(*limits))
    numbers = [(data.draw(st.integers(0, limit.count)), data.draw(st.integers(0, 10**8))) for limit in limits]
    reply = [7, 0, *(number for pair in numbers for number in pair), 7]
    quick, full = plan.verdict(reply, 1), Reading(plan.limits, (), plan.policy_line)._read_all(reply, 1)
    assert (quick.allowed, quick.remaining, quick.header_block) == (full.allowed, full.remaining, full.header_block)


def test_shadow_limits_are_reported_apart() -> None:
    plan = plan_of(route(gcra(5, 1, name="real"), shadow=(quota(5, name="planned"),)))
    found = plan.verdict([0, 4, 0, -1, 9_000_000], 0)
    assert (found.allowed, found.violated, found.shadow_violated) == (True, (), ("planned",))
    assert found.remaining == (("real", 4),)
    assert b"planned" not in found.header_block
    only = plan_of(route(shadow=(quota(5, name="planned"),))).verdict([0, -1, 9_000_000], 0)
    assert (only.allowed, only.shadow_violated, only.header_block, only.retry_after_seconds) == (True, ("planned",), b"", 0)


@pytest.mark.parametrize(("code", "kind"), list(enumerate(("jti", "subject", "session", "client", "issuer"), 1)))
def test_a_revoked_token_is_told_by_its_kind(code: int, kind: str) -> None:
    """V1."""
    found = plan_of(route(gcra(5, 1))).verdict([code], 0)
    assert (found.allowed, found.revoked, found.header_block, found.remaining) == (False, kind, b"", ())


def test_a_percent_sign_in_a_name_is_just_a_character() -> None:
    found = plan_of(route(gcra(5, 1, name="50%d"))).verdict([0, 4, 0], 0)
    assert found.header_block == b'ratelimit: "50%d";r=4;t=0\r\nratelimit-policy: "50%d";q=5;w=1\r\n'


def test_leases_are_those_that_the_script_gave() -> None:
    plan = plan_of(route(concurrency(5, name="real"), shadow=(concurrency(1, name="planned"),)))
    ticket = plan.ticket(principal(), FACTS)
    assert [lease.life_us for lease in ticket.leases([0, 4, 0, 0, 0], 0, b"name", 1.0)] == [30_000_000, 30_000_000]
    assert len(ticket.leases([0, 4, 0, -1, 1_000_000], 0, b"name", 1.0)) == 1
    assert plan.peek_ticket(principal(), FACTS).leases([0, 4, 0, 0, 0], 0, b"name", 1.0) == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limits": (gcra(1, 1), gcra(2, 1))}, "the limit 'rate' is listed twice"),
        ({"limits": (gcra(5, 1),), "cost": 6}, "cost 6 can never be met by limit 'rate', which allows at most 5 at once"),
        ({"limits": (gcra(100, 1, burst=5),), "cost": 6}, "which allows at most 5 at once"),
        ({"shadow_limits": (quota(5),), "cost": 6}, "cost 6 can never be met by limit 'quota'"),
        ({"cost": -1}, "cost -1 must be 0 or more"),
        ({"limits": (gcra(1, 1, key=("path:name",)),)}, "counts by 'path:name', but '/x/{id:int}' has no such parameter"),
        ({"limits": tuple(gcra(1, 1, name=f"r{number}") for number in range(33))}, "33 limits are too many"),
        ({"limits": (gcra(0, 1),)}, "limit 'rate': count 0 must be from 1"),
    ],
)
def test_what_can_not_work_is_refused_at_start(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_of(replace(route(path="/x/{id:int}"), **changes))
    assert str(caught.value).startswith("gateway.yaml:1: route 'route'")
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["path:id", "path:rest"])
def test_parameters_of_every_type_are_known(key: str) -> None:
    limit: Limit = gcra(1, 1, key=(key,))
    assert plan_of(route(limit, path="/x/{id:int}/{rest:path}")).needs(None)
