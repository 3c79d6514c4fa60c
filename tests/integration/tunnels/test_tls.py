"""Tunnels over TLS, which has no half-closed connections, on both sides (SPEC H8)."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.tunnels.conftest import tunnels
from tests.support.certificates import Authority, client_context, server_context
from tests.support.gateway_process import RunningGateway, declared, run, serving
from tests.support.recording_upstream import Link, RecordingUpstream, Script, recording_upstream
from tests.support.websockets import BINARY, NO_MASK, TEXT, close, echo, frame, opened, silent, switching

LARGE = frame(BINARY, bytes(4 << 20), mask=NO_MASK)
Secure = Callable[..., AbstractAsyncContextManager[tuple[RunningGateway, RecordingUpstream]]]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def secure(store: str, tmp_path: Path, authority: Authority) -> Secure:
    """A gateway between TLS on both sides; `tls` are further keys of `server.tls`."""
    files = authority.issue("127.0.0.1")

    @asynccontextmanager
    async def staged(
        script: Script = echo, websocket: Any = True, tls: dict[str, Any] | None = None
    ) -> AsyncIterator[tuple[RunningGateway, RecordingUpstream]]:
        section = {"certificate_file": str(files.certificate), "key_file": str(files.key), **(tls or {})}
        service = {"tls": {"ca_file": str(authority.file)}}
        async with recording_upstream(script, server_context(files)) as upstream:
            app = declared(tmp_path, store, upstream, route={"websocket": websocket}, service=service, server={"tls": section})
            async with serving(app, tmp_path) as gateway:
                gateway.tls = client_context(authority)
                yield gateway, upstream

    return staged


def test_bytes_pass_both_ways(secure: Secure) -> None:
    """H8: small frames, large ones, and the client's end."""

    async def main() -> None:
        async with secure() as (gateway, upstream):
            client = await gateway.connect()
            await opened(client)
            for sent in (frame(TEXT, b"hello"), LARGE):
                await client.send(sent)
                assert await client.reader.readexactly(len(sent)) == sent
            client.close()
            await upstream.links[0].lost.wait()
            record = await gateway.record()
            assert (record["reason"], record["request"]["bytes"]) == ("client_closed", len(frame(TEXT, b"hello")) + len(LARGE))
            await gateway.idle()

    run(main())


def test_what_a_service_has_sent_arrives_though_it_has_closed(secure: Secure) -> None:
    """H8: to the last byte."""

    async def sender(link: Link) -> None:
        request = await link.head()
        assert request is not None
        await link.send(switching(request) + LARGE)

    async def main() -> None:
        async with secure(sender) as (gateway, _):
            client = await gateway.connect()
            await opened(client)
            assert await client.rest() == LARGE
            assert (await gateway.record())["reason"] == "upstream_closed"

    run(main())


def test_bounds_end_it_with_a_close_frame(secure: Secure) -> None:
    """H8: both sides get it before the connection ends."""

    async def main() -> None:
        async with secure(silent(), websocket={"idle": "400ms"}) as (gateway, upstream):
            client = await gateway.connect()
            await opened(client)
            assert len(tunnels(gateway)) == 1
            assert await client.rest() == close(1001)
            await upstream.links[0].lost.wait()
            assert upstream.links[0].received[-8:-6] == b"\x88\x82"
            assert (await gateway.record())["reason"] == "tunnel_idle"

    run(main())


def test_a_tunnel_ends_with_its_clients_certificate(secure: Secure, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> None:
    """H8, H13: the client is told to go."""
    clients = Authority(tmp_path_factory.mktemp("clients"), "clients")

    async def main() -> None:
        async with secure(silent(), tls={"client_ca_file": str(clients.file)}) as (gateway, upstream):
            soon = clients.issue(subject="CN=ada", days=(-1, datetime.timedelta(seconds=3) / datetime.timedelta(days=1)))
            client = await gateway.connect(tls=client_context(authority, soon))
            await opened(client)
            assert await client.reader.readexactly(4) == close(1001)
            await client.send(close(1001, mask=NO_MASK))
            client.close()
            await upstream.links[0].lost.wait()
            assert upstream.links[0].received.endswith(close(1001, mask=NO_MASK))
            assert (await gateway.record())["reason"] == "going_away"

    run(main())
