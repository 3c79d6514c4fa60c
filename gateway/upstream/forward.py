"""Sends an exchange to an instance of a service and brings the response back: pick, connect or reuse, send, relay; again where allowed.

A request is sent again only while the client has seen nothing of a response, and either the connection was never established, or the method
is idempotent and the whole body is still here (SPEC R1, RFC 9110 section 9.2.2). `retry.py` says for which failures.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container
from typing import Protocol

from discovery.endpoint import Endpoint
from discovery.instance import HealthCheck, Instance
from discovery.tls import CUT_OFF, NOBODY, TlsFailures, failure_of
from gateway.auth.principal import Principal
from gateway.certificates import certificate_lines
from gateway.deadlines import Deadlines
from gateway.errors import BadGateway, GatewayError, GatewayTimeout, Unavailable
from gateway.exchange import Exchange
from gateway.head import request_block
from gateway.headers import identity_lines
from gateway.rewrite import Rewrite, keep
from gateway.route import RetryOn, Service, Timeouts, UpstreamTLS
from gateway.telemetry.observation import Try
from gateway.telemetry.trace_context import new_span_id
from gateway.turn import Turn
from gateway.upstream.circuit import Circuit
from gateway.upstream.http1 import TLS_FAILURE, ResponseHead, UpstreamConnection
from gateway.upstream.pool import Pool
from gateway.upstream.probe import is_well
from gateway.upstream.retry import (
    ASK_AGAIN_SECONDS,
    GATEWAY_ERRORS,
    IDEMPOTENT,
    Again,
    Overdue,
    Retries,
    never_began,
    pause_seconds,
    retry_after_seconds,
)
from gateway.upstream.tls import ContextSource
from gateway.upstream.tunnel import Figures

#: Statuses that may be no answer to the request: a gateway's errors, and the end of an idle connection.
NO_ANSWERS = GATEWAY_ERRORS | {408}

#: What of a body comes after the head is sent with it; more is not copied for that.
JOINED_BYTES = 16 * 1024

#: A request on its way: what is asked, how, until when (`loop.time()`, 0 for no end), and which instances were tried, the last one now.
Course = tuple[Exchange, "RequestShape", float, tuple[Endpoint, ...]]


class Picker(Protocol):
    """Chooses an instance; a service's view in the directory."""

    def pick(self, key: bytes | None = None, exclude: Container[Endpoint] = ()) -> Endpoint | None:
        """An endpoint, or None when there is none."""

    def failed(self, endpoint: Endpoint) -> None:
        """The endpoint could not be reached, reset, took too long, or answered 502, 503 or 504."""


class Owner(Protocol):
    """Who has an exchange sent that nobody awaits."""

    def answered(self, exchange: Exchange, connection: UpstreamConnection) -> None:
        """The whole response is there, and has only to be relayed; its end is noted. The connection may have another exchange after this
        call."""

    async def handle(self, exchange: Exchange) -> None:
        """It is not so simple: do the rest."""


#: An exchange that was sent without anybody waiting: whose it is, when it has to be over and when it was sent (`loop.time()`), as which
#: try, and where its connection goes.
Sent = tuple[Owner, float, float, Try, Pool]


class RequestShape:
    """What a route adds to every request it forwards; computed once.

    Args:
        timeouts: the service's with the route's overrides.
        per_try: those of a try that another one can follow.
        rewrite: from the path as it came to the upstream's.
        set_lines: wire lines of fields to set.
        remove: lower-case names of fields to remove, including those that are set.
        balance_key: what consistent hashing hashes; None for other policies.
    """

    __slots__ = ("balance_key", "per_try", "remove", "rewrite", "set_lines", "timeouts")

    def __init__(
        self,
        timeouts: Timeouts,
        per_try: Timeouts,
        rewrite: Rewrite,
        set_lines: bytes,
        remove: tuple[bytes, ...],
        balance_key: Callable[[Exchange], bytes | None] | None,
    ) -> None:
        self.timeouts = timeouts
        self.per_try = per_try
        self.rewrite = rewrite
        self.set_lines = set_lines
        self.remove = tuple(name + b":" for name in remove)
        self.balance_key = balance_key


