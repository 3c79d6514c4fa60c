"""What services say about routes of their own."""

import pytest

from discovery.instance import Instance
from discovery.published import Publication, Reading, read


def instance(port: int, **meta: str) -> Instance:
    given = {key.replace("_", "-"): value for key, value in meta.items()}
    return Instance(id=f"n/{port}", host="10.0.0.1", port=port, meta=given)


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({}, None),
        ({"gateway_path": "  "}, None),
        ({"gateway_methods": "GET"}, None),
        ({"gateway_path": "/a"}, Publication("/a")),
        ({"gateway_path": " /a ", "gateway_methods": "GET, POST PUT"}, Publication("/a", ("GET", "POST", "PUT"))),
        ({"gateway_path": "/a", "gateway_scopes": "a:read b:read"}, Publication("/a", scopes=("a:read", "b:read"))),
        ({"gateway_path": "/a", "gateway_limits": "10/second, daily,"}, Publication("/a", limits=("10/second", "daily"))),
        ({"gateway_path": "/a", "gateway_authentication": "none"}, Publication("/a", strange=("gateway-authentication",))),
        ({"gateway_path": "/a", "version": "2"}, Publication("/a")),
    ],
)
def test_metadata_is_read_as_words(meta: dict[str, str], expected: Publication | None) -> None:
    """D10."""
    assert read([instance(1, **meta)]) == Reading(expected)


def test_most_instances_decide_while_they_differ() -> None:
    """D10: a rollout; among equals the order of the instances decides nothing."""
    old, new = {"gateway_path": "/a"}, {"gateway_path": "/b"}
    assert read([instance(1, **new), instance(2, **old), instance(3, **old)]) == Reading(
        Publication("/a"), "1 instances publish something else"
    )
    even = [instance(1, **new), instance(2, **old)]
    assert read(even) == read(even[::-1])


def test_without_instances_nothing_is_said() -> None:
    assert read([]) == Reading()
