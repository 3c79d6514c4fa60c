"""Frozen settings: the compiled form of `gateway.yaml` (CONTRACT section 4). `config.py` makes them from a file, `app.py` from keywords.

Durations are seconds (float), sizes are bytes (int), secrets never show in a `repr`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from discovery.instance import ConsulAgent
from gateway.route import Limit, Route, Service, WhenUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class Maxima:
    """Bounds on what a client may send."""

    header_bytes: int = 32 * 1024
    headers: int = 100
    uri_bytes: int = 8 * 1024
    body_bytes: int = 10 * 1024 * 1024
    connections: int = 10_000
    #: Of one client address that is no trusted proxy; 0 for any number.
    connections_per_client: int = 0
    in_flight: int = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTimeouts:
    """How long a client may take, seconds."""

    header: float = 10.0
    body: float = 30.0
    idle: float = 75.0
    tls: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """TLS on the data port.

    Args:
        certificate_file, key_file: PEM; the certificate first, then those that lead to its authority.
        client_ca_file: PEM; clients are asked for a certificate that one of these vouches for. None are asked when empty.
        client_certificate: whether a client without one is let in.
        minimum_version: `1.2` or `1.3`.
        fingerprint: of what the files held.
    """

    certificate_file: str
    key_file: str
    client_ca_file: str = ""
    client_certificate: Literal["required", "optional"] = "required"
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    fingerprint: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainSettings:
    """How a process ends, in seconds.

    Args:
        delay: the longest that it goes on accepting after it was told to end, while load balancers take notice.
        quiet: it stops accepting earlier when no request came for so long.
        timeout: what requests under way get after that.
    """

    delay: float = 5.0
    quiet: float = 1.0
    timeout: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadSettings:
    """When a process takes less than what comes.

    Args:
        lag: seconds that requests may wait for the event loop; 0 for as long as they like.
        memory: share of the memory from which on requests are refused; 0 for never.
        memory_limit: bytes that a process may use; 0 for its share of what the container may.
    """

    lag: float = 0.1
    memory: float = 0.9
    memory_limit: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The data port. `trusted_proxies` are CIDR blocks whose X-Forwarded-* fields are believed."""

    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    trusted_proxies: tuple[str, ...] = ()
    tls: ServerTls | None = None
    max: Maxima = Maxima()
    timeouts: ServerTimeouts = ServerTimeouts()
    drain: DrainSettings = DrainSettings()
    overload: OverloadSettings = OverloadSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminSettings:
    """The admin port. Without a token one is made at start and printed, except in production, where the start is refused."""

    host: str = "127.0.0.1"
    port: int = 9080
    token: str = field(default="", repr=False)


#: Enough that three to six nodes share the load, few enough that calls stay well filled.
CLUSTER_SHARDS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSettings:
    """The shared store.

    Args:
        url: `embedded://`, `embedded:///path`, `unix://`, `redis://`, `redis+sentinel://`, `redis+cluster://`, and `rediss` forms of those.
        budget: the longest wait for an admission.
        when_unavailable: what happens when the store does not answer within it.
        mirror_age: how old the mirror of revocations may be and still decide, seconds; 0 for never.
        shards: how many virtual shards keys are spread over; 0 for what the kind of store needs.
        ca_file, certificate_file, key_file: TLS of the `rediss` forms.
        fingerprint: of what these files held.
    """

    url: str = field(default="embedded://", repr=False)
    budget: float = 0.025
    when_unavailable: WhenUnavailable = "closed"
    mirror_age: float = 86_400.0
    shards: int = 0
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    fingerprint: str = field(default="", repr=False)

    @property
    def shard_count(self) -> int:
        """How many virtual shards there are."""
        return self.shards or (CLUSTER_SHARDS if self.is_cluster else 1)

    @property
    def is_cluster(self) -> bool:
        """Whether keys live on several servers."""
        return self.url.partition("://")[0].endswith("+cluster")


