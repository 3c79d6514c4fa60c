"""What TLS on the data port costs: CPU time of a gateway process for a handshake, and for a request on a kept connection.

    python -m benchmarks.micro.tls [--requests N] [--connections N]

A gateway with one public route in a process of its own, an upstream and one client in this process, over loopback. CPU time is the gateway
process's, from /proc/PID/task/*/schedstat: what is not the requests' (timers, the store's heartbeat) is in it. Sessions are never taken up
again, so every handshake is a whole one.
"""

from __future__ import annotations

import argparse
import datetime
import ipaddress
import json
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

REQUEST = b"GET /a HTTP/1.1\r\nHost: api.example.gov\r\nUser-Agent: wrk/4.1\r\nAccept: application/json\r\n\r\n"
ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"id": 17}'
KEYS: dict[str, Callable[[], ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey]] = {
    "ECDSA P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "RSA 2048": lambda: rsa.generate_private_key(65537, 2048),
}
#: Before the clock runs.
WARM = 500
BATCHES = 20


def certificate(directory: Path, kind: str) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    key = KEYS[kind]()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "benchmark")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    stem = directory / kind.replace(" ", "-")
    files = stem.with_suffix(".crt"), stem.with_suffix(".key")
    files[0].write_bytes(made.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    files[1].chmod(0o600)
    return files


def serve_upstream() -> int:
    """Answer requests in a thread until the end of the process; the port."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                connection.sendall(ANSWER * data.count(b"\r\n\r\n"))

    def accept() -> None:
        while True:
            threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    port: int = listening.getsockname()[1]
    return port


@contextmanager
def gateway(directory: Path, upstream: int, tls: dict[str, str] | None) -> Iterator[tuple[int, int]]:
    """A gateway process: its id and its port."""
    server = {"host": "127.0.0.1", "port": 0, "drain": {"delay": 0}, **({"tls": tls} if tls else {})}
    document = {
        "version": 1,
        "server": server,
        "admin": {"port": 0},
        "audit": {"sink": []},
        "services": {"s": {"instances": [f"http://127.0.0.1:{upstream}"]}},
        "routes": [{"path": "/a", "methods": ["GET"], "service": "s", "authentication": "none"}],
    }
    file = directory / "gateway.yaml"
    file.write_text(json.dumps(document))
    command = [sys.executable, "-m", "gateway", "run", "-c", str(file)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            while (found := re.search(r"listening on https?://127\.0\.0\.1:(\d+)", line := process.stderr.readline())) is None:
                assert line, "the gateway has ended"
            yield process.pid, int(found[1])
        finally:
            process.terminate()
            process.communicate()


def cpu_us(pid: int) -> float:
    """CPU time that a process has used."""
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e3


def connect(port: int, context: ssl.SSLContext | None) -> socket.socket:
    plain = socket.create_connection(("127.0.0.1", port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_hostname="127.0.0.1") if context is not None else plain


def ask(connection: socket.socket) -> None:
    connection.sendall(REQUEST)
    data = b""
    while b'{"id": 17}' not in data:
        piece = connection.recv(65536)
        assert piece, data
        data += piece


def on_one(port: int, context: ssl.SSLContext | None, number: int) -> None:
    with connect(port, context) as connection:
        for _ in range(number):
            ask(connection)


def on_many(port: int, context: ssl.SSLContext | None, number: int) -> None:
    for _ in range(number):
        with connect(port, context) as connection:
            ask(connection)


def measured(
    pid: int, act: Callable[[int, ssl.SSLContext | None, int], None], port: int, context: ssl.SSLContext | None, number: int
) -> float:
    """CPU µs of the gateway for each of them: the least of several batches, which other work on the machine has disturbed least."""
    act(port, context, WARM)
    batches = []
    for _ in range(BATCHES):
        before = cpu_us(pid)
        act(port, context, number // BATCHES)
        batches.append((cpu_us(pid) - before) / (number // BATCHES))
    return min(batches)


def trusting(files: tuple[Path, Path], version: ssl.TLSVersion, *, shown: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(files[0]))
    context.minimum_version = context.maximum_version = version
    if shown:
        context.load_cert_chain(*files)
    return context


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=2_000)
    options = parser.parse_args()
    upstream = serve_upstream()
    print(f"{'':34}{'request, kept':>16}{'connection':>16}{'of it handshake':>18}   CPU µs")
    with tempfile.TemporaryDirectory(prefix="benchmark-tls-") as name:
        directory = Path(name)
        plain = row("plain", directory, upstream, None, None, options)
        for kind in KEYS:
            files = certificate(directory, kind)
            own = {"certificate_file": str(files[0]), "key_file": str(files[1])}
            row(f"TLS 1.3, {kind}", directory, upstream, own, trusting(files, ssl.TLSVersion.TLSv1_3), options, plain)
            if kind == "ECDSA P-256":
                row(f"TLS 1.2, {kind}", directory, upstream, own, trusting(files, ssl.TLSVersion.TLSv1_2), options, plain)
                mutual = {**own, "client_ca_file": own["certificate_file"]}
                both = trusting(files, ssl.TLSVersion.TLSv1_3, shown=True)
                row(f"TLS 1.3, {kind}, client's too", directory, upstream, mutual, both, options, plain)


def row(
    name: str,
    directory: Path,
    upstream: int,
    tls: dict[str, str] | None,
    context: ssl.SSLContext | None,
    options: argparse.Namespace,
    plain: float = 0.0,
) -> float:
    """Measure one kind of connection and print it; CPU µs of what a new connection costs besides its request."""
    with gateway(directory, upstream, tls) as (pid, port):
        request = measured(pid, on_one, port, context, options.requests)
        connection = measured(pid, on_many, port, context, options.connections) - request
    print(f"{name:34}{request:16.1f}{connection:16.0f}{max(connection - plain, 0.0) if plain else 0.0:18.0f}", flush=True)
    return connection


if __name__ == "__main__":
    main()
