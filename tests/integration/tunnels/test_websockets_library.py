"""A gateway as a process between a client and a service on the `websockets` library (SPEC H8, V7, S-38)."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.sync.client import ClientConnection, connect

from tests.support.redis_server import redis_server, wait_until
from tests.support.tokens import secret_file
from tests.support.websocket_service import WebSocketService, websocket_service
from tests.support.whole_gateway import Json, ProcessGateway, base_document, process_gateway, running

SECRET = "a secret that is long enough for HS256"
#: A second, and what a busy machine makes of it.
ENDED_SECONDS = 5.0
LEEWAY_SECONDS = 1


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with redis_server("redis") as server:
        yield server.url


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebSocketService]:
    with websocket_service(tmp_path_factory.mktemp("service")) as started:
        yield started


def document(directory: Path, store: str, service: WebSocketService, **server: Any) -> Json:
    directory.mkdir(parents=True, exist_ok=True)
    issuer = {"name": "i", "issuer": "https://i", "audience": ["a"], "algorithms": ["HS256"], "secret_file": secret_file(directory, SECRET)}
    return base_document(
        directory,
        server=server,
        state={"url": store, "budget": "2s"},
        authentication={"issuers": [{**issuer, "leeway": f"{LEEWAY_SECONDS}s"}]},
        services={"s": {"instances": [service.url]}},
        limits={"one": {"concurrency": 1, "key": "subject", "lease": "3s"}},
        routes=[
            {"name": "chat", "path": "/chat/{rest:path}", "service": "s", "websocket": True, "scopes": ["chat"]},
            {"name": "one", "path": "/one/{rest:path}", "service": "s", "websocket": True, "limits": ["one"]},
            {"name": "open", "path": "/open/{rest:path}", "service": "s", "websocket": {"origins": ["*"]}, "authentication": "none"},
            {"name": "plain", "path": "/plain/{rest:path}", "service": "s", "authentication": "none"},
        ],
    )


@pytest.fixture(scope="module")
def pair(
    store: str, service: WebSocketService, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ProcessGateway, ProcessGateway]]:
    """Two replicas on one store."""
    with contextlib.ExitStack() as stack:
        directories = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
        started = [stack.enter_context(running(each, document(each, store, service))) for each in directories]
        yield started[0], started[1]


def token(subject: str, *, lasts: float = 600, scope: str = "chat") -> str:
    now = int(time.time())
    claims = {"iss": "https://i", "aud": "a", "sub": subject, "jti": f"jti-{subject}-{now}", "iat": now, "exp": now + lasts, "scope": scope}
    return jwt.encode(claims, SECRET, algorithm="HS256")


@contextlib.contextmanager
def websocket(
    gateway: ProcessGateway, path: str, subject: str = "", *, bearer: str = "", headers: Mapping[str, str] | None = None, **options: Any
) -> Iterator[ClientConnection]:
    """An open connection; authenticated when there is a subject, or a token of its own."""
    bearer = bearer or (token(subject) if subject else "")
    fields = {**(headers or {}), **({"Authorization": f"Bearer {bearer}"} if bearer else {})}
    url = gateway.url.replace("http", "ws", 1) + path
    connecting: Any = connect
    with connecting(url, additional_headers=fields, proxy=None, open_timeout=20, **options) as connection:
        yield connection


def refusal(gateway: ProcessGateway, path: str, subject: str = "", **options: Any) -> tuple[int, str]:
    """Status and code of a handshake that is refused."""
    with pytest.raises(InvalidStatus) as found, websocket(gateway, path, subject, **options):
        pass
    response = found.value.response
    ours = response.headers.get("content-type", "") == "application/problem+json"
    return response.status_code, json.loads(response.body)["code"] if ours else ""


def closed(connection: ClientConnection) -> tuple[int | None, float]:
    """The code with which a connection ends, whatever comes before, and when it does."""
    try:
        while True:
            connection.recv(timeout=20)
    except ConnectionClosed as end:
        return (end.rcvd.code if end.rcvd is not None else None), time.time()


def record(gateway: ProcessGateway, subject: str) -> Json:
    """The record of the tunnel of a subject."""
    return gateway.wait_for_record(lambda each: (each.get("principal") or {}).get("subject") == subject, "the tunnel's record")


def test_messages_go_both_ways_compressed_and_in_parts(pair: tuple[ProcessGateway, ProcessGateway]) -> None:
    """H8: texts, bytes, empty and large ones, fragments, pings; compression is agreed between the two ends."""
    with websocket(pair[0], "/chat/echo", "ada") as connection:
        assert [type(extension) for extension in connection.protocol.extensions] == [PerMessageDeflate]
        large = ("0123456789abcdef" * 65536)[: (1 << 20) - 7]
        for message in ("hello", b"\x00\xff", "", "grüße", large, large.encode()):
            connection.send(message)
            assert connection.recv(timeout=20) == message
        connection.send(["frag", "men", "ted"])
        assert connection.recv(timeout=20) == "fragmented"
        assert connection.ping().wait(20)
    told = record(pair[0], "ada")
    assert (told["response"]["status"], told["decision"], told["upstream"]["service"]) == (101, "allow", "s")
    assert told["request"]["bytes"] > 100
    assert told["response"]["bytes"] > 100
    assert told["duration_ms"] > 0
    metrics = pair[0].admin("GET", "/metrics").text
    assert 'gateway_requests_total{method="GET",route="chat",status="101"} 1.0' in metrics
    assert 'gateway_tunnels_opened_total{service="s"} 1.0' in metrics
    assert 'gateway_tunnels_open{service="s"} 0.0' in metrics
    assert f'gateway_tunnel_bytes_total{{direction="from_client",service="s"}} {float(told["request"]["bytes"])}' in metrics


def test_compression_is_off_when_the_client_does_not_offer_it(pair: tuple[ProcessGateway, ProcessGateway]) -> None:
    """H8: and a message of more than a body may have, compressed or not, is one too many."""
    with websocket(pair[0], "/chat/echo", "bea", compression=None, max_size=None) as connection:
        assert connection.protocol.extensions == []
        connection.send(b"*" * (10 << 20))
        assert len(connection.recv(timeout=20)) == 10 << 20
        with contextlib.suppress(ConnectionClosed):
            connection.send(b"*" * ((10 << 20) + 1))
        assert closed(connection)[0] == 1009
    assert record(pair[0], "bea")["reason"] == "tunnel_message_too_big"


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 3000, 4999])
def test_close_codes_pass_both_ways(pair: tuple[ProcessGateway, ProcessGateway], code: int) -> None:
    """H8."""
    with websocket(pair[0], f"/open/close-{code}") as connection:
        with pytest.raises(ConnectionClosed) as found:
            connection.recv(timeout=20)
        received = found.value.rcvd
        assert received is not None
        assert (received.code, received.reason) == (code, "as asked")
    with websocket(pair[0], f"/open/echo?to-{code}") as other:
        other.close(code, "as I like")

    def ends() -> list[Any]:
        return [end["code"] for end in pair[0].request("GET", "/plain/log").json() if end["path"].endswith(f"to-{code}")]

    wait_until(lambda: ends() == [code], "the service to see the code")


def test_the_service_learns_who_is_asking(pair: tuple[ProcessGateway, ProcessGateway]) -> None:
    """H2, H3, H8: like with any request."""
    forged = {"X-Auth-Subject": "root", "X-Forwarded-For": "1.2.3.4"}
    with websocket(pair[0], "/chat/who", "cleo", headers=forged) as connection:
        fields = {name.lower(): value for name, value in json.loads(connection.recv(timeout=20))}
    assert (fields["x-auth-subject"], fields["x-forwarded-for"]) == ("cleo", "127.0.0.1")
    assert {"traceparent", "x-request-id", "x-forwarded-host", "via"} <= set(fields)


def test_the_pipeline_comes_before_the_tunnel(pair: tuple[ProcessGateway, ProcessGateway]) -> None:
    """H8: authentication, authorization, and the route's own word."""
    assert refusal(pair[0], "/chat/echo") == (401, "unauthorized")
    assert refusal(pair[0], "/chat/echo", bearer=token("dan", scope="other")) == (403, "forbidden")
    assert refusal(pair[0], "/chat/echo", "dan", origin="https://evil.example") == (403, "forbidden")
    # Without the offer the library's service says what it needs.
    assert refusal(pair[0], "/plain/echo") == (426, "")
    with websocket(pair[0], "/open/echo", origin="https://evil.example") as connection:
        connection.send("any page may")
        assert connection.recv(timeout=20) == "any page may"


