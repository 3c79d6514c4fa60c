"""What `gateway check` warns of."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import load_text, warnings

SERVICE = "services: {p: {instances: [http://10.0.0.1:9001]}}\n"
ISSUER = "authentication: {issuers: [{issuer: 'http://i', audience: [a], "


def cautions(fragment: str) -> list[str]:
    service = "" if "services" in fragment else SERVICE
    return [str(caution) for caution in warnings(load_text(f"version: 1\n{service}{fragment}\n", {}, file="f", require_files=False))]


def test_a_drain_that_the_platform_cuts_short() -> None:
    """F-50: what is killed in the middle loses its records."""
    text = "version: 1\nserver: {drain: {delay: 10s, timeout: 30s}}\n"
    assert warnings(load_text(text, {}), grace_seconds=45.0) == []
    (caution,) = warnings(load_text(text, {}, file="f"), grace_seconds=30.0)
    assert str(caution) == (
        "f server.drain: an end may take 45 s (delay, timeout, and 5 s for the last records); the platform kills after 30 s; "
        "a shorter delay and timeout, or a longer grace period"
    )
    assert [each.key_path for each in warnings(load_text("version: 1\nserver: {drain: {timeout: 5m}}\n", {}))] == ["server.drain"]


def test_a_quiet_that_is_never_reached() -> None:
    text = "version: 1\nserver: {drain: {delay: 2s, quiet: 3s}}\n"
    assert [str(each) for each in warnings(load_text(text, {}, file="f"))] == [
        "f server.drain.quiet: a quiet of 3 s is never reached within a delay of 2 s; at most the delay"
    ]


def test_a_token_of_consul_over_plain_http(tmp_path: Path) -> None:
    """S-39."""
    (tmp_path / "token").write_text("hush")
    services = "services: {p: {consul: p}}\nroutes: [{path: /a, service: p}]\n"

    def cautioned(url: str) -> list[str]:
        text = f"version: 1\ndiscovery: {{consul: {{url: '{url}', token_file: token}}}}\n{services}"
        return [each.message for each in warnings(load_text(text, {}, directory=tmp_path))]

    assert cautioned("http://consul.example:8500") == ["the ACL token travels over plain HTTP"]
    assert cautioned("http://127.0.0.1:8500") == cautioned("https://consul.example:8501") == []


def route(fields: str, limits: str = "") -> str:
    return f"{limits}routes: [{{name: r, path: /a, service: p{fields}}}]"


def test_a_careful_configuration_has_no_warning() -> None:
    assert cautions(route(", methods: [GET, POST], scopes: [a], limits: [5/second]")) == []


def test_limits_of_a_principal_or_an_address_are_one_call_on_every_number_of_shards() -> None:
    """L12: only those that count across principals are named."""
    cluster = "state: {url: 'rediss+cluster://a'}\n"
    limits = "limits: {ip: {rate: 9/second, key: client_ip}, own: {rate: 9/second, key: [subject, route]}}\n"
    assert cautions(cluster + route(", methods: [GET], authentication: none, limits: [ip, own]", limits)) == []
    assert cautions(cluster + route(", limits: [own]", limits)) == []
    assert cautions("state: {url: 'rediss+sentinel://a/b'}\n" + route(", limits: [ip]", limits)) == []


@pytest.mark.parametrize(
    ("fragment", "expected"),
    [
        (
            route(", methods: [POST], authentication: none"),
            "f:3:1 route r: anybody may POST without authentication; authentication: required, or methods: [GET]",
        ),
        (
            route(", authentication: none"),
            "f:3:1 route r: anybody may use every method without authentication; authentication: required, or methods: [GET]",
        ),
        (
            route(", methods: [GET], authentication: none, scopes: [a], roles: [b]"),
            "f:3:1 route r: scopes and roles ask nothing of a public route; authentication: required, or leave them out",
        ),
        (
            route(", methods: [GET], authentication: optional"),
            "f:3:1 route r: anonymous requests are let through; authentication: required, if that is not meant",
        ),
        (
            route(", methods: [GET], cors: {origins: ['*']}"),
            "f:3:1 route r: scripts of every origin may call it with a token they hold; exact origins",
        ),
        (
            route(", methods: [GET], websocket: {origins: ['*']}"),
            "f:3:1 route r: pages of every origin may open a WebSocket with a token they hold; websocket.origins: exact origins",
        ),
        (route(", cost: 0, limits: [5/second]"), "f:3:1 route r: cost 0 uses up no limit; a cost of at least 1"),
        (
            route(", cost: 9, limits: [5/second]"),
            "f:3:1 route r: one request costs 9, more than the limit 5-per-second ever holds: all are refused; a larger burst",
        ),
        (
            "server: {trusted_proxies: [0.0.0.0/0]}\n" + route(""),
            "f server.trusted_proxies[0]: 0.0.0.0/0 lets nearly anybody choose the address that limits and records see; "
            "list the proxies' own networks",
        ),
        (
            "admin: {host: 0.0.0.0}\n" + route(""),
            "f admin.host: the admin port listens on 0.0.0.0 without a configured token; token_file or GATEWAY_ADMIN_TOKEN",
        ),
        ("state: {url: 'redis://u:p@redis'}\n" + route(""), "f state.url: the store is reached without TLS; rediss://"),
        (
            "state: {url: 'redis+cluster://u:p@127.0.0.1,redis'}\n" + route(""),
            "f state.url: the store is reached without TLS; rediss+cluster://",
        ),
        (
            "state: {url: 'rediss+cluster://a'}\n" + route(", limits: [shared]", "limits: {shared: {rate: 9/second, key: route}}\n"),
            "f:5:1 route r: the limit shared counts across principals: with 16 shards it is mostly a second call to the store, taken back "
            "when it refuses; subject among its key, or accept the time of another call",
        ),
        (
            "state: {url: 'rediss://a', shards: 2}\n" + route(", limits: [ip]", "limits: {ip: {rate: 9/second, key: client_ip}}\n"),
            "f:5:1 route r: the limit ip counts across principals: with 2 shards it is mostly a second call to the store, taken back "
            "when it refuses; subject among its key, or accept the time of another call",
        ),
        (
            f"{ISSUER} jwks_url: 'http://h/k'}}]}}\n" + route(""),
            "f authentication.issuers[0].jwks_url: keys come over plain HTTP: who can change them can sign tokens; https://",
        ),
        (
            f"{ISSUER} discovery: true}}]}}\n" + route(""),
            "f authentication.issuers[0].issuer: keys come over plain HTTP: who can change them can sign tokens; https://",
        ),
        (
            f"{ISSUER} jwks_file: k, required_claims: [sub]}}]}}\n" + route(""),
            "f authentication.issuers[0].required_claims: tokens without an expiry are accepted; exp among the required claims",
        ),
        (
            f"{ISSUER} jwks_file: k, development_key_file: k}}]}}\n" + route(""),
            "f authentication.issuers[0].development_key_file: who can read this file can sign tokens; development only",
        ),
        (
            "discovery: {consul: {disappearance_guard: 100%}}\n" + route(""),
            "f discovery.consul.disappearance_guard: 100% believes every disappearance: a catalog that is lost takes services away; 50%",
        ),
        (
            "discovery: {consul: {loopback: allow}}\n" + route(""),
            "f discovery.consul.loopback: a registration can lead requests to this machine's own ports; auto",
        ),
        (
            "discovery: {consul: {publish_routes: true}}\n" + route(""),
            "f discovery.consul.publish_routes: without access rules in Consul, anybody who reaches it can register a service and publish "
            "a route; token_file, and service:write for the services' own names only",
        ),
        (
            "discovery: {consul: {connections: 200}}\n" + route(""),
            "f discovery.consul.connections: Consul closes connections of one client beyond 200, unless it is configured otherwise; "
            "limits.http_max_conns_per_client in the agent's configuration, greater by 20",
        ),
        (
            "discovery: {consul: {connections: 2, datacenter: [a, b, c]}}\nservices: {p: {consul: p}}\n" + route(""),
            "f discovery.consul.connections: 3 watches take turns on 2 connections: a change may be seen 10 s late; "
            "more connections, and limits.http_max_conns_per_client in the agent's configuration greater by 20",
        ),
        (
            "authentication: {failures: off}\n" + route(""),
            "f authentication.failures: anybody may try credentials, and have them verified, as fast as he can; {rate: 100/minute}",
        ),
        (
            "authentication: {introspection: {url: 'http://h/i', client_id: a}}\n" + route(""),
            "f authentication.introspection.url: tokens travel over plain HTTP; https://",
        ),
        (
            "services: {p: {instances: ['https://h'], tls: {verify: false}}}\n" + route(""),
            "f services.p.tls.verify: any certificate is accepted: who is in between can read and change everything; ca_file",
        ),
        (
            "services: {p: {instances: ['http://h'], balance: {consistent_hash: {by: 'path:id'}}}}\n" + route(""),
            "f:3:1 route r: its service balances by path:id, which this path does not have; a path with the parameter, or another key",
        ),
        ("audit: {sink: []}\n" + route(""), "f audit.sink: no audit record is kept; stdout, stderr or file:/PATH"),
        (
            "audit: {format: text}\n" + route(""),
            "f audit.format: lines of text say little and are not chained: they can be changed without a trace; json",
        ),
        ("audit: {chain: false}\n" + route(""), "f audit.chain: records can be changed without a trace; true"),
        ("audit: {checkpoint: 0}\n" + route(""), "f audit.checkpoint: records can be cut off at the end without a trace; 60s"),
        (
            "audit: {when_full: drop}\n" + route(""),
            "f audit.when_full: while a sink can't be written, requests go unrecorded; block",
        ),
        (
            "audit: {events: [denied, admin]}\n" + route(""),
            "f audit.events: not recorded: allowed, config, dependency, handshake; all of them",
        ),
        ("routes: []", "f services.p: no route leads to this service"),
    ],
)
def test_warns_of_what_is_legal_but_dangerous(fragment: str, expected: str) -> None:
    """CONTRACT §3 (check): warns of legal but dangerous config."""
    assert cautions(fragment) == [expected]


def test_warns_of_a_longer_window_that_allows_less() -> None:
    """L13: a config where a longer window allows less than a shorter one: `gateway check` says so."""
    found = cautions(route(", limits: [minute, hour]", "limits: {minute: {rate: 100/minute}, hour: {rate: 50/hour}}\n"))
    assert len(found) == 1
    assert found[0].startswith("f:4:1 route r: ")
    assert "hour" in found[0]
    assert "minute" in found[0]


def test_loopback_needs_neither_tls_nor_passwords() -> None:
    assert cautions("state: {url: 'redis://127.0.0.1'}\nadmin: {host: 127.0.0.5}\n" + route("")) == []


def test_a_store_without_password_is_two_warnings() -> None:
    assert len(cautions("state: {url: 'redis://redis'}\n" + route(""))) == 2


def test_the_file_of_a_route_may_have_colons() -> None:
    settings = load_text("version: 1\n" + SERVICE + route(", authentication: none"), {}, file="a:b.yaml")
    assert [(caution.file, caution.line) for caution in warnings(settings)] == [("a:b.yaml", 3)]


@pytest.mark.parametrize(
    ("fragment", "expected"),
    [
        ("state: {when_unavailable: fair_share}\n" + route(", limits: [5/second]"), []),
        (
            route(", when_unavailable: open"),
            ["when_unavailable: open lets tokens in that were revoked where this replica can't hear of it while the store is away"],
        ),
        (
            route(", when_unavailable: open, methods: [GET], authentication: none, limits: [5/second]"),
            ["when_unavailable: open: no limit holds while the store is away"],
        ),
        (
            "state: {mirror_age: 0, when_unavailable: open}\n" + route(""),
            ["when_unavailable: open without the mirror of revocations: while the store is away, tokens get 503 all the same"],
        ),
        (
            "state: {mirror_age: 0}\n" + route(", when_unavailable: fair_share, limits: [5/second]"),
            ["when_unavailable: fair_share without the mirror of revocations: while the store is away, tokens get 503 all the same"],
        ),
        (
            route(", when_unavailable: fair_share, methods: [GET], authentication: none"),
            ["when_unavailable: fair_share changes nothing: a public route without limits never asks the store"],
        ),
    ],
)
def test_warns_of_what_a_route_does_while_the_store_is_away(fragment: str, expected: list[str]) -> None:
    """V3, F-3: what is not checked then is said; closed is what careful people have."""
    assert [caution.partition("route r: ")[2].partition(";")[0] for caution in cautions(fragment)] == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("retry: {attempts: 4}", "retry.attempts: one request may become 5; at most 3"),
        (
            "retry: {budget: {ratio: 60%}}",
            "retry.budget.ratio: a service that fails gets up to twice its load and cannot recover; 20%",
        ),
        (
            "timeouts: {total: 4s}",
            "retry.per_try: no time is left for another try: timeouts.total ends before it; less than timeouts.total",
        ),
        ("outlier: {maximum_ejected: 80%}", "outlier.maximum_ejected: few instances may have to take all requests; at most 50%"),
        (
            "health: {path: /, interval: 1s, timeout: 1s}",
            "health.timeout: a check may take longer than the time to the next one; less than health.interval",
        ),
        (
            "slow_start: 10s, balance: {consistent_hash: {by: subject}}",
            "slow_start: consistent_hash has no slow start: keys would move with every step; leave it out",
        ),
    ],
)
def test_resilience_that_helps_less_than_it_seems_to(keys: str, expected: str) -> None:
    """B6, R4: legal, and worth a second look."""
    services = f"services: {{p: {{instances: [http://10.0.0.1:9001], {keys}}}}}\n"
    assert cautions(services + route(", methods: [GET]")) == [f"f services.p.{expected}"]


def test_resilience_that_is_off_needs_no_second_look() -> None:
    """R4, B4."""
    off = "retry: {attempts: 0, per_try: 1h, budget: {ratio: 100%}}, outlier: {consecutive_failures: 0, maximum_ejected: 100%}"
    assert cautions(f"services: {{p: {{instances: [http://10.0.0.1:9001], {off}}}}}\n" + route(", methods: [GET]")) == []


def test_certificates_that_no_client_is_asked_for() -> None:
    """H13."""
    fields = ", client_certificate: {dns: [lab.example.gov]}, limits: [each]"
    assert cautions(route(fields, "limits: {each: {rate: 5/second, key: [subject, client_certificate]}}\n")) == [
        "f:4:1 route r: client_certificate: no client is asked for one, so every request is refused; server.tls.client_ca_file",
        "f:4:1 route r: the limit each counts by client_certificate, and no client is asked for one; server.tls.client_ca_file",
    ]
