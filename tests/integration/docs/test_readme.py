"""The README's examples serve."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest

from tests.support.documents import README, snippets

LISTENING = re.compile(r"Gateway listening on (http://\S+), admin on (http://\S+)")
TOKEN = re.compile(r"^ey[\w-]+\.[\w-]+\.[\w-]+$", re.MULTILINE)
STOP_SECONDS = 60


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[str]:
    """A gateway of its own; what it said until it listened. It ends in order."""
    process = subprocess.Popen(
        [sys.executable, *arguments], env=os.environ.copy(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        said = ""
        for line in process.stderr:
            said += line
            if LISTENING.search(line):
                break
        yield said
        process.terminate()
        assert process.wait(timeout=STOP_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def reached(said: str) -> str:
    found = LISTENING.search(said)
    assert found is not None, said
    return found[1]


def test_the_decorator_example_serves(tmp_path: Path) -> None:
    """CONTRACT section 2: the README's program answers with its development token, and counts its limits."""
    [text] = snippets(README, "python")
    # Only the ports differ: those of the example may be taken here.
    changed = text.replace("BackendAPIGateway()", 'BackendAPIGateway(admin={"port": 0})').replace("port=8080", "port=0")
    program = tmp_path / "example.py"
    program.write_text(changed)
    with running(str(program)) as said:
        token = TOKEN.search(said)
        assert token is not None, said
        url = f"{reached(said)}/patients/123"
        answer = httpx.get(url, headers={"Authorization": f"Bearer {token[0]}"}, trust_env=False)
        assert (answer.status_code, answer.json()) == (200, {"id": "123", "name": "Jane Doe"})
        assert '"10-per-second";q=10;w=1' in answer.headers["ratelimit-policy"]
        assert httpx.get(url, trust_env=False).status_code == 401


class _Patients(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = self.path.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Tests are quiet."""


@pytest.fixture
def patients() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Patients) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_file_example_serves(tmp_path: Path, patients: str) -> None:
    """CONTRACT section 4: the README's file runs; only its issuer, ports and addresses are ours."""
    [text] = snippets(README, "yaml")
    issuer = text[text.index("authentication:") : text.index("state:")]
    changed = text.replace(issuer, "server: {port: 0}\nadmin: {port: 0}\n").replace(
        "http://127.0.0.1:9001, http://127.0.0.1:9002", patients
    )
    config = tmp_path / "gateway.yaml"
    config.write_text(changed)
    with running("-m", "gateway", "run", "-c", str(config)) as said:
        token = TOKEN.search(said)
        assert token is not None, said
        answer = httpx.get(f"{reached(said)}/patients/12", headers={"Authorization": f"Bearer {token[0]}"}, trust_env=False)
        assert (answer.status_code, answer.text) == (200, "/patients/12")
        assert answer.headers["ratelimit-policy"] == '"per-client";q=100;w=60'
