"""A service on a raw socket: records every byte that reaches it and answers with the bytes that a test scripts, honest or not."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
READ_BYTES = 64 * 1024


@dataclass
class RecordedRequest:
    """One request as it came over the wire."""

    head: bytes
    body: bytes = b""

    @property
    def line(self) -> bytes:
        """The request line."""
        return self.head.partition(b"\r\n")[0]

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """(name as it came, value) in order."""
        lines = self.head.split(b"\r\n")[1:-2]
        return [(name, value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines)]

    def values(self, name: bytes) -> list[bytes]:
        """The values of a field, in order; the name in lower case."""
        return [value for other, value in self.fields if other.lower() == name]


@dataclass
class Link:
    """One connection that the upstream accepted."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: bytearray = field(default_factory=bytearray)
    requests: list[RecordedRequest] = field(default_factory=list)
    #: Set when the other side has closed or reset the connection, as far as the script read on.
    lost: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> bytes:
        """Some more bytes; none when the other side has closed or reset the connection."""
        data = b""
        with suppress(ConnectionError):
            data = await self.reader.read(READ_BYTES)
        if not data:
            self.lost.set()
        self.received += data
        return data

    async def request(self) -> RecordedRequest | None:
        """The next request with its whole body; None when the connection ends before."""
        request = await self.head()
        if request is None:
            return None
        if request.values(b"transfer-encoding") == [b"chunked"]:
            while size := await self._line():
                length = int(size.split(b";")[0], 16)
                request.body += (await self._exactly(length + 2))[:length]
                if not length:
                    break
        elif lengths := request.values(b"content-length"):
            request.body = await self._exactly(int(lengths[0]))
        return request

    async def head(self) -> RecordedRequest | None:
        """The head of the next request; None when the connection ends before."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            self.lost.set()
            return None
        self.received += head
        request = RecordedRequest(head)
        self.requests.append(request)
        return request

    async def _line(self) -> bytes:
        line = await self.reader.readuntil(b"\r\n")
        self.received += line
        return line[:-2]

    async def _exactly(self, length: int) -> bytes:
        data = await self.reader.readexactly(length)
        self.received += data
        return data

    async def send(self, *pieces: bytes) -> None:
        """Write, each piece with a turn of the loop in between."""
        for piece in pieces:
            try:
                self.writer.write(piece)
                await self.writer.drain()
            except ConnectionError:
                self.lost.set()
                raise
            await asyncio.sleep(0)

    async def until_lost(self) -> None:
        """Read on until the other side closes or resets."""
        while await self.read():
            pass

    def close(self) -> None:
        """An orderly end."""
        self.writer.close()

    def reset(self) -> None:
        """A TCP reset."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.close()


Script = Callable[[Link], Awaitable[None]]


@dataclass
class RecordingUpstream:
    """Where it listens and what reached it, a list item a connection."""

    port: int = 0
    scheme: str = "http"
    links: list[Link] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[RecordedRequest]:
        """Every request whose head was read."""
        return [request for link in self.links for request in link.requests]


def answering(*answers: bytes) -> Script:
    """A script that answers one request after the other, on each connection anew; the last answer again and again."""

    async def script(link: Link) -> None:
        turn = 0
        while await link.request() is not None:
            await link.send(answers[min(turn, len(answers) - 1)])
            turn += 1

    return script


def in_turn(*scripts: Script) -> Script:
    """A script for each connection; the last one for all that follow."""
    left = list(scripts)

    async def script(link: Link) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(link)

    return script


@asynccontextmanager
async def recording_upstream(script: Script | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator[RecordingUpstream]:
    """The upstream on a free port. `script` serves one connection; without one every request is answered with `OK`."""
    serve = script or answering(OK)
    upstream = RecordingUpstream(scheme="https" if tls is not None else "http")
    scripts: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(reader, writer)
        upstream.links.append(link)
        task = asyncio.current_task()
        assert task is not None
        scripts.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await serve(link)
        finally:
            scripts.discard(task)
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for task in list(scripts):
            task.cancel()
        await asyncio.gather(*scripts, return_exceptions=True)
