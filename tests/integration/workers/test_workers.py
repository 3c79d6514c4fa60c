"""Several processes on one port, and what becomes of them."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.identity_provider import identity_provider
from tests.support.ports import free_port
from tests.support.processes import alive, descendants
from tests.support.redis_server import redis_server, wait_until
from tests.support.whole_gateway import (
    Json,
    Login,
    ProcessGateway,
    Upstream,
    base_document,
    process_gateway,
    running,
    upstream,
)

WORKERS = 3


@pytest.fixture(scope="module")
def login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    with identity_provider() as provider:
        yield Login.at(provider, tmp_path_factory.mktemp("login"))


@pytest.fixture(scope="module")
def service() -> Iterator[Upstream]:
    with upstream("patients-1") as started:
        yield started


def document_for(directory: Path, login: Login, service: Upstream, **sections: object) -> Json:
    document = base_document(
        directory,
        authentication=login.authentication,
        services={"patients": {"instances": [service.url]}},
        limits={"burst": {"rate": "1/hour", "burst": 20, "key": "subject"}},
        routes=[
            {"name": "get-patient", "path": "/patients/{id}", "service": "patients", "limits": ["burst"]},
            {"name": "public", "path": "/public", "service": "patients", "authentication": "none"},
        ],
        **sections,
    )
    document["server"]["workers"] = WORKERS
    return document


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Where the gateway's processes make their temporary files. Its path is short: it holds Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="w-") as directory:
        yield Path(directory)


@pytest.fixture
def gateway(tmp_path: Path, login: Login, service: Upstream, temporary: Path) -> Iterator[ProcessGateway]:
    started = process_gateway(tmp_path, document_for(tmp_path, login, service), TMPDIR=str(temporary))
    try:
        yield started.wait_until_listening()
    finally:
        family = descendants(started.process.pid)
        started.kill()
        wait_until(lambda: not any(map(alive, family)), "everything to end with the supervisor", 40)


def listening_inode(port: int) -> set[str]:
    """Inodes of the sockets that listen on a port of 127.0.0.1."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {line[9] for line in lines if line[1] == f"0100007F:{port:04X}" and line[3] == "0A"}


def workers_of(gateway: ProcessGateway) -> list[int]:
    """Process ids of those who listen on the data port."""
    inodes = listening_inode(httpx.URL(gateway.url).port or 0)
    return [pid for pid in descendants(gateway.process.pid) if inodes & sockets_of(pid)]


def sockets_of(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(os.readlink(each).removeprefix("socket:[").removesuffix("]"))
    return found


def owner(connection: socket.socket, pids: list[int]) -> int:
    """Which process has the other end of a connection."""
    client, server = connection.getsockname()[1], connection.getpeername()[1]
    here = f"0100007F:{server:04X}", f"0100007F:{client:04X}"
    inode = next(line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if tuple(line.split()[1:3]) == here)
    return next(pid for pid in pids if inode in sockets_of(pid))


def ask(connection: socket.socket) -> int:
    """One request on a connection that is kept; the status of its answer."""
    connection.sendall(b"GET /public HTTP/1.1\r\nHost: gateway\r\n\r\n")
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        assert piece, "the connection was closed"
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += connection.recv(65536)
    return int(head.split(b" ")[1])


def test_limit_is_counted_across_workers_on_one_embedded_store(fleet: ProcessGateway, login: Login) -> None:
    """L5: every worker has its own connections, the store is one: exactly the burst is admitted."""
    assert len(workers_of(fleet)) == WORKERS
    subject = f"subject-{secrets.token_hex(4)}"
    headers = login.bearer(subject)
    # A connection each, so that the kernel spreads them.
    statuses = [httpx.get(f"{fleet.url}/patients/1", headers=headers, trust_env=False).status_code for _ in range(30)]
    assert statuses.count(200) == 20
    assert statuses.count(429) == 10

    def requests() -> list[Json]:
        return fleet.records(lambda each: each["event"] == "request" and (each["principal"] or {}).get("subject") == subject)

    wait_until(lambda: len(requests()) == 30, "the records")
    replicas = {record["replica"] for record in requests()}
    assert len(replicas) == WORKERS, "all workers had a part"


def test_killed_worker_is_replaced_and_the_others_go_on(gateway: ProcessGateway) -> None:
    """F-54, G4: no request fails on connections of the other workers."""
    workers = workers_of(gateway)
    address = ("127.0.0.1", httpx.URL(gateway.url).port or 0)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection(address, 10)) for _ in range(24)]
        assert {ask(each) for each in connections} == {200}
        owners = {each: owner(each, workers) for each in connections}
        victim = owners[connections[0]]
        others = [each for each in connections if owners[each] != victim]
        assert others
        os.kill(victim, signal.SIGKILL)

        def replaced() -> bool:
            assert {ask(each) for each in others} == {200}
            return len(workers_of(gateway)) == WORKERS and victim not in workers_of(gateway)

        wait_until(replaced, "the worker to be replaced")
        wait_until(lambda: gateway.admin("GET", "/readyz").status_code == 200, "all workers to be ready")
        assert {ask(each) for each in others} == {200}
    assert f"worker {victim} ended with -9; it is replaced" in gateway.said


