"""Sends an exchange to an instance of a service and brings the response back: pick, connect or reuse, send, relay; again where allowed.

A request is sent a second time only when nothing of a response came and either the connection was never established, or a reused
connection closed under an idempotent request whose body is still here (SPEC R1, RFC 9110 section 9.2.2).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Container
from typing import Protocol

from discovery.endpoint import Endpoint
from gateway.auth.principal import Principal
from gateway.deadlines import Deadlines
from gateway.errors import BadGateway, GatewayError, GatewayTimeout, Unavailable
from gateway.exchange import Exchange
from gateway.headers import identity_lines
from gateway.rewrite import Rewrite, keep
from gateway.route import Service, Timeouts
from gateway.telemetry.observation import Try
from gateway.telemetry.trace_context import new_span_id
from gateway.upstream.http1 import UpstreamConnection
from gateway.upstream.pool import Pool

IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"))


class Picker(Protocol):
    """Chooses an instance; a service's view in the directory."""

    def pick(self, key: bytes | None = None, exclude: Container[Endpoint] = ()) -> Endpoint | None:
        """An endpoint, or None when there is none."""


class RequestShape:
    """What a route adds to every request it forwards; computed once.

    Args:
        timeouts: the service's with the route's overrides.
        rewrite: from the path as it came to the upstream's.
        set_lines: wire lines of fields to set.
        remove: lower-case names of fields to remove, including those that are set.
        balance_key: what consistent hashing hashes; None for other policies.
    """

    __slots__ = ("balance_key", "remove", "rewrite", "set_lines", "timeouts")

    def __init__(
        self,
        timeouts: Timeouts,
        rewrite: Rewrite,
        set_lines: bytes,
        remove: tuple[bytes, ...],
        balance_key: Callable[[Exchange], bytes | None] | None,
    ) -> None:
        self.timeouts = timeouts
        self.rewrite = rewrite
        self.set_lines = set_lines
        self.remove = tuple(name + b":" for name in remove)
        self.balance_key = balance_key