class Forwarder:
    """The upstream side of one service.

    Args:
        service: its declaration.
        picker: where instances come from.
        tls: gives the context for `https` instances.
        deadlines: watches over exchanges in flight.
        circuit: bounds what is asked of the service at once.
        failures: is told of TLS handshakes that fail.
    """

    def __init__(
        self,
        service: Service,
        picker: Picker,
        tls: ContextSource,
        deadlines: Deadlines,
        circuit: Circuit,
        failures: TlsFailures = NOBODY,
    ) -> None:
        self._failures = failures
        self.name = service.name
        self._picker = picker
        self._tls = tls
        self._tls_key = service.tls
        self._deadlines = deadlines
        self._circuit = circuit
        self._retries = Retries(service.retry, circuit)
        self._head = certified_head if service.forward_client_certificate else request_head
        self._loop = asyncio.get_running_loop()
        self._answered = Turn(self._told).add

    def dispatch(self, exchange: Exchange, shape: RequestShape, owner: Owner) -> bool:
        """Send the exchange at once, when an idle connection is there for it; `forward` does the same for whoever can wait.

        The owner is told of a whole response by a call, without a task that awaits it. For anything else (a response that comes in pieces,
        a failure, another try) a task is started in which the owner calls `forward`, which goes on from there.

        Returns:
            whether it was sent. If not, `forward` has all to do.
        """
        circuit = self._circuit
        if circuit.requests >= circuit.most_requests or circuit.waiting:
            return False
        endpoint = exchange.endpoint
        if endpoint is None:
            endpoint = self._picker.pick(shape.balance_key(exchange) if shape.balance_key is not None else None, ())
            if endpoint is None:
                return False
        # The choice counts, whoever sends.
        exchange.endpoint = endpoint
        pools: dict[UpstreamTLS | None, Pool] | None = endpoint.connections  # type: ignore[assignment]
        pool = pools.get(self._tls_key if endpoint.scheme == "https" else None) if pools is not None else None
        if pool is None or (connection := pool.take()) is None:
            return False
        now = self._loop.time()
        total = shape.timeouts.total
        deadline = now + total if total else 0.0
        observation = exchange.observation
        trace = observation.trace
        span_id = trace.try_span_id
        whole = exchange.body_length == 0
        parts = (self._head(exchange, shape), trace.propagation_lines(span_id), b"\r\n", b"" if whole else exchange.first_body())
        data = b"".join(parts)
        # `_begin`, for the first try of a request that is the route's own.
        attempt = Try(endpoint.instance.id, endpoint.address, span_id, time.time_ns())
        observation.tries.append(attempt)
        circuit.requests += 1
        endpoint.active += 1
        exchange.sent = (owner, deadline, now, attempt, pool)
        exchange.upstream = connection
        head_request = exchange.method == "HEAD"
        connection.send(data, exchange, shape.per_try, deadline, self._answered, now, whole=whole, head_request=head_request)
        if not whole:
            exchange.begin_upload(connection)
            connection.touch(now)
        return True

    def _told(self, connection: UpstreamConnection) -> None:
        """The response's head to an exchange of `dispatch` is there, or won't come."""
        exchange: Exchange = connection.sink  # type: ignore[assignment]
        assert exchange.sent is not None
        owner, _, sent_at, attempt, pool = exchange.sent
        head = connection.head
        if head is None or not connection.complete or head.status in NO_ANSWERS:
            exchange.go_on(owner.handle(exchange))
            return
        now = self._loop.time()
        status = attempt.status = head.status
        attempt.answered = now
        exchange.sent = exchange.upstream = None
        circuit = self._circuit
        if connection.end_exchange():
            pool.give_back(connection, now)
            if circuit.waiting:
                circuit.freed()
        circuit.requests -= 1
        endpoint = exchange.endpoint
        assert endpoint is not None
        endpoint.active -= 1
        endpoint.finished(now - sent_at, status >= 500, now)
        attempt.ended_ns = exchange.observation.ended_ns = time.time_ns()
        owner.answered(exchange, connection)

    @property
    def tunnels(self) -> Figures:
        """What the service's tunnels count."""
        return self._circuit.tunnels

    async def forward(self, exchange: Exchange, shape: RequestShape) -> None:
        """Have an instance answer the exchange.

        Raises:
            Unavailable: the service has no instance, or as much to do as its circuit allows.
            BadGateway, GatewayTimeout: it did not answer properly, or not in time; the response may have begun.
        """
        circuit = self._circuit
        sent = exchange.sent
        endpoint = exchange.endpoint
        if sent is None:
            if circuit.requests >= circuit.most_requests:
                raise circuit.overloaded("circuit_requests")
            total = shape.timeouts.total
            deadline = self._loop.time() + total if total else 0.0
            if endpoint is None:
                endpoint = self._picker.pick(shape.balance_key(exchange) if shape.balance_key is not None else None, ())
                if endpoint is None:
                    raise Unavailable("no_instance", "No instance of the service is available.")
            circuit.requests += 1
        else:
            _, deadline, sent_at, attempt, _ = sent
        head = self._head(exchange, shape)
        assert endpoint is not None
        tried: tuple[Endpoint, ...] = (endpoint,)
        try:
            while True:
                if sent is None:
                    attempt = self._begin(exchange, endpoint)
                    sent_at = self._loop.time()
                sent = None
                failed: bool | None = None
                try:
                    await self._converse(exchange, shape, head, tried, deadline, attempt)
                    failed = attempt.status >= 500
                    if failed and attempt.status in GATEWAY_ERRORS:
                        self._picker.failed(endpoint)
                    return
                except Again as again:
                    attempt.error = again.reason
                    self._tell(endpoint.instance, again)
                    failed = self._blame(endpoint) if again.blame else None
                    other, pause = again.endpoint, again.pause_seconds
                except GatewayError as error:
                    attempt.error = error.reason
                    self._tell(endpoint.instance, error)
                    # What a client does wrong while it sends (a body too large or too slow) is no failure of the instance.
                    failed = self._blame(endpoint) if _is_fault(error, attempt) else None
                    raise
                except BaseException:
                    attempt.error = "client_gone"
                    raise
                finally:
                    endpoint.active -= 1
                    endpoint.finished((attempt.answered or self._loop.time()) - sent_at, failed)
                    attempt.ended_ns = time.time_ns()
                endpoint = other
                tried = (*tried, endpoint)
                if pause:
                    await asyncio.sleep(pause)
        finally:
            circuit.requests -= 1
            if len(tried) > 1:
                self._retries.release()

    async def check(self, instance: Instance, check: HealthCheck) -> bool:
        """Whether an instance of the service passes an active check."""
        try:
            tls = self._tls() if instance.scheme == "https" else None
            return await is_well(instance, check.path, check.timeout_seconds, tls, self._tls_key.server_name)
        except GatewayError as error:
            self._tell(instance, error)
            return False

    def _tell(self, instance: Instance, error: GatewayError | Again) -> None:
        """Say why a handshake failed, if that is what happened."""
        if error.reason == TLS_FAILURE:
            self._failures.note("service", f"{self.name} at {instance.address}", failure_of(error) or CUT_OFF)

    def _blame(self, endpoint: Endpoint) -> bool:
        """The try failed by the instance's fault."""
        self._picker.failed(endpoint)
        return True

    def _begin(self, exchange: Exchange, endpoint: Endpoint) -> Try:
        """Note a try, and that the endpoint is busy with it."""
        observation = exchange.observation
        span_id = observation.trace.try_span_id if not observation.tries else new_span_id()
        attempt = Try(endpoint.instance.id, endpoint.address, span_id, time.time_ns())
        if observation.service != self.name:
            # A handler's call, which may be one of several to several services.
            attempt.service, attempt.method = self.name, exchange.method
        observation.tries.append(attempt)
        endpoint.active += 1
        return attempt

    async def _converse(
        self,
        exchange: Exchange,
        shape: RequestShape,
        head: bytes,
        tried: tuple[Endpoint, ...],
        deadline: float,
        attempt: Try,
    ) -> None:
        pool = self._pool(tried[-1])
        connection = exchange.upstream
        sent, exchange.sent = exchange.sent is not None, None
        if connection is None:
            connection = None if len(tried) > 1 or self._circuit.waiting else pool.take()
            if connection is None:
                connection = await self._connect(pool, (exchange, shape, deadline, tried))
            if exchange.refusal is not None:
                pool.give_back(connection)
                self._circuit.freed()
                raise exchange.refusal
            exchange.upstream = connection
        try:
            if sent:
                response = connection.told()
            else:
                trace_lines = exchange.observation.trace.propagation_lines(attempt.span_id)
                timeouts = shape.per_try if len(tried) <= self._retries.attempts else shape.timeouts
                # Only now: more of the body may have come while we connected.
                body = exchange.first_body() if exchange.body_length != 0 else b""
                joined = len(body) <= JOINED_BYTES
                data = b"%b%b\r\n%b" % (head, trace_lines, body if joined else b"")
                response = connection.begin(data, exchange, timeouts, deadline, head_request=exchange.method == "HEAD")
                if not joined:
                    connection.write(body)
                # They would be held until the exchange ends.
                del data, body
                exchange.begin_upload(connection)
                connection.touch()
            try:
                await response
            except (BadGateway, Overdue) as error:
                await self._no_head(error, connection, (exchange, shape, deadline, tried))
            assert connection.head is not None
            attempt.status = connection.head.status
            if attempt.status in NO_ANSWERS:
                self._doubt(connection, connection.head, (exchange, shape, deadline, tried))
            attempt.answered = self._loop.time()
            rest = exchange.relay(connection)
            if rest is not None:
                await rest
        finally:
            exchange.upstream = None
            if connection.end_exchange():
                pool.give_back(connection)
                if self._circuit.waiting:
                    self._circuit.freed()

    # Trying again

    async def _no_head(self, error: BadGateway | Overdue, connection: UpstreamConnection, course: Course) -> None:
        """No response came, or not soon enough. Returns when it came after all, otherwise says what follows."""
        waited = 0.0
        while isinstance(error, Overdue):
            # Another instance may be quicker; the same one would only get more to do.
            self._try_again("gateway_error", GatewayTimeout(reason="upstream_per_try_timeout"), course, elsewhere=True)
            exchange, shape, *_ = course
            left = shape.timeouts.response - shape.per_try.response - waited
            # Only the budget may think better of it meanwhile.
            again = self._may_repeat(exchange) and left > ASK_AGAIN_SECONDS
            waited += ASK_AGAIN_SECONDS
            try:
                return await connection.go_on(shape.per_try if again else shape.timeouts, ASK_AGAIN_SECONDS if again else left)
            except (BadGateway, Overdue) as later:
                error = later
        if never_began(error):
            self._try_again("reset", error, course, stale=connection.reused)
        raise error

    def _doubt(self, connection: UpstreamConnection, head: ResponseHead, course: Course) -> None:
        """A response that may not be the answer to the request: ask again, or return to pass it on."""
        if head.status != 408:
            endpoint = course[3][-1]
            wait = retry_after_seconds(head.headers)
            endpoint.not_before = self._loop.time() + wait if wait else 0.0
            self._try_again("gateway_error", None, course)
        elif connection.reused and not connection.keep_alive:
            # Sent before our request had come: it ends the connection, it doesn't answer us.
            self._try_again("reset", BadGateway(reason="upstream_reset"), course, stale=True)

    def _try_again(
        self, kind: RetryOn, error: GatewayError | None, course: Course, *, elsewhere: bool = False, stale: bool = False
    ) -> None:
        """Have the request sent again if the policy, the method, the body, the time left and the budget allow it; else return.

        Args:
            error: None when the instance answered.
            elsewhere: only to another instance.
            stale: a reused connection ended under the request, which is no failure of the instance: so the same one is asked again, at
                once, whatever the policy and the budget say.
        """
        exchange, shape, deadline, tried = course
        if not (stale or self._retries.wants(kind, len(tried))) or not (kind == "connect_failure" or self._may_repeat(exchange)):
            return
        pause = 0.0 if stale else pause_seconds(len(tried))
        at = self._loop.time() + pause
        if deadline and at >= deadline:
            return
        key = shape.balance_key(exchange) if shape.balance_key is not None else None
        endpoint = tried[-1] if stale else self._next(key, tried, at, elsewhere=elsewhere)
        if endpoint is None or (len(tried) == 1 and not self._retries.claim(stale=stale)):
            return
        raise Again(endpoint, error.reason if error is not None else "", pause, blame=not stale) from error

    def _next(self, key: bytes | None, tried: tuple[Endpoint, ...], at: float, *, elsewhere: bool) -> Endpoint | None:
        """Where to try again: an instance that was not tried yet, else one that was (SPEC R2); none before the time that it named (R5)."""
        exclude = list(tried)
        while (other := self._picker.pick(key, exclude)) is not None:
            if other.not_before <= at:
                return other
            exclude.append(other)
        again = [endpoint for endpoint in tried if endpoint.not_before <= at]
        return again[0] if again and not elsewhere else None

    def _may_repeat(self, exchange: Exchange) -> bool:
        return exchange.method in IDEMPOTENT and exchange.replayable

    # Connections

    async def _connect(self, pool: Pool, course: Course) -> UpstreamConnection:
        """A connection that has to be made, or waited for. An instance of its own for a request that is tried again."""
        _, shape, deadline, tried = course
        now = self._loop.time()
        seconds = min(shape.timeouts.connect, deadline - now) if deadline else shape.timeouts.connect
        if seconds <= 0:
            raise GatewayTimeout(reason="upstream_total_timeout")
        circuit = self._circuit
        waited = False
        while (circuit.waiting and not waited) or not circuit.room():
            await circuit.wait(now + seconds - self._loop.time(), again=waited)
            waited = True
            connection = pool.take() if len(tried) == 1 else None
            if connection is not None:
                return connection
        return await self._open(pool, now + seconds - self._loop.time(), course)

    async def _open(self, pool: Pool, seconds: float, course: Course) -> UpstreamConnection:
        try:
            connection = await pool.connect(seconds)
        except BaseException as error:
            self._circuit.failed()
            if isinstance(error, (BadGateway, GatewayTimeout)):
                self._try_again("connect_failure", error, course)
            raise
        self._circuit.opened(connection)
        self._deadlines.add(connection)
        return connection

    def _pool(self, endpoint: Endpoint) -> Pool:
        # Only we write there.
        pools: dict[UpstreamTLS | None, Pool] | None = endpoint.connections  # type: ignore[assignment]
        if pools is None:
            pools = endpoint.connections = {}
        instance = endpoint.instance
        key = self._tls_key if instance.scheme == "https" else None
        pool = pools.get(key)
        if pool is None:
            tls = self._tls() if key is not None else None
            pool = pools[key] = Pool(instance.host, instance.port, tls=tls, server_name=self._tls_key.server_name)
        return pool


