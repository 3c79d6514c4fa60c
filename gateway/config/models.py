"""The shape of `gateway.yaml`, one model a section. Checks that need more than one value are made when settings are built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

import gateway.config.syntax as syntax
from discovery.instance import ConsulAgent, HealthCheck, Outlier
from gateway import route, settings
from gateway.config.problems import Wrong, shown
from gateway.config.values import (
    Datacenters,
    Duration,
    Flag,
    Keys,
    NotYet,
    OneOf,
    OrAuto,
    Plain,
    Rate,
    Ratio,
    Size,
    Text,
    Whole,
    refused,
)

_SERVER = settings.ServerSettings()
_ADMIN = settings.AdminSettings()
_STATE = settings.StateSettings()
_TRACES = settings.TraceSettings()
_AUDIT = settings.AuditSettings()
_CLAIMS = settings.ClaimNames()
_CONSUL = ConsulAgent()
_TIMEOUTS = route.Timeouts()
_RETRY = route.Retry()
_CIRCUIT = route.Circuit()
_OUTLIER = Outlier()
_HEALTH = HealthCheck("/")
_TLS = route.UpstreamTLS()
_ISSUER = settings.Issuer(name="", issuer="", audience=())
_INTROSPECTION = settings.Introspection(url="", client_id="")
_CORS = route.Cors(origins=())
_WEBSOCKET = route.WebSocket()

GIBIBYTE = 1024**3
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512")
RETRY_ON = ("connect_failure", "reset", "gateway_error")
POLICIES = ("round_robin", "random", "least_request", "ewma")

PlainText = Annotated[str, Text()]
OptionalText = Annotated[str, Text(optional=True)]
Name = Annotated[str, Text(syntax.name)]
Scope = Annotated[str, Text(syntax.scope)]
Claim = Annotated[str, Text(syntax.claim)]
Method = Annotated[str, Text(syntax.method)]
FieldName = Annotated[str, Text(syntax.field_name)]
Label = Annotated[str, Text(syntax.label)]
FieldValue = Annotated[str, Text(syntax.field_value, optional=True)]
RemovableField = Annotated[str, Text(syntax.removable_field)]
SettableField = Annotated[str, Text(syntax.settable_field)]
Sink = Annotated[str, Text(syntax.sink)]
HttpUrl = Annotated[str, Text(syntax.http_url)]
OptionalUrl = Annotated[str, Text(syntax.http_url, optional=True)]
Bool = Annotated[bool, Flag()]
ListenPort = Annotated[int, Whole(0, 65535)]
Authentication = Literal["required", "optional", "none"]
Unavailability = Annotated[route.WhenUnavailable, OneOf(("closed", "open", "fair_share"))]


def _text_or_mapping(value: object) -> str:
    return "text" if isinstance(value, str) else "mapping"


#: Marks a union of one text form and one mapping form: which of them is meant is plain from the value.
EITHER = Discriminator(_text_or_mapping)


def _value_or_mapping(value: object) -> str:
    return "mapping" if isinstance(value, Mapping | BaseModel) else "value"


#: The same for a single value that need not be text.
VALUE_OR_MAPPING = Discriminator(_value_or_mapping)


def _distinct_fields(value: object) -> object:
    """Header names are case-insensitive: two spellings of one field can't both hold."""
    if isinstance(value, Mapping):
        lowered = [name.lower() for name in value if isinstance(name, str)]
        if twice := next((name for name in lowered if lowered.count(name) > 1), None):
            raise refused(Wrong(f"the header {shown(twice)} is there twice", "each header once, whatever the case"))
    return value


DistinctFields = BeforeValidator(_distinct_fields)


