"""The straight path of a request: match, authenticate, authorize, admit, target, observe.

Steps raise `GatewayError`; `handle` is the one place that renders it. Everything a step needs was computed when the routes were compiled.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from random import getrandbits
from typing import Protocol

from gateway.admission.verdict import Verdict
from gateway.auth.failures import NO_FAILURE_LIMIT
from gateway.auth.principal import Principal
from gateway.cors import NO_CORS, PREFLIGHT_STATUS
from gateway.errors import (
    BodyTooLarge,
    GatewayError,
    Internal,
    MalformedMessage,
    MethodNotAllowed,
    RateLimited,
    Unauthorized,
    Unavailable,
    problem,
)
from gateway.exchange import Exchange
from gateway.failure import outline
from gateway.head import Head, request_block
from gateway.headers import FieldList, FieldTable, RequestFields, parse_lines
from gateway.paths import canonical, split_target
from gateway.peer import TrustedProxies
from gateway.plan import RoutePlan
from gateway.router import EVERY_METHOD, HeaderLookup, Match, hostname
from gateway.telemetry.observation import Observation
from gateway.telemetry.trace_context import Trace
from gateway.upstream.http1 import ClientGone, UpstreamConnection

logger = logging.getLogger("gateway.pipeline")

#: Targets whose route is remembered, and the longest host and path among them. Kong's router has such a cache too.
MAXIMUM_TARGETS = 1024
MAXIMUM_TARGET_BYTES = 256

#: No path of proxies is longer than that, and no number that is longer need be read.
_MAX_FORWARDS_DIGITS = 9
_QUESTION_MARK = ord("?")
#: Status that records show when the client left before an answer; nginx's number for the same.
CLIENT_GONE_STATUS = 499

#: The values of Authorization and of the API key field.
Credentials = tuple[bytes | None, bytes | None]
NO_CREDENTIALS: Credentials = (None, None)


class Authenticator(Protocol):
    """Turns credentials into a principal."""

    def recall(self, authorization: bytes | None, api_key: bytes | None) -> Callable[[], Principal | None]:
        """What tells, again and again, the principal of credentials that were verified before, or None when they don't hold now."""

    async def authenticate(self, authorization: bytes | None, api_key: bytes | None) -> Principal | None:
        """A principal; None when there are no credentials. Raises Unauthorized or Unavailable."""


class Admission(Protocol):
    """Has decided about requests, by the gates of their routes."""

    def release(self, verdict: Verdict) -> None:
        """Give leases back."""


class FailedAuthentications(Protocol):
    """Keeps those out who fail to prove anything again and again."""

    def check(self, exchange: Exchange) -> None:
        """Raises RateLimited when the client is not worth a try now."""

    async def count(self, exchange: Exchange) -> None:
        """The client has failed. Raises RateLimited when that was once too often."""


class RouteTable(Protocol):
    """Finds the plan of a request."""

    @property
    def reads_fields(self) -> bool:
        """Whether a match may depend on header fields."""

    def match(self, host: str, method: str, path: str, headers: HeaderLookup = ...) -> Match[RoutePlan]:
        """Raises NotFound or MethodNotAllowed."""

    def allowed_methods(self, host: str, path: str, headers: HeaderLookup = ...) -> tuple[str, ...]:
        """For OPTIONS."""


class TraceStarter(Protocol):
    """Gives each request its trace."""

    def start(self, traceparent: Sequence[bytes] = (), tracestate: Sequence[bytes] = (), baggage: Sequence[bytes] = ()) -> Trace:
        """The trace of a request with these field values."""


class Observer(Protocol):
    """Told of every finished request. Never raises."""

    def accepts(self) -> bool:
        """False while a record of one more request could be lost."""

    def observe(self, observation: Observation) -> None:
        """A request is over."""


