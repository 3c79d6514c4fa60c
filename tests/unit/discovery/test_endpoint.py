"""The live state of one address."""

import pytest

from discovery.endpoint import FAILURE_SECONDS, Endpoint
from discovery.instance import Instance


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint(Instance(id="n/web", host="10.0.0.1", port=80))


def test_counts_requests_and_failures(endpoint: Endpoint) -> None:
    """B4: failures in a row, which the detection counts, end with an answer, not with a client that leaves."""
    for failed in (False, True, True):
        endpoint.finished(0.01, failed)
    endpoint.failures_in_a_row = 2
    assert (endpoint.requests, endpoint.failures) == (3, 2)
    endpoint.finished(0.01, None)
    assert (endpoint.requests, endpoint.failures, endpoint.failures_in_a_row) == (4, 2, 2)
    endpoint.finished(0.01, False)
    assert endpoint.failures_in_a_row == 0


def test_comes_back_on_trial(endpoint: Endpoint) -> None:
    """F-37: out, half open, tried by one request, in again."""
    changes: list[str] = []
    endpoint.on_change = lambda changed: changes.append(changed.state)
    endpoint.failures_in_a_row = 5
    endpoint.eject()
    endpoint.finished(0.01, False)  # an answer that was still on its way
    assert (endpoint.state, endpoint.usable, endpoint.ejections) == ("ejected", False, 1)
    endpoint.half_open()
    endpoint.standing = "probing"
    endpoint.finished(0.01, None)
    assert repr(endpoint.standing) == "'half_open'"
    endpoint.standing = "probing"
    endpoint.finished(0.01, False)
    assert (endpoint.state, endpoint.usable, endpoint.failures_in_a_row) == ("available", True, 0)
    assert endpoint.returned_at == endpoint.joined_at > 0
    assert changes == ["ejected", "half_open", "available"]


def test_is_unhealthy_while_any_active_check_fails(endpoint: Endpoint) -> None:
    """B5: two services may share an address."""
    changes: list[str] = []
    endpoint.on_change = lambda changed: changes.append(changed.state)
    for service, passed in (("a", True), ("a", False), ("a", False), ("b", False), ("a", True), ("b", True)):
        endpoint.checked(service, passed=passed)
    assert changes == ["unhealthy", "unhealthy", "unhealthy", "available"]
    assert endpoint.usable
    assert endpoint.joined_at > 0


def test_latency_rises_at_once_and_falls_slowly(endpoint: Endpoint) -> None:
    endpoint.finished(0.01, False)
    endpoint.finished(0.5, False)
    assert endpoint.latency_seconds == 0.5
    endpoint.finished(0.01, False)
    assert 0.4 < endpoint.latency_seconds < 0.5


def test_a_quick_failure_is_not_a_quick_answer(endpoint: Endpoint) -> None:
    endpoint.finished(0.001, True)
    assert endpoint.latency_seconds == FAILURE_SECONDS


def test_load_grows_with_requests_in_flight_and_fades_with_silence(endpoint: Endpoint) -> None:
    endpoint.finished(0.1, False)
    now = endpoint.latency_at
    idle = endpoint.load(now)
    endpoint.active = 3
    assert endpoint.load(now) == pytest.approx(4 * idle)
    assert endpoint.load(now + 30) < idle


def test_an_unknown_endpoint_gets_one_request_to_be_known_by(endpoint: Endpoint) -> None:
    assert endpoint.load(0.0) == 0.0
    endpoint.active = 1
    assert endpoint.load(0.0) >= FAILURE_SECONDS


def test_tells_when_it_has_left_and_is_idle(endpoint: Endpoint) -> None:
    told: list[Endpoint] = []
    endpoint.on_idle = told.append
    endpoint.active = 1
    endpoint.finished(0.01, False)
    assert told == []
    endpoint.active = 0
    endpoint.finished(0.01, False)
    assert told == [endpoint]


def test_repr_tells_the_state_in_one_line(endpoint: Endpoint) -> None:
    assert repr(endpoint) == "<Endpoint http://10.0.0.1:80 active=0 requests=0 failures=0>"
    endpoint.on_idle = lambda _: None
    assert "left" in repr(endpoint)
    endpoint.checked("web", passed=False)
    assert "unhealthy, left" in repr(endpoint)