class Section(BaseModel):
    """A mapping whose unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Max(Section):
    """Bounds on what a client may send."""

    header_bytes: Annotated[int, Size(1024, 1024**2)] = Field(
        default=_SERVER.max.header_bytes, description="All header lines of a request."
    )
    headers: Annotated[int, Whole(1, 10_000)] = Field(default=_SERVER.max.headers, description="Number of header lines.")
    uri_bytes: Annotated[int, Size(128, 1024**2)] = Field(default=_SERVER.max.uri_bytes, description="The request target.")
    body_bytes: Annotated[int, Size(0, 1024 * GIBIBYTE)] = Field(
        default=_SERVER.max.body_bytes, description="A request body; routes may override."
    )
    connections: Annotated[int, Whole(1, 1_000_000)] = Field(
        default=_SERVER.max.connections, description="Open client connections, each worker."
    )
    connections_per_client: Annotated[int, Whole(0, 1_000_000)] = Field(
        default=_SERVER.max.connections_per_client,
        description="Those of one address (IPv6: of its /64) that is none of `trusted_proxies`, each worker; 0 for any number.",
    )
    in_flight: Annotated[int, Whole(1, 1_000_000)] = Field(default=_SERVER.max.in_flight, description="Requests at once, each worker.")


class ServerTimeouts(Section):
    """How long a client may take."""

    header: Annotated[float, Duration("100ms", "10m")] = Field(default=_SERVER.timeouts.header, description="To send a request's header.")
    body: Annotated[float, Duration("100ms", "1h")] = Field(default=_SERVER.timeouts.body, description="Longest silence within a body.")
    idle: Annotated[float, Duration("100ms", "1h")] = Field(
        default=_SERVER.timeouts.idle, description="Between two requests of a connection."
    )
    tls: Annotated[float, Duration("100ms", "1m")] = Field(default=_SERVER.timeouts.tls, description="For the TLS handshake, all of it.")


class ServerTls(Section):
    """TLS on the data port."""

    certificate_file: PlainText = Field(description="PEM file: our certificate, then those that lead to its authority.")
    key_file: PlainText = Field(description="PEM file of the certificate's key, without a password.")
    client_ca_file: OptionalText = Field(
        default="", description="PEM file of those who vouch for clients; clients are asked for no certificate when empty."
    )
    client_certificate: Annotated[Literal["required", "optional"], OneOf(("required", "optional"))] = Field(
        default="required", description="Whether clients without a certificate are let in, where client_ca_file asks for one."
    )
    minimum_version: Annotated[Literal["1.2", "1.3"], OneOf(("1.2", "1.3"))] = Field(
        default="1.2", description="Oldest TLS that is spoken."
    )


class Drain(Section):
    """How a process ends when it is told to."""

    delay: Annotated[float, Duration("100ms", "10m", zero=True)] = Field(
        default=_SERVER.drain.delay, description="Longest time to go on accepting while load balancers take notice."
    )
    quiet: Annotated[float, Duration("100ms", "10m", zero=True)] = Field(
        default=_SERVER.drain.quiet, description="Stop accepting earlier when no request came for so long."
    )
    timeout: Annotated[float, Duration("100ms", "1h", zero=True)] = Field(
        default=_SERVER.drain.timeout, description="What requests under way get after that."
    )


class Overload(Section):
    """When requests are refused because there is more to do than can be done."""

    lag: Annotated[float, Duration("10ms", "10s", zero=True)] = Field(
        default=_SERVER.overload.lag,
        description="How long requests may wait for the event loop before some are refused; 0: as long as they like.",
    )
    memory: Annotated[float, Ratio()] = Field(
        default=_SERVER.overload.memory, description="Share of memory_limit from which on requests are refused; 0: not looked at."
    )
    memory_limit: Annotated[int | Literal["auto"], OrAuto(Size(64 * 1024**2, 1024 * GIBIBYTE))] = Field(
        default="auto", description="Memory that a worker may use. auto: its share of the container's limit, or no limit."
    )


class Server(Section):
    """The data port."""

    host: Annotated[str, Text(syntax.listen_host)] = Field(default=_SERVER.host, description="Address to listen on.")
    port: ListenPort = Field(default=_SERVER.port, description="Port to listen on; 0 takes a free one.")
    workers: Annotated[int, Whole(1, 256)] = Field(default=_SERVER.workers, description="Processes that serve.")
    trusted_proxies: list[Annotated[str, Text(syntax.cidr)]] = Field(
        default=[], description="Blocks of addresses whose X-Forwarded-* is believed."
    )
    tls: ServerTls | None = Field(default=None, description="TLS on the data port; plain HTTP when not given.")
    max: Max = Field(default=Max(), description="Bounds on what a client may send.")
    timeouts: ServerTimeouts = Field(default=ServerTimeouts(), description="How long a client may take.")
    drain: Drain = Field(default=Drain(), description="How a process ends when it is told to.")
    overload: Overload = Field(default=Overload(), description="When requests are refused because there is more to do than can be done.")


class Admin(Section):
    """The admin port."""

    host: Annotated[str, Text(syntax.listen_host)] = Field(default=_ADMIN.host, description="Address to listen on.")
    port: ListenPort = Field(default=_ADMIN.port, description="Port to listen on; 0 takes a free one.")
    token_file: OptionalText = Field(default="", description="File with the bearer token; GATEWAY_ADMIN_TOKEN when not given.")


class State(Section):
    """The shared store."""

    url: Annotated[str, Text(syntax.state_url)] = Field(default=_STATE.url, description="Where it is, see above.")
    budget: Annotated[float, Duration("1ms", "10s")] = Field(default=_STATE.budget, description="Longest wait for an admission.")
    when_unavailable: Unavailability = Field(
        default=_STATE.when_unavailable, description="While the store is away. closed: 503; open: admitted; fair_share: a replica's share."
    )
    mirror_age: Annotated[float, Duration("1s", "30d", zero=True)] = Field(
        default=_STATE.mirror_age, description="Up to this age the mirror of revocations decides for open and fair_share; 0: never."
    )
    shards: Annotated[int | Literal["auto"], OrAuto(Whole(1, 256))] = Field(
        default="auto", description="Virtual shards that keys are spread over. auto: 16 on a cluster, else 1."
    )
    ca_file: OptionalText = Field(default="", description="PEM file of the authorities that servers are verified with.")
    certificate_file: OptionalText = Field(default="", description="PEM file of the client certificate for the servers.")
    key_file: OptionalText = Field(default="", description="PEM file of the client certificate's key.")


class Consul(Section):
    """The Consul agent."""

    url: Annotated[str, Text(syntax.consul_url)] = Field(default=_CONSUL.url, description="http://, https:// or unix://.")
    token_file: OptionalText = Field(default="", description="File with the ACL token.")
    datacenter: Annotated[tuple[str, ...], Datacenters()] = Field(
        default=(), description="Where to look; the agent's own when empty. A list is failed over along, first choice first."
    )
    wait: Annotated[float, Duration("1s", "10m")] = Field(default=_CONSUL.wait_seconds, description="Length of a blocking query.")
    connections: Annotated[int, Whole(1, 10_000)] = Field(
        default=_CONSUL.connections, description="Queries at once. The agent's `http_max_conns_per_client` must be greater."
    )
    warning: Bool = Field(default=_CONSUL.warning, description="Whether instances with a warning check are used.")
    loopback: Annotated[Literal["auto", "allow", "refuse"], OneOf(("auto", "allow", "refuse"))] = Field(
        default=_CONSUL.loopback, description="Whether instances on loopback addresses are used; auto: when the agent is on one too."
    )
    networks: list[Annotated[str, Text(syntax.cidr)]] = Field(
        default=[], description="Blocks of addresses that instances must be in; any but the dangerous ones when empty."
    )
    disappearance_guard: Annotated[float, Ratio()] = Field(
        default=_CONSUL.disappearance_guard,
        description="When more than this share of a service's instances is gone at once, that is looked into before it is believed.",
    )
    ca_file: OptionalText = Field(default="", description="PEM file of the authorities that https:// is verified with.")
    certificate_file: OptionalText = Field(default="", description="PEM file of the client certificate for https://.")
    key_file: OptionalText = Field(default="", description="PEM file of the client certificate's key.")
    publish_routes: Bool = Field(
        default=_CONSUL.publish_routes, description="Whether services publish routes to themselves in their metadata."
    )


class Discovery(Section):
    """Where services are found."""

    consul: Consul | None = Field(default=None, description="The Consul agent; used with its defaults when a service needs it.")
    cache_dir: OptionalText = Field(
        default="", description="Directory for the last good instances, for a start without Consul; none are kept when empty."
    )


class Claims(Section):
    """Where an issuer puts things: a claim name or a dotted path."""

    subject: Claim = Field(default=_CLAIMS.subject, description="Who.")
    scope: Claim = Field(default=_CLAIMS.scope, description="Scopes: text with spaces between, or a list.")
    roles: Claim = Field(default=_CLAIMS.roles, description="Roles: a list.")
    session: Claim = Field(default=_CLAIMS.session, description="Session id.")
    client: Claim = Field(default=_CLAIMS.client, description="Client id.")


class Issuer(Section):
    """A token issuer that is trusted."""

    name: Annotated[str, Text(syntax.name, optional=True)] = Field(
        default="", description="For records and messages; the issuer's host when empty."
    )
    issuer: PlainText = Field(description="The exact `iss`.")
    audience: list[PlainText] = Field(description="A token must name at least one of them.", min_length=1)
    algorithms: list[Annotated[str, OneOf(ALGORITHMS)]] = Field(default=[], description="Exact names; RS256, or HS256 with secret_file.")
    jwks_url: OptionalUrl = Field(default="", description="Key set over HTTP.")
    jwks_file: OptionalText = Field(default="", description="Key set in a file.")
    secret_file: OptionalText = Field(default="", description="File with the shared secret of HS* algorithms.")
    discovery: Bool = Field(default=False, description="Take the key set's URL from the issuer's OpenID configuration.")
    leeway: Annotated[float, Duration("0s", "5m", zero=True)] = Field(
        default=_ISSUER.leeway, description="Clock difference that is tolerated."
    )
    required_claims: list[Claim] = Field(
        default=list(_ISSUER.required_claims), description="Claims that must be there; `jti` has to be usable as well."
    )
    maximum_lifetime: Annotated[float, Duration("1s", "3650d", zero=True)] = Field(
        default=0.0, description="From iat to exp; 0 for no bound."
    )
    claims: Claims = Field(default=Claims(), description="Where the issuer puts things.")
    development_key_file: OptionalText = Field(default="", description="Private key that `gateway token` signs with; development only.")


class Introspection(Section):
    """Opaque tokens (RFC 7662)."""

    url: HttpUrl = Field(description="The introspection endpoint.")
    client_id: PlainText = Field(description="Who we are there.")
    client_secret_file: OptionalText = Field(default="", description="File with our secret there.")
    cache: Annotated[float, Duration("0s", "1h", zero=True)] = Field(
        default=_INTROSPECTION.cache, description="How long a positive answer holds."
    )


class ApiKeys(Section):
    """API keys, kept as hashes in the state store."""

    header: FieldName = Field(default="x-api-key", description="Where clients send the key.")
    store: Annotated[Literal["state"], OneOf(("state",))] = Field(default="state", description="Where the keys' hashes are.")


class Failures(Section):
    """How often a client may fail to prove anything."""

    rate: Annotated[tuple[int, int], Rate()] = Field(
        default="100/minute", validate_default=True, description="Failures in a period; that many at once, too."
    )
    key: Annotated[Literal["client_ip"], OneOf(("client_ip",))] = Field(
        default="client_ip", description="What is counted apart: addresses of clients, /64 networks of IPv6."
    )


class AuthenticationSection(Section):
    """Who may prove what."""

    issuers: list[Issuer] = Field(default=[], description="Trusted token issuers.")
    introspection: Introspection | None = Field(default=None, description="Opaque tokens.")
    failures: Annotated[
        Annotated[str, OneOf(("off",), also="{rate: 100/minute}"), Tag("text")] | Annotated[Failures, Tag("mapping")], EITHER
    ] = Field(default=Failures(), description="Limit on failed authentications; off for none.")
    api_keys: ApiKeys | None = Field(default=None, description="API keys; off when not given.")
    fips: Bool = Field(default=False, description="Whether only FIPS-approved algorithms and keys are accepted.")


class ConsulService(Section):
    """Which instances are taken from Consul."""

    service: PlainText = Field(description="Name in the catalog.")
    tags: list[PlainText] = Field(default=[], description="Tags that an instance must carry, all of them.")
    datacenter: Annotated[tuple[str, ...], Datacenters()] = Field(
        default=(), description="Where to look; what discovery.consul says when empty. A list is failed over along."
    )


class StaticInstance(Section):
    """An instance at a fixed address."""

    url: PlainText = Field(description="http://HOST:PORT or https://HOST:PORT.")
    weight: Annotated[int, Whole(1, 10_000)] = Field(default=1, description="Relative share of the requests.")


class ConsistentHash(Section):
    """What consistent hashing looks at."""

    by: Annotated[str, Text(syntax.hash_key)] = Field(description="subject, client_ip, header:NAME or path:NAME.")


class HashBalance(Section):
    """Balancing that keeps a key on its instance."""

    consistent_hash: ConsistentHash = Field(description="What is hashed.")


class Timeouts(Section):
    """Deadlines of one exchange with an instance."""

    connect: Annotated[float, Duration("10ms", "1m")] = Field(default=_TIMEOUTS.connect, description="TCP and TLS handshake.")
    response: Annotated[float, Duration("10ms", "1h")] = Field(
        default=_TIMEOUTS.response, description="From the request's end to the response's header."
    )
    idle: Annotated[float, Duration("10ms", "1h")] = Field(default=_TIMEOUTS.idle, description="Longest silence while a body moves.")
    total: Annotated[float, Duration("10ms", "24h", zero=True)] = Field(
        default=_TIMEOUTS.total, description="The whole exchange; 0 for no bound."
    )


class UpstreamTls(Section):
    """How https instances are verified, and what we show them."""

    ca_file: OptionalText = Field(default="", description="PEM file of the authorities; the system's when empty.")
    certificate_file: OptionalText = Field(default="", description="PEM file of our certificate.")
    key_file: OptionalText = Field(default="", description="PEM file of our certificate's key.")
    server_name: Annotated[str, Text(syntax.listen_host, optional=True)] = Field(
        default="", description="Name in SNI and in the certificate."
    )
    verify: Bool = Field(default=_TLS.verify, description="false accepts any certificate.")


class RetryBudget(Section):
    """How many requests may be tried again at once."""

    ratio: Annotated[float, Ratio()] = Field(default=_RETRY.budget_ratio, description="For each first try in flight.")
    minimum: Annotated[int, Whole(0, 10_000)] = Field(default=_RETRY.budget_minimum, description="However few are in flight.")


class Retry(Section):
    """When a failed try is followed by another."""

    attempts: Annotated[int, Whole(0, 10)] = Field(default=_RETRY.attempts, description="Tries after the first; 0 for none.")
    on: list[Annotated[str, OneOf(RETRY_ON)]] = Field(default=list(_RETRY.on), description="After which failures.", min_length=1)
    per_try: Annotated[float, Duration("10ms", "1h", zero=True)] = Field(
        default=_RETRY.per_try, description="Wait for the response's header of a try that is not the last; 0 for timeouts.response."
    )
    budget: RetryBudget = Field(default=RetryBudget(), description="How many requests may be tried again at once.")


class Circuit(Section):
    """How much one process asks of the service at once."""

    connections: Annotated[int, Whole(1, 1_000_000)] = Field(default=_CIRCUIT.connections, description="Open connections to all instances.")
    requests: Annotated[int, Whole(1, 1_000_000)] = Field(default=_CIRCUIT.requests, description="Requests in flight.")
    pending: Annotated[int, Whole(0, 1_000_000)] = Field(
        default=_CIRCUIT.pending, description="Requests that wait while all connections are busy."
    )


class OutlierDetection(Section):
    """When an instance that fails is taken out for a while."""

    consecutive_failures: Annotated[int, Whole(0, 10_000)] = Field(
        default=_OUTLIER.consecutive_failures, description="Failures in a row that are too many; 0 turns ejection off."
    )
    base_ejection: Annotated[float, Duration("100ms", "5m")] = Field(
        default=_OUTLIER.base_seconds, description="How long the first time; the n-th time in a row n times as long, at most 5m."
    )
    maximum_ejected: Annotated[float, Ratio()] = Field(
        default=_OUTLIER.maximum_ejected, description="Share of the instances that may be out at once; one always may, never the last one."
    )


class Health(Section):
    """Active checks of instances at fixed addresses."""

    path: Annotated[str, Text(syntax.check_path)] = Field(description="What is asked for with GET; 200 to 399 is good.")
    interval: Annotated[float, Duration("100ms", "1h")] = Field(
        default=_HEALTH.interval_seconds, description="Between two checks of an instance, give or take a fifth."
    )
    timeout: Annotated[float, Duration("10ms", "1m")] = Field(default=_HEALTH.timeout_seconds, description="Of one check.")
    healthy: Annotated[int, Whole(1, 100)] = Field(default=_HEALTH.healthy, description="Good ones in a row that bring an instance back.")
    unhealthy: Annotated[int, Whole(1, 100)] = Field(default=_HEALTH.unhealthy, description="Bad ones in a row that take it out.")


class ServiceSection(Section):
    """A named upstream."""

    consul: Annotated[Annotated[PlainText, Tag("text")] | Annotated[ConsulService, Tag("mapping")], EITHER] | None = Field(
        default=None, description="Instances from Consul."
    )
    instances: list[Annotated[Annotated[PlainText, Tag("text")] | Annotated[StaticInstance, Tag("mapping")], EITHER]] | None = Field(
        default=None, description="Instances at fixed addresses."
    )
    balance: Annotated[
        Annotated[str, OneOf(POLICIES, also="{consistent_hash: {by: ...}}"), Tag("text")] | Annotated[HashBalance, Tag("mapping")], EITHER
    ] = Field(default="least_request", description="How to choose an instance.")
    timeouts: Timeouts = Field(default=Timeouts(), description="Deadlines.")
    tls: UpstreamTls = Field(default=UpstreamTls(), description="For https instances.")
    forward_client_certificate: Bool = Field(
        default=False, description="Whether its instances get X-Client-Cert-* fields about the client's certificate."
    )
    retry: Retry = Field(default=Retry(), description="Sending a request again.")
    outlier: OutlierDetection = Field(default=OutlierDetection(), description="Taking out instances that fail.")
    circuit: Circuit = Field(default=Circuit(), description="How much is asked of it at once.")
    health: Health | None = Field(default=None, description="Active checks, with instances; none when not given.")
    slow_start: Annotated[float, Duration("1s", "1h", zero=True)] = Field(
        default=0.0, description="How long a new instance takes from a tenth to all of its share; 0 for at once."
    )


class LimitSection(Section):
    """A named limit: exactly one of rate, quota and concurrency."""

    rate: Annotated[tuple[int, int], Rate()] | None = Field(default=None, description="Events in a period: 100/minute.")
    quota: Annotated[tuple[int, int], Rate()] | None = Field(default=None, description="Events in a calendar minute, hour or day, UTC.")
    concurrency: Annotated[int, Whole(1, 1_000_000)] | None = Field(default=None, description="Requests at once.")
    algorithm: Annotated[str, OneOf(("gcra", "sliding_window"))] = Field(default="gcra", description="How a rate is counted.")
    burst: Annotated[int, Whole(1, 10**15)] | None = Field(
        default=None, description="Events at once (gcra); the rate's count when not given."
    )
    lease: Annotated[float, Duration("1s", "1h")] | None = Field(
        default=None, description="Life of a concurrency lease nobody renews; 60s."
    )
    key: Annotated[tuple[str, ...], Keys(syntax.limit_key)] = Field(default=("subject",), description="What is counted apart.")


class RouteTimeouts(Section):
    """Overrides of the service's deadlines."""

    connect: Annotated[float, Duration("10ms", "1m")] | None = Field(default=None, description="TCP and TLS handshake.")
    response: Annotated[float, Duration("10ms", "1h")] | None = Field(
        default=None, description="From the request's end to the response's header."
    )
    idle: Annotated[float, Duration("10ms", "1h")] | None = Field(default=None, description="Longest silence while a body moves.")
    total: Annotated[float, Duration("10ms", "24h", zero=True)] | None = Field(
        default=None, description="The whole exchange; 0 for no bound."
    )


