"""How much of a connection is read at once, and that everything else goes on as it was."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway import handshake
from gateway.handshake import CIPHERTEXT_BYTES, tls_of
from gateway.pieces import PLAIN_PIECE_BYTES, SECURE_PIECE_BYTES, SECURE_SLICE_BYTES, bound_buffers, is_long, read_in_pieces, slices
from tests.support.certificates import Authority, client_context, server_context

BODY = bytes(range(256)) * (4 << 12)


class Reader(asyncio.Protocol):
    """Keeps what it is given, and what it was told."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.told: list[str] = []
        self.over = asyncio.Event()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]
        bound_buffers(self.transport, self)

    def data_received(self, data: bytes) -> None:
        self.data.append(data)
        if sum(map(len, self.data)) >= len(BODY):
            self.over.set()

    def eof_received(self) -> bool:
        self.told.append("eof")
        return False

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")
        self.over.set()


LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def run(loop: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main(), 20)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(bounded())


async def connected() -> tuple[Reader, socket.socket]:
    """A connection of the loop's, and its other end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    reader = Reader()
    await asyncio.get_running_loop().create_connection(lambda: reader, sock=ours)
    return reader, theirs


@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_is_read_in_pieces(loop: str) -> None:
    """H6: from the moment on when it is asked for, whole and in order."""

    async def main() -> None:
        reader, other = await connected()
        read_in_pieces(reader.transport, reader, None)
        await asyncio.get_running_loop().sock_sendall(other, BODY)
        await reader.over.wait()
        assert b"".join(reader.data) == BODY
        assert max(map(len, reader.data)) <= SECURE_PIECE_BYTES
        assert repr(reader.transport.get_protocol()) == f"<Pieces of {SECURE_PIECE_BYTES} bytes>"
        read_in_pieces(reader.transport, reader, reader.transport)
        assert repr(reader.transport.get_protocol()) == f"<Pieces of {PLAIN_PIECE_BYTES} bytes>"
        reader.transport.abort()
        other.close()

    run(loop, main)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_protocol_is_told_of_everything_else(loop: str) -> None:
    """H6: back-pressure, from the first byte on that waits, the other side's end, and the connection's."""

    async def main() -> None:
        reader, other = await connected()
        read_in_pieces(reader.transport, reader, None)
        reader.transport.write(BODY)
        assert reader.told == ["pause"]
        got = 0
        while got < len(BODY):
            got += len(await asyncio.get_running_loop().sock_recv(other, 1 << 20))
        other.close()
        await reader.over.wait()
        assert reader.told == ["pause", "resume", "eof", "lost"]

    run(loop, main)


@pytest.mark.parametrize("loop", LOOPS)
def test_connections_with_tls_are_read_in_pieces(loop: str, tmp_path: Path) -> None:
    """H6, H13: from the first byte on, on both sides."""
    authority = Authority(tmp_path)
    files = authority.issue("127.0.0.1")

    async def main() -> None:
        served = Reader()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            connecting = asyncio.ensure_future(
                handshake.connect(Reader, "127.0.0.1", listening.getsockname()[1], client_context(authority), "127.0.0.1")
            )
            sock, _ = await asyncio.get_running_loop().sock_accept(listening)
        await handshake.accept(served, sock, server_context(files), 5.0, 5.0)
        client = await connecting
        for sender, receiver in ((client, served), (served, client)):
            for piece in slices(BODY):
                sender.transport.write(piece)
            await receiver.over.wait()
            assert b"".join(receiver.data) == BODY
            assert max(map(len, receiver.data)) <= (CIPHERTEXT_BYTES if loop == "uvloop" else SECURE_PIECE_BYTES)
            # Reading again does not set aside what was asked for.
            read_in_pieces(receiver.transport, receiver, None)
        client.over.clear()
        served.transport.close()
        await client.over.wait()
        assert client.told[-1] == "lost"

    run(loop, main)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_handshake_that_fails_says_why(loop: str, tmp_path: Path) -> None:
    """H13: on both sides."""
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    files = other.issue("127.0.0.1")

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            port = listening.getsockname()[1]
            connecting = asyncio.ensure_future(handshake.connect(Reader, "127.0.0.1", port, client_context(authority), "127.0.0.1"))
            sock, _ = await asyncio.get_running_loop().sock_accept(listening)
        accepting = asyncio.ensure_future(handshake.accept(Reader(), sock, server_context(files), 5.0, 5.0))
        with pytest.raises(ssl.SSLCertVerificationError):
            await connecting
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await accepting

    run(loop, main)


def test_the_class_of_uvloops_tls_is_where_we_expect_it() -> None:
    """H6: without it the bounds on connections with TLS would be the event loop's."""

    async def main() -> None:
        assert tls_of(asyncio.get_running_loop()) is vars(uvloop.loop)["SSLProtocol"]

    run("uvloop", main)


@pytest.mark.parametrize(("length", "long"), [(None, True), (0, False), (32 * 1024, False), (32 * 1024 + 1, True)])
def test_bodies_that_are_long(length: int | None, long: bool) -> None:
    assert is_long(length) is long


def test_what_is_written_with_tls_is_cut() -> None:
    """H6: into pieces that are the same bytes."""
    cut = list(slices(BODY))
    assert b"".join(cut) == BODY
    assert {len(piece) for piece in cut} == {SECURE_SLICE_BYTES}
