"""What a good configuration becomes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.instance import Balance, ConsulAgent, ConsulQuery, Instance
from gateway.config import ConfigProblems, build_limit, build_route, build_service, load, load_text, settings_from_mapping
from gateway.route import Cors, HeaderRules, Limit, Local, Route, Service, Timeouts, UpstreamTLS, WebSocket
from gateway.settings import (
    FAILURES,
    AccessLogSettings,
    AdminSettings,
    ApiKeys,
    AuditSettings,
    AuthenticationSettings,
    ClaimNames,
    Introspection,
    Issuer,
    Maxima,
    ServerSettings,
    ServerTimeouts,
    Settings,
    StateSettings,
    TelemetrySettings,
    TraceSettings,
)
from tests.support.certificates import Authority

#: The configuration of CONTRACT section 4, without the keys that come later.
CONTRACT = """\
version: 1
server:
  host: 0.0.0.0
  port: 8081
  workers: 2
  trusted_proxies: [10.0.0.0/8]
  max: {header_bytes: 16KiB, headers: 50, uri_bytes: 4KiB, body_bytes: 5MiB, connections: 1000, in_flight: 100}
  timeouts: {header: 5s, body: 20s, idle: 1m30s}
admin: {host: 127.0.0.2, port: 9081, token_file: admin-token}
state:
  url: redis://gateway:${REDIS_PASSWORD}@redis:6379/1
  budget: 30ms
  when_unavailable: closed
  shards: auto
discovery:
  consul: {url: "http://127.0.0.1:8501", token_file: consul-token, datacenter: dc1, wait: 50s, warning: true, publish_routes: false}
authentication:
  issuers:
    - name: login
      issuer: https://login.example.gov
      audience: [hms]
      algorithms: [RS256, ES256]
      jwks_url: https://login.example.gov/keys
      leeway: 10s
      required_claims: [exp, iat]
      maximum_lifetime: 12h
      claims: {subject: sub, scope: scp, roles: realm_access.roles, session: sid, client: azp}
    - issuer: https://batch.example.gov
      audience: [hms]
      secret_file: hmac-secret
  introspection: {url: "https://login.example.gov/introspect", client_id: gw, client_secret_file: client-secret, cache: 15s}
  failures: {rate: 30/minute, key: client_ip}
  fips: true
  api_keys: {header: X-API-Key, store: state}
services:
  patients:
    consul: {service: patients-api, tags: [v2], datacenter: dc2}
    balance: {consistent_hash: {by: "header:X-Tenant"}}
    timeouts: {connect: 2s, response: 10s, idle: 30s, total: 40s}
    tls: {server_name: patients.example.gov, verify: false}
  claims:
    instances: ["http://10.0.0.1:9001", {url: "https://[2001:db8::1]", weight: 3}]
    balance: round_robin
limits:
  per-client: {rate: 100/minute, burst: 20, key: client}
  daily: {quota: 10000/day, key: subject}
  window: {rate: 600/hour, algorithm: sliding_window, key: client_ip}
  parallel: {concurrency: 20, key: [subject, "header:X-Tenant"], lease: 30s}
routes:
  - name: get-patient
    path: /patients/{id}
    methods: [GET, HEAD]
    hosts: [API.example.gov, "*.example.org"]
    headers: {X-Api-Version: "2"}
    service: patients
    rewrite: /v1/patients/{id}
    authentication: required
    scopes: [patients:read]
    any_scope: [a, b]
    roles: [nurse]
    claims: {dept: [cardio, 7]}
    limits: [per-client, daily]
    shadow_limits: [window, parallel]
    cost: 2
    when_unavailable: closed
    timeouts: {total: 10s}
    max: {body_bytes: 1MiB}
    cors: {origins: ["https://app.example.gov"], headers: [Authorization], expose: [X-Request-Id], credentials: true, max_age: 5m}
    request_headers: {set: {X-Source: gateway}, remove: [X-Debug]}
    response_headers: {remove: [Server]}
    audit: {path_params: [id]}
    websocket: {origins: ["https://app.example.gov"], protocols: [WebSocket, lines/1], idle: 30s, lifetime: 8h, max_bytes: 1GiB}
  - {path: "/claims/{rest:path}", service: claims, strip_prefix: /claims, add_prefix: /v2, limits: [10/second]}
