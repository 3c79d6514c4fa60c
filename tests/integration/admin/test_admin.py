"""The admin port of a running gateway: who may ask, what the answers look like, what is never in them."""

from __future__ import annotations

import base64
import json
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.auth.claims import content_id
from gateway.auth.development import DevelopmentIssuer
from tests.support.identity_provider import identity_provider
from tests.support.redis_server import redis_server, wait_until
from tests.support.whole_gateway import ADMIN_TOKEN, Json, Login, ProcessGateway, Upstream, base_document, running, upstream

CANARIES = {name: f"canary-{name}-{secrets.token_hex(8)}" for name in ("redis", "consul", "introspection", "hmac", "pepper")}

GUARDED = [
    ("GET", "/v1/routes"),
    ("GET", "/v1/services"),
    ("GET", "/v1/config"),
    ("GET", "/v1/revocations"),
    ("POST", "/v1/revocations"),
    ("DELETE", "/v1/revocations/jti/x"),
    ("GET", "/v1/api-keys"),
    ("POST", "/v1/api-keys"),
    ("DELETE", "/v1/api-keys/x"),
]


@pytest.fixture(scope="module")
def service() -> Iterator[Upstream]:
    with upstream("patients-1") as started:
        yield started


@pytest.fixture(scope="module")
def login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    with identity_provider() as provider:
        yield Login.at(provider, tmp_path_factory.mktemp("login"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("admin")


@pytest.fixture(scope="module")
def gateway(config: Path, login: Login, service: Upstream) -> Iterator[ProcessGateway]:
    """A gateway with a canary in every place that takes a secret."""
    DevelopmentIssuer.create(config)
    with redis_server("redis", "--requirepass", CANARIES["redis"]) as store:
        document = document_for(config, login, service, f"redis://:{CANARIES['redis']}@127.0.0.1:{store.port}/0")
        (config / "admin-token").write_text(ADMIN_TOKEN + "\n")
        with running(config, document, GATEWAY_ADMIN_TOKEN="", GATEWAY_API_KEY_PEPPER=CANARIES["pepper"] * 2) as started:
            yield started


def document_for(directory: Path, login: Login, service: Upstream, store: str) -> Json:
    for name in ("consul", "introspection", "hmac"):
        (directory / name).write_text(CANARIES[name] * 2)
    authentication = login.authentication
    authentication["introspection"]["client_secret_file"] = str(directory / "introspection")
    authentication["issuers"] += [
        {"name": "internal", "issuer": "internal", "audience": ["hms"], "algorithms": ["HS256"], "secret_file": str(directory / "hmac")},
    ]
    return base_document(
        directory,
        admin={"port": 0, "token_file": str(directory / "admin-token")},
        state={"url": store},
        discovery={"consul": {"url": "http://127.0.0.1:8500", "token_file": str(directory / "consul")}},
        authentication=authentication,
        services={"patients": {"instances": [service.url]}},
        limits={"burst": {"rate": "100/minute", "key": "subject"}},
        routes=[
            {"name": "get-patient", "path": "/patients/{id}", "methods": ["GET"], "service": "patients", "limits": ["burst"]},
            {"name": "public", "path": "/public", "service": "patients", "authentication": "none"},
        ],
    )


def assert_recorded(gateway: ProcessGateway, name: str, value: object, actions: list[str]) -> None:
    """What was done to something, in the audit, in this order."""

    def recorded() -> list[str]:
        return [
            each["detail"]["action"]
            for each in gateway.records(lambda each: each["event"] == "admin" and each["detail"].get(name) == value)
        ]

    wait_until(lambda: len(recorded()) >= len(actions), "the audit")
    assert recorded() == actions


def assert_problem(reply: httpx.Response, status: int, code: str) -> str:
    """The detail of a refusal that has the shape of all of them."""
    assert (reply.status_code, reply.headers["content-type"]) == (status, "application/problem+json"), reply.text
    document = reply.json()
    assert set(document) == {"type", "title", "status", "detail", "code", "trace_id"}
    assert (document["status"], document["code"]) == (status, code)
    detail: str = document["detail"]
    return detail


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize(
    "authorization", ["", "Bearer wrong", f"Bearer {ADMIN_TOKEN}x", f"Basic {ADMIN_TOKEN}", ADMIN_TOKEN, "Bearer", "Bearer \xff"]
)
def test_every_resource_but_the_probes_needs_the_token(method: str, path: str, authorization: str, gateway: ProcessGateway) -> None:
    """CONTRACT section 6: bearer token except the first three; a request without it changes nothing, and is in the audit."""
    headers = {b"authorization": authorization.encode("latin-1")} if authorization else {}
    reply = gateway.admin(method, path, token="", headers=headers, json={"kind": "subject", "value": "x"} if method == "POST" else None)
    assert_problem(reply, 401, "unauthorized")
    assert reply.headers["www-authenticate"].startswith('Bearer realm="gateway-admin"')


def test_refused_admin_requests_are_in_the_audit(gateway: ProcessGateway) -> None:
    """S-34: who tried what from where; the resource, not the raw path."""
    gateway.admin("DELETE", "/v1/revocations/subject/jane-doe", token="wrong")
    record = gateway.wait_for_record(
        lambda each: (
            each["event"] == "admin"
            and each["detail"].get("path", "").startswith("/v1/revocations/")
            and each["detail"]["action"] == "refused"
        )
    )
    assert record["detail"] == {
        "action": "refused",
        "source": "127.0.0.1",
        "method": "DELETE",
        "path": "/v1/revocations/{kind}/{value:path}",
    }
    assert "jane-doe" not in gateway.file.read_text()


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_probes_need_no_token(path: str, gateway: ProcessGateway) -> None:
    """CONTRACT section 6: the first three."""
    assert gateway.admin("GET", path, token="").status_code == 200
    head = gateway.admin("HEAD", path, token="")
    assert (head.status_code, head.content) == (200, b"")


def test_probes_are_not_on_the_data_port(gateway: ProcessGateway) -> None:
    """CM-7, S-41: nothing of the admin site is."""
    for path in ("/livez", "/readyz", "/metrics", "/v1/config"):
        assert gateway.request("GET", path).status_code == 404


def test_metrics_speak_openmetrics_when_asked(gateway: ProcessGateway) -> None:
    """CONTRACT section 6."""
    reply = gateway.admin("GET", "/metrics", headers={"Accept": "application/openmetrics-text"})
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    assert reply.text.endswith("# EOF\n")


def test_no_secret_is_in_any_answer(gateway: ProcessGateway) -> None:
    """O4: a canary in every key that takes a secret, and none of them anywhere."""
    texts = [
        gateway.admin("GET", path).text for path in ("/v1/config", "/v1/routes", "/v1/services", "/metrics", "/v1/api-keys", "/readyz")
    ]
    texts += [gateway.said, gateway.output, gateway.file.read_text()]
    for canary in (*CANARIES.values(), ADMIN_TOKEN):
        assert not any(canary in text for text in texts), canary
    config = gateway.admin("GET", "/v1/config").json()["config"]
    assert config["admin"]["token"] == "***"
    assert config["state"]["url"].startswith("redis://***@127.0.0.1:")
    assert config["consul"]["token"] == "***"
    assert config["authentication"]["introspection"]["client_secret"] == "***"
    assert config["authentication"]["issuers"][1]["secret"] == "***"


def test_routes_are_told_in_match_order(gateway: ProcessGateway) -> None:
    """CONTRACT section 6."""
    answer = gateway.admin("GET", "/v1/routes").json()
    assert {route["name"] for route in answer["routes"]} == {"get-patient", "public"}
    (patient,) = [route for route in answer["routes"] if route["name"] == "get-patient"]
    assert (patient["path"], patient["methods"], patient["target"]) == ("/patients/{id}", ["GET"], "patients")
    assert patient["limits"][0]["name"] == "burst"
    assert answer["generation"] == 1


def test_services_are_told_with_their_live_state(gateway: ProcessGateway, service: Upstream) -> None:
    """CONTRACT section 6."""
    gateway.request("GET", "/public")
    (patients,) = gateway.admin("GET", "/v1/services").json()["services"]
    (instance,) = patients["instances"]
    assert (patients["name"], instance["address"]) == ("patients", f"127.0.0.1:{service.port}")
    assert instance["requests"] >= 1
    assert instance["active"] == 0


def test_revocation_is_written_listed_and_removed(gateway: ProcessGateway) -> None:
    """CONTRACT section 6, V1: 201 with the entry; a value may hold any characters."""
    value = f"a/b c?d=ü-{secrets.token_hex(4)}"
    now = time.time()
    made = gateway.admin(
        "POST",
        "/v1/revocations",
        json={
            "kind": "jti",
            "value": value,
            "subject": "jane",
            "issued_before": "2026-01-31T12:00:00Z",
            "expires_at": now + 60,
            "reason": "lost",
        },
    )
    assert made.status_code == 201
    entry = made.json()
    assert (entry["kind"], entry["value"], entry["subject"], entry["reason"]) == ("jti", value, "jane", "lost")
    assert entry["issued_before"] == 1769860800.0
    listed = [each for each in gateway.admin("GET", "/v1/revocations").json()["revocations"] if each["value"] == value]
    assert listed == [entry]
    path = f"/v1/revocations/jti/{httpx.QueryParams({'v': value})!s}".replace("v=", "", 1).replace("+", "%20")
    assert gateway.admin("DELETE", path).status_code == 204
    assert_problem(gateway.admin("DELETE", path), 404, "not_found")
    assert_recorded(gateway, "value", value, ["revoke", "unrevoke"])


BAD_REVOCATIONS: list[Any] = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"\xff",
    b'{"kind": "subject", "value": "\\ud800"}',
    {},
    {"kind": "subject"},
    {"kind": "subject", "value": ""},
    {"kind": "subject", "value": 7},
    {"kind": "subject", "value": "x" * 2049},
    {"kind": "nobody", "value": "x"},
    {"kind": ["subject"], "value": "x"},
    {"kind": "subject", "value": "x", "more": 1},
    {"kind": "subject", "value": "x", "subject": "y"},
    {"kind": "issuer", "value": "x", "issuer": "y"},
    {"kind": "subject", "value": "x", "expires_at": 1},
    {"kind": "subject", "value": "x", "expires_at": True},
    {"kind": "subject", "value": "x", "expires_at": "tomorrow"},
    {"kind": "subject", "value": "x", "expires_at": "2026-01-31T12:00:00"},
    {"kind": "subject", "value": "x", "expires_at": 10**18},
    b'{"kind": "subject", "value": "x", "expires_at": 1e400}',
    b'{"kind": "subject", "value": "x", "expires_at": NaN}',
    b'{"kind": "subject", "value": "x", "expires_at": ' + b"9" * 400 + b"}",
    {"kind": "subject", "value": "x", "issued_before": -1},
    {"kind": "subject", "value": "x", "reason": 7},
    {"kind": "subject", "value": "x", "reason": "x" * 513},
    {"kind": "token", "value": "not a token"},
    {"kind": "token", "value": "a.b.c"},
    b'{"a":' * 2000 + b"1" + b"}" * 2000,
]


@pytest.mark.parametrize("body", BAD_REVOCATIONS, ids=lambda body: str(body)[:60])
def test_bad_revocation_is_a_400_that_says_why(body: Any, gateway: ProcessGateway) -> None:
    """CONTRACT section 6: nothing is written, and nothing breaks."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    detail = assert_problem(gateway.admin("POST", "/v1/revocations", content=content), 400, "bad_request")
    assert detail
    assert not any(entry["value"] == "x" for entry in gateway.admin("GET", "/v1/revocations").json()["revocations"])


BAD_KEYS: list[Any] = [
    b"{",
    {},
    {"subject": ""},
    {"subject": "x", "scopes": "a b"},
    {"subject": "x", "scopes": ["a b"]},
    {"subject": "x", "scopes": [7]},
    {"subject": "x", "roles": {}},
    {"subject": "x", "client": ""},
    {"subject": "x", "client": 7},
    {"subject": "x", "expires_at": 1},
    {"subject": "x", "expires_at": 10**18},
    b'{"subject": "x", "expires_at": 1e400}',
    {"subject": "x", "hash": "y"},
    {"subject": "x" * 5000},
]


@pytest.mark.parametrize("body", BAD_KEYS, ids=lambda body: str(body)[:60])
def test_bad_api_key_is_a_400_that_says_why(body: Any, gateway: ProcessGateway) -> None:
    """CONTRACT section 6: nothing is made."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert assert_problem(gateway.admin("POST", "/v1/api-keys", content=content), 400, "bad_request")


def test_api_key_is_made_listed_and_deleted(gateway: ProcessGateway) -> None:
    """A6: its text is in one answer only."""
    made = gateway.admin("POST", "/v1/api-keys", json={"subject": "etl", "scopes": ["a"], "roles": ["r"], "client": "batch"}).json()
    listed = gateway.admin("GET", "/v1/api-keys")
    (entry,) = [each for each in listed.json()["api_keys"] if each["id"] == made["id"]]
    assert entry == {name: value for name, value in made.items() if name != "key"}
    assert made["key"] not in listed.text + gateway.file.read_text()
    assert gateway.request("GET", "/patients/1", headers={"X-API-Key": made["key"]}).status_code == 200
    assert gateway.admin("DELETE", f"/v1/api-keys/{made['id']}").status_code == 204
    assert_problem(gateway.admin("DELETE", f"/v1/api-keys/{made['id']}"), 404, "not_found")
    assert gateway.request("GET", "/patients/1", headers={"X-API-Key": made["key"]}).status_code == 401
    assert_recorded(gateway, "id", made["id"], ["create_api_key", "delete_api_key"])


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/routes/", 404, "not_found"),
        ("GET", "/v1/revocations/jti", 404, "not_found"),
        ("DELETE", "/v1/revocations/nobody/x", 400, "bad_request"),
        ("DELETE", "/v1/api-keys/none", 404, "not_found"),
        ("POST", "/livez", 405, "method_not_allowed"),
        ("PUT", "/v1/revocations", 405, "method_not_allowed"),
        ("PROPFIND", "/v1/revocations", 405, "method_not_allowed"),
    ],
)
def test_errors_have_one_shape(method: str, path: str, status: int, code: str, gateway: ProcessGateway) -> None:
    """RFC 9457."""
    assert_problem(gateway.admin(method, path), status, code)