class RouteMax(Section):
    """Overrides of the server's bounds."""

    body_bytes: Annotated[int, Size(1, 1024 * GIBIBYTE)] | None = Field(default=None, description="A request body.")


class CorsSection(Section):
    """Cross-origin rules."""

    origins: list[Annotated[str, Text(syntax.origin)]] = Field(description="Exact origins, or *.", min_length=1)
    methods: list[Method] = Field(default=[], description="For preflight answers; the route's own when empty.")
    headers: list[FieldName] = Field(default=[], description="Request fields that a script may send.")
    expose: list[FieldName] = Field(default=[], description="Response fields that a script may read.")
    credentials: Bool = Field(default=_CORS.credentials, description="Whether cookies and Authorization are allowed.")
    max_age: Annotated[float, Duration("0s", "24h", zero=True)] = Field(
        default=float(_CORS.max_age), description="How long a preflight answer holds."
    )


class WebSocketSection(Section):
    """Which upgrades become tunnels, and what bounds them."""

    origins: list[Annotated[str, Text(syntax.origin)]] = Field(
        default=[], description="Origins of pages that may open one, or *; the request's own host when empty."
    )
    protocols: list[Annotated[str, Text(syntax.upgrade_protocol)]] = Field(
        default=list(_WEBSOCKET.protocols), description="Names in Upgrade, websocket and others.", min_length=1
    )
    idle: Annotated[float, Duration("100ms", "24h")] = Field(default=_WEBSOCKET.idle, description="Longest silence in both directions.")
    lifetime: Annotated[float, Duration("1s", "30d", zero=True)] = Field(
        default=_WEBSOCKET.lifetime, description="Longest life of a tunnel; 0 for no bound."
    )
    max_bytes: Annotated[int, Size(0, 1024 * GIBIBYTE)] = Field(
        default=_WEBSOCKET.max_bytes, description="What each direction may carry; 0 for no bound."
    )


