"""The pipeline remembers the routes of targets; nobody may be able to tell."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.plan import AdmissionPlan
from gateway.auth.authorization import compile_rule
from gateway.cors import compile_cors
from gateway.headers import FieldTable
from gateway.peer import Peer, TrustedProxies
from gateway.pipeline import MAXIMUM_TARGETS, Pipeline
from gateway.plan import RoutePlan
from gateway.route import Local, Route
from gateway.router import EVERY_METHOD, Router
from gateway.telemetry.trace_context import Propagator
from tests.unit.gateway.test_pipeline import Everybody, FixedAdmission, Kept, NoShards, RecordedExchange, nothing

LOCAL = Local(app=None, mounted=False)  # type: ignore[arg-type]
ROUTES = [
    Route(name="one", path="/patients/{id}", target="patients", methods=("GET",)),
    Route(name="mine", path="/patients/me", target="patients", methods=("GET", "POST"), hosts=("api.example.gov",)),
    Route(name="here", path="/here/{id}", target=LOCAL, methods=("GET",)),
    Route(name="rest", path="/files/{rest:path}", target="files"),
]
WITH_FIELDS = [*ROUTES, Route(name="second", path="/patients/{id}", target="patients", methods=("GET",), headers={"x-version": "2"})]
HOSTS = [b"api.example.gov", b"API.example.gov:8080", b"other"]
METHODS = ["GET", "HEAD", "POST", "OPTIONS"]
TARGETS = [
    b"/patients/17",
    b"/patients/me",
    b"/patients/%6de",
    b"/patients/17?a=1",
    b"/here/1",
    b"/files/a/b",
    b"/files/../x",
    b"/no",
    b"*",
]
Asked = tuple[bytes, str, bytes, bool]


def pipeline(routes: list[Route]) -> Pipeline:
    return Pipeline(
        routes=Router([(route, planned(route)) for route in routes]),
        fields=FieldTable(()),
        tracer=Propagator("link", 0.0),
        authenticator=Everybody(),
        admission=FixedAdmission(),
        observer=Kept(),
    )


def planned(route: Route) -> RoutePlan:
    return RoutePlan(
        route,
        authorize=compile_rule(route),
        admission=AdmissionPlan(route, NoShards(), 1),
        gate=FixedAdmission().admit,
        cors=compile_cors(None, EVERY_METHOD, "here"),
        max_body_bytes=100,
    )


def opened(handler: Pipeline, asked: Asked) -> tuple[object, ...]:
    host, method, target, second = asked
    fields = [(b"host", host), *([(b"x-version", b"2")] if second else [])]
    exchange = RecordedExchange(nothing, fields)
    exchange.method, exchange.target = method, target
    exchange.peer = Peer("192.0.2.1", 4711, "http", 80, TrustedProxies(()))
    handler.open(exchange)
    route = exchange.plan.route.name if exchange.plan is not None else None
    return route, dict(exchange.params), exchange.path, exchange.query, repr(exchange.refusal), exchange.observation.service


@given(
    st.sampled_from([ROUTES, WITH_FIELDS]),
    st.lists(st.tuples(st.sampled_from(HOSTS), st.sampled_from(METHODS), st.sampled_from(TARGETS), st.booleans()), max_size=25),
)
def test_a_memory_changes_nothing(routes: list[Route], requests: list[Asked]) -> None:
    """S-9: a target is routed as if it came first, whatever came before."""
    remembering = pipeline(routes)
    for asked in requests:
        assert opened(remembering, asked) == opened(pipeline(routes), asked)


def test_it_is_bounded() -> None:
    """F-40: in number, and by the length of what is kept."""
    handler = pipeline(ROUTES)
    for number in range(MAXIMUM_TARGETS + 10):
        opened(handler, (b"other", "GET", b"/patients/%d" % number, False))
        assert len(handler._known_targets) <= MAXIMUM_TARGETS
    before = dict(handler._known_targets)
    opened(handler, (b"other", "GET", b"/patients/" + b"1" * 300, False))
    opened(handler, (b"h" * 300, "GET", b"/patients/1", False))
    assert handler._known_targets == before


def test_parameters_that_a_handler_could_change_are_not_shared() -> None:
    handler = pipeline(ROUTES)
    opened(handler, (b"other", "GET", b"/here/1", False))
    assert not handler._known_targets
