"""What clients and services can make one process hold: connections that do nothing, bytes that nobody reads, bombs of all kinds.

A gateway in a process of its own, raw sockets, and its resident memory before and after. Figures are printed with `-s`.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import resource
import selectors
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.server.memory import PAGE_BYTES
from tests.support.certificates import Authority, client_context, server_context
from tests.support.redis_server import wait_until
from tests.support.websockets import BINARY, NO_MASK, frame, handshake
from tests.support.whole_gateway import ProcessGateway, base_document, process_gateway, running
from tests.support.witness import Witness, witness

KIBIBYTE, MEBIBYTE = 1024, 1024**2
#: SPEC H6.
BOUND = 256 * KIBIBYTE
#: For what a process does anyway while it is measured: arenas, caches, records.
SLACK = 8 * MEBIBYTE
#: Connections whose bodies nobody reads.
HELD = 60
#: Memory that has stayed the same for so long is what it will be.
STEADY_SECONDS = 1.0
GET = b"GET /s/x HTTP/1.1\r\nHost: a\r\n\r\n"
#: A healthy request on a busy test machine; on a quiet one it takes a millisecond.
SOON = 5.0


def document(directory: Path, store: str, url: str, **maxima: Any) -> dict[str, Any]:
    return base_document(
        directory,
        state={"url": store},
        services={"s": {"instances": [url], "timeouts": {"idle": "60s", "response": "60s", "total": "60s"}}},
        routes=[{"name": "all", "path": "/s/{rest:path}", "service": "s", "authentication": "none"}],
        server={
            "max": maxima,
            "timeouts": {"header": "60s", "body": "60s", "idle": "60s"},
            # Who hangs up while nothing is read from it is noticed later.
            "drain": {"delay": 0, "timeout": "1s"},
        },
    )


@pytest.fixture
def service() -> Iterator[Witness]:
    with witness() as started:
        yield started


@pytest.fixture
def gateway(tmp_path: Path, store: str, service: Witness) -> Iterator[ProcessGateway]:
    with running(tmp_path, document(tmp_path, store, service.url, body_bytes="64MiB")) as started:
        yield started


def resident(gateway: ProcessGateway) -> int:
    return int(Path(f"/proc/{gateway.process.pid}/statm").read_text().split()[1]) * PAGE_BYTES


def connect(gateway: ProcessGateway, send: bytes = b"", *, receive_buffer: int = 0) -> socket.socket:
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(20)
    sock.connect(("127.0.0.1", int(gateway.url.rpartition(":")[2])))
    if send:
        sock.sendall(send)
    return sock


@contextmanager
def connections(gateway: ProcessGateway, number: int, send: bytes = b"", *, receive_buffer: int = 0) -> Iterator[list[socket.socket]]:
    """So many, each with these bytes sent."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(gateway, send, receive_buffer=receive_buffer)) for _ in range(number)]


def status(sock: socket.socket) -> int:
    """Of the answer that comes."""
    received = b""
    while b"\r\n" not in received and (data := sock.recv(4096)):
        received += data
    return int(received.split(b" ", 2)[1]) if received else 0


def assert_healthy(gateway: ProcessGateway) -> None:
    """A new connection gets an answer soon, and so do probes."""
    started = time.monotonic()
    with connect(gateway, GET) as sock:
        assert status(sock) == 200
    assert gateway.admin("GET", "/readyz", token="").status_code == 200
    assert time.monotonic() - started < SOON


def open_connections(gateway: ProcessGateway) -> int:
    found = re.search(r"(?m)^gateway_connections (\S+)", gateway.admin("GET", "/metrics").text)
    assert found is not None
    return int(float(found[1]))


def told(what: str, each_bytes: float) -> None:
    """For `-s`."""
    print(f"\n{what}: {each_bytes / KIBIBYTE:.1f} KiB a connection")


