"""A service as a process of its own, which tests kill and stop: `python -m tests.support.plain_service HOST PORT NAME`.

It answers every request with its name, quickly; `/slow-SECONDS` takes that long.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.support.ports import free_port
from tests.support.redis_server import wait_until

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class ServiceProcess:
    """A running service."""

    name: str
    host: str
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def pause(self) -> None:
        """Its kernel goes on accepting, and nobody answers."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def start_again(self) -> None:
        """After `kill`: at the same place."""
        self.process = _spawn(self.host, self.port, self.name)
        self.wait_until_up()

    def wait_until_up(self) -> None:
        wait_until(self._answers, f"{self.name} to answer")

    def _answers(self) -> bool:
        try:
            return httpx.get(self.url, trust_env=False, timeout=1).status_code == 200
        except httpx.HTTPError:
            return False


@contextlib.contextmanager
def service_process(name: str, host: str = "127.0.0.1") -> Iterator[ServiceProcess]:
    """A service until the end of the block."""
    port = free_port(host)
    service = ServiceProcess(name, host, port, _spawn(host, port, name))
    try:
        service.wait_until_up()
        yield service
    finally:
        service.kill()


def _spawn(host: str, port: int, name: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.support.plain_service", host, str(port), name]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)


async def _serve(host: str, port: int, name: str) -> None:
    answer = f"HTTP/1.1 200 OK\r\nX-Served-By: {name}\r\nContent-Length: {len(name)}\r\n\r\n{name}".encode()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await _body(head, reader)
                path = head.split(b" ", 2)[1].decode()
                if "/slow-" in path:
                    await asyncio.sleep(float(path.rpartition("/slow-")[2]))
                writer.write(answer)
        writer.close()

    async with await asyncio.start_server(connection, host, port, backlog=512) as server:
        await server.serve_forever()


async def _body(head: bytes, reader: asyncio.StreamReader) -> None:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line.partition(b":")[2]))


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
