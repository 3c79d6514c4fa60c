"""Certificates of a running gateway: what it refuses to start with, and how they are exchanged while it serves."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.certificates import EXPIRED, Authority, Files, client_context
from tests.support.redis_server import wait_until
from tests.support.whole_gateway import ROOT, Json, ProcessGateway, Upstream, base_document, running, upstream, write

GET = b"GET /a HTTP/1.1\r\nHost: api.example.gov\r\n\r\n"


@pytest.fixture(scope="module")
def service() -> Iterator[Upstream]:
    with upstream("patients-1") as started:
        yield started


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def document(directory: Path, service: Upstream, tls: Json, **server: Any) -> Json:
    return base_document(
        directory,
        server={"tls": {key: str(value) for key, value in tls.items()}, **server},
        services={"patients": {"instances": [service.url]}},
        routes=[{"name": "a", "path": "/a", "service": "patients", "authentication": "none"}],
    )


class Connection:
    """A client's connection, which stays open."""

    def __init__(self, gateway: ProcessGateway, context: ssl.SSLContext) -> None:
        url = urlsplit(gateway.url)
        assert url.hostname is not None
        assert url.scheme == "https"
        plain = socket.create_connection((url.hostname, url.port or 0), 10)
        try:
            self._socket = context.wrap_socket(plain, server_hostname=url.hostname)
        except BaseException:
            plain.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def certificate(self) -> bytes:
        """What the gateway has shown."""
        return self._socket.getpeercert(binary_form=True) or b""

    def status(self) -> int:
        """Of the answer to a request."""
        self._socket.sendall(GET)
        data = b""
        while b"}" not in data:
            piece = self._socket.recv(1 << 16)
            if not piece:
                raise ConnectionResetError
            data += piece
        return int(data.split(b" ")[1])


def shown(gateway: ProcessGateway, context: ssl.SSLContext) -> bytes:
    with Connection(gateway, context) as connection:
        assert connection.status() == 200
        return connection.certificate


def der(files: Files) -> bytes:
    return ssl.PEM_cert_to_DER_cert(files.certificate.read_text())


def shown_by_everybody(gateway: ProcessGateway, context: ssl.SSLContext, expected: bytes) -> None:
    """Workers take it one by one, and the kernel chooses the worker."""
    wait_until(lambda: all(shown(gateway, context) == expected for _ in range(8)), "the certificate on new connections")


def metric(gateway: ProcessGateway, name: str) -> float:
    (line,) = [each for each in gateway.admin("GET", "/metrics").text.splitlines() if each.startswith(f"{name} ")]
    return float(line.split()[1])


def test_a_certificate_is_exchanged_while_workers_serve(tmp_path: Path, service: Upstream, authority: Authority) -> None:
    """H13, S-39, IA-5: new handshakes get the new one, open connections go on; a pair that does not fit changes nothing."""
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    first, second, third = (authority.issue("127.0.0.1", days=(-1, days)) for days in (30, 40, 50))
    first.put(certificate, key)
    context = client_context(authority)
    with running(tmp_path, document(tmp_path, service, {"certificate_file": certificate, "key_file": key}, workers=2)) as gateway:
        shown_by_everybody(gateway, context, der(first))
        assert metric(gateway, 'gateway_certificate_not_after_seconds{certificate="server.tls.certificate_file"}') == pytest.approx(
            time.time() + 30 * 86_400, abs=600
        )
        with Connection(gateway, context) as kept:
            assert kept.status() == 200
            second.put(certificate, key)
            shown_by_everybody(gateway, context, der(second))
            assert (kept.status(), kept.certificate) == (200, der(first))
        accepted = gateway.wait_for_record(lambda each: each["event"] == "config")["detail"]
        assert (accepted["action"], accepted["result"]) == ("reload", "accepted")
        certificate.write_bytes(third.certificate.read_bytes())
        wait_until(lambda: gateway.said.count("configuration refused (file)") == 2, "both workers to refuse it")
        assert re.search(r'server\.tls\.key_file: "\S+" is not the key of the certificate in certificate_file', gateway.said)
        refused = gateway.wait_for_record(lambda each: each["event"] == "config" and each["detail"]["result"] == "refused")["detail"]
        assert refused["keys"] == ["server.tls.key_file"]
        assert {shown(gateway, context) for _ in range(8)} == {der(second)}
        third.put(certificate, key)
        shown_by_everybody(gateway, context, der(third))
        assert "Traceback" not in gateway.said