def close_pools(endpoint: Endpoint) -> None:
    """Close the idle connections of an endpoint that has left."""
    pools = endpoint.connections
    if isinstance(pools, dict):
        for pool in pools.values():
            pool.close()


def request_head(exchange: Exchange, shape: RequestShape) -> bytes:
    """The head of the upstream request, without the trace lines and the empty line: everything that all tries have in common."""
    path = exchange.path if shape.rewrite is keep else shape.rewrite(exchange.path)
    if not exchange.version_11:
        exchange.block = _block_of_another_version(exchange)
    block = exchange.block if not shape.remove else _without(exchange, shape)
    principal = exchange.principal
    identity = identity_of(principal) if principal is not None else b""
    method = exchange.method.encode("ascii")
    lines = (method, b" ", path, exchange.query, b" HTTP/1.1\r\n", block, exchange.id_line, identity, shape.set_lines)
    return b"".join(lines)


def certified_head(exchange: Exchange, shape: RequestShape) -> bytes:
    """The same with what the client's certificate says of it, if it has shown one (SPEC H13)."""
    certificate = exchange.peer.certificate
    head = request_head(exchange, shape)
    return head if certificate is None else head + certificate_lines(certificate)


def _block_of_another_version(exchange: Exchange) -> bytes:
    """The exchange's lines as the HTTP/1.1 that we speak has to have them."""
    version, fields = exchange.version, exchange.fields
    if version == b"1.0":
        # RFC 9110 section 10.1.1: in such a request it means nothing.
        fields = fields.without(b"expect")
    block = request_block(fields, exchange.body_length, exchange.peer, version)
    if b"host" in fields.found:
        return block
    # HTTP/1.0 needs none.
    return b"host: %b\r\n%b" % (exchange.observation.service.encode("ascii"), block)


def identity_of(principal: Principal) -> bytes:
    """Wire lines that say who is asking, made once a principal."""
    identity: bytes | None = principal.memo.get(_IDENTITY)
    if identity is None:
        identity = principal.memo[_IDENTITY] = identity_lines(principal.subject, principal.issuer, principal.scopes)
    return identity


def _without(exchange: Exchange, shape: RequestShape) -> bytes:
    """The exchange's block without the fields that the route removes or sets."""
    return b"".join([line for line in exchange.block.splitlines(keepends=True) if not line.startswith(shape.remove)])


def _is_fault(error: GatewayError, attempt: Try) -> bool:
    """Whether the instance failed. A stream that lasts longer than it may was answered: its end is ours."""
    return isinstance(error, BadGateway) or (isinstance(error, GatewayTimeout) and not attempt.answered)


#: Key of the identity lines in a principal's memo.
_IDENTITY = "identity_lines"