def test_killed_admin_process_is_replaced(gateway: ProcessGateway) -> None:
    """F-54: the admin port is answered again, at the same place."""
    workers = set(workers_of(gateway))
    inodes = listening_inode(httpx.URL(gateway.admin_url).port or 0)
    (victim,) = [pid for pid in descendants(gateway.process.pid) if pid not in workers and inodes & sockets_of(pid)]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: f"admin process {victim} ended" in gateway.said, "the supervisor to notice")
    reply = httpx.get(f"{gateway.admin_url}/readyz", timeout=10, trust_env=False)
    assert (reply.status_code, reply.json()) == (200, {"ready": True})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_everything_and_leaves_nothing(number: signal.Signals, gateway: ProcessGateway, temporary: Path) -> None:
    """G1: exit 0; no process, no socket, no temporary file is left, and no complaint is made."""
    family = descendants(gateway.process.pid)
    assert len(family) == WORKERS + 2, "workers, the admin process, the store"
    # As a terminal does it: to the whole group.
    os.killpg(gateway.process.pid, number)
    assert gateway.wait() == 0, gateway.said
    assert not any(map(alive, family))
    assert list(temporary.iterdir()) == []
    assert not listening_inode(httpx.URL(gateway.url).port or 0)
    assert not any(word in gateway.said for word in ("WARNING", "ERROR", "Traceback")), gateway.said
    events = [record["event"] for record in gateway.records()]
    assert events.count("start") == events.count("stop") == WORKERS


def test_killed_supervisor_takes_everything_with_it(gateway: ProcessGateway, temporary: Path) -> None:
    """G4: kill -9 of the supervisor leaves no process and no file."""
    family = descendants(gateway.process.pid)
    gateway.process.kill()
    gateway.process.wait()
    wait_until(lambda: not any(map(alive, family)), "the children to end")
    assert list(temporary.iterdir()) == []


def test_admin_site_answers_while_workers_drain(tmp_path: Path, login: Login, service: Upstream) -> None:
    """G1: /readyz is 503 and /livez 200 from the signal on until the last request is answered."""
    document = document_for(tmp_path, login, service)
    document["server"]["workers"] = 2
    with running(tmp_path, document) as gateway, socket.socket() as connection:
        connection.connect(("127.0.0.1", httpx.URL(gateway.url).port or 0))
        with service.gate("drain"):
            connection.sendall(b"GET /public HTTP/1.1\r\nHost: gateway\r\nX-Gate: drain\r\n\r\n")
            wait_until(lambda: "drain" in service.waiting, "the request to be under way")
            gateway.process.send_signal(signal.SIGTERM)
            wait_until(lambda: gateway.admin("GET", "/readyz").status_code == 503, "the gateway to drain")
            assert gateway.admin("GET", "/livez").status_code == 200
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert gateway.wait() == 0


def test_worker_that_cannot_start_ends_everything_with_one_line(tmp_path: Path, login: Login, service: Upstream, temporary: Path) -> None:
    """CONTRACT section 3: exit 3 and one clear line, though every worker fails."""
    document = document_for(tmp_path, login, service, audit={"sink": [f"file:{tmp_path / 'missing' / 'audit'}"]})
    gateway = process_gateway(tmp_path, document, TMPDIR=str(temporary))
    assert gateway.wait() == 3
    (line,) = gateway.said.splitlines()
    assert (
        line
        == f"gateway: could not start: sink file:{tmp_path / 'missing' / 'audit'} can't be opened for appending: No such file or directory"
    )
    assert list(temporary.iterdir()) == []


def test_fleet_is_ready_when_every_worker_has_met_the_store(tmp_path: Path, login: Login, service: Upstream) -> None:
    """F-52: what is missing is told once, and it heals by itself."""
    port = free_port()
    document = document_for(tmp_path, login, service, state={"url": f"redis://127.0.0.1:{port}/0", "budget": "200ms"})
    with running(tmp_path, document) as gateway:
        reply = gateway.admin("GET", "/readyz")
        assert (reply.status_code, reply.json()) == (503, {"ready": False, "waiting_for": ["store"]})
        refused = gateway.request("GET", "/patients/1", headers=login.bearer("somebody"))
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        assert gateway.said.count("the store is not usable") == WORKERS
        with redis_server("redis", "--port", str(port)):
            wait_until(lambda: gateway.admin("GET", "/readyz").status_code == 200, "every worker to find the store")
            assert gateway.request("GET", "/patients/1", headers=login.bearer("somebody")).status_code == 200


