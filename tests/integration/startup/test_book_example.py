"""The example of the HMS-ETL book, as a script of its own."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.whole_gateway import ProcessGateway

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "example_gateway.py"
TOKEN = re.compile(r"^ey[\w-]+\.[\w-]+\.[\w-]+$", re.MULTILINE)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessGateway]:
    """The example, on ports that nobody has."""
    directory = tmp_path_factory.mktemp("book")
    started = ProcessGateway([sys.executable, str(script(directory))], directory, directory / "stdout", {})
    try:
        yield started.wait_until_listening()
        assert started.stop() == 0
    finally:
        started.kill()


def script(directory: Path) -> Path:
    source = EXAMPLE.read_text()
    assert "from hms_etl.gateway import BackendAPIGateway" in source
    assert "gateway = BackendAPIGateway()\n" in source
    assert "gateway.start(port=8080)" in source
    source = source.replace("BackendAPIGateway()\n", 'BackendAPIGateway(admin={"port": 0})\n').replace("port=8080", f"port={free_port()}")
    file = directory / "example_gateway.py"
    file.write_text(source)
    return file


def bearer(gateway: ProcessGateway) -> dict[str, str]:
    token = TOKEN.search(gateway.said)
    assert token is not None, gateway.said
    return {"Authorization": f"Bearer {token.group()}"}


def test_patient_is_answered(gateway: ProcessGateway) -> None:
    """CONTRACT section 2: the status and the JSON of what the function returned."""
    reply = gateway.request("GET", "/patients/123", headers=bearer(gateway))
    assert (reply.status_code, reply.json()) == (200, {"id": "123", "name": "Jane Doe"})
    assert reply.headers["content-type"] == "application/json"


def test_claim_is_accepted(gateway: ProcessGateway) -> None:
    """CONTRACT section 2: 201, and the body that was read."""
    reply = gateway.request("POST", "/claims", headers=bearer(gateway), json={"patient": "123"})
    assert (reply.status_code, reply.json()["claim_id"]) == (201, "CLM123")


def test_bad_json_is_a_400(gateway: ProcessGateway) -> None:
    """CONTRACT section 2: when `json_body` is read."""
    reply = gateway.request("POST", "/claims", headers=bearer(gateway), content=b"{")
    assert (reply.status_code, reply.json()["code"]) == (400, "bad_request")


def test_no_token_is_a_401_and_an_unknown_path_a_404(gateway: ProcessGateway) -> None:
    """CONTRACT section 5."""
    assert gateway.request("GET", "/patients/123").json()["code"] == "unauthorized"
    assert gateway.request("POST", "/claims", json={}).status_code == 401
    assert gateway.request("GET", "/nowhere", headers=bearer(gateway)).json()["code"] == "not_found"
    assert gateway.request("DELETE", "/claims", headers=bearer(gateway)).status_code == 405


def test_development_issuer_is_said_loudly(gateway: ProcessGateway) -> None:
    """CONTRACT section 2: nobody takes it for a production set-up."""
    assert "WARNING: no issuer is configured. A DEVELOPMENT issuer was created" in gateway.said
    assert gateway.url.startswith("http://127.0.0.1:")


def test_requests_are_in_the_audit_on_standard_output(gateway: ProcessGateway) -> None:
    """CONTRACT section 7: the default sink."""
    trace_id = gateway.request("GET", "/nowhere").json()["trace_id"]
    record = gateway.wait_for_record(lambda each: each.get("trace_id") == trace_id)
    assert (record["decision"], record["reason"], record["request"]["route"]) == ("deny", "not_found", None)


def test_production_refuses_it(tmp_path: Path) -> None:
    """CONTRACT section 2: one line, exit 3, no token."""
    gateway = ProcessGateway([sys.executable, str(script(tmp_path))], tmp_path, tmp_path / "stdout", {"GATEWAY_ENV": "production"})
    assert gateway.wait() == 3
    (line,) = gateway.said.splitlines()
    assert line.startswith("gateway: could not start: authentication: no issuer is configured")
    assert gateway.output == ""
