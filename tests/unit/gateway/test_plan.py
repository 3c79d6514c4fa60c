"""What a route becomes before the first request."""

from __future__ import annotations

import pytest

from discovery.instance import Balance, Instance
from gateway.admission.plan import AdmissionPlan
from gateway.auth.authorization import compile_rule
from gateway.auth.principal import Principal
from gateway.cors import compile_cors
from gateway.plan import RoutePlan, balance_key, merged_timeouts, request_shape
from gateway.route import HeaderRules, Local, Route, Service, Timeouts
from gateway.router import EVERY_METHOD
from tests.unit.gateway.test_pipeline import FixedAdmission, NoShards, RecordedExchange, nothing

SERVICE = Service(name="patients", instances=(Instance(id="1", host="127.0.0.1", port=1),), timeouts=Timeouts(connect=1.0, total=60.0))


async def _app(scope: object, receive: object, send: object) -> None:
    """Answers nothing."""


def plan_of(route: Route) -> RoutePlan:
    return RoutePlan(
        route,
        authorize=compile_rule(route),
        admission=AdmissionPlan(route, NoShards(), 1),
        gate=FixedAdmission().admit,
        cors=compile_cors(route.cors, EVERY_METHOD, "here"),
        max_body_bytes=100,
    )


def test_route_overrides_single_deadlines_of_its_service() -> None:
    """CONTRACT section 4: `timeouts` of a route."""
    merged = merged_timeouts(SERVICE.timeouts, Route(name="x", path="/", target="patients", timeouts={"total": 5.0}))
    assert (merged.connect, merged.total) == (1.0, 5.0)


def test_authentication_is_decided_once() -> None:
    """S-21: required unless the route says otherwise."""
    for word, authenticate, required in (("required", True, True), ("optional", True, False), ("none", False, False)):
        plan = plan_of(Route(name="x", path="/", target="patients", authentication=word))  # type: ignore[arg-type]
        assert (plan.authenticate, plan.required) == (authenticate, required)


def test_target_is_a_service_or_an_application() -> None:
    """Decision 11 of the architecture: one Route for both faces."""
    local = Local(_app)
    assert plan_of(Route(name="x", path="/", target=local)).local is local
    assert plan_of(Route(name="x", path="/", target=local)).service == ""
    remote = plan_of(Route(name="x", path="/", target="patients"))
    assert (remote.local, remote.service) == (None, "patients")


def test_body_bound_of_the_route_wins() -> None:
    """F-40."""
    assert plan_of(Route(name="x", path="/", target="patients")).max_body_bytes == 100
    assert plan_of(Route(name="x", path="/", target="patients", max_body_bytes=7)).max_body_bytes == 7


def test_response_fields_that_are_set_replace_the_services_own() -> None:
    """CONTRACT section 4, `response_headers`."""
    rules = HeaderRules(set={"x-frame-options": "DENY"}, remove=("x-internal",))
    plan = plan_of(Route(name="x", path="/", target="patients", response_headers=rules))
    assert plan.response_lines == b"x-frame-options: DENY\r\n"
    assert {b"x-frame-options", b"x-internal", b"connection"} <= plan.response_dropped


def test_request_fields_that_are_set_are_removed_first() -> None:
    """CONTRACT section 4, `request_headers`: one line whatever the client sent."""
    rules = HeaderRules(set={"X-Gateway": "hms"}, remove=("x-debug",))
    shape = request_shape(Route(name="x", path="/", target="patients", request_headers=rules), SERVICE)
    assert shape.set_lines.lower() == b"x-gateway: hms\r\n"
    assert set(shape.remove) == {b"x-debug:", b"x-gateway:"}
    assert shape.timeouts == SERVICE.timeouts


@pytest.mark.parametrize(
    ("by", "expected"),
    [("subject", b"alice"), ("client_ip", b"192.0.2.1"), ("header:X-Tenant", b"north"), ("path:id", b"42"), ("header:X-Other", None)],
)
def test_consistent_hashing_looks_at_what_is_declared(by: str, expected: bytes | None) -> None:
    """B3: `consistent_hash: {by: ...}`."""
    key = balance_key(Balance(policy="consistent_hash", by=by))
    assert key is not None
    exchange = RecordedExchange(nothing, [(b"x-tenant", b"north")])
    exchange.principal = Principal("alice", "https://login.example.gov", "jwt")
    exchange.client_ip, exchange.params = "192.0.2.1", {"id": 42}
    assert key(exchange) == expected


def test_hashing_by_subject_falls_back_to_the_address() -> None:
    """B3: on a public route nobody has a subject."""
    key = balance_key(Balance(policy="consistent_hash", by="subject"))
    assert key is not None
    exchange = RecordedExchange(nothing)
    exchange.client_ip = "192.0.2.1"
    assert key(exchange) == b"192.0.2.1"


def test_other_policies_hash_nothing() -> None:
    """Decided at the start, not with each request."""
    assert balance_key(Balance(policy="least_request")) is None