telemetry:
  traces: {endpoint: "http://otel-collector:4318", sample_ratio: 10%, always: [errors, denials, slow: 1s], trust: continue}
  metrics: {prometheus: true, otlp: false}
  access_log: {format: json, sink: stderr}
audit: {sink: [stdout, "file:/var/log/gateway/audit.jsonl"], when_full: block, chain: true, checkpoint: 60s}
"""

PER_CLIENT = Limit(name="per-client", kind="gcra", count=100, period_us=60_000_000, burst=20, key=("client",))
DAILY = Limit(name="daily", kind="quota", count=10_000, period_us=86_400_000_000, key=("subject",))
WINDOW = Limit(name="window", kind="sliding_window", count=600, period_us=3_600_000_000, key=("client_ip",))
PARALLEL = Limit(name="parallel", kind="concurrency", count=20, period_us=30_000_000, key=("subject", "header:x-tenant"))
TEN_A_SECOND = Limit(name="10-per-second", kind="gcra", count=10, period_us=1_000_000, burst=10, key=("route", "subject"))
HMAC_SECRET = b"0123456789abcdef0123456789abcdef"

EXPECTED = Settings(
    server=ServerSettings(
        host="0.0.0.0",
        port=8081,
        workers=2,
        trusted_proxies=("10.0.0.0/8",),
        max=Maxima(header_bytes=16384, headers=50, uri_bytes=4096, body_bytes=5_242_880, connections=1000, in_flight=100),
        timeouts=ServerTimeouts(header=5.0, body=20.0, idle=90.0),
    ),
    admin=AdminSettings(host="127.0.0.2", port=9081, token="admin-secret"),
    state=StateSettings(url="redis://gateway:pa$s@redis:6379/1", budget=0.03),
    consul=ConsulAgent(url="http://127.0.0.1:8501", token="consul-secret", datacenter="dc1", wait_seconds=50.0, warning=True),
    authentication=AuthenticationSettings(
        issuers=(
            Issuer(
                name="login",
                issuer="https://login.example.gov",
                audience=("hms",),
                algorithms=("RS256", "ES256"),
                jwks_url="https://login.example.gov/keys",
                leeway=10.0,
                required_claims=("exp", "iat"),
                maximum_lifetime=43_200.0,
                fips=True,
                claims=ClaimNames(scope="scp", roles="realm_access.roles"),
            ),
            Issuer(
                name="batch.example.gov",
                issuer="https://batch.example.gov",
                audience=("hms",),
                algorithms=("HS256",),
                secret=HMAC_SECRET,
                fips=True,
            ),
        ),
        introspection=Introspection(url="https://login.example.gov/introspect", client_id="gw", client_secret="client-secret", cache=15.0),
        failures=Limit(name="authentication.failures", kind="gcra", count=30, period_us=60_000_000, key=("client_ip",)),
        api_keys=ApiKeys(header="x-api-key"),
        fips=True,
    ),
    services={
        "patients": Service(
            name="patients",
            consul=ConsulQuery("patients-api", ("v2",), "dc2"),
            balance=Balance("consistent_hash", "header:x-tenant"),
            timeouts=Timeouts(connect=2.0, response=10.0, idle=30.0, total=40.0),
            tls=UpstreamTLS(server_name="patients.example.gov", verify=False),
        ),
        "claims": Service(
            name="claims",
            instances=(
                Instance("10.0.0.1:9001", "10.0.0.1", 9001),
                Instance("[2001:db8::1]:443", "2001:db8::1", 443, weight=3, scheme="https"),
            ),
            balance=Balance("round_robin"),
        ),
    },
    limits={"per-client": PER_CLIENT, "daily": DAILY, "window": WINDOW, "parallel": PARALLEL},
    routes=(
        Route(
            name="get-patient",
            path="/patients/{id}",
            target="patients",
            methods=("GET", "HEAD"),
            hosts=("api.example.gov", "*.example.org"),
            headers={"x-api-version": "2"},
            rewrite="/v1/patients/{id}",
            scopes=("patients:read",),
            any_scope=("a", "b"),
            roles=("nurse",),
            claims={"dept": ("cardio", 7)},
            limits=(PER_CLIENT, DAILY),
            shadow_limits=(WINDOW, PARALLEL),
            cost=2,
            when_unavailable="closed",
            timeouts={"total": 10.0},
            max_body_bytes=1_048_576,
            websocket=WebSocket(
                origins=("https://app.example.gov",), protocols=("websocket", "lines/1"), idle=30.0, lifetime=28_800.0, max_bytes=1 << 30
            ),
            cors=Cors(
                origins=("https://app.example.gov",), headers=("authorization",), expose=("x-request-id",), credentials=True, max_age=300
            ),
            request_headers=HeaderRules(set={"x-source": "gateway"}, remove=("x-debug",)),
            response_headers=HeaderRules(remove=("server",)),
            audit_path_params=("id",),
            line="gateway.yaml:50",
        ),
        Route(
            name="claims-rest",
            path="/claims/{rest:path}",
            target="claims",
            strip_prefix="/claims",
            add_prefix="/v2",
            limits=(TEN_A_SECOND,),
            line="gateway.yaml:73",
        ),
    ),
    telemetry=TelemetrySettings(
        traces=TraceSettings(
            endpoint="http://otel-collector:4318",
            sample_ratio=0.1,
            always_errors=True,
            always_denials=True,
            always_slow=1.0,
            trust="continue",
        ),
        access_log=AccessLogSettings(format="json", sink="stderr"),
    ),
    audit=AuditSettings(sink=("stdout", "file:/var/log/gateway/audit.jsonl")),
    source="gateway.yaml",
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "admin-token").write_text("admin-secret\n")
    (tmp_path / "consul-token").write_text("consul-secret\r\n")
    (tmp_path / "client-secret").write_text("client-secret")
    (tmp_path / "hmac-secret").write_bytes(HMAC_SECRET + b"\n")
    return tmp_path


def test_the_contracts_example_becomes_the_expected_settings(directory: Path) -> None:
    """CONTRACT §4: every key that is available."""
    assert load_text(CONTRACT, {"REDIS_PASSWORD": "pa$s"}, directory=directory) == EXPECTED


def test_a_file_is_read_with_paths_relative_to_it(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CONTRACT §4: `*_file` keys read secrets from files."""
    (directory / "conf.yaml").write_text("version: 1\nadmin: {token_file: admin-token}\nroutes: []\n")
    monkeypatch.chdir("/")
    loaded = load(directory / "conf.yaml", {})
    assert loaded.admin.token == "admin-secret"
    assert loaded.source == str(directory / "conf.yaml")


