"""A TCP relay between a client and a server, in the test's own event loop or in a thread: slow, silent, or cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

from tests.support.whole_gateway import LoopThread


class Relay:
    """Passes bytes on, as long as it is told to.

    Attributes:
        delay_seconds: each piece that the server says arrives so much later.
        silent: nothing arrives any more, either way; no connection is closed or refused.
        port: where it listens.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.delay_seconds = 0.0
        self.silent = False
        self._cut = False
        self._ends: set[asyncio.Transport] = set()

    async def serve(self) -> asyncio.Server:
        server = await asyncio.get_running_loop().create_server(lambda: _Near(self), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def cut(self) -> None:
        """Ends every connection, and each new one at once."""
        self._cut = True
        self.drop()

    def heal(self) -> None:
        """Lets everything through again; what was silent goes on with new connections."""
        if self._cut or self.silent:
            self._cut = self.silent = False
            self.drop()

    def drop(self) -> None:
        """Ends every connection."""
        for end in list(self._ends):
            end.abort()

    @property
    def refuses(self) -> bool:
        return self._cut


class _End(asyncio.Protocol):
    """One side of a connection."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.relay._ends.add(transport)
        for data in self.early:
            transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        assert self.transport is not None
        self.relay._ends.discard(self.transport)
        if self.other is not None and self.other.transport is not None:
            self.other.transport.abort()

    def pass_on(self, data: bytes) -> None:
        """To the other side's peer."""
        if self.transport is None:
            self.early.append(data)
        elif not self.transport.is_closing():
            self.transport.write(data)


class _Far(_End):
    """Towards the server."""

    def data_received(self, data: bytes) -> None:
        if not self.relay.silent:
            assert self.other is not None
            asyncio.get_running_loop().call_later(self.relay.delay_seconds, self.other.pass_on, data)


class _Near(_End):
    """Towards the client."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.relay.refuses:
            assert self.transport is not None
            self.transport.abort()
            return
        self.other = _Far(self.relay)
        self.other.other = self
        self._connecting = asyncio.get_running_loop().create_task(self._connect(self.other))

    async def _connect(self, far: _Far) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: far, "127.0.0.1", self.relay.target_port)
        except OSError:
            assert self.transport is not None
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if not self.relay.silent and self.other is not None:
            self.other.pass_on(data)


@asynccontextmanager
async def relay_to(target_port: int) -> AsyncIterator[Relay]:
    """A relay to a port of this machine, until the end of the block."""
    relay = Relay(target_port)
    server = await relay.serve()
    try:
        yield relay
    finally:
        relay.cut()
        server.close()
        # One turn for the connections to end.
        await asyncio.sleep(0)
        await server.wait_closed()


@contextmanager
def relay_in_thread(target_port: int) -> Iterator[Relay]:
    """As `relay_to`, for tests without an event loop. Only its attributes may be set from outside, not its connections ended."""
    with LoopThread() as thread:
        span = relay_to(target_port)
        relay = thread.run(_entered(span))
        try:
            yield relay
        finally:
            thread.run(_left(span))


async def _entered(span: AbstractAsyncContextManager[Relay]) -> Relay:
    return await span.__aenter__()


async def _left(span: AbstractAsyncContextManager[Relay]) -> None:
    await span.__aexit__(None, None, None)