@pytest.mark.parametrize("trigger", ["file", "signal", "admin"])
def test_a_secret_that_kubernetes_swaps_is_taken(tmp_path: Path, service: Upstream, authority: Authority, trigger: str) -> None:
    """H13, IA-5: files behind a link to a directory, which is exchanged in one step; found, signalled, or asked for."""
    volume = tmp_path / "volume"
    first, second = authority.issue("127.0.0.1"), authority.issue("127.0.0.1")
    swap(volume, "1", first)
    for name in ("tls.crt", "tls.key"):
        (volume / name).symlink_to(f"..data/{name}")
    context = client_context(authority)
    files = {"certificate_file": volume / "tls.crt", "key_file": volume / "tls.key"}
    with running(tmp_path, document(tmp_path, service, files)) as gateway:
        assert shown(gateway, context) == der(first)
        swap(volume, "2", second)
        if trigger == "signal":
            gateway.process.send_signal(signal.SIGHUP)
        elif trigger == "admin":
            assert gateway.admin("POST", "/v1/reload").status_code == 200
        shown_by_everybody(gateway, context, der(second))


def swap(volume: Path, name: str, files: Files) -> None:
    """What the kubelet does with a mounted secret."""
    directory = volume / f"..{name}"
    directory.mkdir(parents=True)
    files.put(directory / "tls.crt", directory / "tls.key")
    fresh = volume / "..data_tmp"
    fresh.symlink_to(directory.name)
    fresh.rename(volume / "..data")


def test_a_client_whose_authority_was_removed_stays_outside(tmp_path: Path, service: Upstream, authority: Authority) -> None:
    """H13, S-39, S-42: revoked by removal, from the next handshake on; sessions of before can't be taken up."""
    clients, others = Authority(tmp_path, "clients"), Authority(tmp_path, "others")
    bundle = tmp_path / "clients-bundle.pem"
    bundle.write_bytes(clients.file.read_bytes() + others.file.read_bytes())
    files = authority.issue("127.0.0.1")
    removed, kept = client_context(authority, clients.issue()), client_context(authority, others.issue())
    tls = {"certificate_file": files.certificate, "key_file": files.key, "client_ca_file": bundle}
    with running(tmp_path, document(tmp_path, service, tls)) as gateway:
        assert shown(gateway, removed) == shown(gateway, kept) == der(files)
        with Connection(gateway, removed) as connection:
            assert connection.status() == 200
            bundle.write_bytes(others.file.read_bytes())
            wait_until(lambda: "generation 2 is at work" in gateway.said, "the new bundle")
            with pytest.raises((ssl.SSLError, ConnectionError)):
                shown(gateway, removed)
            assert shown(gateway, kept) == der(files)
            assert connection.status() == 200
        wait_until(lambda: "TLS handshake failed, server, 127.0.0.1: unknown_authority: " in gateway.said, "the line in the log")
        assert metric(gateway, 'gateway_tls_failures_total{place="server",reason="unknown_authority"}') == 1


def test_a_drain_over_tls_answers_what_is_under_way(tmp_path: Path, service: Upstream, authority: Authority) -> None:
    """G1, H13: the request is answered, handshakes and idle connections don't hold the end up."""
    files = authority.issue("127.0.0.1")
    content = document(tmp_path, service, {"certificate_file": files.certificate, "key_file": files.key})
    with running(tmp_path, content) as gateway, httpx.Client(verify=client_context(authority), trust_env=False, timeout=20) as client:
        url = urlsplit(gateway.url)
        with (
            socket.create_connection((url.hostname or "", url.port or 0)),
            Connection(gateway, client_context(authority)) as idle,
            service.gate("drain"),
        ):
            assert idle.status() == 200
            statuses: list[int] = []
            thread = threading.Thread(
                target=lambda: statuses.append(client.get(gateway.url + "/a", headers={"X-Gate": "drain"}).status_code)
            )
            thread.start()
            wait_until(lambda: "drain" in service.waiting, "the request at the service")
            gateway.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "draining" in gateway.said, "the drain")
            service.gates["drain"].set()
            thread.join(20)
            assert statuses == [200]
            assert gateway.wait() == 0
        assert "Traceback" not in gateway.said


@pytest.mark.parametrize("command", ["check", "run", "doctor"])
def test_what_cannot_serve_is_one_clear_line(tmp_path: Path, service: Upstream, authority: Authority, command: str) -> None:
    """H13, CONTRACT section 3: the same of all three, with the key path; nothing listens."""
    files = authority.issue("127.0.0.1", days=EXPIRED)
    content = document(tmp_path, service, {"certificate_file": files.certificate, "key_file": files.key})
    file = write(tmp_path, content, "file")
    words = [sys.executable, "-m", "gateway", command, *(["-c"] if command != "check" else []), str(file)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GATEWAY_")} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == {"check": 1, "run": 3, "doctor": 1}[command]
    said = done.stdout + done.stderr
    assert len(re.findall(r'server\.tls\.certificate_file: "\S+" expired at ', said)) == 1, said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == (2 if command == "check" else 1), said