def test_a_minimal_file_has_the_defaults_of_settings() -> None:
    """CONTRACT §4: every key has a default except `version`."""
    assert load_text("version: 1", {}) == Settings(source="gateway.yaml")


def test_empty_sections_have_the_defaults_too() -> None:
    text = (
        "version: 1\nserver: {max: {}, timeouts: {}}\nadmin: {}\nstate: {}\ntelemetry: {traces: {}, metrics: {}}\naudit: {}\ndiscovery: {}"
    )
    assert load_text(text, {}) == Settings(source="gateway.yaml")


def test_failed_authentications_are_limited_unless_that_is_off() -> None:
    """A8: 100 a minute when nothing is said."""
    assert load_text("version: 1\nauthentication: {failures: {}}", {}).authentication.failures == FAILURES
    assert load_text("version: 1\nauthentication: {failures: off}", {}).authentication.failures is None


def test_the_audit_is_chained_and_whole_unless_said_otherwise() -> None:
    """O6: and every key reaches the settings."""
    assert load_text("version: 1", {}).audit == AuditSettings(
        when_full="block", chain=True, checkpoint=60.0, events=("allowed", "denied", "admin", "config", "dependency", "handshake")
    )
    text = (
        "version: 1\naudit: {format: text, when_full: drop, chain: false, checkpoint: 0, events: [denied, admin], "
        "fields: [limits, request.host], labels: {system: HMS 1}}"
    )
    assert load_text(text, {}).audit == AuditSettings(
        format="text",
        when_full="drop",
        chain=False,
        checkpoint=0.0,
        events=("denied", "admin"),
        fields=("limits", "request.host"),
        labels={"system": "HMS 1"},
    )


