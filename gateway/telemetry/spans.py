"""Pure: the spans of one finished request, made once, at the end, from its `Observation`.

Names and attributes follow the stable HTTP semantic conventions; what is ours is under `gateway.`. Nothing that could carry a query, a
raw path or a credential is ever read here (O4): `url.path`, `url.query` and `url.full` are left out on purpose. So is
`user_agent.original`, and the Host field where no route asks for one: what clients write there has no bound (F-62). The audit has both.
"""

from __future__ import annotations

from collections.abc import Iterator

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from gateway.telemetry.observation import Observation, Try, resend_counts
from gateway.telemetry.trace_context import Trace

# RFC 9110 section 9, and PATCH of RFC 5789: the set that the semantic conventions call known.
KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
OTHER_METHOD = "_OTHER"
MAXIMUM_TEXT = 256
# Addresses come from discovery, so there are as many as instances; the bound is for a service that never stops moving.
MAXIMUM_ADDRESSES = 4096

Attributes = dict[str, str | bool | int | float | tuple[str, ...]]

_RECORDED = TraceFlags(TraceFlags.SAMPLED)
_UNSET = Status(StatusCode.UNSET)
_ERROR = Status(StatusCode.ERROR)


class SpanBuilder:
    """Makes one SERVER span a request and one CLIENT span a try (CONTRACT section 7).

    Args:
        service_name, version, replica: of the resource that every span names, `resource`; OTEL_RESOURCE_ATTRIBUTES adds to it.
    """

    __slots__ = ("_addresses", "resource", "scope")

    def __init__(self, *, service_name: str, version: str, replica: str) -> None:
        self.resource = Resource.create({"service.name": service_name, "service.version": version, "service.instance.id": replica})
        self.scope = InstrumentationScope("gateway", version)
        self._addresses: dict[str, tuple[str, int]] = {}

    def build(self, observation: Observation) -> Iterator[ReadableSpan]:
        """The SERVER span, then the CLIENT spans in the order of the tries."""
        trace = observation.trace
        state = _trace_state(trace)
        context = SpanContext(int(trace.trace_id, 16), int(trace.span_id, 16), False, _RECORDED, state)
        method = _known(observation.method)
        yield self._server(observation, method, context)
        tries = observation.tries
        for attempt, resend_count in zip(tries, resend_counts(tries), strict=True):
            yield self._client(observation, _known(attempt.method) if attempt.method else method, context, attempt, resend_count)

    def _server(self, observation: Observation, method: str, context: SpanContext) -> ReadableSpan:
        trace = observation.trace
        route = observation.route
        parent_span_id = trace.inherited.parent_span_id
        parent = SpanContext(context.trace_id, int(parent_span_id, 16), True, _RECORDED) if parent_span_id else None
        return ReadableSpan(
            f"{method} {route.path}" if route is not None else method,
            context,
            parent,
            self.resource,
            _server_attributes(observation, method),
            links=_links(trace),
            kind=SpanKind.SERVER,
            # "For HTTP status codes in the 4xx range span status MUST be left unset in case of SpanKind.SERVER."
            status=_ERROR if observation.status >= 500 else _UNSET,
            start_time=observation.started_ns,
            end_time=observation.ended_ns,
            instrumentation_scope=self.scope,
        )

    def _client(self, observation: Observation, method: str, parent: SpanContext, attempt: Try, resend_count: int) -> ReadableSpan:
        context = SpanContext(parent.trace_id, int(attempt.span_id, 16), False, _RECORDED, parent.trace_state)
        # "... and SHOULD be set to Error in case of SpanKind.CLIENT."
        failed = bool(attempt.error) or attempt.status >= 400
        return ReadableSpan(
            method,
            context,
            parent,
            self.resource,
            self._client_attributes(observation, method, attempt, resend_count, failed),
            kind=SpanKind.CLIENT,
            status=_ERROR if failed else _UNSET,
            start_time=attempt.started_ns,
            # A try that was cut short never got an end: it ended when the request did.
            end_time=attempt.ended_ns or observation.ended_ns,
            instrumentation_scope=self.scope,
        )

    def _client_attributes(self, observation: Observation, method: str, attempt: Try, resend_count: int, failed: bool) -> Attributes:
        host, port = self._addresses.get(attempt.address) or self._split(attempt.address)
        attributes: Attributes = {
            "http.request.method": method,
            "server.address": host,
            "server.port": port,
            "gateway.service": attempt.service or observation.service,
            "gateway.instance": attempt.instance,
        }
        if attempt.status:
            attributes["http.response.status_code"] = attempt.status
        if failed:
            attributes["error.type"] = attempt.error or str(attempt.status)
        if resend_count:
            attributes["http.request.resend_count"] = resend_count
        return attributes

    def _split(self, address: str) -> tuple[str, int]:
        host, _, port = address.rpartition(":")
        pair = (host.strip("[]"), int(port) if port.isdigit() else 0)
        if len(self._addresses) >= MAXIMUM_ADDRESSES:
            self._addresses.clear()
        self._addresses[address] = pair
        return pair


def _server_attributes(observation: Observation, method: str) -> Attributes:
    attributes: Attributes = {
        "http.request.method": method,
        "http.response.status_code": observation.status,
        "url.scheme": observation.scheme,
        "client.address": observation.client_ip,
        "network.peer.address": observation.peer_ip,
        "gateway.request_id": observation.request_id[:MAXIMUM_TEXT],
        "gateway.generation": observation.generation,
    }
    if observation.route is not None:
        attributes["http.route"] = observation.route.path
        attributes["gateway.route"] = observation.route.name
        if observation.route.hosts:
            attributes["server.address"] = observation.host[:MAXIMUM_TEXT]
    if observation.service:
        attributes["gateway.service"] = observation.service
    if observation.code or observation.reason or observation.status >= 500:
        _add_failure(attributes, observation)
    if observation.shadow_limited:
        attributes["gateway.shadow_limited"] = observation.shadow_limited
    if observation.store_mode != "shared":
        attributes["gateway.store_mode"] = observation.store_mode
    return attributes


def _add_failure(attributes: Attributes, observation: Observation) -> None:
    if observation.code:
        attributes["gateway.code"] = observation.code
    if observation.code or observation.reason:
        attributes["gateway.reason"] = observation.reason or observation.code
    if observation.status >= 500:
        attributes["error.type"] = observation.reason or observation.code or str(observation.status)


def _known(method: str) -> str:
    return method if method in KNOWN_METHODS else OTHER_METHOD


def _links(trace: Trace) -> tuple[Link, ...]:
    link = trace.inherited.link
    if link is None:
        return ()
    trace_id, span_id, flags = link
    return (Link(SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(flags))),)


def _trace_state(trace: Trace) -> TraceState | None:
    state = trace.inherited.tracestate
    return TraceState.from_header([state.decode("ascii")]) if state else None
