"""How a process ends: what clients, load balancers and the audit see of it."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.redis_server import wait_until
from tests.support.whole_gateway import Json, ProcessGateway, Upstream, base_document, process_gateway, upstream

REQUEST = b"GET /public/1 HTTP/1.1\r\nHost: gateway\r\n\r\n"


@pytest.fixture(scope="module")
def service() -> Iterator[Upstream]:
    with upstream("patients-1") as started:
        yield started


@contextlib.contextmanager
def started(directory: Path, service: Upstream, drain: Json, **server: Any) -> Iterator[ProcessGateway]:
    document = base_document(
        directory,
        server={"drain": drain, **server},
        services={"patients": {"instances": [service.url]}},
        routes=[{"name": "public", "path": "/public/{rest:path}", "service": "patients", "authentication": "none"}],
    )
    gateway = process_gateway(directory, document)
    try:
        yield gateway.wait_until_listening()
    finally:
        gateway.kill()


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """Closes what a test leaves open."""
    with contextlib.ExitStack() as opened:
        yield opened


def connect(gateway: ProcessGateway) -> socket.socket:
    return socket.create_connection(("127.0.0.1", httpx.URL(gateway.url).port or 0), 20)


def answer(connection: socket.socket) -> bytes:
    """The next answer, head and body."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        assert piece, f"closed after {data!r}"
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def asked(connection: socket.socket) -> bytes:
    connection.sendall(REQUEST)
    return answer(connection)


def rest(connection: socket.socket) -> bytes:
    """Everything until the other side closes."""
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data


def accepts(gateway: ProcessGateway) -> bool:
    try:
        connect(gateway).close()
    except ConnectionRefusedError:
        return False
    return True


def is_draining(gateway: ProcessGateway) -> bool:
    reply = gateway.admin("GET", "/readyz")
    return reply.status_code == 503 and reply.json()["waiting_for"] == ["draining"]


def test_port_stays_open_until_it_is_quiet(tmp_path: Path, service: Upstream, stack: contextlib.ExitStack) -> None:
    """G1, F-50: not ready at once, alive, and every answer tells its client to close, until nobody asks any more; then exit 0."""
    with started(tmp_path, service, {"delay": "20s", "quiet": "1s"}) as gateway:
        kept = stack.enter_context(connect(gateway))
        assert b"connection: close" not in asked(kept)
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: is_draining(gateway), "the gateway to drain")
        assert gateway.admin("GET", "/livez").status_code == 200
        assert b"connection: close" in asked(kept)
        assert rest(kept) == b""
        busy_until = time.monotonic() + 2.5
        while time.monotonic() < busy_until:
            with connect(gateway) as fresh:
                reply = asked(fresh)
                assert reply.startswith(b"HTTP/1.1 200 ")
                assert b"connection: close" in reply
                assert rest(fresh) == b""
        assert gateway.wait() == 0, gateway.said
    events = [record["event"] for record in gateway.records() if record["event"] != "request"]
    assert events == ["start", "admin", "stop"]
    assert gateway.records(lambda record: record["event"] == "admin")[0]["detail"] == {"action": "drain", "source": "SIGTERM"}


def test_port_closes_after_the_delay_though_requests_come(tmp_path: Path, service: Upstream) -> None:
    """G1: nobody may hold up the end."""
    with started(tmp_path, service, {"delay": "1s", "quiet": "1s"}) as gateway:
        gateway.process.send_signal(signal.SIGTERM)
        statuses = set()
        wait_until(lambda: is_draining(gateway), "the gateway to drain")
        with contextlib.suppress(ConnectionError):
            while gateway.process.poll() is None:
                with connect(gateway) as fresh:
                    fresh.sendall(REQUEST)
                    statuses.add(fresh.recv(12))
        assert b"HTTP/1.1 200" in statuses
        assert gateway.wait() == 0, gateway.said


def test_interrupt_at_a_terminal_needs_no_load_balancer_to_notice(tmp_path: Path, service: Upstream) -> None:
    """G1: SIGINT closes the port at once; requests under way are answered."""
    with (
        started(tmp_path, service, {"delay": "10m", "quiet": "10m"}) as gateway,
        service.gate("interrupted"),
        connect(gateway) as connection,
    ):
        connection.sendall(REQUEST.replace(b"\r\n\r\n", b"\r\nX-Gate: interrupted\r\n\r\n"))
        wait_until(lambda: "interrupted" in service.waiting, "the request to be under way")
        gateway.process.send_signal(signal.SIGINT)
        wait_until(lambda: not accepts(gateway), "the port to close")
        service.gates["interrupted"].set()
        reply = answer(connection)
        assert reply.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in reply
        connection.close()
        assert gateway.wait() == 0, gateway.said


def test_connections_that_have_not_asked_yet_get_their_answer(tmp_path: Path, service: Upstream, stack: contextlib.ExitStack) -> None:
    """G1: the port closed between connecting and asking, or within a head."""
    with started(tmp_path, service, {"delay": 0}) as gateway:
        silent, halfway, idle = (stack.enter_context(connect(gateway)) for _ in range(3))
        asked(idle)
        halfway.sendall(REQUEST[:20])
        # Answered after the others were accepted.
        asked(idle)
        gateway.process.send_signal(signal.SIGTERM)
        assert rest(idle) == b"", "an idle connection is closed"
        for connection, data in ((silent, REQUEST), (halfway, REQUEST[20:])):
            connection.sendall(data)
            reply = answer(connection)
            assert reply.startswith(b"HTTP/1.1 200 ")
            assert b"connection: close" in reply
            connection.close()
        assert gateway.wait() == 0, gateway.said