def test_directory_that_cannot_hold_a_socket_is_one_line_and_exit_3(tmp_path: Path, login: Login, service: Upstream) -> None:
    """CONTRACT section 3: the path of a Unix socket has some hundred bytes at most (unix(7))."""
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    document = document_for(tmp_path, login, service, state={"url": "redis://127.0.0.1:1/0"})
    gateway = process_gateway(tmp_path, document, TMPDIR=str(deep))
    assert gateway.wait() == 3
    (line,) = gateway.said.splitlines()
    assert "set TMPDIR to another" in line
    assert list(deep.iterdir()) == []


@pytest.mark.parametrize("section", ["server", "admin"])
def test_taken_port_is_one_line_and_exit_3(section: str, tmp_path: Path, login: Login, service: Upstream, temporary: Path) -> None:
    """CONTRACT section 3: it can't start."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        document = document_for(tmp_path, login, service)
        document[section]["port"] = taken.getsockname()[1]
        gateway = process_gateway(tmp_path, document, TMPDIR=str(temporary))
        assert gateway.wait() == 3
    assert gateway.said.count("\n") == 1
    assert f"{section}.port: 127.0.0.1:{document[section]['port']} is taken by another process" in gateway.said
    assert list(temporary.iterdir()) == []


def test_fleet_answers_for_all_workers(gateway: ProcessGateway, login: Login) -> None:
    """CONTRACT section 6: with several workers the answer is the whole machine's."""
    subject = f"subject-{secrets.token_hex(4)}"
    headers = login.bearer(subject)
    statuses = [httpx.get(f"{gateway.url}/patients/1", headers=headers, trust_env=False).status_code for _ in range(12)]
    assert statuses == [200] * 12
    text = gateway.admin("GET", "/metrics").text
    assert 'gateway_requests_total{method="GET",route="get-patient",status="200"} 12.0' in text
    assert 'gateway_store_state{mode="shared"} 1.0' in text
    (patients,) = gateway.admin("GET", "/v1/services").json()["services"]
    assert sum(instance["requests"] for instance in patients["instances"]) == 12
    assert gateway.admin("GET", "/readyz").json() == {"ready": True}
    assert gateway.admin("GET", "/livez").text == "ok\n"
    assert gateway.admin("GET", "/v1/config").json()["config"]["server"]["workers"] == WORKERS
    revoked = gateway.admin("POST", "/v1/revocations", json={"kind": "subject", "value": subject})
    assert revoked.status_code == 201
    statuses = [httpx.get(f"{gateway.url}/patients/1", headers=headers, trust_env=False).status_code for _ in range(12)]
    assert statuses == [401] * 12, "whichever worker is asked"
    for path in ("/v1/routes", "/v1/services", "/v1/config", "/v1/revocations"):
        assert gateway.admin("GET", path, token="").json()["code"] == "unauthorized"
    record = gateway.wait_for_record(lambda each: each["event"] == "admin" and each["detail"]["action"] == "revoke")
    assert record["detail"]["source"] == "127.0.0.1", "who asked, not the process in between"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("PUT", "/v1/services", 405, "method_not_allowed"),
        ("POST", "/livez", 405, "method_not_allowed"),
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/routes/", 404, "not_found"),
        ("PATCH", "/v1/revocations", 405, "method_not_allowed"),
    ],
)
def test_fleet_errors_have_the_shape_of_all_errors(method: str, path: str, status: int, code: str, fleet: ProcessGateway) -> None:
    """RFC 9457: whether a worker says so or the process in front."""
    reply = fleet.admin(method, path)
    assert (reply.status_code, reply.headers["content-type"], reply.json()["code"]) == (status, "application/problem+json", code)


def test_fleet_refuses_a_body_that_nobody_takes(fleet: ProcessGateway) -> None:
    """F-40: before any worker is asked, and before it is held."""
    reply = fleet.admin("POST", "/v1/revocations", content=b"x" * (64 * 1024 + 1))
    assert (reply.status_code, reply.json()["code"]) == (413, "body_too_large")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, login: Login, service: Upstream) -> Iterator[ProcessGateway]:
    directory = tmp_path_factory.mktemp("fleet")
    with running(directory, document_for(directory, login, service)) as started:
        yield started