def test_a_lease_is_held_and_renewed_while_a_tunnel_lasts(pair: tuple[ProcessGateway, ProcessGateway]) -> None:
    """H8: on all replicas, for longer than a lease lives, and given back at the end."""
    with websocket(pair[0], "/one/echo", "eve"):
        assert refusal(pair[1], "/one/echo", "eve") == (429, "rate_limited")
        # Longer than the lease's life of three seconds.
        time.sleep(4)
        assert refusal(pair[1], "/one/echo", "eve") == (429, "rate_limited")
        with websocket(pair[1], "/one/echo", "fay"):
            pass

    def free() -> bool:
        try:
            with websocket(pair[1], "/one/echo", "eve"):
                return True
        except InvalidStatus:
            return False

    wait_until(free, "the lease to be given back")


def test_a_revocation_ends_tunnels_on_all_replicas(pair: tuple[ProcessGateway, ProcessGateway]) -> None:
    """V7: within a second, with 1008 for both sides; others go on."""
    with (
        websocket(pair[0], "/chat/echo", "gus") as quiet,
        websocket(pair[1], "/chat/talk", "gus") as talking,
        websocket(pair[1], "/chat/echo", "hal") as other,
    ):
        assert talking.recv(timeout=20) == "0"
        answer = pair[0].admin("POST", "/v1/revocations", json={"kind": "subject", "value": "gus", "reason": "left"})
        assert answer.status_code == 201
        revoked_at = time.time()
        for connection in (quiet, talking):
            code, at = closed(connection)
            assert code == 1008
            assert at - revoked_at < ENDED_SECONDS
        other.send("still here")
        assert other.recv(timeout=20) == "still here"
        for gateway in pair:
            told = record(gateway, "gus")
            assert (told["response"]["status"], told["reason"], told["detail"]) == (101, "token_revoked", "revoked_subject")
        assert refusal(pair[1], "/chat/echo", "gus") == (401, "token_revoked")

    def ends() -> list[Any]:
        return [end["code"] for end in pair[0].request("GET", "/plain/log").json() if end["path"] == "/chat/talk"]

    wait_until(lambda: ends() == [1008], "the service to be told")


