"""The steps of a request where no real client, store or service can lead them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import orjson
import pytest
from starlette.exceptions import HTTPException

from gateway.admission.plan import AdmissionPlan
from gateway.admission.verdict import ALLOWED, Lease, Verdict
from gateway.auth.authorization import compile_rule
from gateway.auth.certificate_rule import CertificateCheck
from gateway.auth.principal import Principal
from gateway.cors import compile_cors
from gateway.errors import BadGateway, BodyTooLarge, Unavailable
from gateway.exchange import Exchange
from gateway.handlers import HandlerRefusal
from gateway.headers import FieldList, FieldTable
from gateway.peer import Peer, TrustedProxies
from gateway.pipeline import CLIENT_GONE_STATUS, Pipeline
from gateway.plan import RoutePlan, request_shape
from gateway.route import ASGIApp, Limit, Local, Route, Service
from gateway.router import EVERY_METHOD, Router
from gateway.telemetry.observation import Observation
from gateway.telemetry.trace_context import Propagator
from gateway.upstream.forward import Owner, RequestShape
from gateway.upstream.http1 import ClientGone, UpstreamConnection

Serve = Callable[["RecordedExchange"], Awaitable[None]]
ALICE = Principal("alice", "https://login.example.gov", "jwt")


class RecordedExchange(Exchange):
    """An exchange that keeps what is decided about it; `answer` stands for the application of this process."""

    __slots__ = ("answer", "answers", "cuts", "started")

    def __init__(self, answer: Serve, headers: FieldList | None = None) -> None:
        fields = [(b"host", b"gateway")] if headers is None else headers
        super().__init__("POST", b"/x", fields, True, Peer("192.0.2.1", 4711, "https", 443, TrustedProxies(())))
        self.answer = answer
        self.answers: list[tuple[int, dict[bytes, bytes], bytes, bool]] = []
        self.cuts = 0
        self.started = False

    @property
    def response_started(self) -> bool:
        return self.started

    @property
    def replayable(self) -> bool:
        return True

    async def respond(self, status: int, headers: FieldList, body: bytes, *, close: bool = False) -> None:
        self.answers.append((status, dict(headers), body, close))

    async def serve(self, app: ASGIApp, *, mounted: bool) -> None:
        await self.answer(self)

    def cut(self) -> None:
        self.cuts += 1

    def first_body(self) -> bytes:
        return b""

    def begin_upload(self, connection: UpstreamConnection) -> None:
        raise AssertionError("there is no upstream here")

    def relay_data(self, data: bytes) -> None:
        raise AssertionError("there is no upstream here")

    def relay_pause(self, paused: bool) -> None:
        raise AssertionError("there is no upstream here")

    def relay_interim(self, status: int, headers: FieldList) -> None:
        raise AssertionError("there is no upstream here")

    async def relay(self, connection: UpstreamConnection) -> None:
        raise AssertionError("there is no upstream here")


class Everybody:
    """An authenticator that knows alice, whoever asks."""

    def recall(self, authorization: bytes | None, api_key: bytes | None) -> Callable[[], Principal | None]:
        return lambda: None

    async def authenticate(self, authorization: bytes | None, api_key: bytes | None) -> Principal | None:
        return ALICE


class FixedAdmission:
    """Gives one verdict, and counts what comes back."""

    def __init__(self, verdict: Verdict | Exception | None = ALLOWED) -> None:
        self.verdict = verdict
        self.released: list[Verdict] = []

    async def admit(self, principal: Principal | None, exchange: Exchange) -> Verdict:
        if isinstance(self.verdict, Exception):
            raise self.verdict
        if self.verdict is None:
            await asyncio.Event().wait()
        assert isinstance(self.verdict, Verdict)
        return self.verdict

    def release(self, verdict: Verdict) -> None:
        self.released.append(verdict)


class Kept:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.accepting = True
        self.observations: list[Observation] = []

    def accepts(self) -> bool:
        return self.accepting

    def observe(self, observation: Observation) -> None:
        self.observations.append(observation)


class NoShards:
    """One shard for everybody."""

    def shard_of(self, key: bytes | str) -> int:
        return 0

    def tag(self, shard: int) -> bytes:
        return b"{s00}"


async def _app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("the exchange answers")


class Bench:
    """A pipeline with one route."""

    def __init__(
        self,
        verdict: Verdict | Exception | None = ALLOWED,
        max_in_flight: int = 10,
        certified: CertificateCheck | None = None,
        **route: Any,
    ) -> None:
        self.observer = Kept()
        self.admission = FixedAdmission(verdict)
        declared = Route(name="x", path="/x", methods=("POST",), target=Local(_app), **route)
        plan = RoutePlan(
            declared,
            authorize=compile_rule(declared),
            admission=AdmissionPlan(declared, NoShards(), 1),
            gate=self.admission.admit,
            cors=compile_cors(None, EVERY_METHOD, "here"),
            max_body_bytes=100,
            certified=certified,
        )
        self.pipeline = Pipeline(
            routes=Router([(declared, plan)]),
            fields=FieldTable(()),
            tracer=Propagator("link", 1.0),
            authenticator=Everybody(),
            admission=self.admission,
            observer=self.observer,
            max_in_flight=max_in_flight,
        )

    @property
    def seen(self) -> Observation:
        (observation,) = self.observer.observations
        return observation

    async def handle(self, exchange: RecordedExchange) -> RecordedExchange:
        self.pipeline.open(exchange)
        await self.pipeline.handle(exchange)
        return exchange

    def run(self, answer: Serve, headers: FieldList | None = None) -> RecordedExchange:
        return run(self.handle(RecordedExchange(answer, headers)))


def run(main: Coroutine[Any, Any, RecordedExchange]) -> RecordedExchange:
    return asyncio.run(main)


def raising(error: BaseException, *, started: bool = False) -> Serve:
    """An application that breaks off, perhaps after it has begun to answer."""

    async def answer(exchange: RecordedExchange) -> None:
        exchange.started = started
        raise error

    return answer


async def nothing(exchange: RecordedExchange) -> None:
    """An application that has answered."""


def code_of(exchange: RecordedExchange) -> str:
    ((_, _, body, _),) = exchange.answers
    code: str = orjson.loads(body)["code"]
    return code


def test_error_before_the_response_is_told() -> None:
    """CONTRACT section 5: the problem document, with the trace id of the request."""
    bench = Bench()
    exchange = bench.run(raising(BadGateway(reason="upstream_reset")))
    ((status, headers, body, close),) = exchange.answers
    assert (status, close, headers[b"content-type"]) == (502, False, b"application/problem+json")
    assert orjson.loads(body)["trace_id"] == bench.seen.trace.trace_id_hex
    assert (bench.seen.code, bench.seen.reason, bench.seen.denied) == ("bad_gateway", "upstream_reset", False)


@pytest.mark.parametrize("error", [BadGateway(reason="upstream_reset"), RuntimeError("broken")])
def test_error_after_the_response_began_cuts_it(error: Exception) -> None:
    """F-33: a response that can't be completed never looks complete, and nothing is written into it."""
    bench = Bench()
    exchange = bench.run(raising(error, started=True))
    assert exchange.answers == []
    assert exchange.cuts == 1
    assert bench.seen.reason in ("upstream_reset", "exception_RuntimeError")