def flood(socks: list[socket.socket], data: bytes, most_bytes: int) -> int:
    """Send the data again and again on all, as far as anybody takes it; the bytes that were taken."""
    taken = dict.fromkeys(socks, 0)
    with selectors.DefaultSelector() as selector:
        for sock in socks:
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_WRITE, sock)
        # Nobody takes anything any more when a second has passed without it.
        while selector.get_map() and (ready := selector.select(1.0)):
            for key, _ in ready:
                sock = key.data
                try:
                    taken[sock] += sock.send(data[taken[sock] % len(data) :])
                except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    continue
                except OSError:
                    selector.unregister(sock)
                    continue
                if taken[sock] >= most_bytes:
                    selector.unregister(sock)
    return sum(taken.values())


# Connections


@pytest.fixture
def many_files() -> Iterator[int]:
    """As many open files as this process may have, up to what the test wants."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(12_000, before[1]) if before[1] != resource.RLIM_INFINITY else 12_000
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], wanted), before[1]))
    yield wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_ten_thousand_idle_connections(gateway: ProcessGateway, many_files: int) -> None:
    """F-43, F-40, H10: they cost little, a healthy request is served soon, and one more than is allowed is told so."""
    assert many_files >= 10_500, "this test needs 10,500 open files: raise `ulimit -Hn`"
    before = resident(gateway)
    with connections(gateway, 9_990):
        wait_until(lambda: open_connections(gateway) == 9_990, "the connections", 60)
        each = (resident(gateway) - before) / 9_990
        told("idle", each)
        assert each < 16 * KIBIBYTE
        assert_healthy(gateway)
        with connections(gateway, 10), connect(gateway) as beyond:
            assert status(beyond) == 503
            assert gateway.admin("GET", "/readyz", token="").status_code == 200
    wait_until(lambda: open_connections(gateway) == 0, "the connections to be forgotten", 60)
    assert_healthy(gateway)


def test_idle_connections_and_resets_leave_it_healthy(gateway: ProcessGateway) -> None:
    """F-43: 500 idle ones, and 2,000 that come, send a part of a request, and are reset."""
    linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
    with connections(gateway, 500):
        for number in range(2000):
            sock = connect(gateway, GET[: number % len(GET)])
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            sock.close()
        assert_healthy(gateway)
        wait_until(lambda: open_connections(gateway) == 500, "the reset ones to be forgotten")
    assert_healthy(gateway)


@pytest.mark.parametrize("kept", [64, 1000])
def test_a_start_without_the_files_for_it(tmp_path: Path, store: str, service: Witness, kept: int) -> None:
    """F-43, S-44: fewer connections than configured, said at the start; next to none is no start."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256 + kept, before[1]))
    try:
        started = process_gateway(tmp_path, document(tmp_path, store, service.url))
        # It inherits the soft limit and raises it; the hard one can only be lowered for good, so it is lowered there.
        resource.prlimit(started.process.pid, resource.RLIMIT_NOFILE, (256 + kept, 256 + kept))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    try:
        if kept == 64:
            assert started.process.wait(30) == 3
            assert "server.max.connections: 10000 connections need" in started.said
            return
        started.wait_until_listening()
        assert re.search(r"it takes (\d+) connections", started.said)
        assert_healthy(started)
        assert started.stop() == 0
    finally:
        started.kill()


# Heads


def test_heads_that_do_not_end(gateway: ProcessGateway) -> None:
    """F-41, F-40: 200 clients with 40 KiB of a head each hold no more than that."""
    part = b"GET /s/x HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%03d: %b\r\n" % (number, b"x" * 300) for number in range(95))
    assert_healthy(gateway)
    before = resident(gateway)
    with connections(gateway, 200, part):
        wait_until(lambda: open_connections(gateway) == 200, "the connections")
        assert_healthy(gateway)
        each = (resident(gateway) - before) / 200
        told("in the head", each)
        assert each < BOUND


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"GET /s/x HTTP/1.1\r\nHost: a\r\n", b"X: 1\r\n" * 10_000),
        (b"GET /s/x HTTP/1.1\r\nHost: a\r\nX: ", b"x" * 65_536),
        (b"GET /s/", b"x" * 65_536),
        # To a service that doesn't answer before it has all: what is answered early is no refusal.
        (b"POST /s/deaf HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;", b"x" * 65_536),
        (b"POST /s/deaf HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: 1\r\n" * 10_000),
    ],
    ids=["fields", "one field", "a target", "a chunk extension", "trailers"],
)
def test_sixty_four_mebibytes_of_it(gateway: ProcessGateway, begin: bytes, more: bytes) -> None:
    """F-41: four clients that send up to 64 MiB each are told, read no longer than it takes to tell them, and leave nothing behind."""
    assert_healthy(gateway)
    before = resident(gateway)
    with connections(gateway, 4, begin) as socks:
        flood(socks, more, 64 * MEBIBYTE)
        assert resident(gateway) - before < SLACK
        for sock in socks:
            sock.setblocking(True)
            assert status(sock) in (400, 414, 431)
    assert_healthy(gateway)
    wait_until(lambda: open_connections(gateway) == 0, "the connections to be forgotten")


