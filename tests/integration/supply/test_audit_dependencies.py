"""`scripts/audit-dependencies` before a service that knows something, that knows nothing, that is broken, that is away."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
CONTROL = ("jinja2", "2.11.2")
ADVISORY = {"id": "PYSEC-1", "aliases": ["CVE-2020-1"], "summary": "Bad.", "schema_version": "1.0.0"}


@contextmanager
def service(known: dict[tuple[str, str], str], status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """A vulnerability service: its URL, and the packages that it was asked about.

    Args:
        known: package and version -> the version without the vulnerability.
        status: of its answers.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body in one packet: without that each answer waits for an acknowledgement.
        wbufsize = -1

        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name, version = query["package"]["name"], query["version"]
            asked.append(name)
            fixed = known.get((name, version))
            body = json.dumps({} if fixed is None else {"vulns": [{**ADVISORY, "affected": [_affected(name, fixed)]}]}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1/query", asked
        finally:
            server.shutdown()
            thread.join()


def _affected(name: str, fixed: str) -> dict[str, Any]:
    events = [{"introduced": "0"}, {"fixed": fixed}]
    return {"package": {"name": name, "ecosystem": "PyPI"}, "ranges": [{"type": "ECOSYSTEM", "events": events}]}


def audit(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "audit-dependencies"), "--osv-url", url, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def locked(name: str) -> str:
    """The version that the lock has."""
    (line,) = [line for line in (ROOT / "requirements-dev.lock").read_text().splitlines() if line.startswith(f"{name}==")]
    return line.partition("==")[2].split()[0]


def test_every_locked_package_is_asked_about_and_good() -> None:
    """Nothing known against them is exit code 0."""
    with service({CONTROL: "2.11.3"}) as (url, asked):
        done = audit(url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing is known against them" in done.stdout
    assert {"httptools", "uvicorn", "redis", "pytest", "bandit"} <= set(asked)


def test_a_finding_fails_and_says_what_to_do() -> None:
    """Package, version, advisory, and the version that is better."""
    version = locked("uvicorn")
    with service({CONTROL: "2.11.3", ("uvicorn", version): "999.1"}) as (url, _):
        done = audit(url)
    assert done.returncode == 1
    assert done.stderr == f"uvicorn {version}: PYSEC-1 (fixed in 999.1): Bad.\n"
    assert done.stdout.endswith("1 findings\n")


@pytest.mark.parametrize(("arguments", "code"), [((), 0), (("--require",), 1)])
def test_a_service_that_is_away_is_said_to_be(arguments: tuple[str, ...], code: int) -> None:
    """Offline nothing is proved, and nobody is told otherwise."""
    done = audit(f"http://127.0.0.1:{free_port()}/v1/query", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("dependencies not checked: service unreachable: ")


def test_a_service_that_is_broken_counts_as_away() -> None:
    with service({}, status=503) as (url, _):
        done = audit(url)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("dependencies not checked: service unreachable: ")


def test_a_service_that_knows_nothing_proves_nothing() -> None:
    """A mirror without advisories would find every package good."""
    with service({}) as (url, asked):
        done = audit(url)
    assert (done.returncode, done.stdout) == (0, "")
    assert "dependencies not checked: the service knows nothing against jinja2==2.11.2" in done.stderr
    assert asked == ["jinja2"]


def test_anything_else_that_goes_wrong_is_no_excuse(tmp_path: Path) -> None:
    """Only the service's absence is."""
    lock = tmp_path / "unhashed.lock"
    lock.write_text("uvicorn==0.1\n")
    with service({CONTROL: "2.11.3"}) as (url, _):
        done = audit(url, "--lock", str(lock))
    assert done.returncode == 1
    assert "pip-audit ended with 1" in done.stderr
