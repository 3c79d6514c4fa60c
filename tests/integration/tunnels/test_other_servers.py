"""WebSockets through another ASGI server: messages there, frames towards the service, the same rules (SPEC H8, V7, S-38)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
import uvicorn
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway import BackendAPIGateway
from gateway.admission.revocation import Revocation
from gateway.server.serving import QuietServer, bound_socket
from tests.support.gateway_process import RunningGateway, run
from tests.support.recording_upstream import OK, Link, RecordingUpstream, Script, answering, recording_upstream
from tests.support.redis_server import until
from tests.support.tokens import secret_file
from tests.support.websocket_service import WebSocketService, websocket_service
from tests.support.websockets import BINARY, PING, PONG, TEXT, close, frame, switching

SECRET = "a secret that is long enough for HS256"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with websocket_service(tmp_path_factory.mktemp("service")) as started:
        yield started


@asynccontextmanager
async def under_uvicorn(directory: Path, store: str, url: str, **websocket: Any) -> AsyncIterator[RunningGateway]:
    """A gateway as an application of uvicorn, with the WebSockets of uvicorn."""
    issuer = {"name": "i", "issuer": "https://i", "audience": ["a"], "algorithms": ["HS256"], "secret_file": secret_file(directory, SECRET)}
    app = BackendAPIGateway(
        state={"url": store, "budget": "2s"},
        audit={"sink": [f"file:{directory / 'audit.jsonl'}"]},
        authentication={"issuers": [{**issuer, "leeway": 0}]},
    )
    app.service("s", instances=[url])
    app.proxy("/chat/{rest:path}", "s", websocket=websocket or True, scopes=["chat"])
    app.proxy("/open/{rest:path}", "s", websocket={"origins": ["*"], **websocket}, authentication="none")
    app.proxy("/plain/{rest:path}", "s", authentication="none")
    sock = bound_socket("127.0.0.1", 0, "server")
    config = uvicorn.Config(app, http="h11", ws="websockets-sansio", lifespan="on", log_config=None, access_log=False, proxy_headers=False)
    server = QuietServer(config)
    task = asyncio.create_task(server.serve(sockets=[sock]))
    await until(lambda: server.started or task.done(), "the server")
    try:
        yield RunningGateway(app, sock.getsockname()[1], directory / "audit.jsonl")
    finally:
        server.stop()
        await task


def bearer(subject: str, *, lasts: float = 600, scope: str = "chat") -> dict[str, str]:
    now = int(time.time())
    claims = {"iss": "https://i", "aud": "a", "sub": subject, "iat": now, "exp": now + lasts, "scope": scope}
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}


def websocket(gateway: RunningGateway, path: str, headers: dict[str, str] | None = None, **options: Any) -> Any:
    connecting: Any = connect
    return connecting(f"ws://127.0.0.1:{gateway.port}{path}", additional_headers=headers or {}, proxy=None, max_size=None, **options)


async def code_of(connection: ClientConnection) -> int | None:
    """The code with which it ends, whatever comes before."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await connection.recv()
    return connection.close_code


async def refused(gateway: RunningGateway, path: str, headers: dict[str, str] | None = None, **options: Any) -> int:
    with pytest.raises(InvalidStatus) as found:
        async with websocket(gateway, path, headers, **options):
            pass
    status: int = found.value.response.status_code
    return status


