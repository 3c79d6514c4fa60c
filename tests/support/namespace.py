"""A server behind a network whose packets the test can drop: in a network namespace of its own, joined by a pair of virtual interfaces.

Where the machine does not let us make one (no root, no iproute2), a relay that swallows everything stands in; `how` says which it was.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.redis_server import redis_server, wait_until
from tests.support.relay import relay_in_thread

PORT = 6379


@dataclass(frozen=True, slots=True)
class BlackHole:
    """A Redis server that can vanish without a word.

    Attributes:
        url: how to reach it.
        how: what drops the packets.
        vanish, come_back: from now on nothing arrives any more, on connections new and old; or it does again.
    """

    url: str
    how: str
    vanish: Callable[[], None]
    come_back: Callable[[], None]


@contextmanager
def black_hole(directory: Path) -> Iterator[BlackHole]:
    """A Redis server in a namespace of its own, or behind a relay; gone with everything else at the end of the block."""
    name = f"gw{os.getpid()}{secrets.token_hex(2)}"
    if not _made(name):
        with redis_server("redis") as server, relay_in_thread(server.port) as proxy:
            yield BlackHole(
                f"redis://127.0.0.1:{proxy.port}/0",
                "a relay that swallows everything",
                lambda: setattr(proxy, "silent", True),
                lambda: setattr(proxy, "silent", False),
            )
        return
    try:
        here, there = _joined(name)
        with _redis(name, there, directory):
            yield BlackHole(
                f"redis://{there}:{PORT}/0",
                "packets dropped in a network namespace",
                lambda: _ip("-n", name, "route", "add", "blackhole", f"{here}/32"),
                lambda: _ip("-n", name, "route", "del", "blackhole", f"{here}/32"),
            )
    finally:
        # The pair of interfaces goes with it.
        _ip("netns", "del", name)


def _made(name: str) -> bool:
    try:
        return subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _joined(name: str) -> tuple[str, str]:
    """The addresses of both ends of a pair of interfaces, of which one is in the namespace."""
    outer, inner = f"{name[-9:]}o", f"{name[-9:]}i"
    net = f"10.231.{secrets.randbelow(256)}.{secrets.randbelow(64) * 4}"
    base, _, last = net.rpartition(".")
    here, there = f"{base}.{int(last) + 1}", f"{base}.{int(last) + 2}"
    _ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", name)
    _ip("addr", "add", f"{here}/30", "dev", outer)
    _ip("link", "set", outer, "up")
    _ip("-n", name, "addr", "add", f"{there}/30", "dev", inner)
    _ip("-n", name, "link", "set", inner, "up")
    return here, there


@contextmanager
def _redis(name: str, address: str, directory: Path) -> Iterator[None]:
    options = ["--bind", address, "--port", str(PORT), "--protected-mode", "no", "--save", "", "--dir", str(directory)]
    process = subprocess.Popen(
        ["ip", "netns", "exec", name, "redis-server", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: _answers(address), "the server in the namespace")
        yield
    finally:
        process.kill()
        process.wait()


def _answers(address: str) -> bool:
    try:
        with socket.create_connection((address, PORT), 1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16) == b"+PONG\r\n"
    except OSError:
        return False


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
