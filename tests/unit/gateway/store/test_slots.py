"""What nodes of a cluster say about its slots."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.store.address import Node
from gateway.store.error import StoreError
from gateway.store.slots import newest, parse_redirection, parse_view

ASKED = Node("10.0.0.9", 7009)
INFO = b"cluster_enabled:1\r\ncluster_state:ok\r\ncluster_current_epoch:7\r\n"
A, B, C = [b"10.0.0.1", 7001, b"id-a"], [b"10.0.0.2", 7002, b"id-b", [b"hostname", b"b"]], [b"::1", 7003, b"id-c"]


def test_a_view_says_who_owns_a_slot() -> None:
    view = parse_view([[0, 99, A, C], [100, 16383, B]], INFO, ASKED)
    assert [view.owner(slot) for slot in (0, 99, 100, 16383)] == [Node("10.0.0.1", 7001)] * 2 + [Node("10.0.0.2", 7002)] * 2
    assert view.nodes == {Node("10.0.0.1", 7001), Node("10.0.0.2", 7002), Node("::1", 7003)}
    assert (view.healthy, view.epoch) == (True, 7)
    assert parse_view([[0, 99, A]], INFO, ASKED).owner(100) is None


@pytest.mark.parametrize("host", [None, b""])
def test_a_node_without_a_name_is_the_one_that_was_asked(host: bytes | None) -> None:
    assert parse_view([[0, 5, [host, 7001, b"id"]]], INFO, ASKED).owner(3) == Node("10.0.0.9", 7001)


def test_a_node_that_does_not_know_its_name_is_left_out() -> None:
    view = parse_view([[0, 5, [b"?", 7001, b"id"], A], [6, 9, A]], INFO, ASKED)
    assert (view.owner(3), view.owner(6)) == (None, Node("10.0.0.1", 7001))


@pytest.mark.parametrize(
    ("slots", "info"),
    [
        (b"OK", INFO),
        ([[0, 5]], b""),
        ([[0, b"x", A]], INFO),
        ([[0, 5, [b"h"]]], INFO),
        ([[0]], INFO),
        (None, INFO),
        ([], b"cluster_state:ok"),
    ],
)
def test_what_is_no_answer_of_a_cluster_is_an_error(slots: Any, info: bytes) -> None:
    with pytest.raises(StoreError, match=r"10\.0\.0\.9:7009 does not answer like a node of a cluster"):
        parse_view(slots, info, ASKED)


def test_the_newest_election_is_believed_and_a_node_that_was_cut_off_last() -> None:
    views = [
        parse_view([[0, 5, A]], INFO.replace(b":7", b":8").replace(b":ok", b":fail"), ASKED),
        parse_view([[0, 5, B]], INFO.replace(b":7", b":5"), ASKED),
        parse_view([[0, 5, C]], INFO, ASKED),
    ]
    assert newest(views).owner(0) == Node("::1", 7003)
    assert newest(views[:1]).owner(0) == Node("10.0.0.1", 7001)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("MOVED 3999 127.0.0.1:6381", (3999, Node("127.0.0.1", 6381))),
        ("ASK 1 ::1:6381", (1, Node("::1", 6381))),
        ("ASK 1 [::1]:6381", (1, Node("::1", 6381))),
        ("MOVED 3999 :6381", (3999, Node("10.0.0.9", 6381))),
    ],
)
def test_a_redirection_names_slot_and_node(message: str, expected: tuple[int, Node]) -> None:
    assert parse_redirection(message, ASKED) == expected


@pytest.mark.parametrize("message", ["MOVED", "MOVED x 127.0.0.1:1", "MOVED 1 127.0.0.1", "ASK 1 host:port"])
def test_a_redirection_to_nowhere_is_an_error(message: str) -> None:
    with pytest.raises(ValueError):
        parse_redirection(message, ASKED)