def test_405_names_every_method_of_the_resource(gateway: ProcessGateway) -> None:
    """RFC 9110 section 15.5.6."""
    assert gateway.admin("PUT", "/v1/revocations").headers["allow"] == "HEAD, GET, POST"
    assert gateway.admin("PUT", "/v1/revocations/jti/x").headers["allow"] == "DELETE"


def test_body_is_bounded(gateway: ProcessGateway) -> None:
    """F-40."""
    assert_problem(gateway.admin("POST", "/v1/revocations", content=b" " * (64 * 1024 + 1)), 413, "body_too_large")


def test_garbage_on_the_admin_port_hurts_nobody(gateway: ProcessGateway) -> None:
    """S-28: the port goes on answering."""
    port = httpx.URL(gateway.admin_url).port or 0
    for garbage in (b"\x00\xff\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /v1/config HTTP/1.1\r\nAuthorization: Bearer \xff\xfe\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(4096)
    assert gateway.admin("GET", "/livez").status_code == 200
    assert "Traceback" not in gateway.said


# The command line against it


def command(
    *arguments: str, gateway: ProcessGateway | None = None, stdin: str = "", token: str = ADMIN_TOKEN
) -> subprocess.CompletedProcess[str]:
    where = ["--admin", gateway.admin_url] if gateway is not None else []
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments, *where],
        capture_output=True,
        text=True,
        input=stdin,
        env={"PATH": "", "GATEWAY_ADMIN_TOKEN": token},
        timeout=30,
        check=False,
    )