#: FIPS 186-5 and FIPS 198-1 with the hashes of FIPS 180-4. EdDSA is in FIPS 186-5 too, but few validated modules offer it.
FIPS_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "HS256", "HS384", "HS512")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimNames:
    """Where an issuer puts things: a claim name or a dotted path into nested objects."""

    subject: str = "sub"
    scope: str = "scope"
    roles: str = "roles"
    session: str = "sid"
    client: str = "azp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """A token issuer that is trusted. Exactly one of `jwks_url`, `jwks_file`, `jwks`, `secret` and `discovery` is set.

    Args:
        name: ours, for records and messages.
        issuer: the exact `iss`.
        audience: a token must name at least one of them.
        algorithms: exact JWS names; never `none`; HS* never together with others.
        jwks: a JWK Set document, for issuers that are made at start.
        discovery: take `jwks_uri` from `issuer`/.well-known/openid-configuration.
        leeway, maximum_lifetime: seconds; `maximum_lifetime` 0 for no bound.
        required_claims: must be there; `jti` must also be usable: printable text of at most 512 characters.
        development_key_file: private key of a development issuer, which `gateway token` may sign with.
        fips: only algorithms and keys of the FIPS-approved set.
    """

    name: str
    issuer: str
    audience: tuple[str, ...]
    algorithms: tuple[str, ...] = ("RS256",)
    # A key server may want a key of its own in the query.
    jwks_url: str = field(default="", repr=False)
    jwks_file: str = ""
    jwks: bytes = b""
    secret: bytes = field(default=b"", repr=False)
    discovery: bool = False
    leeway: float = 30.0
    required_claims: tuple[str, ...] = ("exp", "iat", "sub")
    maximum_lifetime: float = 0.0
    claims: ClaimNames = ClaimNames()
    development_key_file: str = ""
    fips: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Introspection:
    """RFC 7662 endpoint for opaque tokens. `cache` is in seconds."""

    url: str
    client_id: str
    client_secret: str = field(default="", repr=False)
    cache: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKeys:
    """API keys, kept as keyed hashes in the state store. `header` is lower case."""

    header: str = "x-api-key"


#: SPEC A8. The name stands in records, metrics and answers.
FAILURES = Limit(name="authentication.failures", kind="gcra", count=100, period_us=60_000_000, key=("client_ip",))


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticationSettings:
    """Who may prove what. With no issuer and no introspection a development issuer is made at start (not in production).

    Args:
        failures: how often a client may fail to prove anything; None for as often as it likes.
        fips: only what FIPS 140 approves; each issuer has the same mark.
    """

    issuers: tuple[Issuer, ...] = ()
    introspection: Introspection | None = None
    failures: Limit | None = FAILURES
    api_keys: ApiKeys | None = None
    fips: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSettings:
    """Spans and their export.

    Args:
        endpoint: base URL of an OTLP/HTTP receiver (`/v1/traces` is added); no export when empty.
        sample_ratio: share of the traces that are recorded, 0..1.
        always_errors, always_denials: record these whatever the ratio says; always_slow: and those longer than so many seconds (0: off).
        trust: what to do with inbound trace context.
    """

    endpoint: str = ""
    sample_ratio: float = 1.0
    always_errors: bool = False
    always_denials: bool = False
    always_slow: float = 0.0
    trust: Literal["continue", "link", "ignore"] = "link"
    service_name: str = "gateway"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessLogSettings:
    """`format` off writes none. `sink` is `stdout`, `stderr` or `file:/path`."""

    format: Literal["json", "text", "off"] = "json"
    sink: str = "stdout"


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySettings:
    """What is told about requests, apart from the audit."""

    traces: TraceSettings = TraceSettings()
    prometheus: bool = True
    access_log: AccessLogSettings = AccessLogSettings(format="off")


AuditEvent = Literal["allowed", "denied", "admin", "config", "dependency", "handshake"]
AUDIT_EVENTS: tuple[AuditEvent, ...] = get_args(AuditEvent)
#: Members of a request's record that can be left out. What AU-3 asks for can't: what, when, where, from where, who, how it ended.
AuditField = Literal[
    "source.port",
    "source.peer_ip",
    "source.user_agent",
    "source.certificate",
    "principal.issuer",
    "principal.client",
    "principal.scopes",
    "principal.token_id",
    "request.path_template",
    "request.path_params",
    "request.host",
    "request.bytes",
    "limits",
    "response.bytes",
    "upstream",
    "duration_ms",
    "generation",
]
AUDIT_FIELDS: tuple[AuditField, ...] = get_args(AuditField)
#: Each record carries all of them.
MAXIMUM_AUDIT_LABELS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSettings:
    """Where audit records go, and what is recorded.

    Args:
        sink: any of `stdout`, `stderr`, `file:/path`.
        format: `text` is the one-line `AUDIT: ...` form, which is never chained.
        when_full: `block` answers requests with 503 while a sink is full; `drop` loses their records.
        chain: whether each record names the hash of the one before it.
        checkpoint: seconds between checkpoints; 0 for none.
        events: `allowed` and `denied` requests, and other events by their kind. Start, stop, checkpoints and gaps are always recorded.
        fields: what a request's record has besides what it always has.
        labels: texts by name that each record carries.
    """

    sink: tuple[str, ...] = ("stdout",)
    format: Literal["json", "text"] = "json"
    when_full: Literal["block", "drop"] = "block"
    chain: bool = True
    checkpoint: float = 60.0
    events: tuple[AuditEvent, ...] = AUDIT_EVENTS
    fields: tuple[AuditField, ...] = AUDIT_FIELDS
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def chained(self) -> bool:
        """Whether records are chained."""
        return self.chain and self.format == "json" and bool(self.sink)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCertificate:
    """A certificate that we show to others.

    Args:
        not_after: when it expires, seconds since the epoch.
        purpose_missing: its extended key usage does not name what it is used for here.
        key_open: others than its owner may read its key's file.
    """

    not_after: float
    purpose_missing: bool = False
    key_open: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a gateway is started with."""

    server: ServerSettings = ServerSettings()
    admin: AdminSettings = AdminSettings()
    state: StateSettings = StateSettings()
    consul: ConsulAgent | None = None
    authentication: AuthenticationSettings = AuthenticationSettings()
    services: Mapping[str, Service] = field(default_factory=dict)
    #: By name, for routes that are declared later; those of `routes` have theirs already.
    limits: Mapping[str, Limit] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    telemetry: TelemetrySettings = TelemetrySettings()
    audit: AuditSettings = AuditSettings()
    #: Path of the file that these came from; empty for keyword settings.
    source: str = ""
    #: Every file that was read for these, and a digest of what it held: it changes when these may have to be loaded again.
    files: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    #: Our certificates, by the key that names the file.
    certificates: Mapping[str, OwnCertificate] = field(default_factory=dict, repr=False, compare=False)