class HeaderRules(Section):
    """Fields to set and to remove."""

    set: Annotated[dict[SettableField, FieldValue], DistinctFields] = Field(
        default={}, description="Field to value; replaces what is there."
    )
    remove: list[RemovableField] = Field(default=[], description="Fields to drop.")


class CertificateRule(Section):
    """Which clients' certificates may use a route: of each kind that is named one value has to fit, exactly."""

    subject: list[Annotated[str, Text(syntax.distinguished_name)]] | None = Field(
        default=None, description="Distinguished names, as RFC 4514 writes them.", min_length=1
    )
    uri: list[PlainText] | None = Field(default=None, description="Alternative names that are URIs, such as SPIFFE ids.", min_length=1)
    dns: list[PlainText] | None = Field(default=None, description="Alternative names that are host names.", min_length=1)
    fingerprint: list[Annotated[str, Text(syntax.fingerprint)]] | None = Field(
        default=None, description="SHA-256 of certificates, hexadecimal.", min_length=1
    )


class RouteAudit(Section):
    """What records may show."""

    path_params: list[PlainText] = Field(default=[], description="Path parameters that may be written in clear.")


class RouteFields(Section):
    """What every route may say, wherever it leads."""

    name: Annotated[str, Text(syntax.name, optional=True)] = Field(
        default="", description="Unique; made of the methods and the path when empty."
    )
    path: Annotated[str, Text(syntax.path_template)] = Field(description="Template: /patients/{id}, {n:int}, {n:uuid}, {rest:path} last.")
    methods: list[Method] = Field(default=[], description="GET implies HEAD; empty means every method but CONNECT and TRACE.")
    hosts: list[Annotated[str, Text(syntax.route_host)]] = Field(default=[], description="Exact names or *.suffix; empty means any.")
    headers: Annotated[dict[FieldName, FieldValue], DistinctFields] = Field(
        default={}, description="Fields that must be there with exactly this value."
    )
    rewrite: OptionalText = Field(default="", description="Template of the upstream path.")
    strip_prefix: OptionalText = Field(default="", description="Taken from the front of the path.")
    add_prefix: OptionalText = Field(default="", description="Put in front of the path.")
    authentication: Annotated[Authentication, OneOf(("required", "optional", "none"))] = Field(
        default="required", description="Whether credentials are needed."
    )
    scopes: list[Scope] = Field(default=[], description="All of them are needed.")
    any_scope: list[Scope] = Field(default=[], description="One of them is needed.")
    roles: list[PlainText] = Field(default=[], description="One of them is needed.")
    claims: dict[Claim, list[Annotated[Any, Plain()]]] = Field(default={}, description="Claim to allowed values; every claim must hold.")
    client_certificate: Annotated[
        Annotated[str, OneOf(("none", "required"), also="{subject: [...], uri: [...], dns: [...], fingerprint: [...]}"), Tag("text")]
        | Annotated[CertificateRule, Tag("mapping")],
        EITHER,
    ] = Field(default="none", description="Which clients' certificates may use it; none asks for none.")
    limits: list[PlainText] = Field(default=[], description="Names of limits, or rates such as 10/second for this route alone.")
    shadow_limits: list[PlainText] = Field(default=[], description="Counted and reported, never refused.")
    cost: Annotated[int, Whole(0, 1_000_000)] = Field(default=1, description="What one request counts.")
    when_unavailable: Unavailability | None = Field(default=None, description="Overrides state.when_unavailable.")
    timeouts: RouteTimeouts = Field(default=RouteTimeouts(), description="Overrides of the service's deadlines.")
    max: RouteMax = Field(default=RouteMax(), description="Overrides of the server's bounds.")
    cors: CorsSection | None = Field(default=None, description="Cross-origin rules.")
    request_headers: HeaderRules = Field(default=HeaderRules(), description="Applied to what the service gets.")
    response_headers: HeaderRules = Field(default=HeaderRules(), description="Applied to what the client gets.")
    audit: RouteAudit = Field(default=RouteAudit(), description="What records may show.")
    websocket: Annotated[Annotated[bool, Flag(), Tag("value")] | Annotated[WebSocketSection, Tag("mapping")], VALUE_OR_MAPPING] = Field(
        default=False, description="Upgrades that become tunnels: true for WebSocket with the defaults, or what is different."
    )