class Forwarder:
    """The upstream side of one service.

    Args:
        service: its declaration.
        picker: where instances come from.
        tls: context for `https` instances.
        deadlines: watches over exchanges in flight.
    """

    def __init__(self, service: Service, picker: Picker, tls: ssl.SSLContext, deadlines: Deadlines) -> None:
        self.name = service.name
        self._picker = picker
        self._tls = tls
        self._tls_key = service.tls
        self._deadlines = deadlines
        self._loop = asyncio.get_running_loop()

    async def forward(self, exchange: Exchange, shape: RequestShape) -> None:
        """Have an instance answer the exchange.

        Raises:
            Unavailable: the service has no instance.
            BadGateway, GatewayTimeout: it did not answer properly, or not in time; the response may have begun.
        """
        head = request_head(exchange, shape)
        key = shape.balance_key(exchange) if shape.balance_key is not None else None
        total = shape.timeouts.total
        deadline = self._loop.time() + total if total else 0.0
        endpoint = self._pick(key, ())
        for fresh in (False, True):
            attempt = self._begin(exchange, endpoint)
            sent_at = self._loop.time()
            tried = endpoint
            failed = True
            try:
                await self._converse(exchange, shape, head, endpoint, deadline, attempt, fresh=fresh)
                failed = attempt.status >= 500
                return
            except _Retry as retry:
                attempt.error = retry.error.reason
                if fresh:
                    raise retry.error from retry
                if retry.never_sent:
                    endpoint = self._other(key, endpoint, retry)
            except GatewayError as error:
                attempt.error = error.reason
                # What a client does wrong while it sends (a body too large or too slow) is no failure of the instance.
                failed = isinstance(error, (BadGateway, GatewayTimeout))
                raise
            except BaseException:
                attempt.error = "client_gone"
                failed = False
                raise
            finally:
                tried.active -= 1
                tried.finished((attempt.answered or self._loop.time()) - sent_at, failed)
                attempt.ended_ns = time.time_ns()

    def _pick(self, key: bytes | None, exclude: Container[Endpoint]) -> Endpoint:
        endpoint = self._picker.pick(key, exclude)
        if endpoint is None:
            raise Unavailable("no_instance", "No instance of the service is available.")
        return endpoint

    def _other(self, key: bytes | None, tried: Endpoint, retry: _Retry) -> Endpoint:
        """Where to try again after a connection could not be made: another instance (SPEC R2)."""
        other = self._picker.pick(key, (tried,))
        if other is None:
            raise retry.error from retry
        return other

    def _begin(self, exchange: Exchange, endpoint: Endpoint) -> Try:
        """Note a try, and that the endpoint is busy with it."""
        observation = exchange.observation
        attempt = Try(endpoint.instance.id, endpoint.address, new_span_id(), time.time_ns())
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
        endpoint: Endpoint,
        deadline: float,
        attempt: Try,
        *,
        fresh: bool,
    ) -> None:
        pool = self._pool(endpoint)
        connection = None if fresh else pool.take()
        if connection is None:
            connection = await self._connect(pool, shape.timeouts, deadline)
        if exchange.refusal is not None:
            pool.give_back(connection)
            raise exchange.refusal
        exchange.upstream = connection
        try:
            # Only now: more of the body may have come while we connected.
            trace_lines = exchange.observation.trace.propagation_lines(attempt.span_id)
            data = b"%b%b\r\n%b" % (head, trace_lines, exchange.first_body())
            response = connection.begin(data, exchange, shape.timeouts, deadline, head_request=exchange.method == "HEAD")
            exchange.begin_upload(connection)
            connection.touch()
            self._deadlines.add(connection)
            try:
                await response
            except BadGateway as error:
                if connection.reused and not connection.response_started and self._may_repeat(exchange):
                    raise _Retry(error, never_sent=False) from error
                raise
            assert connection.head is not None
            attempt.status = connection.head.status
            if attempt.status == 408 and connection.reused and not connection.keep_alive and self._may_repeat(exchange):
                # Sent before our request had come: it ends the connection, it doesn't answer us.
                raise _Retry(BadGateway(reason="upstream_reset"), never_sent=False)
            attempt.answered = self._loop.time()
            await exchange.relay(connection)
        finally:
            self._deadlines.discard(connection)
            exchange.upstream = None
            if connection.end_exchange():
                pool.give_back(connection)

    def _may_repeat(self, exchange: Exchange) -> bool:
        return exchange.method in IDEMPOTENT and exchange.replayable

    async def _connect(self, pool: Pool, timeouts: Timeouts, deadline: float) -> UpstreamConnection:
        remaining = deadline - self._loop.time() if deadline else timeouts.connect
        if remaining <= 0:
            raise GatewayTimeout(reason="upstream_total_timeout")
        try:
            return await pool.connect(min(timeouts.connect, remaining))
        except (BadGateway, GatewayTimeout) as error:
            raise _Retry(error, never_sent=True) from error

    def _pool(self, endpoint: Endpoint) -> Pool:
        pools = endpoint.connections
        if pools is None:
            pools = endpoint.connections = {}
        assert isinstance(pools, dict)
        instance = endpoint.instance
        key = self._tls_key if instance.scheme == "https" else None
        pool = pools.get(key)
        if pool is None:
            tls = self._tls if key is not None else None
            pool = pools[key] = Pool(instance.host, instance.port, tls=tls, server_name=self._tls_key.server_name)
        assert isinstance(pool, Pool)
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
    block = exchange.block if not shape.remove else _without(exchange, shape)
    principal = exchange.principal
    identity = identity_of(principal) if principal is not None else b""
    request_id = exchange.observation.request_id.encode("ascii")
    method = exchange.method.encode("ascii")
    if not exchange.version_11 and b"host" not in exchange.fields.found:
        # HTTP/1.0 needs none, the HTTP/1.1 that we speak does.
        block = b"host: %b\r\n%b" % (exchange.observation.service.encode("ascii"), block)
    return b"%b %b%b HTTP/1.1\r\n%bx-request-id: %b\r\n%b%b" % (method, path, exchange.query, block, request_id, identity, shape.set_lines)


def identity_of(principal: Principal) -> bytes:
    """Wire lines that say who is asking, made once a principal."""
    identity: bytes | None = principal.memo.get(_IDENTITY)
    if identity is None:
        identity = principal.memo[_IDENTITY] = identity_lines(principal.subject, principal.issuer, principal.scopes)
    return identity


def _without(exchange: Exchange, shape: RequestShape) -> bytes:
    """The exchange's block without the fields that the route removes or sets."""
    return b"".join([line for line in exchange.block.splitlines(keepends=True) if not line.startswith(shape.remove)])


#: Key of the identity lines in a principal's memo.
_IDENTITY = "identity_lines"


class _Retry(Exception):
    """The attempt failed in a way that allows another one."""

    def __init__(self, error: GatewayError, *, never_sent: bool) -> None:
        self.error = error
        self.never_sent = never_sent
