"""Answers of several workers as one."""

from __future__ import annotations

from typing import Any

from gateway.admin.fleet import merged_services


def instance(name: str, active: int, requests: int, failures: int = 0) -> dict[str, Any]:
    return {"id": name, "address": "127.0.0.1:1", "active": active, "requests": requests, "failures": failures, "latency_seconds": 0.1}


def service(name: str, *instances: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "instances": list(instances)}


def test_counts_are_added_up_by_instance() -> None:
    """CONTRACT section 6: with several workers the answer is the whole machine's."""
    merged = merged_services(
        [
            [service("patients", instance("a", 1, 10, 1), instance("b", 0, 5))],
            [service("patients", instance("b", 2, 7, 3), instance("a", 1, 1))],
        ]
    )
    (patients,) = merged
    counts = {each["id"]: (each["active"], each["requests"], each["failures"]) for each in patients["instances"]}
    assert counts == {"a": (2, 11, 1), "b": (2, 12, 3)}


def test_what_only_one_worker_knows_is_told_too() -> None:
    """Workers learn of a change one after the other."""
    merged = merged_services([[service("patients", instance("a", 0, 1))], [service("patients", instance("c", 0, 2)), service("claims")]])
    assert [each["name"] for each in merged] == ["patients", "claims"]
    assert [each["id"] for each in merged[0]["instances"]] == ["a", "c"]


def test_one_worker_is_told_as_it_is() -> None:
    answer = [service("patients", instance("a", 0, 1))]
    assert merged_services([answer]) == answer