def test_labels_of_records_are_few_and_short() -> None:
    """S-43: each record has them, and a record is one short line."""
    nine = ", ".join(f"l{number}: x" for number in range(9))
    with pytest.raises(ConfigProblems, match=r"audit\.labels: 9 labels; at most 8"):
        load_text(f"version: 1\naudit: {{labels: {{{nine}}}}}", {})
    for text in ("x" * 65, "'a\tb'", "é", "' x'"):
        with pytest.raises(ConfigProblems, match=r"audit\.labels\.system: .* is not a label; allowed: at most 64 visible"):
            load_text(f"version: 1\naudit: {{labels: {{system: {text}}}}}", {})


def test_values_of_today_are_accepted_for_keys_of_tomorrow() -> None:
    text = (
        "version: 1\nstate: {shards: 1, when_unavailable: closed}\nauthentication: {fips: false}\n"
        "discovery: {consul: {publish_routes: false}}\ntelemetry: {metrics: {otlp: false}}"
    )
    assert load_text(text, {}).consul == ConsulAgent()


def test_the_environment_gives_numbers_and_flags_as_text() -> None:
    text = "version: 1\nserver: {port: '${PORT}', workers: '${WORKERS:-3}'}\ndiscovery: {consul: {warning: '${WARNING}'}}"
    loaded = load_text(text, {"PORT": "1234", "WARNING": "true"})
    assert (loaded.server.port, loaded.server.workers) == (1234, 3)
    assert loaded.consul is not None
    assert loaded.consul.warning is True


def test_the_admin_token_comes_from_the_environment_unless_a_file_has_it(directory: Path) -> None:
    """CONTRACT §4: admin token from GATEWAY_ADMIN_TOKEN too."""
    environ = {"GATEWAY_ADMIN_TOKEN": "from-environment"}
    assert load_text("version: 1", environ).admin.token == "from-environment"
    assert load_text("version: 1\nadmin: {token_file: admin-token}", environ, directory=directory).admin.token == "admin-secret"


def test_an_admin_token_that_no_header_can_carry_is_a_problem() -> None:
    with pytest.raises(ConfigProblems, match="GATEWAY_ADMIN_TOKEN holds characters other than visible ASCII"):
        load_text("version: 1", {"GATEWAY_ADMIN_TOKEN": "token\n"})


def test_an_endless_file_is_refused() -> None:
    with pytest.raises(ConfigProblems, match="the file is too large"):
        load(Path("/dev/zero"), {})


def test_consul_is_configured_as_soon_as_a_service_needs_it() -> None:
    assert load_text("version: 1\nservices: {p: {consul: patients}}", {}).consul == ConsulAgent()


def test_everything_about_consul(tmp_path: Path) -> None:
    """D4, D6, D8, D10, F-18."""
    text = """
version: 1
discovery:
  consul:
    {datacenter: [east, west], connections: 500, networks: [10.0.0.0/8, "2001:db8::/32"], disappearance_guard: 0.3, publish_routes: true}
  cache_dir: cache
services:
  a: {consul: {service: a, datacenter: [west, east, north]}}
  b: {consul: {service: b, datacenter: east}}
  c: {consul: c}
"""
    loaded = load_text(text, {}, directory=tmp_path)
    assert loaded.consul == ConsulAgent(
        datacenter="east",
        failover=("west",),
        connections=500,
        networks=("10.0.0.0/8", "2001:db8::/32"),
        disappearance_guard=0.3,
        cache_dir=str(tmp_path / "cache"),
        publish_routes=True,
    )
    assert [service.consul for service in loaded.services.values()] == [
        ConsulQuery("a", datacenter="west", failover=("east", "north")),
        ConsulQuery("b", datacenter="east"),
        ConsulQuery("c"),
    ]