def test_pipelined_requests_that_wait(gateway: ProcessGateway) -> None:
    """F-41, H6: 40 clients with thousands of requests behind one that lasts."""
    assert_healthy(gateway)
    before = resident(gateway)
    with connections(gateway, 40, GET.replace(b"/s/x", b"/s/never")) as socks:
        sent = flood(socks, GET * 1000, 4 * MEBIBYTE)
        each = (resident(gateway) - before) / 40
        told(f"pipelined, {sent / len(GET) / 40:.0f} requests sent", each)
        assert each < BOUND
        assert_healthy(gateway)


# Bodies


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@dataclass
class Sides:
    """A gateway, and how to speak to it: TLS on neither side, on one, or on both."""

    gateway: ProcessGateway
    tls: ssl.SSLContext | None
    #: For a client's connection and that to the service together; where both have TLS each has its bound for itself.
    bound: int

    def connect(self, send: bytes, *, receive_buffer: int = 0) -> socket.socket:
        sock = connect(self.gateway, receive_buffer=receive_buffer)
        if self.tls is not None:
            sock = self.tls.wrap_socket(sock, server_hostname="127.0.0.1")
        sock.sendall(send)
        return sock


@pytest.fixture(params=["plain", "TLS of clients", "TLS of services", "TLS of both"])
def sides(tmp_path: Path, store: str, authority: Authority, request: pytest.FixtureRequest) -> Iterator[Sides]:
    files = authority.issue("127.0.0.1")
    clients, services = (request.param in (name, "TLS of both") for name in ("TLS of clients", "TLS of services"))
    with witness(server_context(files) if services else None) as service:
        configured = document(tmp_path, store, service.url, body_bytes="64MiB")
        if clients:
            configured["server"]["tls"] = {"certificate_file": str(files.certificate), "key_file": str(files.key)}
        if services:
            configured["services"]["s"]["tls"] = {"ca_file": str(authority.file)}
        configured["routes"][0]["websocket"] = True
        with running(tmp_path, configured) as gateway:
            sides = Sides(gateway, client_context(authority) if clients else None, 2 * BOUND if clients and services else BOUND)
            # What the first request of a process costs it is not the connection's.
            for _ in range(4):
                with sides.connect(GET) as sock:
                    assert status(sock) == 200
            yield sides


def test_clients_that_never_read(sides: Sides) -> None:
    """H6, F-40: 60 downloads of 64 MiB that nobody takes."""
    before = settled(sides.gateway)
    with ExitStack() as stack:
        for _ in range(HELD):
            stack.enter_context(sides.connect(GET.replace(b"/s/x", b"/s/large"), receive_buffer=4096))
        each = (settled(sides.gateway) - before) / HELD
        told("nobody reads", each)
        assert each < sides.bound


UPLOADS = {
    "with a length": (b"Content-Length: %d\r\n\r\n" % (20 * MEBIBYTE), b"x" * 65_536),
    "in chunks": (b"Transfer-Encoding: chunked\r\n\r\n", b"8000\r\n" + b"x" * 0x8000 + b"\r\n"),
}


@pytest.mark.parametrize("framing", UPLOADS)
def test_services_that_never_read(sides: Sides, framing: str) -> None:
    """H6, F-40: 60 uploads of 20 MiB that nobody takes."""
    fields, data = UPLOADS[framing]
    before = settled(sides.gateway)
    with ExitStack() as stack:
        head = b"POST /s/deaf HTTP/1.1\r\nHost: a\r\n" + fields
        socks = [stack.enter_context(sides.connect(head)) for _ in range(HELD)]
        assert flood(socks, data, 20 * MEBIBYTE) < HELD * 20 * MEBIBYTE
        each = (settled(sides.gateway) - before) / HELD
        told("the service does not read", each)
        assert each < sides.bound