def test_commands_revoke_a_token_and_list_it(gateway: ProcessGateway, login: Login) -> None:
    """CONTRACT section 3: in force when the command ends."""
    subject = f"subject-{secrets.token_hex(4)}"
    token = login.token(subject, jti=f"id-{subject}")
    headers = {"Authorization": f"Bearer {token}"}
    assert gateway.request("GET", "/patients/1", headers=headers).status_code == 200
    done = command("revoke", "--token", "-", "--reason", "lost", gateway=gateway, stdin=token + "\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"revoked jti id-{subject}" in done.stdout
    assert gateway.request("GET", "/patients/1", headers=headers).json()["code"] == "token_revoked"
    listed = command("revocations", gateway=gateway)
    assert listed.returncode == 0
    assert f"jti id-{subject} issuer={login.provider.url} subject={subject}" in listed.stdout
    other = command("revoke", "--subject", subject, gateway=gateway, token="wrong")
    assert (other.returncode, other.stdout) == (1, "")
    assert "wants another token" in other.stderr


def test_a_token_without_a_jti_is_revoked_by_command(gateway: ProcessGateway, login: Login) -> None:
    """S-30: its content names it, in the records too; a token of the same subject that says something else goes on."""
    subject = f"subject-{secrets.token_hex(4)}"
    token, other = login.token(subject, jti=None), login.token(subject, jti=None, purpose="another")
    answers = {text: {"Authorization": f"Bearer {text}"} for text in (token, other)}
    for headers in answers.values():
        assert gateway.request("GET", "/patients/1", headers=headers).status_code == 200
    done = command("revoke", "--token", "-", gateway=gateway, stdin=token + "\n")
    payload = token.split(".")[1]
    name = content_id(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"revoked jti {name} issuer={login.provider.url} subject={subject}" in done.stdout
    assert gateway.request("GET", "/patients/1", headers=answers[token]).json()["code"] == "token_revoked"
    assert gateway.request("GET", "/patients/1", headers=answers[other]).status_code == 200
    gateway.wait_for_record(lambda record: record.get("principal") is not None and record["principal"]["token_id"] == name)
    assert gateway.admin("DELETE", f"/v1/revocations/jti/{name}").status_code == 204
    assert gateway.request("GET", "/patients/1", headers=answers[token]).status_code == 200


def test_an_opaque_token_without_a_jti_is_for_its_issuer_to_revoke(gateway: ProcessGateway) -> None:
    """S-30: what other spellings it has, the gateway can't know."""
    refused = gateway.admin("POST", "/v1/revocations", json={"kind": "token", "value": "opaque.alice"})
    assert_problem(refused, 400, "bad_request")
    assert "where it was issued" in refused.json()["detail"]


def test_token_of_a_development_issuer_is_accepted(gateway: ProcessGateway, config: Path, service: Upstream, tmp_path: Path) -> None:
    """CONTRACT section 3: `gateway token` signs what a gateway with that issuer believes; `check` and `routes` read the same file."""
    made = command("keygen", "--out", str(tmp_path))
    assert made.returncode == 0, made.stderr
    key, keys = tmp_path / "development-key.pem", tmp_path / "jwks.json"
    key, keys = (Path(line.split(maxsplit=2)[-1]) for line in made.stdout.splitlines())
    issuer = DevelopmentIssuer.create().issuer
    document = base_document(
        tmp_path,
        authentication={
            "issuers": [
                {
                    "name": "development",
                    "issuer": issuer.issuer,
                    "audience": list(issuer.audience),
                    "algorithms": ["ES256"],
                    "jwks_file": str(keys),
                    "development_key_file": str(key),
                }
            ]
        },
        services={"patients": {"instances": [service.url]}},
        routes=[{"name": "get-patient", "path": "/patients/{id}", "service": "patients", "scopes": ["patients:read"]}],
    )
    with running(tmp_path, document) as other:
        signed = command("token", "-c", str(tmp_path / "gateway.yaml"), "--subject", "jane", "--scope", "patients:read", "--expires", "5m")
        assert signed.returncode == 0, signed.stderr
        headers = {"Authorization": f"Bearer {signed.stdout.strip()}"}
        assert other.request("GET", "/patients/1", headers=headers).status_code == 200
        assert gateway.request("GET", "/patients/1", headers=headers).status_code == 401, "another gateway does not"
    checked = command("check", str(tmp_path / "gateway.yaml"))
    assert checked.returncode == 0, checked.stderr
    listed = command("routes", str(tmp_path / "gateway.yaml"))
    assert "get-patient" in listed.stdout
