"""A service on the `websockets` library, as a process: `python -m tests.support.websocket_service` says its port and serves.

The last word of a path says what it does: `echo` gives messages back, `close-4000` closes with that code, `stream` sends without end,
`talk` sends a number each 20 ms, `who` tells who is asking. `/log` answers, over plain HTTP, how the connections before it have ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tests.support.redis_server import wait_until
from tests.support.whole_gateway import ROOT

ENDS: list[dict[str, object]] = []


async def handle(connection: ServerConnection) -> None:
    request = connection.request
    assert request is not None
    path = request.path
    word, _, value = path.partition("?")[0].rpartition("/")[2].partition("-")
    try:
        with contextlib.suppress(ConnectionClosed):
            if word == "close":
                await connection.close(int(value), "as asked")
            elif word == "stream":
                while True:
                    await connection.send(b"*" * 65536)
            elif word == "talk":
                for number in range(1_000_000):
                    await connection.send(str(number))
                    await asyncio.sleep(0.02)
            elif word == "who":
                await connection.send(json.dumps([list(field) for field in request.headers.raw_items()]))
            async for message in connection:
                await connection.send(message)
    finally:
        await connection.wait_closed()
        ENDS.append({"path": path, "code": connection.close_code, "at": time.time()})


def tell(connection: ServerConnection, request: Request) -> Response | None:
    return connection.respond(http.HTTPStatus.OK, json.dumps(ENDS)) if request.path.endswith("/log") else None


async def main() -> None:
    async with serve(handle, "127.0.0.1", 0, process_request=tell, subprotocols=None, max_size=None, ping_interval=None) as server:
        print(f"listening on {server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


@dataclass
class WebSocketService:
    """The process and where it listens."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def websocket_service(directory: Path) -> Iterator[WebSocketService]:
    """The service until the end of the block."""
    directory.mkdir(parents=True, exist_ok=True)
    said = directory / "service"
    with said.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", __name__], cwd=ROOT, stdout=output)
    try:
        wait_until(lambda: said.read_bytes().endswith(b"\n"), "the service to listen", 20)
        yield WebSocketService(process, int(said.read_text().split()[-1]))
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    asyncio.run(main())