def test_tiny_chunks_that_nobody_takes(gateway: ProcessGateway) -> None:
    """H6, F-40: 20 uploads in chunks of two bytes cost no more than others."""
    assert_healthy(gateway)
    before = settled(gateway)
    with connections(gateway, 20, b"POST /s/deaf HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n") as socks:
        flood(socks, b"2\r\nxx\r\n" * 10_000, 20 * MEBIBYTE)
        each = (settled(gateway) - before) / 20
        told("tiny chunks", each)
        assert each < BOUND


@pytest.mark.parametrize("deaf", ["client", "service"])
def test_ends_of_tunnels_that_never_read(sides: Sides, deaf: str) -> None:
    """H6, F-40: 60 WebSockets with 64 MiB of frames that nobody takes."""
    before = settled(sides.gateway)
    with ExitStack() as stack:
        offer = handshake(target=b"/s/tunnel-large" if deaf == "client" else b"/s/tunnel-deaf")
        socks = [stack.enter_context(sides.connect(offer)) for _ in range(HELD)]
        if deaf == "service":
            for sock in socks:
                assert status(sock) == 101
            assert flood(socks, frame(BINARY, bytes(65_536), mask=NO_MASK), 64 * MEBIBYTE) < HELD * 64 * MEBIBYTE
        each = (settled(sides.gateway) - before) / HELD
        told(f"the {deaf} does not read", each)
        assert each < sides.bound


def settled(gateway: ProcessGateway) -> int:
    """Resident bytes, when they have stayed the same for a while."""
    since, seen = time.monotonic(), resident(gateway)

    def steady() -> bool:
        nonlocal since, seen
        now = resident(gateway)
        if abs(now - seen) > MEBIBYTE // 4:
            since, seen = time.monotonic(), now
        return time.monotonic() - since > STEADY_SECONDS

    wait_until(steady, "memory to stay the same", 60)
    return resident(gateway)


def test_a_compressed_bomb_passes_untouched(gateway: ProcessGateway) -> None:
    """S-20, F-40: 1 MiB that would be 1 GiB goes through both ways as it is, and costs what 1 MiB costs."""
    bomb = gzip.compress(b"\0" * (1 << 28), compresslevel=9) * 4
    head = b"POST /s/echo HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    assert_healthy(gateway)
    before = resident(gateway)
    with connect(gateway, head + bomb) as sock:
        answer = b""
        while len(answer.partition(b"\r\n\r\n")[2]) < len(bomb):
            data = sock.recv(65_536)
            assert data, answer[:200]
            answer += data
    fields, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-encoding: gzip" in fields.lower()
    assert body == bomb
    assert resident(gateway) - before < 4 * len(bomb) + SLACK


DEEP = {
    "lists": b"[" * 10_000 + b"]" * 10_000,
    "objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "without an end": b"[" * 100_000,
    "digits": b"[" + b"9" * 100_000 + b"]",
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_json_is_a_bad_request(tmp_path: Path, store: str, name: str) -> None:
    """F-45, S-44: for handlers that read `json_body`; the process goes on."""
    script = tmp_path / "app.py"
    script.write_text(
        f"from gateway import BackendAPIGateway\n"
        f"gateway = BackendAPIGateway(**{base_document(tmp_path, state={'url': store}) | {'version': None}!r})\n"
        f"@gateway.route('/json', methods=['POST'], authentication='none')\n"
        f"def read(request):\n    return {{'data': {{'kind': type(request.json_body).__name__}}}}\n"
        f"gateway.start()\n"
    )
    started = ProcessGateway([sys.executable, str(script)], tmp_path, tmp_path / "audit.jsonl", os.environ)
    try:
        started.wait_until_listening()
        answer = started.request("POST", "/json", content=DEEP[name])
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
        assert started.request("POST", "/json", content=json.dumps([1])).json() == {"kind": "list"}
        assert started.stop() == 0, started.said
        assert "Traceback" not in started.said
    finally:
        started.kill()
