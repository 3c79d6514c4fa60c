"""A service on raw sockets in a thread, for hostile tests: it answers, sends for ever, never reads, never answers, or gives a body back."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.support.recording_upstream import OK, Link, recording_upstream
from tests.support.websockets import BINARY, frame, switching
from tests.support.whole_gateway import LoopThread

LARGE_BYTES = 64 << 20
FRAME = frame(BINARY, bytes(65_536), mask=b"")


@dataclass
class Witness:
    """Where it is. The path says what it does: `large`, `deaf`, `never`, `echo`, `tunnel-large`, `tunnel-deaf`; anything else is answered
    at once."""

    url: str = ""
    links: list[Link] = field(default_factory=list)


async def _serve(over: asyncio.Event, link: Link) -> None:
    while (request := await link.head()) is not None:
        word = request.line.split(b" ")[1].rpartition(b"/")[2]
        if word == b"large":
            await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE_BYTES)
            for _ in range(LARGE_BYTES // 65_536):
                await link.send(b"x" * 65_536)
        elif word in (b"deaf", b"never"):
            await _say_nothing(over, link)
            return
        elif word == b"tunnel-large":
            await link.send(switching(request), *[FRAME] * (LARGE_BYTES // len(FRAME)))
            return
        elif word == b"tunnel-deaf":
            await link.send(switching(request))
            await _say_nothing(over, link)
            return
        elif word == b"echo":
            body = await link.reader.readexactly(int(request.values(b"content-length")[0]))
            await link.send(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        else:
            await link.send(OK)


async def _say_nothing(over: asyncio.Event, link: Link) -> None:
    """Nor read anything."""
    link.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await over.wait()


@contextlib.contextmanager
def witness(tls: ssl.SSLContext | None = None) -> Iterator[Witness]:
    """The service until the end of the block."""
    with LoopThread() as thread:
        over = asyncio.Event()
        manager = recording_upstream(functools.partial(_serve, over), tls)
        upstream = thread.run(manager.__aenter__())
        try:
            yield Witness(upstream.url, upstream.links)
        finally:
            thread.loop.call_soon_threadsafe(over.set)
            thread.run(manager.__aexit__(None, None, None))
