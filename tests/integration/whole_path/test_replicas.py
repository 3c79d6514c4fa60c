"""Several gateways on one store: what one is told, all of them do."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.integration.whole_path.conftest import AnyGateway, Laboratory
from tests.support.redis_server import wait_until
from tests.support.whole_gateway import Face, ProcessGateway, in_process, running, under_uvicorn, values_of


@pytest.fixture(scope="module", params=["redis", "valkey"])
def store(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture(scope="module")
def first(laboratory: Laboratory, store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessGateway]:
    """A replica with an admin port."""
    directory = tmp_path_factory.mktemp("first")
    with running(directory, laboratory.document(directory, store)) as started:
        yield started


@pytest.fixture(scope="module", params=["wire", "uvicorn", "in process"])
def second(
    request: pytest.FixtureRequest, laboratory: Laboratory, store: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AnyGateway]:
    """Another replica, declared in Python, by each adapter."""
    directory = tmp_path_factory.mktemp("second")
    face: Face = "decorators"
    document = laboratory.document(directory, store)
    if request.param == "in process":
        with in_process(directory, document, face) as started:
            yield started
    else:
        start = running if request.param == "wire" else under_uvicorn
        with start(directory, document, face) as process:
            yield process


@pytest.fixture
def subject() -> str:
    return f"subject-{secrets.token_hex(6)}"


def revoke(gateway: ProcessGateway, **entry: object) -> None:
    reply = gateway.admin("POST", "/v1/revocations", json={"reason": "test", **entry})
    assert reply.status_code == 201, reply.text


@pytest.mark.parametrize("kind", ["token", "jti", "subject", "session", "client"])
def test_revocation_holds_at_once_on_the_other_replica(
    kind: str, first: ProcessGateway, second: AnyGateway, laboratory: Laboratory, subject: str
) -> None:
    """V1, V2, V5: acknowledged by one replica, seen by the next request of the other, although it had verified the token before."""
    token = laboratory.login.token(subject, "patients:read", jti=f"id-{subject}", sid=f"session-{subject}", azp=f"client-{subject}")
    headers = {"Authorization": f"Bearer {token}"}
    assert second.request("GET", "/patients/1", headers=headers).status_code == 200
    value = {"token": token, "jti": f"id-{subject}", "subject": subject}.get(kind, f"{kind}-{subject}")
    revoke(first, kind=kind, value=value)
    for path in ("/patients/1", "/greeting", "/any-scope"):
        for gateway in (second, first):
            reply = gateway.request("GET", path, headers=headers)
            assert (reply.status_code, reply.json()["code"]) == (401, "token_revoked")
            assert reply.headers["www-authenticate"] == 'Bearer realm="gateway", error="invalid_token"'
            assert "ratelimit" not in reply.headers
    assert second.request("GET", "/public/x", headers=headers).status_code == 200, "public routes ask nobody"
    assert (
        first.admin(
            "DELETE", f"/v1/revocations/{'jti' if kind == 'token' else kind}/{value if kind != 'token' else f'id-{subject}'}"
        ).status_code
        == 204
    )
    assert second.request("GET", "/patients/1", headers=headers).status_code == 200


def test_tokens_issued_after_a_revocation_hold(first: ProcessGateway, second: AnyGateway, laboratory: Laboratory, subject: str) -> None:
    """V1: `issued_before` spares what was issued later."""
    now = int(time.time())
    old = laboratory.login.bearer(subject, "patients:read", iat=now - 100)
    new = laboratory.login.bearer(subject, "patients:read", iat=now - 10)
    revoke(first, kind="subject", value=subject, issued_before=now - 50)
    assert second.request("GET", "/patients/1", headers=old).status_code == 401
    assert second.request("GET", "/patients/1", headers=new).status_code == 200


def test_a_limit_is_one_for_all_replicas(first: ProcessGateway, second: AnyGateway, laboratory: Laboratory, subject: str) -> None:
    """L1: what one replica admitted the other counts."""
    headers = laboratory.login.bearer(subject)
    gateways = [first, second, first, second]
    assert [each.request("GET", "/burst", headers=headers).status_code for each in gateways] == [200, 200, 200, 429]


def test_api_key_made_at_one_replica_opens_the_other(
    first: ProcessGateway, second: AnyGateway, laboratory: Laboratory, subject: str
) -> None:
    """A6: keys live in the store; their text is told once, and a key that was deleted opens nothing."""
    made = first.admin("POST", "/v1/api-keys", json={"subject": subject, "scopes": ["patients:read"], "client": "etl"})
    assert made.status_code == 201, made.text
    key = made.json()["key"]
    reply = second.request("GET", "/patients/1", headers={"X-API-Key": key})
    assert reply.status_code == 200
    assert values_of(reply.json()["fields"], "x-auth-subject") == [subject]
    assert not values_of(reply.json()["fields"], "x-api-key"), "the service does not get the credential"
    assert key not in first.admin("GET", "/v1/api-keys").text
    assert second.request("GET", "/patients/1", headers={"X-API-Key": key, **laboratory.login.bearer(subject)}).status_code == 401
    assert second.request("GET", "/patients/1", headers={"X-API-Key": key[:-1] + "_"}).status_code == 401
    assert first.admin("DELETE", f"/v1/api-keys/{made.json()['id']}").status_code == 204
    # Other replicas may believe it for a few seconds more, see `ApiKeyStore`.
    assert first.request("GET", "/patients/1", headers={"X-API-Key": key}).status_code == 401


def test_instance_that_turns_critical_gets_no_new_request(
    first: ProcessGateway, second: AnyGateway, laboratory: Laboratory, subject: str
) -> None:
    """D7: its open request finishes, new ones go to the other instance, and when it passes again it serves again."""
    sick, well = laboratory.patients
    headers = laboratory.login.bearer(subject, "patients:read")

    def healthy(gateway: ProcessGateway) -> list[str]:
        services = {service["name"]: service for service in gateway.admin("GET", "/v1/services").json()["services"]}
        return [instance["id"] for instance in services["patients"]["instances"]]

    gate = f"gate-{subject}"
    with ThreadPoolExecutor(2) as pool, sick.gate(gate):
        # One of the two goes to the instance that turns critical, where it waits; the other is answered by the well one.
        open_requests = [pool.submit(second.request, "GET", "/patients/1", headers={**headers, "X-Gate": gate}) for _ in range(2)]
        wait_until(lambda: gate in sick.waiting, "a request to be open")
        laboratory.consul.put(f"/v1/agent/service/maintenance/{sick.name}?enable=true")
        try:
            wait_until(lambda: len(healthy(first)) == 1, "the directory to know")
            wait_until(lambda: _served(second, headers) == {well.name}, "the other replica to know")
            assert _served(first, headers) == _served(second, headers) == {well.name}
        finally:
            sick.gates[gate].set()
            laboratory.consul.put(f"/v1/agent/service/maintenance/{sick.name}?enable=false")
        assert sorted(each.result().headers["x-served-by"] for each in open_requests) == [sick.name, well.name]
    for gateway in (first, second):
        wait_until(lambda each=gateway: _served(each, headers) == {sick.name, well.name}, "both instances to serve")  # type: ignore[misc]


def _served(gateway: AnyGateway, headers: dict[str, str]) -> set[str]:
    replies = [gateway.request("GET", "/patients/1", headers=headers) for _ in range(4)]
    assert {reply.status_code for reply in replies} == {200}
    return {reply.headers["x-served-by"] for reply in replies}


def metric(text: str, name: str, **labels: str) -> float:
    """The value of one series; 0 when it is not there."""
    for line in text.splitlines():
        if line.startswith((name + "{", name + " ")) and all(f'{label}="{value}"' in line for label, value in labels.items()):
            return float(line.rpartition(" ")[2])
    return 0.0


def test_metrics_of_the_contract_are_there_and_count(first: ProcessGateway, laboratory: Laboratory, subject: str) -> None:
    """CONTRACT section 6: names and labels; a limit that refused and a denial are counted by their names."""

    def scraped() -> str:
        reply = httpx.get(f"{first.admin_url}/metrics", trust_env=False)
        assert reply.headers["content-type"].startswith("text/plain")
        return reply.text

    before = scraped()
    headers = laboratory.login.bearer(subject)
    assert [first.request("GET", "/burst", headers=headers).status_code for _ in range(5)] == [200] * 3 + [429] * 2
    assert first.request("GET", "/patients/1", headers=headers).status_code == 403
    assert first.request("GET", "/nowhere").status_code == 404
    after = scraped()

    def grown(name: str, **labels: str) -> float:
        return metric(after, name, **labels) - metric(before, name, **labels)

    assert grown("gateway_requests_total", route="burst", method="GET", status="200") == 3
    assert grown("gateway_requests_total", route="burst", method="GET", status="429") == 2
    assert grown("gateway_limited_total", route="burst", limit="burst") == 2
    assert grown("gateway_denied_total", route="get-patient", reason="forbidden") == 1
    assert grown("gateway_request_duration_seconds_count", route="burst") == 5
    assert grown("gateway_upstream_request_duration_seconds_count", service="patients") == 3
    assert grown("gateway_admission_duration_seconds_count") >= 1
    assert grown("gateway_admission_batch_size_count") >= 1
    assert metric(after, "gateway_store_state", mode="shared") == 1
    assert metric(after, "gateway_endpoints", service="patients", state="available") == 2
    assert metric(after, "gateway_config_generation") == 1
    for name in (
        "gateway_retries_total",
        "gateway_ejections_total",
        "gateway_revocation_propagation_seconds",
        "gateway_audit_dropped_total",
    ):
        assert f"# TYPE {name}" in after


def test_records_of_two_replicas_can_be_told_apart(first: ProcessGateway, second: AnyGateway) -> None:
    """O6: `seq` counts per replica, and each has a name of its own."""
    names = [{record["replica"] for record in each.records()} for each in (first, second)]
    assert [len(each) for each in names] == [1, 1]
    assert names[0] != names[1]
    assert json.dumps(first.records()[0]["event"]) == '"start"'
