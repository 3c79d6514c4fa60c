"""A TCP relay between a gateway and a server, which can hold back what the server says, or swallow everything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.whole_gateway import LoopThread

READ_BYTES = 65_536


@dataclass
class SlowProxy:
    """Where it listens, and what it does to what the server says.

    Attributes:
        delay_seconds: each piece arrives so much later.
        black_hole: nothing arrives any more, either way, on connections new and old; none is refused or closed.
    """

    target_port: int
    port: int = 0
    delay_seconds: float = 0.0
    black_hole: bool = False

    async def serve(self) -> asyncio.Server:
        """Listen on a free port."""
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self.target_port)
            await asyncio.gather(self._pump(reader, back, slow=False), self._pump(there, writer, slow=True))
        writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, slow: bool) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await source.read(READ_BYTES):
                if self.black_hole:
                    continue
                # Later pieces do not wait for earlier ones: a long way, not a narrow one.
                loop.call_later(self.delay_seconds if slow else 0.0, sink.write, data)
        loop.call_later(self.delay_seconds if slow else 0.0, sink.close)


@contextlib.contextmanager
def slow_proxy(target_port: int) -> Iterator[SlowProxy]:
    """A relay to a port of this machine, until the end of the block."""
    proxy = SlowProxy(target_port)
    with LoopThread() as thread:
        server = thread.run(proxy.serve())
        try:
            yield proxy
        finally:
            thread.run(_close(server))


async def _close(server: asyncio.Server) -> None:
    server.close()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.sleep(0)
