"""Ejection, with a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from discovery.endpoint import Endpoint
from discovery.instance import Instance, Outlier
from discovery.outlier import NoDetector, OutlierDetector, detector


class Bench:
    """Endpoints of one service, a clock, and what the detection asked to be done later."""

    def __init__(self, count: int, policy: Outlier | None = None) -> None:
        self.now = 1000.0
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.ejected: list[tuple[int, float]] = []
        self.endpoints = [Endpoint(Instance(id=str(n), host=f"10.0.0.{n + 1}", port=80)) for n in range(count)]
        self.detector = OutlierDetector(
            policy or Outlier(),
            lambda endpoint, seconds: self.ejected.append((self.endpoints.index(endpoint), seconds)),
            later=lambda seconds, call: self.later.append((seconds, call)),
            clock=lambda: self.now,
        )

    def fail(self, index: int, times: int = 5) -> None:
        for _ in range(times):
            self.detector.failed(self.endpoints[index], self.endpoints)
            self.endpoints[index].finished(0.01, True)

    def half_open(self) -> None:
        """The time of the last ejection is over."""
        seconds, call = self.later.pop()
        self.now += seconds
        call()

    def recover(self, index: int) -> None:
        """The trial succeeds."""
        endpoint = self.endpoints[index]
        self.half_open()
        endpoint.standing = "probing"
        endpoint.finished(0.01, False)
        endpoint.returned_at = self.now

    @property
    def out(self) -> list[int]:
        return [index for index, endpoint in enumerate(self.endpoints) if endpoint.standing != "available"]


def test_five_failures_in_a_row_are_too_many() -> None:
    """B4: an answer in between begins a new row."""
    bench = Bench(2)
    for _ in range(3):
        bench.fail(0, 4)
        bench.endpoints[0].finished(0.01, False)
    assert bench.out == []
    bench.fail(0)
    assert bench.ejected == [(0, 30.0)]


def test_a_request_that_nobody_waited_for_ends_no_row() -> None:
    """B4: a client that leaves says nothing about the instance."""
    bench = Bench(2)
    bench.fail(0, 4)
    bench.endpoints[0].finished(0.01, None)
    bench.fail(0, 1)
    assert bench.out == [0]


def test_each_time_in_a_row_is_longer_up_to_a_cap() -> None:
    """B4, F-37: 30 s x times in a row, cap 300 s; a trial that fails counts as the next time at once."""
    bench = Bench(2)
    bench.fail(0)
    for _ in range(12):
        bench.half_open()
        bench.endpoints[0].standing = "probing"
        bench.fail(0, 1)
    assert [seconds for _, seconds in bench.ejected] == [30.0 * min(times, 10) for times in range(1, 14)]


def test_times_are_forgiven_in_good_health() -> None:
    """B4: one for each 30 s; so the third ejection after a long time is like a first."""
    bench = Bench(2)
    for _ in range(3):
        bench.fail(0)
        bench.recover(0)
    assert [seconds for _, seconds in bench.ejected] == [30, 60, 90]
    bench.now += 65
    bench.fail(0)
    assert bench.ejected[-1] == (0, 60)
    bench.recover(0)
    bench.now += 1000
    bench.fail(0)
    assert bench.ejected[-1] == (0, 30)


@pytest.mark.parametrize(
    ("count", "maximum", "out"), [(1, 0.5, 0), (2, 0.5, 1), (3, 0.5, 1), (4, 0.5, 2), (9, 0.5, 4), (4, 0.1, 1), (4, 1.0, 3), (2, 1.0, 1)]
)
def test_so_many_may_be_out_and_never_the_last_one(count: int, maximum: float, out: int) -> None:
    """B4: at most 50 %, one always, the last usable one never."""
    bench = Bench(count, Outlier(maximum_ejected=maximum))
    for index in range(count):
        bench.fail(index, 20)
    assert len(bench.out) == out


def test_the_last_one_is_the_last_that_can_be_used() -> None:
    """B4, B5: those that fail an active check are no reserve."""
    bench = Bench(3)
    for endpoint in bench.endpoints[1:]:
        endpoint.checked("web", passed=False)
    bench.fail(0, 20)
    assert bench.out == []


def test_failures_of_one_that_is_out_change_nothing() -> None:
    """B4: they were on their way when it was ejected."""
    bench = Bench(2)
    bench.fail(0, 9)
    assert len(bench.ejected) == len(bench.later) == 1


def test_who_could_not_be_ejected_is_when_there_is_room() -> None:
    """B4."""
    bench = Bench(3)
    bench.fail(0)
    bench.fail(1, 7)
    assert bench.out == [0]
    bench.recover(0)
    bench.fail(1, 1)
    assert bench.out == [1]


@pytest.mark.parametrize("policy", [Outlier(consecutive_failures=0), Outlier(maximum_ejected=0)])
def test_off_is_a_detector_that_ejects_nobody(policy: Outlier) -> None:
    """B4: it still counts the row, which belongs to the address."""
    off = detector(policy, lambda endpoint, seconds: pytest.fail("ejected"))
    assert isinstance(off, NoDetector)
    bench = Bench(2)
    off.failed(bench.endpoints[0], bench.endpoints)
    assert bench.endpoints[0].failures_in_a_row == 1
