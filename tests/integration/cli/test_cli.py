"""The commands as processes of their own: exit codes, streams, and the admin API over a real connection."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

TOKEN = "admin-token"


def gateway(*arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("GATEWAY_")}
    command = [sys.executable, "-m", "gateway", *arguments]
    return subprocess.run(command, capture_output=True, text=True, input=stdin, env=inherited | environ, timeout=60, check=False)


class _AdminServer(ThreadingHTTPServer):
    """Keeps what was asked, answers what it was told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, str, Any]] = []
        self.status = 200
        self.answer: object = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: _AdminServer

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def do_GET(self) -> None:
        self._answer(None)

    def _answer(self, body: Any) -> None:
        allowed = self.headers["Authorization"] == f"Bearer {TOKEN}"
        self.server.requests.append((self.command, self.path, body))
        content = json.dumps(self.server.answer if allowed else {"detail": "no"}).encode()
        self.send_response(self.server.status if allowed else 401)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Says nothing."""


@pytest.fixture
def admin() -> Iterator[_AdminServer]:
    server = _AdminServer()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_check_ends_with_0_for_a_good_file_and_1_for_a_bad_one(tmp_path: Path) -> None:
    """CONTRACT §3: exit codes of check."""
    file = tmp_path / "gateway.yaml"
    file.write_text("version: 1\n")
    assert gateway("check", str(file)).returncode == 0
    file.write_text("version: 1\nsever: {}\n")
    bad = gateway("check", str(file))
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr.startswith(f'{file}:2:1 sever: unknown key "sever", did you mean "server"?')
    assert gateway("check").returncode == 2


@pytest.mark.parametrize("text", [None, "version: 1\nserver: {port: x, host: ''}\n", "a: ["])
def test_run_that_cannot_start_says_one_line_and_ends_with_3(text: str | None, tmp_path: Path) -> None:
    """CONTRACT §3: one clear line and exit 3 when it cannot start."""
    file = tmp_path / "gateway.yaml"
    if text is not None:
        file.write_text(text)
    result = gateway("run", "-c", str(file))
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr.startswith(f"gateway: could not start: {file}")
    assert result.stderr.count("\n") == 1


def test_check_compares_the_drain_with_the_grace_period(tmp_path: Path) -> None:
    """F-50: by option or environment; a span that can't be read is bad usage."""
    file = tmp_path / "gateway.yaml"
    file.write_text("version: 1\nserver: {drain: {delay: 5s, timeout: 30s}}\n")
    assert "1 warning" in gateway("check", str(file), "--grace-period", "30s").stdout
    warned = gateway("check", str(file), GATEWAY_GRACE_PERIOD="39s")
    assert (warned.returncode, "server.drain: an end may take 40 s" in warned.stderr) == (0, True)
    assert "0 warnings" in gateway("check", str(file), GATEWAY_GRACE_PERIOD="40s").stdout
    assert gateway("check", str(file), "--grace-period", "soon").returncode == 2


def test_run_warns_of_a_drain_that_the_platform_cuts_short(tmp_path: Path) -> None:
    """F-50: where the platform's grace period is told; one that can't be read is a start that fails."""
    file = tmp_path / "gateway.yaml"
    file.write_text("version: 1\nserver: {port: 65536}\n")
    assert "65536" in gateway("run", "-c", str(file), GATEWAY_GRACE_PERIOD="1s").stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        file.write_text(f"version: 1\nserver: {{port: {taken.getsockname()[1]}}}\nadmin: {{port: 0}}\n")
        warned = gateway("run", "-c", str(file), GATEWAY_GRACE_PERIOD="30s")
        assert "server.drain: an end may take 40 s" in warned.stderr
        assert "server.drain" not in gateway("run", "-c", str(file), GATEWAY_GRACE_PERIOD="1m").stderr
        refused = gateway("run", "-c", str(file), GATEWAY_GRACE_PERIOD="soon")
    assert (refused.returncode, "could not start: GATEWAY_GRACE_PERIOD" in refused.stderr) == (3, True)


