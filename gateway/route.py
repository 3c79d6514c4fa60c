"""Frozen declarations that both faces, the file and the decorators, produce: routes, services, limits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from discovery.instance import Balance, ConsulQuery, HealthCheck, Instance, Outlier

ASGIApp = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]
NO_HEADERS: Mapping[str, str] = MappingProxyType({})

LimitKind = Literal["gcra", "sliding_window", "quota", "concurrency"]
WhenUnavailable = Literal["closed", "open", "fair_share"]
RetryOn = Literal["connect_failure", "reset", "gateway_error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A named rate limit, quota or concurrency cap.

    Args:
        name: token characters only, shown in `RateLimit-Policy`.
        kind: the algorithm (SPEC section 1).
        count: events a period; leases at once for `concurrency`.
        period_us: length of the period; for `concurrency` the life of a lease that nobody renews. For `quota` one of the calendar
            windows, UTC: a minute, an hour, a day.
        burst: how many events may come at once (`gcra` only); `count` when 0.
        key: what is counted apart: `subject`, `client`, `session`, `client_ip`, `client_certificate`, `route`, `global`, `header:NAME`,
            `claim:NAME`, `path:NAME`, or several of them.
    """

    name: str
    kind: LimitKind
    count: int
    period_us: int
    burst: int = 0
    key: tuple[str, ...] = ("subject",)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRule:
    """Which clients' certificates may use a route: of each kind that is named one value has to fit; any certificate when none is.

    Args:
        subject: distinguished names (RFC 4514), whole.
        uri, dns: subject alternative names of these kinds, whole.
        fingerprint: SHA-256, hexadecimal, lower case.
    """

    subject: tuple[str, ...] = ()
    uri: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    fingerprint: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Deadlines of one exchange with an upstream, in seconds.

    Args:
        connect: TCP and TLS handshake.
        response: from the last byte of the request to the end of the response's header.
        idle: longest silence while a body moves, in either direction.
        total: the whole exchange; 0 for none.
    """

    connect: float = 1.0
    response: float = 15.0
    idle: float = 60.0
    total: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamTLS:
    """How `https` instances are verified and what we show them. Paths of PEM files; empty means the default. `fingerprint` is of what the
    files held: connections that were made with other keys are not used any more."""

    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    server_name: str = ""
    verify: bool = True
    fingerprint: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """When a failed try at an instance is followed by another one (SPEC R1 to R5).

    Args:
        attempts: tries after the first; 0 for none.
        on: `connect_failure`: no connection could be made, so nothing was sent. `reset`: the connection ended before a byte of the response
            came. `gateway_error`: the instance answered 502, 503 or 504, or took longer than `per_try`. The last two for idempotent
            methods only (RFC 9110 section 9.2.2), and only while the whole body is still here.
        per_try: seconds to wait for the response's header of a try that another one can follow; 0 to wait as long as for the last one.
        budget_ratio: retries in flight for each first try in flight.
        budget_minimum: retries in flight that are allowed however few first tries there are.
    """

    attempts: int = 1
    on: tuple[RetryOn, ...] = ("connect_failure", "reset", "gateway_error")
    per_try: float = 5.0
    budget_ratio: float = 0.2
    budget_minimum: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuit:
    """How much one process asks of a service at once; more is refused with 503 `overloaded` (SPEC R6).

    Args:
        connections: open connections to all its instances together.
        requests: requests in flight.
        pending: requests that wait for a connection because all `connections` are busy.
    """

    connections: int = 1024
    requests: int = 1024
    pending: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A named upstream: where its instances come from and how they are used. Exactly one of `instances` and `consul` is set."""

    name: str
    instances: tuple[Instance, ...] = ()
    consul: ConsulQuery | None = None
    balance: Balance = Balance()
    timeouts: Timeouts = Timeouts()
    retry: Retry = Retry()
    circuit: Circuit = Circuit()
    outlier: Outlier = field(default_factory=Outlier)
    health: HealthCheck | None = None
    slow_start: float = 0.0
    tls: UpstreamTLS = UpstreamTLS()
    #: Whether its instances are told of the client's certificate.
    forward_client_certificate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderRules:
    """Fields to set and to remove, applied after ours. Names are lower case. What is set may be what a service knows us by, so values show
    nowhere."""

    set: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS, hash=False, repr=False)
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """Cross-origin rules of a route [Fetch standard, section 3.2].

    Args:
        origins: exact origins, or `*`.
        methods: for preflight answers; the route's own methods when empty.
        headers: request fields that a script may send; empty echoes none.
        expose: response fields that a script may read.
        credentials: whether cookies and Authorization are allowed; not together with `*`.
        max_age: seconds that a preflight answer may be cached.
    """

    origins: tuple[str, ...]
    methods: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    expose: tuple[str, ...] = ()
    credentials: bool = False
    max_age: int = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocket:
    """Which requests of a route may become tunnels, and what bounds them (RFC 6455, RFC 9110 section 7.8).

    Args:
        origins: exact web origins, or `*`, that a browser's page may have; empty for the request's own host only. A request without
            Origin, which no browser sends, is not kept out by it.
        protocols: names in Upgrade, lower case.
        idle: longest silence in both directions, seconds.
        lifetime: longest life of a tunnel, seconds; 0 for any.
        max_bytes: what each direction may carry; 0 for any amount.
    """

    origins: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ("websocket",)
    idle: float = 300.0
    lifetime: float = 0.0
    max_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Local:
    """A target inside this process: an ASGI application."""

    app: ASGIApp
    #: True when the app answers everything below the route's path and wants `root_path` set (a mount).
    mounted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One row of the table: what it matches, who may use it, how much, and where it leads.

    Args:
        name: unique; shown in records, metrics and traces.
        path: template: `/patients/{id}`, `{name:int}`, `{name:uuid}`, and `{rest:path}` as the last segment.
        methods: upper case; GET implies HEAD. Empty means every method but CONNECT and TRACE.
        hosts: exact names or `*.suffix`; empty means any.
        headers: fields that must be there with exactly this value; names are lower case.
        target: the name of a service, or an application in this process.
        rewrite: template of the upstream path (`/v1/patients/{id}`); empty keeps the path.
        strip_prefix, add_prefix: applied to the path, strip first; not together with `rewrite`.
        authentication: whether credentials are needed.
        scopes: all of them; any_scope: at least one; roles: at least one; claims: name -> allowed values, every name must hold.
        client_certificate: which certificates of clients may use it; None asks for none.
        limits, shadow_limits: in order; shadow ones are counted and reported, never refused.
        cost: what one request counts.
        when_unavailable: what to do when the store is away; empty for the gateway's default.
        timeouts: overrides of the service's, seconds; names of `Timeouts`.
        max_body_bytes: 0 for the server's.
        audit_path_params: path parameters that records may show in clear.
        websocket: which upgrades become tunnels; None for none.
        line: where it was declared, for messages: `gateway.yaml:12` or a function's qualified name.
    """

    name: str
    path: str
    target: str | Local
    methods: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS, hash=False)
    rewrite: str = ""
    strip_prefix: str = ""
    add_prefix: str = ""
    authentication: Literal["required", "optional", "none"] = "required"
    scopes: tuple[str, ...] = ()
    any_scope: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    claims: Mapping[str, tuple[object, ...]] = field(default_factory=dict, hash=False)
    client_certificate: CertificateRule | None = None
    limits: tuple[Limit, ...] = ()
    shadow_limits: tuple[Limit, ...] = ()
    cost: int = 1
    when_unavailable: WhenUnavailable | Literal[""] = ""
    timeouts: Mapping[str, float] = field(default_factory=dict, hash=False)
    max_body_bytes: int = 0
    cors: Cors | None = None
    request_headers: HeaderRules = HeaderRules()
    response_headers: HeaderRules = HeaderRules()
    audit_path_params: tuple[str, ...] = ()
    websocket: WebSocket | None = None
    line: str = ""