def test_an_expired_token_ends_its_tunnel(pair: tuple[ProcessGateway, ProcessGateway]) -> None:
    """S-38: within a second of `exp` and the leeway, and not before."""
    bound = int(time.time()) + 2 + LEEWAY_SECONDS
    with websocket(pair[0], "/chat/talk", bearer=token("ida", lasts=bound - LEEWAY_SECONDS - int(time.time()))) as connection:
        code, at = closed(connection)
        assert code == 1008
        assert bound - 0.01 <= at < bound + ENDED_SECONDS + 1
    assert record(pair[0], "ida")["reason"] == "token_expired"


@pytest.mark.parametrize("way", ["close", "reset"])
def test_a_client_that_goes_takes_its_connection_to_the_service_along(pair: tuple[ProcessGateway, ProcessGateway], way: str) -> None:
    """H8, R7: without a Close frame, in an orderly way or by a reset."""
    path = f"/open/talk?{way}"
    with websocket(pair[0], path) as connection:
        assert connection.recv(timeout=20) == "0"
        if way == "reset":
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # The library's thread has the socket too, so only this ends the connection at once.
        connection.socket.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: any(end["path"] == path for end in pair[0].request("GET", "/plain/log").json()), "the service to notice")


def test_a_service_that_is_killed_ends_its_tunnels(pair: tuple[ProcessGateway, ProcessGateway], store: str, tmp_path: Path) -> None:
    """H8: kill -9; the client sees the end without a Close frame, and the record says who it was."""
    with (
        websocket_service(tmp_path / "victim") as victim,
        running(tmp_path / "gateway", document(tmp_path / "gateway", store, victim)) as gateway,
    ):
        with websocket(gateway, "/chat/echo", "jon") as connection:
            connection.send("hello")
            assert connection.recv(timeout=20) == "hello"
            victim.process.kill()
            assert closed(connection)[0] is None
        assert record(gateway, "jon")["reason"] in ("upstream_closed", "upstream_reset")


