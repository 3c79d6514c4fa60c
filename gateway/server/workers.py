"""Several processes on one port: workers share it by SO_REUSEPORT, a supervisor replaces those that die, and one process answers for all
of them on the admin port.

The supervisor itself runs no event loop and no thread, so it can fork at any time.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from gateway.errors import ConfigError
from gateway.server.serving import bound_socket
from gateway.settings import Settings

logger = logging.getLogger("gateway.workers")

#: What a worker exits with when it can't start: trying again would change nothing.
CANNOT_START = 3
#: A worker that lived shorter than this is replaced only after as long a pause.
MINIMUM_LIFE_SECONDS = 1.0
#: After this long an orderly end becomes a forced one.
STOP_SECONDS = 40.0
_PR_SET_PDEATHSIG = 1

#: (number of the worker, path of its control socket) -> serves until SIGTERM.
WorkerMain = Callable[[int, Path], None]
#: (control sockets of all workers) -> serves the admin port until SIGTERM.
AdminMain = Callable[[list[Path]], None]


class Supervisor:
    """Keeps a number of worker processes and one admin process alive until it is told to stop.

    Args:
        settings: the port is taken here first, so that a conflict is one clear error.
        worker, admin: what the processes do.
    """

    def __init__(self, settings: Settings, worker: WorkerMain, admin: AdminMain) -> None:
        self._settings = settings
        self._worker = worker
        self._admin = admin
        self._directory = Path(tempfile.mkdtemp(prefix="gateway-"))
        self._children: dict[int, tuple[Callable[[], None], float]] = {}
        self._stopping_since = 0.0
        self._failed = False

    def __repr__(self) -> str:
        return f"<Supervisor children={sorted(self._children)}{' stopping' if self._stopping_since else ''}>"

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            ConfigError: the port is taken, or a worker could not start; it has said why.
        """
        server = self._settings.server
        # Held as long as we live: a port that every worker has left for a moment is not somebody else's.
        reserved = bound_socket(server.host, server.port, "server", shared=True)
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            sockets = [self._directory / f"worker-{number}.sock" for number in range(server.workers)]
            for number, path in enumerate(sockets):
                self._start(_bind(self._worker, number, path))
            self._start(lambda: self._admin(sockets))
            print(_banner(self._settings), file=sys.stderr, flush=True)
            self._watch()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            reserved.close()
            shutil.rmtree(self._directory, ignore_errors=True)
        if self._failed:
            raise ConfigError("a worker could not start; its message stands above")

    def _start(self, main: Callable[[], None]) -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(_child(main))
        self._children[pid] = (main, time.monotonic())

    def _watch(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                self._ended(pid, os.waitstatus_to_exitcode(status))
            elif self._stopping_since and time.monotonic() - self._stopping_since > STOP_SECONDS:
                self._signal(signal.SIGKILL)
                self._stopping_since = time.monotonic()
            else:
                time.sleep(0.05)

    def _ended(self, pid: int, code: int) -> None:
        main, started = self._children.pop(pid)
        if self._stopping_since:
            return
        if code == CANNOT_START:
            self._failed = True
            self._stop(signal.SIGTERM, None)
            return
        logger.error("process %d ended with %d; it is replaced", pid, code)
        time.sleep(max(0.0, MINIMUM_LIFE_SECONDS - (time.monotonic() - started)))
        if not self._stopping_since:
            self._start(main)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """The first time an orderly end, the second time at once."""
        self._signal(signal.SIGKILL if self._stopping_since and number == signal.SIGINT else signal.SIGTERM)
        self._stopping_since = self._stopping_since or time.monotonic()

    def _signal(self, number: int) -> None:
        for pid in self._children:
            os.kill(pid, number)


def _banner(settings: Settings) -> str:
    server, admin = settings.server, settings.admin
    return (
        f"Gateway listening on http://{server.host}:{server.port} with {server.workers} workers, admin on http://{admin.host}:{admin.port}"
    )


def _bind(worker: WorkerMain, number: int, path: Path) -> Callable[[], None]:
    return lambda: worker(number, path)


def _child(main: Callable[[], None]) -> int:
    """Run in a forked child; returns its exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    _die_with_parent()
    try:
        main()
    except ConfigError as error:
        print(f"gateway: {error}", file=sys.stderr, flush=True)
        return CANNOT_START
    except BaseException:
        logger.exception("the process broke down")
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _die_with_parent() -> None:
    """Have the kernel end this process with the supervisor (Linux): nobody else would."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
