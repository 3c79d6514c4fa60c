from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis


@pytest.fixture(scope="module")
def redis_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The Unix socket of a real redis-server that lives as long as the module's tests."""
    program = shutil.which("redis-server")
    assert program, "redis-server is needed on PATH"
    directory = tmp_path_factory.mktemp("redis")
    socket = str(directory / "s")
    process = subprocess.Popen(
        [program, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", str(directory), "--daemonize", "no"],
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_until_it_answers(socket, process)
        yield socket
    finally:
        process.terminate()
        process.wait(10)


def _wait_until_it_answers(socket: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    with redis.Redis(unix_socket_path=socket) as client:
        while True:
            try:
                if Path(socket).exists() and client.ping():
                    return
            except redis.ConnectionError:
                pass
            assert process.poll() is None, "redis-server ended"
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.01)
