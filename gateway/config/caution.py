"""What is legal but dangerous: things that a reviewer would ask about."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from gateway import template
from gateway.admission.limits import contradictions
from gateway.config.problems import Problem
from gateway.config.values import duration_seconds
from gateway.hosts import host_and_port, split_hosts
from gateway.route import Limit, Route, Service
from gateway.settings import AUDIT_EVENTS, Settings

#: Prefix lengths below which a block of trusted proxies is wider than any one organisation's network needs.
NARROWEST_WIDE_PREFIX = {4: 8, 6: 32}
#: Who renews automatically does so earlier.
EXPIRES_SOON_DAYS = 7
#: Consul's default of `limits.http_max_conns_per_client`.
CONSUL_CONNECTIONS_PER_CLIENT = 200
#: What systemd gives unless told otherwise; Kubernetes gives 30 s, `docker stop` 10 s.
LONGEST_GRACE_SECONDS = 90.0
#: What an end needs besides the drain: to cut off what was given up, and to write the last records and spans.
END_SECONDS = 5.0
#: For what is not a query about a service, and for connections that are being replaced.
CONSUL_MARGIN = 20
#: More tries of one request than this, or more than this share at once, make an overload worse.
MANY_ATTEMPTS = 3
HIGH_RATIO = 0.5
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
#: Key path, message, what would be better.
_Caution = tuple[str, str, str]


def warnings(settings: Settings, *, grace_seconds: float = LONGEST_GRACE_SECONDS) -> list[Problem]:
    """Everything that deserves a second look, routes last. Routes carry their line; the rest names its key.

    Args:
        grace_seconds: what the platform gives a process between telling it to end and killing it.
    """
    general: list[Callable[[Settings], Iterator[_Caution]]] = [
        _proxies,
        _certificates,
        _admin,
        _state,
        _consul,
        _failures,
        _issuers,
        _services,
        _audit,
    ]
    found = [Problem(settings.source, 0, 0, *caution) for check in general for caution in check(settings)]
    found += drain_warnings(settings, grace_seconds)
    with_settings: list[Callable[[Route, Settings], Iterator[_Caution]]] = [_certified, _hashed, _unavailable, _spread]
    return found + [
        _at(route, caution)
        for route in settings.routes
        for cautions in (_route(route), *(check(route, settings) for check in with_settings))
        for caution in cautions
    ]


def drain_warnings(settings: Settings, grace_seconds: float) -> list[Problem]:
    """What is dangerous about the drain where the platform kills after so long."""
    return [Problem(settings.source, 0, 0, *caution) for caution in _drain(settings, grace_seconds)]


def grace_period(text: str) -> float:
    """Seconds that the platform gives, from a span such as `45s`.

    Raises:
        Wrong: it is none.
    """
    return duration_seconds(text)


def _at(route: Route, caution: _Caution) -> Problem:
    file, _, line = route.line.rpartition(":")
    place = (file, int(line), 1) if line.isdecimal() else (route.line, 0, 0)
    return Problem(*place, *caution)


def _proxies(settings: Settings) -> Iterator[_Caution]:
    for index, block in enumerate(settings.server.trusted_proxies):
        network = ipaddress.ip_network(block)
        if network.prefixlen < NARROWEST_WIDE_PREFIX[network.version]:
            yield (
                f"server.trusted_proxies[{index}]",
                f"{block} lets nearly anybody choose the address that limits and records see",
                "list the proxies' own networks",
            )


def _certificates(settings: Settings) -> Iterator[_Caution]:
    """Our certificates and their keys, those of the data port and those that we show to others."""
    for path, certificate in settings.certificates.items():
        days = (certificate.not_after - time.time()) / 86_400
        if days < EXPIRES_SOON_DAYS:
            yield path, f"the certificate expires in {max(days, 0):.1f} days", "a renewed one; it is taken without a restart"
        if certificate.purpose_missing:
            role = "serverAuth" if path.startswith("server.") else "clientAuth"
            yield path, f"the certificate's extended key usage lacks {role}: others will refuse it", f"a certificate with {role}"
        if certificate.key_open:
            yield f"{path.removesuffix('certificate_file')}key_file", "others than its owner may read the key", "mode 0600, or 0400"


def _admin(settings: Settings) -> Iterator[_Caution]:
    if not settings.admin.token and not _is_loopback(settings.admin.host):
        yield (
            "admin.host",
            f"the admin port listens on {settings.admin.host} without a configured token",
            "token_file or GATEWAY_ADMIN_TOKEN",
        )


def _state(settings: Settings) -> Iterator[_Caution]:
    parts, hosts = split_hosts(settings.state.url)
    kind, plus, group = parts.scheme.partition("+")
    if kind == "redis" and not all(_is_loopback(host_and_port(host, 1)[0]) for host in hosts.split(",")):
        if parts.password is None:
            yield "state.url", "the store is reached without a password", f"{parts.scheme}://USER:PASSWORD@..., from ${{...}}"
        yield "state.url", "the store is reached without TLS", f"rediss{plus}{group}://"


def _spread(route: Route, settings: Settings) -> Iterator[_Caution]:
    """Limits that count across principals, whose shard is not that of the request."""
    if settings.state.shard_count == 1:
        return
    own = {"subject", "client_ip"} if route.authentication == "none" else {"subject"}
    for limit in (*route.limits, *route.shadow_limits):
        if not own.intersection(limit.key):
            yield (
                f"route {route.name}",
                f"the limit {limit.name} counts across principals: with {settings.state.shard_count} shards it is mostly a second call to "
                "the store, taken back when it refuses",
                "subject among its key, or accept the time of another call",
            )


def _consul(settings: Settings) -> Iterator[_Caution]:
    agent = settings.consul
    if agent is None:
        return
    if agent.disappearance_guard == 1:
        yield "discovery.consul.disappearance_guard", "100% believes every disappearance: a catalog that is lost takes services away", "50%"
    if agent.publish_routes and not agent.token:
        yield (
            "discovery.consul.publish_routes",
            "without access rules in Consul, anybody who reaches it can register a service and publish a route",
            "token_file, and service:write for the services' own names only",
        )
    parts = urlsplit(agent.url)
    if agent.token and parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        yield "discovery.consul.url", "the ACL token travels over plain HTTP", "https://, or an agent on this machine"
    if agent.loopback == "allow":
        yield "discovery.consul.loopback", "a registration can lead requests to this machine's own ports", "auto"
    watched = sum(
        1 + len(service.consul.failover or agent.failover) for service in settings.services.values() if service.consul is not None
    )
    if watched > agent.connections:
        yield (
            "discovery.consul.connections",
            f"{watched} watches take turns on {agent.connections} connections: a change may be seen 10 s late",
            f"more connections, and limits.http_max_conns_per_client in the agent's configuration greater by {CONSUL_MARGIN}",
        )
    if agent.connections >= CONSUL_CONNECTIONS_PER_CLIENT:
        yield (
            "discovery.consul.connections",
            f"Consul closes connections of one client beyond {CONSUL_CONNECTIONS_PER_CLIENT}, unless it is configured otherwise",
            f"limits.http_max_conns_per_client in the agent's configuration, greater by {CONSUL_MARGIN}",
        )


def _failures(settings: Settings) -> Iterator[_Caution]:
    if settings.authentication.failures is None:
        yield "authentication.failures", "anybody may try credentials, and have them verified, as fast as he can", "{rate: 100/minute}"


def _issuers(settings: Settings) -> Iterator[_Caution]:
    for index, issuer in enumerate(settings.authentication.issuers):
        path = f"authentication.issuers[{index}]"
        if issuer.jwks_url.startswith("http://") and not _is_loopback(urlsplit(issuer.jwks_url).hostname or ""):
            yield f"{path}.jwks_url", "keys come over plain HTTP: who can change them can sign tokens", "https://"
        if issuer.discovery and issuer.issuer.startswith("http://"):
            yield f"{path}.issuer", "keys come over plain HTTP: who can change them can sign tokens", "https://"
        if "exp" not in issuer.required_claims:
            yield f"{path}.required_claims", "tokens without an expiry are accepted", "exp among the required claims"
        if issuer.development_key_file:
            yield f"{path}.development_key_file", "who can read this file can sign tokens", "development only"
    introspection = settings.authentication.introspection
    if (
        introspection is not None
        and introspection.url.startswith("http://")
        and not _is_loopback(urlsplit(introspection.url).hostname or "")
    ):
        yield "authentication.introspection.url", "tokens travel over plain HTTP", "https://"


def _services(settings: Settings) -> Iterator[_Caution]:
    for name, service in settings.services.items():
        if not service.tls.verify:
            yield f"services.{name}.tls.verify", "any certificate is accepted: who is in between can read and change everything", "ca_file"
        yield from _resilience(f"services.{name}", service)
    unused = set(settings.services) - {route.target for route in settings.routes if isinstance(route.target, str)}
    for name in sorted(unused):
        yield f"services.{name}", "no route leads to this service", ""


def _drain(settings: Settings, grace_seconds: float) -> Iterator[_Caution]:
    drain = settings.server.drain
    longest = drain.delay + drain.timeout + END_SECONDS
    if longest > grace_seconds:
        yield (
            "server.drain",
            f"an end may take {longest:g} s (delay, timeout, and {END_SECONDS:g} s for the last records); "
            f"the platform kills after {grace_seconds:g} s",
            "a shorter delay and timeout, or a longer grace period",
        )
    if 0 < drain.delay < drain.quiet:
        yield (
            "server.drain.quiet",
            f"a quiet of {drain.quiet:g} s is never reached within a delay of {drain.delay:g} s",
            "at most the delay",
        )


def _resilience(path: str, service: Service) -> Iterator[_Caution]:
    """Settings of a service that help less, or harm more, than they seem to."""
    retry, outlier, health = service.retry, service.outlier, service.health
    total = service.timeouts.total
    if retry.attempts > MANY_ATTEMPTS:
        yield f"{path}.retry.attempts", f"one request may become {retry.attempts + 1}", f"at most {MANY_ATTEMPTS}"
    if retry.attempts and retry.budget_ratio > HIGH_RATIO:
        yield f"{path}.retry.budget.ratio", "a service that fails gets up to twice its load and cannot recover", "20%"
    if retry.attempts and 0 < total <= retry.per_try:
        yield f"{path}.retry.per_try", "no time is left for another try: timeouts.total ends before it", "less than timeouts.total"
    if outlier.consecutive_failures and outlier.maximum_ejected > HIGH_RATIO:
        yield f"{path}.outlier.maximum_ejected", "few instances may have to take all requests", "at most 50%"
    if health is not None and health.timeout_seconds >= health.interval_seconds:
        yield f"{path}.health.timeout", "a check may take longer than the time to the next one", "less than health.interval"
    if service.slow_start and service.balance.policy == "consistent_hash":
        yield f"{path}.slow_start", "consistent_hash has no slow start: keys would move with every step", "leave it out"


def _audit(settings: Settings) -> Iterator[_Caution]:
    audit = settings.audit
    if not audit.sink:
        yield "audit.sink", "no audit record is kept", "stdout, stderr or file:/PATH"
        return
    if audit.format == "text":
        yield "audit.format", "lines of text say little and are not chained: they can be changed without a trace", "json"
    elif not audit.chain:
        yield "audit.chain", "records can be changed without a trace", "true"
    elif not audit.checkpoint:
        yield "audit.checkpoint", "records can be cut off at the end without a trace", "60s"
    if audit.when_full == "drop":
        yield "audit.when_full", "while a sink can't be written, requests go unrecorded", "block"
    if missing := [event for event in AUDIT_EVENTS if event not in audit.events]:
        yield "audit.events", f"not recorded: {', '.join(missing)}", "all of them"


def _route(route: Route) -> Iterator[_Caution]:
    """What is dangerous about one route; the key path is its name."""
    path = f"route {route.name}"
    if route.authentication == "none":
        yield from ((path, message, better) for message, better in _public(route))
    if route.authentication == "optional" and not (route.scopes or route.any_scope or route.roles or route.claims):
        yield path, "anonymous requests are let through", "authentication: required, if that is not meant"
    if route.cost == 0 and route.limits:
        yield path, "cost 0 uses up no limit", "a cost of at least 1"
    if route.cors is not None and "*" in route.cors.origins and route.authentication != "none":
        yield path, "scripts of every origin may call it with a token they hold", "exact origins"
    if route.websocket is not None and "*" in route.websocket.origins and route.authentication != "none":
        yield path, "pages of every origin may open a WebSocket with a token they hold", "websocket.origins: exact origins"
    for sentence in contradictions((*route.limits, *route.shadow_limits)):
        yield path, sentence, "SPEC L13: a longer window should allow more than a shorter one"
    for limit in route.limits:
        if limit.kind != "concurrency" and 0 < _capacity(limit) < route.cost:
            yield path, f"one request costs {route.cost}, more than the limit {limit.name} ever holds: all are refused", "a larger burst"


def _hashed(route: Route, settings: Settings) -> Iterator[_Caution]:
    """A service whose instances are chosen by a path parameter, under a path that has none of that name."""
    by = settings.services[route.target].balance.by if isinstance(route.target, str) else ""
    kind, _, name = by.partition(":")
    if kind == "path" and name not in template.parse(route.path).parameters:
        yield (
            f"route {route.name}",
            f"its service balances by {by}, which this path does not have",
            "a path with the parameter, or another key",
        )


def _certified(route: Route, settings: Settings) -> Iterator[_Caution]:
    """Certificates of clients, where no client is asked for one."""
    tls = settings.server.tls
    if tls is not None and tls.client_ca_file:
        return
    path, better = f"route {route.name}", "server.tls.client_ca_file"
    if route.client_certificate is not None:
        yield path, "client_certificate: no client is asked for one, so every request is refused", better
    for limit in (*route.limits, *route.shadow_limits):
        if "client_certificate" in limit.key:
            yield path, f"the limit {limit.name} counts by client_certificate, and no client is asked for one", better


def _unavailable(route: Route, settings: Settings) -> Iterator[_Caution]:
    """What its requests may do while the store is away, where that is not what one would expect."""
    path, mode = f"route {route.name}", route.when_unavailable or settings.state.when_unavailable
    if mode == "closed":
        return
    asks_for_tokens = route.authentication != "none"
    if not asks_for_tokens and not route.limits:
        if route.when_unavailable:
            yield path, f"when_unavailable: {mode} changes nothing: a public route without limits never asks the store", "leave it out"
        return
    if asks_for_tokens and not settings.state.mirror_age:
        better = "a state.mirror_age, or when_unavailable: closed"
        yield (
            path,
            f"when_unavailable: {mode} without the mirror of revocations: while the store is away, tokens get 503 all the same",
            better,
        )
    elif asks_for_tokens and mode == "open":
        message = "when_unavailable: open lets tokens in that were revoked where this replica can't hear of it while the store is away"
        yield path, message, "when_unavailable: closed where that matters"
    if mode == "open" and route.limits:
        yield path, "when_unavailable: open: no limit holds while the store is away", "fair_share"


def _public(route: Route) -> Iterator[tuple[str, str]]:
    changing = [method for method in route.methods if method not in SAFE_METHODS]
    if changing or not route.methods:
        yield (
            f"anybody may {', '.join(changing) or 'use every method'} without authentication",
            "authentication: required, or methods: [GET]",
        )
    asked = [key for key in ("scopes", "any_scope", "roles", "claims") if getattr(route, key)]
    if asked:
        yield f"{' and '.join(asked)} ask nothing of a public route", "authentication: required, or leave them out"


def _capacity(limit: Limit) -> int:
    return (limit.burst or limit.count) if limit.kind == "gcra" else limit.count


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
