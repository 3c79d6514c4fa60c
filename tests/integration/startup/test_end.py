"""How one process ends: politely, and at once when it is told twice."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.redis_server import wait_until
from tests.support.whole_gateway import ProcessGateway, Upstream, base_document, process_gateway, running, upstream


@pytest.fixture(scope="module")
def service() -> Iterator[Upstream]:
    with upstream("patients-1") as started:
        yield started


def start(directory: Path, service: Upstream) -> ProcessGateway:
    document = base_document(
        directory,
        services={"patients": {"instances": [service.url]}},
        routes=[{"name": "public", "path": "/public", "service": "patients", "authentication": "none"}],
    )
    return process_gateway(directory, document).wait_until_listening()


def under_way(gateway: ProcessGateway, service: Upstream, gate: str) -> socket.socket:
    """A connection whose request has reached the service, which does not answer yet."""
    connection = socket.create_connection(("127.0.0.1", httpx.URL(gateway.url).port or 0), 20)
    connection.sendall(f"GET /public HTTP/1.1\r\nHost: gateway\r\nX-Gate: {gate}\r\n\r\n".encode())
    wait_until(lambda: gate in service.waiting, "the request to be under way")
    return connection


def test_request_under_way_is_answered_and_the_connection_closed(tmp_path: Path, service: Upstream) -> None:
    """G1: not ready from the signal on, alive until the end, exit 0, and every record written."""
    gateway = start(tmp_path, service)
    try:
        with service.gate("polite"):
            connection = under_way(gateway, service, "polite")
            gateway.process.send_signal(signal.SIGTERM)
            wait_until(lambda: gateway.admin("GET", "/readyz").status_code == 503, "the gateway to drain")
            assert gateway.admin("GET", "/readyz").json() == {"ready": False, "waiting_for": ["draining"]}
            assert gateway.admin("GET", "/livez").status_code == 200
        with connection:
            data = b""
            while piece := connection.recv(65536):
                data += piece
        assert data.startswith(b"HTTP/1.1 200 ")
        assert gateway.wait() == 0, gateway.said
    finally:
        gateway.kill()
    assert [(each["event"], each.get("response", {}).get("status")) for each in gateway.records()] == [
        ("start", None),
        ("admin", None),
        ("request", 200),
        ("stop", None),
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_it_at_once(number: signal.Signals, tmp_path: Path, service: Upstream) -> None:
    """F-53: a request that hangs does not hold it up, is told so, and is in the audit all the same."""
    gateway = start(tmp_path, service)
    gate = f"stubborn-{number}"
    try:
        with service.gate(gate), under_way(gateway, service, gate) as connection:
            gateway.process.send_signal(number)
            wait_until(lambda: gateway.admin("GET", "/readyz").status_code == 503, "the gateway to drain")
            gateway.process.send_signal(number)
            assert gateway.wait() == 0, gateway.said
            assert connection.recv(65536).startswith(b"HTTP/1.1 503 ")
    finally:
        gateway.kill()
    assert "Traceback" not in gateway.said
    events = [(each["event"], each.get("response", {}).get("status"), each.get("reason")) for each in gateway.records()]
    assert ("request", 503, "draining") in events
    assert events[-1][0] == "stop"


def test_files_can_be_given_in_a_relative_place(tmp_path: Path, service: Upstream) -> None:
    """CONTRACT section 3: what a path is relative to is the file that names it, wherever the command is run."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "admin").write_text("token-from-a-file\n")
    document = base_document(tmp_path, admin={"port": 0, "token_file": "secrets/admin"})
    with running(tmp_path, document, GATEWAY_ADMIN_TOKEN="") as gateway:
        assert gateway.admin("GET", "/v1/config", token="token-from-a-file").status_code == 200