def test_run_points_at_check_when_there_is_more(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("version: 2\nsever: {}\n")
    assert gateway("run", GATEWAY_CONFIG=str(file)).stderr.endswith(f"(and 1 more: gateway check {file})\n")


def test_run_ends_with_3_when_the_port_is_taken(tmp_path: Path) -> None:
    """CONTRACT §3: exit 3 could not start."""
    file = tmp_path / "gateway.yaml"
    file.write_text("version: 1\nadmin: {port: 0}\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = gateway("run", "-c", str(file), "--port", str(taken.getsockname()[1]))
    assert result.returncode == 3
    assert "gateway: could not start: " in result.stderr


def test_run_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    """CONTRACT §3: run serves; the options take the place of the file's."""
    file = tmp_path / "gateway.yaml"
    file.write_text("version: 1\nserver: {port: 1}\nadmin: {port: 0}\n")
    command = [sys.executable, "-m", "gateway", "run", "-c", str(file), "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            found = next(match for line in process.stdout if (match := re.search(r"listening on (http://127\.0\.0\.1:[1-9][0-9]*)", line)))
            assert httpx.get(found[1] + "/nowhere", trust_env=False).status_code == 404
        finally:
            process.terminate()
            process.communicate(timeout=30)
    assert process.returncode == 0


def test_schema_and_version_end_with_0() -> None:
    assert json.loads(gateway("schema").stdout)["type"] == "object"
    assert gateway("--version").stdout.startswith("gateway ")


def test_revoke_posts_the_revocation(admin: _AdminServer) -> None:
    """CONTRACT §6: POST /v1/revocations."""
    admin.status = 201
    admin.answer = {
        "kind": "jti",
        "value": "j1",
        "subject": "jane",
        "issued_before": 1_767_225_600,
        "expires_at": 1_767_229_200,
        "reason": "lost",
    }
    before = time.time()
    arguments = ["--jti", "j1", "--subject", "jane", "--issued-before", "2026-01-01T00:00:00Z", "--expires", "+1h", "--reason", "lost"]
    result = gateway("revoke", *arguments, "--admin", admin.url, GATEWAY_ADMIN_TOKEN=TOKEN)
    expected = "revoked jti j1 subject=jane issued_before=2026-01-01T00:00:00Z expires_at=2026-01-01T01:00:00Z reason='lost'\n"
    assert (result.returncode, result.stdout, result.stderr) == (0, expected, "")
    ((method, path, body),) = admin.requests
    assert before + 3600 <= body.pop("expires_at") <= time.time() + 3600
    assert (method, path) == ("POST", "/v1/revocations")
    assert body == {"kind": "jti", "value": "j1", "subject": "jane", "issued_before": 1_767_225_600.0, "reason": "lost"}


def test_a_token_can_come_from_standard_input(admin: _AdminServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    admin.answer = {"kind": "jti", "value": "j1"}
    result = gateway("revoke", "--token", "-", "--admin", admin.url, "--admin-token-file", str(tmp_path / "token"), stdin="a.b.c\n")
    assert result.returncode == 0
    assert admin.requests[0][2] == {"kind": "token", "value": "a.b.c", "reason": ""}


def test_revocations_lists_entries(admin: _AdminServer) -> None:
    """CONTRACT §6: GET /v1/revocations."""
    admin.answer = {"revocations": [{"kind": "subject", "value": "jane", "issuer": None, "expires_at": 1_767_229_200.5, "reason": ""}]}
    result = gateway("revocations", "--admin", admin.url, GATEWAY_ADMIN_TOKEN=TOKEN)
    assert (result.returncode, result.stdout) == (0, "subject jane expires_at=2026-01-01T01:00:00Z\n")


@pytest.mark.parametrize(
    ("status", "answer", "environ", "message"),
    [
        (200, {}, {}, "the admin API wants another token: --admin-token-file FILE or GATEWAY_ADMIN_TOKEN"),
        (400, {"detail": "value is empty."}, {"GATEWAY_ADMIN_TOKEN": TOKEN}, "the admin API answered 400: value is empty."),
        (500, [], {"GATEWAY_ADMIN_TOKEN": TOKEN}, "the admin API answered 500: no reason given: is this the admin port?"),
    ],
)
def test_a_refusal_of_the_admin_api_is_one_line_and_exit_1(
    status: int, answer: object, environ: dict[str, str], message: str, admin: _AdminServer
) -> None:
    admin.status, admin.answer = status, answer
    result = gateway("revoke", "--subject", "jane", "--admin", admin.url, **environ)
    assert (result.returncode, result.stderr) == (1, f"gateway: {message}\n")


def test_an_admin_port_that_is_not_there_is_one_line_and_exit_1() -> None:
    result = gateway("revocations", "--admin", "http://127.0.0.1:1")
    assert result.returncode == 1
    assert result.stderr.startswith("gateway: can't reach the admin API at http://127.0.0.1:1: ")
    assert result.stderr.count("\n") == 1