def test_unexpected_exception_is_a_500_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """S-41, O4: where it came from is in the log, of what kind it was in the records too, what it says nowhere."""
    bench = Bench()
    with caplog.at_level(logging.ERROR, "gateway.pipeline"):
        exchange = bench.run(raising(RuntimeError("secret")))
    assert code_of(exchange) == "internal"
    assert b"secret" not in exchange.answers[0][2]
    (told,) = [record.getMessage() for record in caplog.records]
    first, *_, last = told.splitlines()
    assert (first, last) == (f"request {bench.seen.request_id} failed", "RuntimeError")
    assert "secret" not in told


def test_client_that_left_is_recorded_and_told_nothing() -> None:
    """R7: its leases are given back."""
    verdict = Verdict(True)
    bench = Bench(verdict)
    exchange = bench.run(raising(ClientGone()))
    assert exchange.answers == []
    assert (bench.seen.status, bench.seen.reason) == (CLIENT_GONE_STATUS, "client_gone")
    assert bench.admission.released == [verdict]


@pytest.mark.parametrize("verdict", [ALLOWED, None])
def test_cancelled_request_is_recorded_and_leaves_nothing(verdict: Verdict | None) -> None:
    """F-35: whether it was waiting for admission or for its target."""
    bench = Bench(verdict)

    async def main() -> RecordedExchange:
        async def forever(exchange: RecordedExchange) -> None:
            await asyncio.Event().wait()

        exchange = RecordedExchange(forever)
        task = asyncio.create_task(bench.handle(exchange))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert bench.pipeline.in_flight == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return exchange

    exchange = run(main())
    assert exchange.answers == []
    assert bench.pipeline.in_flight == 0
    assert bench.seen.status == CLIENT_GONE_STATUS
    assert bench.admission.released == ([verdict] if verdict is not None else [])


