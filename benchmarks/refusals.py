"""What a refusal costs: CPU time of a gateway process for each kind of request that it refuses, beside a good request in the same run.

    python -m benchmarks.refusals [--batches N] [--requests N] [--write]

A gateway in a process of its own with its private store, a service that also has the key sets and the introspection endpoint, and one
client that sends a request when the answer to the last one has come, over loopback. A connection is kept until a refusal ends it: then the
next one is part of the cost. CPU time is that of all threads of the gateway, user and system, without the store's, the service's and the
issuer's; what is not the requests' (timers, heartbeats) is in it. `authentication.failures` is off, but for one kind, which shows what it
saves. `--write` puts the ten dearest into docs/security.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.hostile_requests import BEYOND, LOGIN, Keys, Kind, beyond_the_limit, document, good, kinds
from benchmarks.micro.tls import cpu_us
from benchmarks.sidebyside.machine import processor

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "security.md"
BEGIN, END = "<!-- benchmarks/refusals.py -->", "<!-- end -->"
LISTENING = re.compile(r"Gateway listening on http://127\.0\.0\.1:(\d+), admin on (http://127\.0\.0\.1:\d+)")
ADMIN_TOKEN = "the-admin-token-of-benchmarks"
START_SECONDS = 30.0
#: Status and code; the code is empty where there is no problem document.
Answer = tuple[int, str]
#: How many the table in docs/security.md has.
SHOWN = 10
#: What the default of `authentication.failures` lets an address fail in a minute.
FAILURES_A_MINUTE = 100


class _Service(BaseHTTPRequestHandler):
    """The service, the issuers and the introspection endpoint."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    key_sets: Mapping[str, bytes]

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        body = self.key_sets.get(self.path, b'{"active": false}' if self.path == "/introspect" else b'{"id": 17}')
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """The gateway may hang up whenever it likes."""