class RouteSection(RouteFields):
    """One row of the table."""

    service: PlainText = Field(description="The service that it leads to.")


class Slow(Section):
    """Record what took long."""

    slow: Annotated[float, Duration("1ms", "1h")] = Field(description="Longer than this.")


class Traces(Section):
    """Spans and their export."""

    endpoint: OptionalUrl = Field(default=_TRACES.endpoint, description="Base URL of an OTLP/HTTP receiver; no export when empty.")
    sample_ratio: Annotated[float, Ratio()] = Field(default=_TRACES.sample_ratio, description="Share of the traces that are recorded.")
    always: list[
        Annotated[Annotated[str, OneOf(("errors", "denials"), also="{slow: 1s}"), Tag("text")] | Annotated[Slow, Tag("mapping")], EITHER]
    ] = Field(default=[], description="Recorded whatever the ratio says: errors, denials, slow: 1s.")
    trust: Annotated[Literal["continue", "link", "ignore"], OneOf(("continue", "link", "ignore"))] = Field(
        default=_TRACES.trust, description="Inbound trace context."
    )
    service_name: PlainText = Field(default=_TRACES.service_name, description="`service.name` of the spans.")


class Metrics(Section):
    """Metrics."""

    prometheus: Bool = Field(default=True, description="/metrics on the admin port.")
    otlp: Annotated[Any, NotYet((False,))] = Field(default=False, description="Push. Not available yet.")