@contextlib.contextmanager
def drained(directory: Path, store: str, service: WebSocketService, timeout: str) -> Iterator[ProcessGateway]:
    gateway = process_gateway(directory, document(directory, store, service, drain={"delay": 0, "timeout": timeout}))
    try:
        yield gateway.wait_until_listening()
    finally:
        gateway.kill()


def test_a_drain_sends_clients_away_between_two_frames(store: str, service: WebSocketService, tmp_path: Path) -> None:
    """H8, G1: 1001 for quiet, talking and streaming ones; both ends see a clean end; exit 0 long before the time is over."""
    with drained(tmp_path, store, service, "10m") as gateway, contextlib.ExitStack() as stack:
        quiet, talking, streaming = [
            stack.enter_context(websocket(gateway, f"/chat/{what}?drained", "kim", max_size=None)) for what in ("echo", "talk", "stream")
        ]
        talking.recv(timeout=20)
        streaming.recv(timeout=20)
        gateway.process.send_signal(signal.SIGTERM)
        assert [closed(each)[0] for each in (quiet, talking, streaming)] == [1001] * 3
        assert gateway.wait() == 0, gateway.said
        assert [each["reason"] for each in gateway.records(lambda each: each["event"] == "request")] == ["going_away"] * 3


def test_a_drain_is_bounded(store: str, service: WebSocketService, tmp_path: Path) -> None:
    """G1, H8: a client that answers no Close frame is cut off when `drain.timeout` is over."""
    with drained(tmp_path, store, service, "1s") as gateway:
        with socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2])), 20) as client:
            client.sendall(
                b"GET /open/echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            assert client.recv(65536).startswith(b"HTTP/1.1 101 ")
            gateway.process.send_signal(signal.SIGTERM)
            started = time.monotonic()
            rest = b""
            while piece := client.recv(65536):
                rest += piece
            assert rest == b"\x88\x02\x03\xe9"
            assert gateway.wait() == 0, gateway.said
            assert time.monotonic() - started < 30
        assert gateway.records(lambda each: each["event"] == "request")[0]["reason"] == "draining"


def test_a_reload_leaves_open_tunnels_alone(store: str, service: WebSocketService, tmp_path: Path) -> None:
    """H8, G3: they go on as they began, new ones by the new rules; the old generation is given up after its last tunnel."""
    before = document(tmp_path, store, service)
    with running(tmp_path, before) as gateway:
        with websocket(gateway, "/chat/echo", "lea") as connection:
            after = {**before, "routes": [{**route, "websocket": False} for route in before["routes"]]}
            (tmp_path / "gateway.yaml").write_text(json.dumps(after))
            assert gateway.admin("POST", "/v1/reload").json()["generation"] == 2
            connection.send("still here")
            assert connection.recv(timeout=20) == "still here"
            # Without the offer the library's service says what it needs.
            assert refusal(gateway, "/chat/echo", "lea") == (426, "")
        told = gateway.wait_for_record(lambda each: each["event"] == "request" and each["response"]["status"] == 101, "the tunnel's record")
        assert (told["generation"], told["principal"]["subject"]) == (1, "lea")


def test_many_at_once_each_get_their_own(pair: tuple[ProcessGateway, ProcessGateway]) -> None:
    """H8: nothing is mixed up."""
    wrong: list[str] = []

    def talk(name: str) -> None:
        with websocket(pair[0], "/open/echo") as connection:
            for number in range(20):
                message = f"{name}-{number}-" + "*" * (number * 500)
                connection.send(message)
                if connection.recv(timeout=20) != message:
                    wrong.append(message)

    threads = [threading.Thread(target=talk, args=(f"client-{number}",)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