def test_request_beyond_the_cap_is_refused_at_once() -> None:
    """F-44: 503 overloaded, and the others go on."""
    bench = Bench(max_in_flight=1)

    async def main() -> RecordedExchange:
        entered, leave = asyncio.Event(), asyncio.Event()

        async def slow(exchange: RecordedExchange) -> None:
            entered.set()
            await leave.wait()

        first = asyncio.create_task(bench.handle(RecordedExchange(slow)))
        await entered.wait()
        second = await bench.handle(RecordedExchange(nothing))
        leave.set()
        await first
        return second

    second = run(main())
    assert code_of(second) == "overloaded"
    assert second.answers[0][1][b"retry-after"] == b"1"
    assert bench.observer.observations[0].reason == "in_flight"
    assert bench.observer.observations[0].denied


def test_request_that_could_not_be_recorded_is_refused() -> None:
    """AU-5: 503 rather than lose a record; the refusal itself has its place in the reserve."""
    bench = Bench()
    bench.observer.accepting = False
    assert code_of(bench.run(nothing)) == "overloaded"
    assert bench.seen.reason == "audit_full"


def test_refused_admission_never_reaches_the_target() -> None:
    """L9, V2: nor does an answer of the store that nobody understands."""
    for verdict, code in (
        (Verdict(False, violated=("a", "b"), retry_after_seconds=7), "rate_limited"),
        (Verdict(False, "session", header_block=b"ratelimit: x\r\n"), "token_revoked"),
        (Unavailable("store_unavailable", reason="store_timeout"), "store_unavailable"),
    ):
        bench = Bench(verdict)
        exchange = bench.run(raising(AssertionError("the target was reached")))
        assert code_of(exchange) == code
        assert bench.seen.denied
        if code == "rate_limited":
            assert exchange.answers[0][1][b"retry-after"] == b"7"
            assert bench.seen.limited == ("a", "b")
        else:
            assert exchange.limit_lines == b""


@pytest.mark.parametrize(
    ("error", "denied"),
    [(HandlerRefusal(HTTPException(404)), False), (HandlerRefusal(HTTPException(503)), False), (BodyTooLarge(), True)],
)
def test_answer_of_an_application_is_no_denial(error: Exception, denied: bool) -> None:
    """S-35: the decision in the record is ours: an application that says 404 was reached."""
    bench = Bench()
    bench.run(raising(error))
    assert bench.seen.denied is denied


def test_refusal_that_distrusts_the_message_closes_the_connection() -> None:
    """S-2: what follows on the connection can't be trusted."""
    bench = Bench()
    exchange = bench.run(nothing, headers=[(b"host", b"a"), (b"host", b"b")])
    ((status, _, _, close),) = exchange.answers
    assert (status, close) == (400, True)
    assert bench.seen.route is None


def test_declared_length_beyond_the_bound_is_refused_before_anything_else() -> None:
    """F-40: nothing of it is read, nobody is asked."""
    bench = Bench(Unavailable("store_unavailable"))
    assert code_of(bench.run(nothing, headers=[(b"host", b"a"), (b"content-length", b"101")])) == "body_too_large"


def test_two_credentials_are_refused() -> None:
    """S-31: whose would the request be?"""
    bench = Bench()
    twice = [(b"host", b"a"), (b"authorization", b"Bearer x"), (b"authorization", b"Bearer y")]
    assert code_of(bench.run(nothing, headers=twice)) == "token_invalid"
    assert bench.seen.reason == "credentials_repeated"


def test_every_request_is_observed_once_with_what_is_known_of_it() -> None:
    """S-35."""
    bench = Bench()
    bench.run(nothing)
    seen = bench.seen
    assert (seen.method, seen.host, seen.peer_ip, seen.client_port, seen.scheme) == ("POST", "gateway", "192.0.2.1", 4711, "https")
    assert seen.principal is ALICE
    assert seen.route is not None
    assert seen.ended_ns >= seen.started_ns > 0


class Upstreams:
    """The upstream side of a service that sends whatever it gets, or nothing."""

    def __init__(self, *, ready: bool = True) -> None:
        self.ready = ready
        self.sent: list[Exchange] = []
        self.awaited: list[Exchange] = []

    def dispatch(self, exchange: Exchange, shape: RequestShape, owner: Owner) -> bool:
        if self.ready:
            self.sent.append(exchange)
        return self.ready

    async def forward(self, exchange: Exchange, shape: RequestShape) -> None:
        self.awaited.append(exchange)