class Pipeline:
    """Handles exchanges, whichever adapter they come by.

    Args:
        routes: the compiled table.
        fields: sorts request fields.
        failures: counts failed authentications.
        api_key_header: lower-case name of the field that carries API keys; empty when there are none.
        max_in_flight: exchanges at once; more are refused with 503 `overloaded`.
        generation: number of this configuration.
        proxies: whose forwarding fields are believed; None leaves that to the connection.
    """

    def __init__(
        self,
        *,
        routes: RouteTable,
        fields: FieldTable,
        tracer: TraceStarter,
        authenticator: Authenticator,
        failures: FailedAuthentications = NO_FAILURE_LIMIT,
        admission: Admission,
        observer: Observer,
        api_key_header: bytes = b"",
        max_in_flight: int = 4096,
        generation: int = 1,
        proxies: TrustedProxies | None = None,
    ) -> None:
        self._routes = routes
        self._fields = fields
        self._tracer = tracer
        self._authenticator = authenticator
        self._failures = failures
        self._admission = admission
        self._observer = observer
        self._api_key_header = api_key_header
        self._max_in_flight = max_in_flight
        self._generation = generation
        self._proxies = proxies
        # Global state
        self.in_flight = 0
        self._known_targets: dict[tuple[str, str, bytes], Match[RoutePlan]] = {}

    def open(self, exchange: Exchange) -> None:
        """Read the head of a request and find its route. What is wrong with it is kept in `exchange.refusal` for `handle` to tell."""
        started_ns = time.time_ns()
        peer = exchange.peer
        head = peer.head
        if head is None or (head.headers is not exchange.headers and head.headers != exchange.headers) or head.table is not self._fields:
            if self._proxies is not None and peer.proxies is not self._proxies:
                peer.believe(self._proxies)
            head = peer.head = Head(self._fields, exchange.headers, peer)
        fields = exchange.fields = head.fields
        if head.traced:
            trace = self._tracer.start(fields.all(b"traceparent"), fields.all(b"tracestate"), fields.all(b"baggage"))
        else:
            trace = self._tracer.start()
        exchange.body_length = head.body_length
        exchange.block = head.block
        observation = exchange.observation = Observation(started_ns, trace, head.memo)
        # Facts for the records that every request has.
        observation.method = exchange.method
        observation.scheme = peer.scheme
        observation.peer_ip = peer.ip
        observation.client_port = peer.port
        observation.client_ip = exchange.client_ip = head.client_ip
        observation.generation = self._generation
        observation.user_agent = head.user_agent
        observation.host = exchange.host = head.host
        # Where the trace is this request's own, its id names the request as well.
        if head.request_id or (head.traced and trace.inherited.parent_span_id):
            request_id = observation.request_id = _request_id(head)
            exchange.id_line = b"x-request-id: %b\r\n" % request_id.encode("ascii")
        else:
            observation.request_id = trace.trace_id_hex
            exchange.id_line = b"x-request-id: %b\r\n" % trace.trace_id
        try:
            if exchange.refusal is None:
                exchange.refusal = head.refusal
                self._find_route(exchange, observation, head)
        except GatewayError as error:
            exchange.refusal = exchange.refusal or error

    def begin(self, exchange: Exchange) -> bool:
        """Send an opened exchange to its upstream at once, when nobody has to be asked about it and nothing has to be awaited for it. False
        when that can't be: then nothing was done, and `handle` does it all."""
        plan = exchange.plan
        if plan is None or not plan.open or exchange.refusal is not None:
            return False
        if self.in_flight >= self._max_in_flight or not self._observer.accepts():
            return False
        length = exchange.body_length
        if length and length > plan.max_body_bytes:
            return False
        forwarder = plan.forwarder
        if forwarder is None:
            return False
        assert plan.shape is not None
        if not forwarder.dispatch(exchange, plan.shape, self):
            return False
        self.in_flight += 1
        return True

    def answered(self, exchange: Exchange, connection: UpstreamConnection) -> None:
        """The whole response to an exchange that `begin` has sent is there: pass it on, and be done."""
        self.in_flight -= 1
        observation = exchange.observation
        try:
            exchange.relay(connection)
        except Exception as exc:
            logger.error("request %s failed\n%s", observation.request_id, outline(exc))
            exchange.refusal = Internal(reason=f"exception_{type(exc).__name__}")
            exchange.go_on(self.handle(exchange))
            return
        self._observer.observe(observation)

    async def handle(self, exchange: Exchange) -> None:
        """Take an opened exchange through all its steps, or those that are left when `begin` has sent it. Raises only CancelledError, when
        the client left."""
        observation = exchange.observation
        verdict: Verdict | None = None
        serving = handed_on = False
        sent = exchange.sent is not None
        if not sent:
            self.in_flight += 1
        try:
            plan = exchange.plan
            if not sent:
                if exchange.refusal is not None:
                    raise exchange.refusal
                assert plan is not None
                self._check_room(exchange, plan)
                if plan.certified is not None:
                    plan.certified(exchange.peer.certificate)
                if plan.authenticate and not self._is_known(exchange):
                    await self._authenticate(exchange, plan)
                plan.authorize(exchange.principal)
                if plan.admission.needs(exchange.principal):
                    verdict = await plan.gate(exchange.principal, exchange)
                    self._apply(verdict, exchange, observation)
            assert plan is not None
            if plan.forwarder is not None:
                assert plan.shape is not None
                if not (sent or exchange.awaited) and (verdict is None or not verdict.leases) and exchange.refusal is None:
                    handed_on = plan.forwarder.dispatch(exchange, plan.shape, self)
                if not handed_on:
                    await plan.forwarder.forward(exchange, plan.shape)
            else:
                assert plan.local is not None
                serving = True
                await exchange.serve(plan.local.app, mounted=plan.local.mounted)
        except GatewayError as error:
            await self._tell(exchange, error, serving=serving)
        except ClientGone:
            _left(observation)
        except Exception as exc:
            logger.error("request %s failed\n%s", observation.request_id, outline(exc))
            await self._tell(exchange, Internal(reason=f"exception_{type(exc).__name__}"), serving=serving)
        except BaseException:
            _left(observation)
            raise
        finally:
            # What was handed on ends in `answered`.
            if not handed_on:
                self.in_flight -= 1
                if verdict is not None:
                    self._admission.release(verdict)
                observation.ended_ns = time.time_ns()
                self._observer.observe(observation)

    # Opening

    def _find_route(self, exchange: Exchange, observation: Observation, head: Head) -> None:
        target = exchange.target
        # A number, because a search for bytes in bytes first makes an error of its argument.
        if target[:1] == b"/" and _QUESTION_MARK not in target:
            exchange.path = target
        else:
            authority, exchange.path, exchange.query = split_target(target, exchange.method)
            if authority is not None:
                exchange.host = observation.host = hostname(authority)
                exchange.fields = head.fields.with_host(authority.encode("ascii"))
                exchange.block = request_block(exchange.fields, head.body_length, exchange.peer)
        if not head.has_host and exchange.version_11:
            raise MalformedMessage("An HTTP/1.1 request needs a Host field.", reason="host_missing")
        match = self._known_targets.get((exchange.host, exchange.method, exchange.path)) or self._match(exchange)
        if match is None:
            return
        plan = exchange.plan = match.value
        observation.route = match.route
        observation.service = plan.service
        exchange.params = observation.path_params = match.params
        if plan.cors is not NO_CORS:
            exchange.cors_lines = plan.cors.simple(exchange.fields.found.get(b"origin"))

    def _match(self, exchange: Exchange) -> Match[RoutePlan] | None:
        """The route of a target that is not known; None when the request is answered without one."""
        if exchange.path == b"*":
            self._answer_options(exchange, EVERY_METHOD)
            return None
        path = canonical(exchange.path)
        if exchange.method == "OPTIONS" and (self._is_preflight(exchange, path) or self._ends_here(exchange, path)):
            return None
        try:
            match = self._routes.match(exchange.host, exchange.method, path, exchange.header_text)
        except MethodNotAllowed as error:
            if exchange.method != "OPTIONS":
                raise
            self._answer_options(exchange, error.allow)
            return None
        if len(exchange.host) + len(exchange.path) <= MAXIMUM_TARGET_BYTES and self._is_lasting(exchange, match):
            if len(self._known_targets) >= MAXIMUM_TARGETS:
                self._known_targets.clear()
            self._known_targets[exchange.host, exchange.method, exchange.path] = match
        return match

    def _is_lasting(self, exchange: Exchange, match: Match[RoutePlan]) -> bool:
        """Whether another request with the same host, method and path gets the same route, and can share its parameters."""
        return exchange.method != "OPTIONS" and not self._routes.reads_fields and match.value.local is None

    def _is_preflight(self, exchange: Exchange, path: str) -> bool:
        """Whether this is the preflight of a route with CORS rules, which answer it without credentials (Fetch, section 3.2.2)."""
        asked = exchange.header(b"access-control-request-method")
        origin = exchange.fields.found.get(b"origin")
        if asked is None or origin is None:
            return False
        try:
            match = self._routes.match(exchange.host, asked.decode("latin-1"), path, exchange.header_text)
        except GatewayError:
            return False
        lines = match.value.cors.preflight(origin, asked, exchange.header(b"access-control-request-headers") or b"")
        if lines is None:
            return False
        exchange.observation.route = match.route
        exchange.refusal = _Answer(PREFLIGHT_STATUS, parse_lines(lines))
        return True

    def _ends_here(self, exchange: Exchange, path: str) -> bool:
        """Whether OPTIONS may go no further; else Max-Forwards is counted down (RFC 9110 section 7.6.2)."""
        value = exchange.header(b"max-forwards")
        if value is None:
            return False
        value = value.strip(b" \t")
        if not value.isdigit() or len(value) > _MAX_FORWARDS_DIGITS:
            raise MalformedMessage("Max-Forwards is not a single decimal number.", reason="max_forwards")
        left = int(value)
        if not left:
            self._answer_options(exchange, self._routes.allowed_methods(exchange.host, path, exchange.header_text))
            return True
        exchange.fields = exchange.fields.with_line(b"max-forwards", b"%d" % (left - 1))
        exchange.block = request_block(exchange.fields, exchange.body_length, exchange.peer)
        return False

    def _answer_options(self, exchange: Exchange, allow: tuple[str, ...]) -> None:
        """OPTIONS that no route claims is answered from the table (RFC 9110 section 9.3.7)."""
        exchange.refusal = _Answer(PREFLIGHT_STATUS, [(b"allow", ", ".join(allow).encode("ascii"))])

    # Steps

    def _check_room(self, exchange: Exchange, plan: RoutePlan) -> None:
        if self.in_flight > self._max_in_flight:
            raise Unavailable("overloaded", reason="in_flight")
        if not self._observer.accepts():
            raise Unavailable("overloaded", reason="audit_full")
        length = exchange.body_length
        if length is not None and length > plan.max_body_bytes:
            raise BodyTooLarge()

    def _is_known(self, exchange: Exchange) -> bool:
        """Whether the credentials were verified before and still hold; then the principal is set."""
        fields = exchange.fields
        if fields.repeated:
            self._refuse_repeated(fields)
        recall = fields.recall
        if recall is None:
            recall = fields.recall = self._authenticator.recall(*self._credentials(fields))
        principal = exchange.principal = exchange.observation.principal = recall()
        return principal is not None

    async def _authenticate(self, exchange: Exchange, plan: RoutePlan) -> None:
        """Verify what is not known, unless the client has brought too much that does not hold (SPEC A8)."""
        credentials = self._credentials(exchange.fields)
        if credentials != NO_CREDENTIALS:
            self._failures.check(exchange)
        try:
            principal = await self._authenticator.authenticate(*credentials)
        except Unauthorized:
            await self._failures.count(exchange)
            raise
        if principal is None and plan.required:
            raise Unauthorized()
        exchange.principal = exchange.observation.principal = principal

    def _credentials(self, fields: RequestFields) -> Credentials:
        """The values of Authorization and of the API key field."""
        found = fields.found
        return found.get(b"authorization"), found.get(self._api_key_header) if self._api_key_header else None

    def _refuse_repeated(self, fields: RequestFields) -> None:
        """Exactly one credential: with two, whose is the request?"""
        for name, _ in fields.repeated:
            if name == b"authorization" or name == self._api_key_header:
                raise Unauthorized("More than one credential was sent.", code="token_invalid", reason="credentials_repeated")

    def _apply(self, verdict: Verdict, exchange: Exchange, observation: Observation) -> None:
        exchange.limit_lines = verdict.header_block
        observation.limits = verdict.remaining
        if verdict.shadow_violated:
            observation.shadow_limited = verdict.shadow_violated
        if verdict.allowed:
            return
        if verdict.revoked:
            exchange.limit_lines = b""
            raise Unauthorized("The token has been revoked.", code="token_revoked", reason=f"revoked_{verdict.revoked}")
        raise RateLimited(verdict.violated, [(b"retry-after", b"%d" % verdict.retry_after_seconds)])

    # Telling

    async def _tell(self, exchange: Exchange, error: GatewayError, *, serving: bool) -> None:
        """Answer with an error, or cut a response that has begun. `serving`: an application of this process had the request."""
        observation = exchange.observation
        if isinstance(error, _Answer):
            observation.status = error.answer_status
            await exchange.respond(error.answer_status, error.headers, b"")
            return
        observation.code = error.code
        observation.reason = error.reason
        if isinstance(error, RateLimited):
            observation.limited = error.policies
        observation.denied = _is_denial(error, serving)
        if exchange.response_started:
            exchange.cut()
            return
        observation.status = error.status
        body = problem(error, observation.trace.trace_id_hex)
        headers: FieldList = [(b"content-type", b"application/problem+json"), *error.headers]
        await exchange.respond(error.status, headers, body, close=error.close)


class _Answer(GatewayError):
    """Not an error: an answer that was decided while the request was opened."""

    def __init__(self, status: int, headers: FieldList) -> None:
        super().__init__(headers=headers)
        self.answer_status = status


def _is_denial(error: GatewayError, serving: bool) -> bool:
    """Whether we refused the request. What an application of this process answers with is its own; a body that it may not read is not."""
    if serving and not isinstance(error, BodyTooLarge):
        return False
    return error.status < 500 or isinstance(error, Unavailable)


def _request_id(head: Head) -> str:
    """The id of a request in somebody else's trace: what a trusted proxy calls it, or one of its own."""
    return head.request_id or f"{getrandbits(128):032x}"


def _left(observation: Observation) -> None:
    observation.status = CLIENT_GONE_STATUS
    observation.reason = "client_gone"