class AccessLog(Section):
    """One line a request, for operators."""

    format: Annotated[Literal["json", "text", "off"], OneOf(("json", "text", "off"))] = Field(
        default="json", description="off writes none."
    )
    sink: Sink = Field(default="stdout", description="stdout, stderr or file:/PATH.")


class Telemetry(Section):
    """What is told about requests, apart from the audit."""

    traces: Traces = Field(default=Traces(), description="Spans.")
    metrics: Metrics = Field(default=Metrics(), description="Metrics.")
    access_log: AccessLog | None = Field(default=None, description="One line a request; off when not given.")


class Audit(Section):
    """The audit trail."""

    sink: list[Sink] = Field(default=["stdout"], description="Where records go; an empty list keeps none.")
    format: Annotated[Literal["json", "text"], OneOf(("json", "text"))] = Field(default="json", description="text is the one-line form.")
    when_full: Annotated[Literal["block", "drop"], OneOf(("block", "drop"))] = Field(
        default=_AUDIT.when_full, description="block: 503 rather than lose a record. drop: requests go on, records are lost and counted."
    )
    chain: Bool = Field(default=_AUDIT.chain, description="Each record names the hash of the one before it; not in the text format.")
    checkpoint: Annotated[float, Duration("1s", "1h", zero=True)] = Field(
        default=_AUDIT.checkpoint,
        description="Between records that say how far the chain is, also on stdout and in the store; 0 makes none.",
    )
    events: list[Annotated[settings.AuditEvent, OneOf(settings.AUDIT_EVENTS)]] = Field(
        default=list(settings.AUDIT_EVENTS), description="What is recorded; start, stop, checkpoints and gaps always are."
    )
    fields: list[Annotated[settings.AuditField, OneOf(settings.AUDIT_FIELDS)]] = Field(
        default=list(settings.AUDIT_FIELDS), description="What a request's record has besides what it always has."
    )
    labels: dict[Name, Label] = Field(
        default={}, description=f"Texts of at most 64 characters that each record carries; at most {settings.MAXIMUM_AUDIT_LABELS}."
    )


class File(Section):
    """A gateway's configuration."""

    version: Annotated[int, Whole(1, 1)] = Field(description="Version of this format: 1.")
    server: Server = Field(default=Server(), description="The data port.")
    admin: Admin = Field(default=Admin(), description="The admin port.")
    state: State = Field(default=State(), description="The shared store.")
    discovery: Discovery = Field(default=Discovery(), description="Where services are found.")
    authentication: AuthenticationSection = Field(default=AuthenticationSection(), description="Who may prove what.")
    services: dict[Name, ServiceSection] = Field(default={}, description="Upstreams by name.")
    limits: dict[Name, LimitSection] = Field(default={}, description="Limits by name.")
    routes: list[RouteSection] = Field(default=[], description="The table.")
    telemetry: Telemetry = Field(default=Telemetry(), description="Traces, metrics, access log.")
    audit: Audit = Field(default=Audit(), description="The audit trail.")
