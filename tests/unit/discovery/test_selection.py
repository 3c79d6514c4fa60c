"""Which endpoints are in use, and with what share."""

from __future__ import annotations

from collections import Counter

import pytest

from discovery.balance import POLICIES, Policy
from discovery.endpoint import Endpoint
from discovery.instance import Instance
from discovery.selection import NOBODY, Selection, Selector

NOW = 5000.0


def build(policy: Policy, count: int, *, slow_start: float = 0.0, weight: int = 1) -> tuple[list[Endpoint], Selector]:
    made = [Endpoint(Instance(id=str(n), host=f"10.0.0.{n + 1}", port=80)) for n in range(count)]
    return made, Selector(policy, made, [weight] * count, slow_start)


def picked(selection: Selection, endpoints: list[Endpoint], count: int = 600) -> list[int]:
    counted = Counter(selection.balancer.pick(b"key-%d" % turn, ()) for turn in range(count))
    return [counted[endpoint] for endpoint in endpoints]


@pytest.mark.parametrize("policy", POLICIES)
def test_with_everybody_usable_nothing_is_built_anew(policy: Policy) -> None:
    """B4: health costs nothing while all are well."""
    _, selector = build(policy, 4, slow_start=30)
    assert selector.select(NOW) == Selection(selector.everybody)


@pytest.mark.parametrize("policy", POLICIES)
def test_who_is_out_gets_nothing_and_the_others_share_it(policy: Policy) -> None:
    """B4, B5."""
    made, selector = build(policy, 4)
    made[0].eject()
    made[1].checked("web", passed=False)
    selection = selector.select(NOW)
    counts = picked(selection, made)
    assert (counts[:2], selection.panic) == ([0, 0], False)
    assert all(count == pytest.approx(300, abs=150) for count in counts[2:])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("count", "out", "panic"), [(1, 1, True), (2, 1, False), (3, 2, True), (4, 2, False), (4, 3, True), (4, 4, True)])
def test_fewer_than_half_usable_is_panic(policy: Policy, count: int, out: int, panic: bool) -> None:
    """B5: all are tried then, whatever is known against them."""
    made, selector = build(policy, count)
    for endpoint in made[:out]:
        endpoint.checked("web", passed=False)
    selection = selector.select(NOW)
    assert selection.panic is panic
    assert sum(bool(each) for each in picked(selection, made)) == (count if panic else count - out)


@pytest.mark.parametrize("policy", POLICIES)
def test_one_on_trial_gets_one_request(policy: Policy) -> None:
    """F-37: and none that was tried elsewhere before."""
    made, selector = build(policy, 3)
    made[0].eject()
    made[0].half_open()
    selection = selector.select(NOW)
    assert selection.balancer.pick(b"key", [made[1]]) is made[2]
    assert picked(selection, made)[0] == 1
    assert made[0].standing == "probing"


@pytest.mark.parametrize(
    ("age", "share"), [(0.0, 0.1), (2.9, 0.1), (6.1, 0.2), (15.1, 0.5), (27.1, 0.9), (29.9, 0.9), (30.1, 1.0), (900.0, 1.0)]
)
@pytest.mark.parametrize("weight", [1, 7])
def test_a_newcomer_grows_from_a_tenth_to_its_share(age: float, share: float, weight: int) -> None:
    """B6: with the weights that they have."""
    made, selector = build("round_robin", 2, slow_start=30, weight=weight)
    made[1].joined_at = NOW - age
    selection = selector.select(NOW)
    old, new = picked(selection, made, 1900)
    assert new / old == pytest.approx(share, abs=0.03)
    assert selection.changes_in == (3 if share < 1 else 0)


def test_keys_do_not_move_for_a_slow_start() -> None:
    """B3, B6: consistent hashing has none."""
    made, selector = build("consistent_hash", 2, slow_start=30)
    made[1].joined_at = NOW
    assert selector.select(NOW) == Selection(selector.everybody)


def test_nobody_is_no_panic() -> None:
    """B5."""
    selection = NOBODY.select(NOW)
    assert (selection.balancer.pick(b"key", ()), selection.panic) == (None, False)