def test_the_directory_of_snapshots_needs_no_other_setting(tmp_path: Path) -> None:
    """D6."""
    text = "version: 1\ndiscovery: {cache_dir: /var/cache/gateway}\nservices: {p: {consul: p}}"
    assert load_text(text, {}).consul == ConsulAgent(cache_dir="/var/cache/gateway")


def test_secrets_are_left_alone_when_files_are_not_required(tmp_path: Path) -> None:
    text = "version: 1\nadmin: {token_file: /run/secrets/token}\nauthentication: {issuers: [{issuer: i, audience: [a], secret_file: s}]}"
    loaded = load_text(text, {}, directory=tmp_path, require_files=False)
    assert (loaded.admin.token, loaded.authentication.issuers[0].secret) == ("", b"")


def test_secrets_do_not_show_in_a_repr(directory: Path) -> None:
    """CONTRACT §6: secrets redacted."""
    text = repr(load_text(CONTRACT, {"REDIS_PASSWORD": "pa$s"}, directory=directory))
    assert not [secret for secret in ("pa$s", "admin-secret", "consul-secret", "client-secret", HMAC_SECRET.decode()) if secret in text]


def test_an_unreadable_file_is_one_clear_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigProblems, match=r"nowhere\.yaml: can't read the file: No such file or directory"):
        load(tmp_path / "nowhere.yaml", {})


def test_a_file_that_is_not_utf_8_is_one_clear_problem(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"version: 1 # \xe9\n")
    with pytest.raises(ConfigProblems, match="not UTF-8: byte 13"):
        load(tmp_path / "latin.yaml", {})


def test_problems_come_in_the_order_of_the_text() -> None:
    with pytest.raises(ConfigProblems) as caught:
        load_text("version: 1\naudit: {sinks: []}\nroutes: [{path: a, service: b}]\nserver: {port: x}", {})
    assert [problem.line for problem in caught.value.problems] == [2, 3, 4]
    assert str(caught.value).count("\n") == 2


def test_keyword_settings_are_the_same_as_the_file() -> None:
    """CONTRACT §2: BackendAPIGateway(config="gateway.yaml") or keyword settings."""
    values = {"server": {"port": 1234, "trusted_proxies": ("10.0.0.0/8",)}, "services": {"p": {"instances": ["http://h:1"]}}, "audit": None}
    text = 'version: 1\nserver: {port: 1234, trusted_proxies: [10.0.0.0/8]}\nservices: {p: {instances: ["http://h:1"]}}'
    assert settings_from_mapping(values, {}) == load_text(text, {}, file="")


def test_problems_of_keyword_settings_name_the_key() -> None:
    with pytest.raises(ConfigProblems, match=r"^server\.port: 99999 is out of range; allowed: 0 to 65535$"):
        settings_from_mapping({"server": {"port": 99999}}, {})


async def _app(scope: object, receive: object, send: object) -> None:
    """An application that is never called here."""


def test_a_decorated_handler_becomes_a_route() -> None:
    """CONTRACT §2: the decorator API and the file produce the same Route."""
    target = Local(_app)
    values = {"path": "/claims", "methods": ["POST"], "scopes": ["claims:write"], "limits": ["10/second", "daily"], "cors": None}
    row = build_route(values, target=target, services={}, limits={"daily": DAILY}, line="app.py:7")
    assert row == Route(
        name="post-claims",
        path="/claims",
        target=target,
        methods=("POST",),
        scopes=("claims:write",),
        limits=(TEN_A_SECOND, DAILY),
        line="app.py:7",
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"path": "/a", "limits": ["dayly"]}, 'app.py:7 limits[0]: unknown limit "dayly"; defined limits: none'),
        ({"path": "/a", "websocket": True}, "app.py:7 websocket: websocket applies to services only; leave it out for a handler"),
        ({"path": "/a", "rewrite": "/b"}, "app.py:7 rewrite: rewrite applies to services only; leave it out for a handler"),
        ({"path": "/a", "service": "p"}, 'app.py:7 service: unknown key "service"'),
        ({"path": "a"}, "app.py:7 path: path 'a' must start with a slash"),
    ],
)
def test_a_bad_decorator_says_where_it_stands(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigProblems) as caught:
        build_route(values, target=Local(_app), services={}, limits={}, line="app.py:7")
    assert str(caught.value).startswith(message)