def test_messages_and_codes_pass_both_ways(store: str, tmp_path: Path, service: WebSocketService) -> None:
    """H8: texts, bytes, large ones, subprotocols; the record is the same as on the wire."""

    async def main() -> None:
        async with under_uvicorn(tmp_path, store, service.url) as gateway:
            async with websocket(gateway, "/chat/echo", bearer("ada")) as connection:
                for message in ("hello", b"\x00\xff", "", "grüße", "x" * (1 << 20), b"\x01" * 70_000):
                    await connection.send(message)
                    assert await connection.recv() == message
                await connection.send(["frag", "mented"])
                assert await connection.recv() == "fragmented"
            record = await gateway.record()
            assert (record["response"]["status"], record["principal"]["subject"], record["decision"]) == (101, "ada", "allow")
            assert record["request"]["bytes"] > 1 << 20 < record["response"]["bytes"]
            for code in (1000, 1011, 4999):
                async with websocket(gateway, f"/open/close-{code}") as connection:
                    assert await code_of(connection) == code
            async with websocket(gateway, "/open/echo?code") as connection:
                await connection.close(4001, "as I like")
            async with websocket(gateway, "/open/who", {"X-Auth-Subject": "root"}) as connection:
                told = await connection.recv()
            assert "root" not in told
            assert "X-Forwarded-For" not in told
            assert "x-forwarded-for" in told
            await gateway.idle()

    run(main())


def test_the_pipeline_comes_first(store: str, tmp_path: Path, service: WebSocketService) -> None:
    """H8: refusals are answers, and a route without `websocket` has none."""

    async def main() -> None:
        async with under_uvicorn(tmp_path, store, service.url) as gateway:
            assert await refused(gateway, "/chat/echo") == 401
            assert await refused(gateway, "/chat/echo", bearer("bea", scope="other")) == 403
            assert await refused(gateway, "/chat/echo", bearer("bea"), origin="https://evil.example") == 403
            assert await refused(gateway, "/plain/echo") == 404
            assert await refused(gateway, "/nowhere") == 404

    run(main())


def test_a_service_may_decline(store: str, tmp_path: Path) -> None:
    """H8: its answer is the client's."""

    async def main() -> None:
        async with recording_upstream(answering(OK.replace(b"200 OK", b"418 Teapot"))) as upstream:
            async with under_uvicorn(tmp_path, store, upstream.url) as gateway:
                assert await refused(gateway, "/open/x") == 418

    run(main())


def test_revocation_and_expiry_end_tunnels(store: str, tmp_path: Path, service: WebSocketService) -> None:
    """V7, S-38."""

    async def main() -> None:
        async with under_uvicorn(tmp_path, store, service.url) as gateway:
            async with websocket(gateway, "/chat/talk", bearer("gus")) as revoked:
                await revoked.recv()
                await gateway.runtime.revocations.revoke(Revocation(kind="subject", value="gus", expires_at=time.time() + 60))
                started = time.monotonic()
                assert await code_of(revoked) == 1008
                assert time.monotonic() - started < 5
            bound = int(time.time()) + 2
            async with websocket(gateway, "/chat/talk", bearer("hal", lasts=bound - int(time.time()))) as expired:
                assert await code_of(expired) == 1008
                assert bound - 0.01 <= time.time() < bound + 5
            for reason in ("token_revoked", "token_expired"):
                await gateway.record(lambda record, reason=reason: record["reason"] == reason)  # type: ignore[misc]

    run(main())


def test_silence_and_the_clients_end(store: str, tmp_path: Path, service: WebSocketService) -> None:
    """H8, R7."""

    async def main() -> None:
        async with under_uvicorn(tmp_path, store, service.url, idle="500ms") as gateway:
            async with websocket(gateway, "/open/echo") as quiet:
                assert await code_of(quiet) == 1001
            assert (await gateway.record())["reason"] == "tunnel_idle"
            async with websocket(gateway, "/open/talk") as connection:
                await connection.recv()
                connection.transport.abort()
            await gateway.record(lambda record: record["reason"] == "client_closed")
            await gateway.idle()

    run(main())


def frames_of(data: bytes) -> Script:
    """Switches, sends this, and waits for the other side's end."""

    async def script(link: Link) -> None:
        request = await link.head()
        assert request is not None
        assert request.values(b"sec-websocket-extensions") == []
        await link.send(switching(request) + data)
        await link.until_lost()

    return script