@contextmanager
def service(keys: Keys) -> Iterator[str]:
    """Its URL, until the end of the block."""
    handler = type("Handler", (_Service,), {"key_sets": {"/login": keys.login(), "/largest": keys.largest()}})
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True, slots=True)
class Started:
    """A gateway that listens."""

    pid: int
    port: int
    admin: str

    def revoke(self, jti: str) -> None:
        """Have the administrator revoke a token."""
        body = json.dumps({"kind": "jti", "value": jti, "issuer": LOGIN, "subject": "alice"}).encode()
        fields = {"Authorization": f"Bearer {ADMIN_TOKEN}", "Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(f"{self.admin}/v1/revocations", body, fields), timeout=START_SECONDS):
            pass


@contextmanager
def gateway(url: str, failures: str | Mapping[str, str]) -> Iterator[Started]:
    """A gateway process until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="benchmark-refusals-") as directory:
        file, said = Path(directory) / "gateway.yaml", Path(directory) / "said"
        file.write_text(json.dumps(document(url, directory, failures)))
        (Path(directory) / "client-secret").write_text("secret-of-the-introspection-client")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "GATEWAY_ADMIN_TOKEN": ADMIN_TOKEN}
        command = [sys.executable, "-m", "gateway", "run", "-c", str(file)]
        with said.open("wb") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as process:
            try:
                yield _listening(process, said)
            finally:
                process.terminate()


def _listening(process: subprocess.Popen[bytes], said: Path) -> Started:
    deadline = time.monotonic() + START_SECONDS
    while (found := LISTENING.search(said.read_text())) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the gateway did not start: {said.read_text()}")
        time.sleep(0.02)
    return Started(process.pid, int(found[1]), found[2])


class Client:
    """One connection at a time, made anew where the gateway ends it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        #: How many connections were made.
        self.made = 0

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, octets: bytes) -> Answer:
        """Send a request and read the answer."""
        connection = self._connected()
        connection.sendall(octets)
        received = b""
        while (answer := _answer(received)) is None:
            piece = connection.recv(65536)
            if not piece:
                raise ConnectionError(f"the answer ended too early: {received!r}")
            received += piece
        if b"connection: close" in received.lower():
            self.close()
        return answer

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=START_SECONDS)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.made += 1
        return self._socket

    def close(self) -> None:
        """End the connection, if there is one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _answer(received: bytes) -> Answer | None:
    """Status and code of an answer, once it is whole."""
    head, found, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    if not found or len(body) < (int(length[1]) if length else 0):
        return None
    problem = b"application/problem+json" in head
    return int(head[9:12]), json.loads(body)["code"] if problem else ""


@dataclass(slots=True)
class Figure:
    """What a kind costs: CPU µs of the gateway for a request, of each batch; and how many connections a request took."""

    kind: Kind
    batches_us: list[float] = field(default_factory=list)
    connections: float = 0.0

    @property
    def us(self) -> float:
        """Of the cheapest batch: the one that others on the machine disturbed least."""
        return min(self.batches_us)


class UnexpectedAnswer(Exception):
    """A request was answered with another status or code than its kind says."""


def measure(pid: int, port: int, asked: Iterable[Kind], batches: int, requests: int) -> list[Figure]:
    """Batches of each kind in turn. Raises UnexpectedAnswer when any answer is not that of its kind."""
    figures = [Figure(kind) for kind in asked]
    for figure in figures:
        with Client(port) as client:
            earlier = [client.ask(figure.kind.octets) for _ in range(figure.kind.before)]
            if any(status == figure.kind.status for status, _ in earlier):
                raise UnexpectedAnswer(f"{figure.kind.name}: refused too early, {earlier}")
            _batch(pid, client, figure.kind, range(3))
    for batch in range(batches):
        numbers = range(1000 + batch * requests, 1000 + (batch + 1) * requests)
        for figure in figures:
            with Client(port) as client:
                figure.batches_us.append(_batch(pid, client, figure.kind, numbers))
                figure.connections = client.made / requests
    return figures


def _batch(pid: int, client: Client, kind: Kind, numbers: range) -> float:
    asked = [kind.nth(number) for number in numbers]
    before = cpu_us(pid)
    for octets in asked:
        if (answer := client.ask(octets)) != (kind.status, kind.code):
            raise UnexpectedAnswer(f"{kind.name}: answered with {answer}")
    return (cpu_us(pid) - before) / len(asked)


def experiment(batches: int, requests: int) -> tuple[Figure, list[Figure]]:
    """The good request, and every kind of refused ones, the dearest first."""
    keys = Keys()
    with service(keys) as url:
        with gateway(url, "off") as started:
            started.revoke("revoked")
            asked = [good(keys), *kinds(keys, keys.signed(jti="revoked"))]
            best, *figures = measure(started.pid, started.port, asked, batches, requests)
        with gateway(url, {"rate": "1/day"}) as started:
            figures += measure(started.pid, started.port, beyond_the_limit(keys), batches, requests)
    return best, sorted(figures, key=lambda figure: figure.us, reverse=True)


def table(best: Figure, figures: Sequence[Figure]) -> str:
    """Markdown, in this order."""
    lines = ["| answer | to what | CPU µs | of a good request | ends the connection |", "|---|---|---:|---:|---|"]
    for figure in (*figures, best):
        ends = "yes" if figure.connections == 1 else "no"
        lines.append(f"| {figure.kind.status} | {figure.kind.name} | {figure.us:.0f} | {figure.us / best.us:.1f} | {ends} |")
    return "\n".join(lines)


def section(best: Figure, figures: Sequence[Figure]) -> str:
    """What docs/security.md says: the dearest, conditions, and what an address can have of a process."""
    limited = next(figure for figure in figures if figure.kind.name == BEYOND)
    minute = figures[0].us * FAILURES_A_MINUTE / 1e6
    return "\n".join(
        (
            table(best, figures[:SHOWN]),
            "",
            f"These are the dearest of {len(figures)} kinds. Anything that has to be verified costs {limited.us:.0f} µs once",
            f"`authentication.failures` is reached: with {FAILURES_A_MINUTE} failures a minute an address can have {minute:.2f} s of CPU",
            "a minute from a process for them, and twice that in its first minute.",
            "",
            f"The cheapest of {len(best.batches_us)} batches each, measured {datetime.datetime.now(datetime.UTC):%Y-%m-%d}: "
            f"{processor(Path('/proc/cpuinfo').read_text())}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, "
            f"Python {platform.python_version()}.",
        )
    )


def written(page: str, text: str) -> str:
    """The page with the text between its markers."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END, 1)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=10, help="of which the cheapest counts")
    parser.add_argument("--requests", type=int, default=100, help="in a batch")
    parser.add_argument("--write", action="store_true", help="put the ten dearest into docs/security.md")
    options = parser.parse_args()
    best, figures = experiment(options.batches, options.requests)
    print(table(best, figures))
    if options.write:
        PAGE.write_text(written(PAGE.read_text(), section(best, figures)))


if __name__ == "__main__":
    main()