def test_a_proxied_route_names_a_service() -> None:
    services = {"p": build_service("p", {"instances": ["http://h:1"]})}
    assert build_route({"path": "/a", "service": "p"}, services=services, limits={}).target == "p"
    with pytest.raises(ConfigProblems, match='unknown service "q"; defined services: p'):
        build_route({"path": "/a", "service": "q"}, services=services, limits={})


def test_a_service_is_built_from_keywords() -> None:
    """CONTRACT §2: gateway.service("patients", consul="patients")."""
    assert build_service("patients", {"consul": "patients", "instances": None}) == Service(name="patients", consul=ConsulQuery("patients"))
    with pytest.raises(ConfigProblems, match=r"app\.py:3.*both consul and instances"):
        build_service("p", {"consul": "p", "instances": ["http://h"]}, line="app.py:3")
    with pytest.raises(ConfigProblems, match='"a b" is not a name'):
        build_service("a b", {"consul": "p"})


def test_a_limit_is_built_from_text_or_keywords() -> None:
    assert build_limit("per-client", {"rate": "100/minute", "burst": 20, "key": "client"}) == PER_CLIENT
    assert build_limit("a", "5/second") == Limit(name="a", kind="gcra", count=5, period_us=1_000_000, burst=5)
    with pytest.raises(ConfigProblems, match='"fast" is not a rate'):
        build_limit("a", "fast")


# Arbitrary YAML, near to and far from a configuration.
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
SECTION_KEYS = ["version", "server", "routes", "limits", "services", "authentication", "telemetry", "traces", "audit"]
OTHER_KEYS = ["path", "service", "rate", "quota", "key", "instances", "consul", "max", "issuers", "issuer", "audience", "always", "balance"]
KEYS = st.sampled_from([*SECTION_KEYS, *OTHER_KEYS, "methods", "cors", "claims"])
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=6), inner, max_size=5), max_leaves=25
)


def only_problems(text: str) -> None:
    with suppress(ConfigProblems):
        load_text(text, {"A": "a"})


# A busy machine is no failure.
@settings(deadline=None)
@given(st.dictionaries(KEYS, TREES, max_size=6))
def test_arbitrary_values_give_problems_and_nothing_else(tree: dict[str, object]) -> None:
    only_problems(yaml.safe_dump(tree | {"version": 1}, allow_unicode=True))
    with suppress(ConfigProblems):
        settings_from_mapping(tree, {})


# A busy machine is no failure.
@settings(deadline=None)
@given(st.text(alphabet="abv:{}[]-&*!|>'\"#%@\n \t$?,<~.0\u00e9\x00\ud800", max_size=80) | st.text(max_size=80))
def test_arbitrary_text_gives_problems_and_nothing_else(text: str) -> None:
    only_problems(text)
    only_problems("version: 1\nserver: " + text)


def test_files_are_told_apart_by_what_they_hold(tmp_path: Path) -> None:
    """G3: a certificate that was renewed in place is another setting; a file that was only touched is not."""
    file, bundle = tmp_path / "gateway.yaml", tmp_path / "ca.pem"
    file.write_text("version: 1\nservices: {p: {instances: [https://10.0.0.1:1], tls: {ca_file: ca.pem}}}\n")
    first_authority, second_authority = (Authority(tmp_path, name).file.read_text() for name in ("first", "second"))
    bundle.write_text(first_authority)
    first, again = load(file, {}), load(file, {})
    bundle.touch()
    assert first == again == load(file, {})
    assert set(first.files) == {str(file), str(bundle)}
    bundle.write_text(second_authority)
    second = load(file, {})
    assert second.services["p"].tls != first.services["p"].tls
    assert [path for path in first.files if first.files[path] != second.files[path]] == [str(bundle)]
    assert first.services["p"].tls.fingerprint not in repr(first)