def test_requests_in_a_row_are_all_answered_and_the_last_one_closes(tmp_path: Path, service: Upstream) -> None:
    """G1, H9: what was received before the end is answered."""
    with started(tmp_path, service, {"delay": 0}) as gateway, service.gate("row"), connect(gateway) as connection:
        first = REQUEST.replace(b"\r\n\r\n", b"\r\nX-Gate: row\r\n\r\n")
        connection.sendall(first + REQUEST + REQUEST)
        wait_until(lambda: "row" in service.waiting, "the request to be under way")
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts(gateway), "the port to close")
        service.gates["row"].set()
        data = rest(connection)
        assert data.count(b"HTTP/1.1 200 ") == 3
        assert data.count(b"connection: close") == 1
        assert data.rpartition(b"HTTP/1.1 200 ")[2].count(b"connection: close") == 1
        assert gateway.wait() == 0, gateway.said


def test_what_is_not_over_in_time_is_told_so(tmp_path: Path, service: Upstream) -> None:
    """G1: 503 draining where nothing was sent yet; the record says the same. Exit 0 all the same."""
    with started(tmp_path, service, {"delay": 0, "timeout": "500ms"}) as gateway, service.gate("late"), connect(gateway) as connection:
        connection.sendall(REQUEST.replace(b"\r\n\r\n", b"\r\nX-Gate: late\r\n\r\n"))
        wait_until(lambda: "late" in service.waiting, "the request to be under way")
        gateway.process.send_signal(signal.SIGTERM)
        reply = answer(connection)
        assert reply.startswith(b"HTTP/1.1 503 ")
        assert b'"code":"draining"' in reply
        assert b"retry-after:" in reply
        assert gateway.wait() == 0, gateway.said
    (record,) = gateway.records(lambda each: each["event"] == "request")
    assert (record["response"]["status"], record["reason"]) == (503, "draining")
    assert gateway.records()[-1]["event"] == "stop"


@pytest.mark.parametrize("workers", [1, 2])
def test_drain_by_the_admin_api_ends_the_whole_gateway(workers: int, tmp_path: Path, service: Upstream) -> None:
    """G1, CONTRACT section 6: as SIGTERM does, for all workers; not for everybody."""
    with started(tmp_path, service, {"delay": 0}, workers=workers) as gateway:
        assert gateway.admin("POST", "/v1/drain", token="").status_code == 401
        assert gateway.admin("GET", "/v1/drain").status_code == 405
        reply = gateway.admin("POST", "/v1/drain")
        assert (reply.status_code, reply.json()) == (202, {"draining": True})
        assert gateway.wait() == 0, gateway.said
    actions = [record["detail"].get("action") for record in gateway.records(lambda each: each["event"] == "admin")]
    assert actions.count("refused") == 1
    assert actions.count("drain") == 1 + workers
    assert len(gateway.records(lambda each: each["event"] == "stop")) == workers


def test_several_workers_wait_until_it_is_quiet(tmp_path: Path, service: Upstream) -> None:
    """G1: whichever worker a request comes to, it is answered and told to close."""
    with started(tmp_path, service, {"delay": "20s", "quiet": "1s"}, workers=2) as gateway:
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: is_draining(gateway), "the gateway to drain")
        replies = []
        for _ in range(8):
            with connect(gateway) as fresh:
                replies.append(asked(fresh))
        assert all(reply.startswith(b"HTTP/1.1 200 ") and b"connection: close" in reply for reply in replies)
        assert gateway.wait() == 0, gateway.said


def test_stream_that_is_not_over_in_time_is_cut_so_that_its_client_notices(tmp_path: Path, service: Upstream) -> None:
    """G1, F-33: no last chunk, and an orderly close rather than a reset."""
    with socket.create_server(("127.0.0.1", 0)) as endless:
        service = Upstream("endless", port=endless.getsockname()[1])
        with started(tmp_path, service, {"delay": 0, "timeout": "500ms"}) as gateway, connect(gateway) as connection:
            connection.sendall(REQUEST)
            link, _ = endless.accept()
            with link:
                link.recv(65536)
                link.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
                data = b""
                while b"hello" not in data:
                    data += connection.recv(65536)
                gateway.process.send_signal(signal.SIGTERM)
                assert rest(connection) == b""
                connection.close()
                assert gateway.wait() == 0, gateway.said
    (record,) = gateway.records(lambda each: each["event"] == "request")
    assert (record["response"]["status"], record["reason"]) == (200, "draining")


def test_body_on_its_way_when_the_port_closes_arrives(tmp_path: Path, service: Upstream) -> None:
    """G1: an upload that has begun is taken whole."""
    with started(tmp_path, service, {"delay": 0}) as gateway, connect(gateway) as connection:
        connection.sendall(b"POST /public/1 HTTP/1.1\r\nHost: gateway\r\nContent-Length: 10\r\n\r\nhello")
        wait_until(lambda: b"gateway_endpoints" in gateway.admin("GET", "/metrics").content, "the gateway to turn")
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts(gateway), "the port to close")
        connection.sendall(b"world")
        reply = answer(connection)
        assert reply.startswith(b"HTTP/1.1 201 ")
        assert b"helloworld" in reply
        connection.close()
        assert gateway.wait() == 0, gateway.said
