"""What a route becomes at start: everything about it that a request would otherwise have to look up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from discovery.instance import Balance
from gateway.admission.ladder import Gate
from gateway.admission.plan import AdmissionPlan
from gateway.auth.authorization import Rule
from gateway.auth.certificate_rule import CertificateCheck
from gateway.cors import CorsRules
from gateway.exchange import Exchange
from gateway.headers import RESPONSE_DROPPED, field_lines
from gateway.rewrite import compile_rewrite
from gateway.route import Local, Route, Service, Timeouts
from gateway.streams import NO_STREAMS, Streams
from gateway.upstream.forward import Owner, RequestShape
from gateway.upstream.retry import per_try


class Forward(Protocol):
    """The upstream side of a service."""

    def dispatch(self, exchange: Exchange, shape: RequestShape, owner: Owner) -> bool:
        """Have an instance answer the exchange, without anybody waiting for it. False when that can't be."""

    async def forward(self, exchange: Exchange, shape: RequestShape) -> None:
        """Have an instance answer the exchange."""


class RoutePlan:
    """A compiled route.

    Args:
        route: the declaration.
        authorize: raises Forbidden or Unauthorized.
        certified: holds the client's certificate against the route; None asks for none.
        admission: what is asked of the store.
        gate: how a request is admitted.
        cors: cross-origin rules; a null object when there are none.
        max_body_bytes: largest request body.
        shape: for a service target.
        streams: knows the exchanges that last.
    """

    __slots__ = (
        "admission",
        "authenticate",
        "authorize",
        "certified",
        "cors",
        "forwarder",
        "gate",
        "local",
        "max_body_bytes",
        "open",
        "required",
        "response_dropped",
        "response_lines",
        "route",
        "service",
        "shape",
        "streams",
    )

    def __init__(
        self,
        route: Route,
        *,
        authorize: Rule,
        admission: AdmissionPlan,
        gate: Gate,
        cors: CorsRules,
        max_body_bytes: int,
        shape: RequestShape | None = None,
        streams: Streams = NO_STREAMS,
        certified: CertificateCheck | None = None,
    ) -> None:
        self.route = route
        self.certified = certified
        self.authenticate = route.authentication != "none"
        #: Whether nobody has to be asked about a request.
        self.open = not self.authenticate and certified is None and not admission.needs(None)
        self.required = route.authentication == "required"
        self.authorize = authorize
        self.admission = admission
        self.gate = gate
        self.cors = cors
        self.max_body_bytes = route.max_body_bytes or max_body_bytes
        self.local: Local | None = route.target if isinstance(route.target, Local) else None
        self.service = route.target if isinstance(route.target, str) else ""
        #: The upstream side of a service target, once discovery knows the service.
        self.forwarder: Forward | None = None
        self.shape = shape
        self.streams = streams if self.authenticate else NO_STREAMS
        rules = route.response_headers
        self.response_lines = field_lines(rules.set)
        replaced = [name.lower() for name in (*rules.remove, *rules.set)]
        self.response_dropped = RESPONSE_DROPPED | {name.encode("ascii") for name in replaced}

    def __repr__(self) -> str:
        return f"<RoutePlan {self.route.name} -> {self.service or 'local'}>"


def request_shape(route: Route, service: Service) -> RequestShape:
    """What a route changes about the requests that it forwards to a service.

    Raises:
        ConfigError: the rewrite can't be used.
    """
    rules = route.request_headers
    removed = tuple(name.lower().encode("ascii") for name in (*rules.remove, *rules.set))
    timeouts = merged_timeouts(service.timeouts, route)
    return RequestShape(
        timeouts=timeouts,
        per_try=per_try(timeouts, service.retry),
        rewrite=compile_rewrite(route),
        set_lines=field_lines(rules.set),
        remove=removed,
        balance_key=balance_key(service.balance),
    )


def merged_timeouts(timeouts: Timeouts, route: Route) -> Timeouts:
    """The service's deadlines with the route's overrides."""
    return replace(timeouts, **route.timeouts)


def balance_key(balance: Balance) -> Callable[[Exchange], bytes | None] | None:
    """What a consistent-hash balancer hashes of a request; None for the other policies."""
    kind, _, name = balance.by.partition(":")
    if balance.policy != "consistent_hash" or not kind:
        return None
    if kind == "subject":
        return lambda exchange: exchange.principal.subject.encode() if exchange.principal is not None else exchange.client_ip.encode()
    if kind == "header":
        field = name.lower().encode("ascii")
        return lambda exchange: exchange.header(field)
    if kind == "path":
        return lambda exchange: str(exchange.params.get(name, "")).encode()
    return lambda exchange: exchange.client_ip.encode()