#: What a service sends -> what the client's connection ends with, and the service is told.
BROKEN: dict[str, tuple[bytes, int, int]] = {
    "reserved bits": (frame(TEXT, b"x", mask=b"", reserved=4), 1011, 1002),
    "an unknown opcode": (frame(3, b"x", mask=b""), 1011, 1002),
    "a mask": (frame(TEXT, b"x"), 1011, 1002),
    "a ping in parts": (frame(PING, b"x", mask=b"", fin=False), 1011, 1002),
    "a long ping": (frame(PING, bytes(126), mask=b""), 1011, 1002),
    "a part of nothing": (frame(0, b"x", mask=b""), 1011, 1002),
    "text within text": (frame(TEXT, b"x", mask=b"", fin=False) + frame(TEXT, b"y", mask=b""), 1011, 1002),
    "bad UTF-8": (frame(TEXT, b"\xff", mask=b""), 1011, 1007),
    "a bad code": (close(1006), 1011, 1002),
    "a message that is too large": (b"\x82\x7f" + (1 << 40).to_bytes(8, "big"), 1011, 1009),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_service_that_breaks_the_rules_ends_its_tunnel(store: str, tmp_path: Path, name: str) -> None:
    """H8, H12: there are messages here, so frames have to be sound."""
    data, to_client, to_service = BROKEN[name]

    async def main() -> None:
        async with recording_upstream(frames_of(data)) as upstream, under_uvicorn(tmp_path, store, upstream.url) as gateway:
            async with websocket(gateway, "/open/x") as connection:
                assert await code_of(connection) == to_client
            await upstream.links[0].lost.wait()
            assert told(upstream) == to_service

    run(main())


def told(upstream: RecordingUpstream) -> int:
    """The code of the Close frame that a service got."""
    received = bytes(upstream.links[0].received)[len(upstream.requests[0].head) :]
    assert received[:2] == b"\x88\x82", received
    return int.from_bytes(bytes(byte ^ key for byte, key in zip(received[6:8], received[2:4], strict=True)), "big")


def test_pings_of_the_service_are_answered(store: str, tmp_path: Path) -> None:
    """H8: messages arrive whole, however the frames are cut."""
    parts = (
        frame(TEXT, b"frag", mask=b"", fin=False)
        + frame(PING, b"ping", mask=b"")
        + frame(0, b"mented", mask=b"")
        + frame(BINARY, b"", mask=b"")
    )

    async def script(link: Link) -> None:
        request = await link.head()
        assert request is not None
        data = switching(request) + parts
        await link.send(*[data[at : at + 1] for at in range(len(data))])
        await link.until_lost()

    async def main() -> None:
        async with recording_upstream(script) as upstream, under_uvicorn(tmp_path, store, upstream.url) as gateway:
            async with websocket(gateway, "/open/x") as connection:
                assert [await connection.recv(), await connection.recv()] == ["fragmented", b""]
                head = len(upstream.requests[0].head)
                await until(lambda: len(upstream.links[0].received) == head + len(frame(PONG, b"ping")), "the pong")
                assert upstream.links[0].received[head : head + 2] == frame(PONG, b"ping")[:2]

    run(main())


def test_a_client_that_does_not_read_holds_the_service_back(store: str, tmp_path: Path) -> None:
    """H6: messages are not collected for it."""
    piece = frame(BINARY, bytes(1 << 20), mask=b"")
    sent: list[int] = []

    async def script(link: Link) -> None:
        request = await link.head()
        assert request is not None
        await link.send(switching(request))
        for number in range(64):
            await link.send(piece)
            sent.append(number)

    async def main() -> None:
        async with recording_upstream(script) as upstream, under_uvicorn(tmp_path, store, upstream.url) as gateway:
            async with websocket(gateway, "/open/x", max_queue=1, compression=None) as connection:
                await until(lambda: bool(sent), "the first piece")
                count = -1
                while count != len(sent):
                    count = len(sent)
                    await asyncio.sleep(0.3)
                assert count < 40
                for _ in range(64):
                    assert len(await connection.recv()) == 1 << 20

    run(main())
