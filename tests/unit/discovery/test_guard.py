"""What is suspicious about a disappearance, and what explains it."""

import pytest

from discovery.guard import Guard, absent, gone, unexplained
from discovery.instance import Instance


def instances(*numbers: int, node: str = "n") -> tuple[Instance, ...]:
    return tuple(Instance(id=f"{node}/w{n}", host="10.0.0.1", port=n) for n in numbers)


def entry(number: int, *checks: dict[str, object]) -> dict[str, object]:
    return {"Node": {"Node": "n"}, "Service": {"ID": f"w{number}"}, "Checks": list(checks)}


@pytest.mark.parametrize(
    ("share", "known", "found", "suspected"),
    [
        (0.5, (1, 2, 3, 4), (1, 2), ()),
        (0.5, (1, 2, 3, 4), (1,), (2, 3, 4)),
        (0.5, (1, 2, 3), (3,), (1, 2)),
        (0.5, (1,), (), ()),
        (0.5, (1, 2), (), (1, 2)),
        (0.5, (), (1,), ()),
        (0.5, (1, 2, 3, 4), (5, 6, 7, 8), (1, 2, 3, 4)),
        (0.0, (1, 2, 3, 4, 5), (1, 2, 3), (4, 5)),
        (0.0, (1, 2), (1,), ()),
        (1.0, (1, 2, 3), (), ()),
    ],
)
def test_more_than_the_share_and_at_least_two(
    share: float, known: tuple[int, ...], found: tuple[int, ...], suspected: tuple[int, ...]
) -> None:
    """D4."""
    assert Guard(share).suspects(instances(*known), instances(*found)) == instances(*suspected)


def test_another_identity_at_the_same_address_is_not_gone() -> None:
    """D4: a node that was renamed took nothing away."""
    assert gone(instances(1, 2), instances(1, 2, node="renamed")) == ()


@pytest.mark.parametrize(("found", "collapsed"), [((5, 6, 7, 8), False), ((5, 6), False), ((5,), True), ((), True)])
def test_instances_that_were_replaced_are_no_collapse(found: tuple[int, ...], collapsed: bool) -> None:
    """F-16: an empty or much smaller result."""
    assert Guard().collapsed(instances(1, 2, 3, 4), instances(*found)) is collapsed


@pytest.mark.parametrize(
    ("entries", "unbroken", "explained"),
    [
        ([], True, True),
        ([], False, False),
        ([entry(1, {"CheckID": "_service_maintenance:w1", "Status": "critical"})], False, True),
        ([entry(1, {"CheckID": "_node_maintenance", "Status": "critical"})], False, True),
        ([entry(1, {"CheckID": "service:w1", "ServiceID": "w1", "Status": "critical"})], False, True),
        ([entry(1, {"CheckID": "service:w1", "ServiceID": "w1", "Status": "passing"})], True, False),
        ([entry(1, {"CheckID": "serfHealth", "ServiceID": "", "Status": "critical"})], True, False),
        ([entry(1)], True, False),
        ([entry(1, {"CheckID": "disk", "ServiceID": "", "Status": "critical"})], False, True),
        ([entry(1, {"CheckID": "serfHealth", "Status": "passing"}, {"CheckID": "c", "Status": "warning"})], False, True),
        ([{**entry(1), "Service": {"ID": "w1", "Weights": {"Passing": 0, "Warning": 0}}}], False, True),
        ([{**entry(1), "Service": {"ID": "w1", "Weights": {"Passing": 1, "Warning": 0}}}], False, False),
        ([None, {"Service": None, "Node": 3, "Checks": "x"}], False, False),
        ([{"Node": {"Node": "n"}, "Service": {"ID": "w1"}, "Checks": None}], True, False),
    ],
)
def test_what_explains_that_an_instance_is_missing(entries: list[object], unbroken: bool, explained: bool) -> None:
    """D4: maintenance, a failing check of its own, a clean deregistration; not a node that is out of sight, nor a lost catalog."""
    missing = instances(1)
    assert unexplained(missing, entries, unbroken) == (() if explained else missing)


def test_what_is_not_registered_at_all() -> None:
    assert absent(instances(1, 2), [entry(1)]) == instances(2)