class Unawaited(RecordedExchange):
    """An exchange whose adapter does not wait; `broken` stands for a mistake of ours while the response is passed on."""

    __slots__ = ("broken", "rest")
    awaited = False

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__(nothing)
        self.broken = broken
        self.rest: list[Coroutine[Any, Any, None]] = []

    def go_on(self, rest: Coroutine[Any, Any, None]) -> None:
        self.rest.append(rest)

    def relay(self, connection: UpstreamConnection) -> None:  # type: ignore[override]
        if self.broken:
            raise ValueError("broken")
        self.observation.status = 200


class Forwarding(Bench):
    """A pipeline whose route leads to a service."""

    def __init__(
        self,
        *,
        ready: bool = True,
        max_in_flight: int = 10,
        verdict: Verdict | None = ALLOWED,
        certified: CertificateCheck | None = None,
        **route: Any,
    ) -> None:
        super().__init__(verdict, max_in_flight, certified, **route)
        ((_, plan),) = self.pipeline._routes.entries  # type: ignore[attr-defined]
        self.upstreams = Upstreams(ready=ready)
        plan.local, plan.service, plan.forwarder = None, "s", self.upstreams
        plan.shape = request_shape(plan.route, Service(name="s"))

    def begin(self, exchange: Exchange) -> bool:
        self.pipeline.open(exchange)
        return self.pipeline.begin(exchange)


PUBLIC: dict[str, Any] = {"authentication": "none"}
NO_CONNECTION: Any = None


def test_a_public_request_is_sent_without_a_task_and_recorded_when_it_was_answered() -> None:
    bench = Forwarding(**PUBLIC)
    exchange = Unawaited()
    assert bench.begin(exchange)
    assert bench.upstreams.sent == [exchange]
    assert (bench.pipeline.in_flight, bench.observer.observations) == (1, [])
    bench.pipeline.answered(exchange, NO_CONNECTION)
    assert (bench.pipeline.in_flight, bench.seen.status, bench.seen.reason) == (0, 200, "")


def test_nothing_is_done_for_a_request_that_needs_more_than_sending() -> None:
    """F-44, AU-5: `handle` refuses it, or waits for what it needs."""
    full = Forwarding(max_in_flight=0, **PUBLIC)
    unrecorded = Forwarding(**PUBLIC)
    unrecorded.observer.accepting = False
    asked = Forwarding()
    limited = Forwarding(limits=(Limit(name="l", kind="gcra", count=1, period_us=1_000_000, key=("global",)),), **PUBLIC)
    certified = Forwarding(certified=lambda certificate: None, **PUBLIC)
    unready = Forwarding(ready=False, **PUBLIC)
    for bench in (full, unrecorded, asked, limited, certified, unready):
        assert not bench.begin(Unawaited())
        assert (bench.pipeline.in_flight, bench.upstreams.sent, bench.observer.observations) == (0, [], [])
    refused = Forwarding(**PUBLIC)
    too_large = Unawaited()
    too_large.headers.append((b"content-length", b"101"))
    assert not refused.begin(too_large)
    assert not refused.upstreams.sent


def test_an_admitted_request_is_handed_on_unless_somebody_waits_or_it_holds_leases() -> None:
    leased = Verdict(True, leases=(Lease(0, b"key", b"name", 1, 0.0),))
    for verdict, exchange, handed_on in (
        (ALLOWED, Unawaited(), True),
        (leased, Unawaited(), False),
        (ALLOWED, RecordedExchange(nothing), False),
    ):
        bench = Forwarding(verdict=verdict)
        run(bench.handle(exchange))
        assert bench.upstreams.sent == ([exchange] if handed_on else [])
        assert bench.upstreams.awaited == ([] if handed_on else [exchange])
        assert bench.pipeline.in_flight == handed_on
        assert bench.admission.released == ([] if handed_on else [verdict])
        assert len(bench.observer.observations) == (not handed_on)


def test_a_mistake_while_a_response_is_passed_on_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    """O2, O4: logged with its traceback and without its text, told to the client, recorded once."""
    bench = Forwarding(**PUBLIC)
    exchange = Unawaited(broken=True)
    assert bench.begin(exchange)
    with caplog.at_level(logging.ERROR, logger="gateway.pipeline"):
        bench.pipeline.answered(exchange, NO_CONNECTION)
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.endswith("\nValueError")
    assert "Traceback" in told
    (rest,) = exchange.rest
    asyncio.run(rest)
    assert (exchange.answers[0][0], bench.seen.reason, bench.pipeline.in_flight) == (500, "exception_ValueError", 0)
