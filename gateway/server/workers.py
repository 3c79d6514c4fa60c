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
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from gateway.errors import ConfigError
from gateway.failure import outline
from gateway.server.serving import ACCEPTED_SIGNAL, RELOAD_SIGNAL, bound_socket, data_scheme, url_of
from gateway.settings import Settings

logger = logging.getLogger("gateway.workers")

#: What a process exits with when it can't start: trying again would change nothing.
CANNOT_START = 3
#: A process that lived shorter than this is replaced only when it is over.
MINIMUM_LIFE_SECONDS = 1.0
#: What an end may take besides the drain of a worker; after that it is forced.
STOP_SECONDS = 10.0
#: The signal to end that leaves nothing alive.
KILLING_STOP = 3
_POLL_SECONDS = 0.02
_SIGNALS = (signal.SIGTERM, signal.SIGINT, RELOAD_SIGNAL, ACCEPTED_SIGNAL)
_PR_SET_PDEATHSIG = 1

Listening = Callable[[], None]
#: (its share of the data port, path of its control socket, to be called once it serves) -> serves until SIGTERM.
WorkerMain = Callable[[socket.socket, Path, Listening], None]
#: (the admin port, control sockets of all workers, to be called once it serves) -> serves until SIGTERM.
AdminMain = Callable[[socket.socket, list[Path], Listening], None]


@dataclass(frozen=True, slots=True)
class _Role:
    """What a child process is for; whoever replaces it has the same."""

    main: Callable[[Listening], None]
    worker: bool


class Supervisor:
    """Keeps a number of worker processes and one admin process alive until it is told to stop.

    Args:
        settings: the ports are taken here, so that a conflict is one clear error and port 0 is the same port for every worker.
        worker, admin: what the processes do.
        tended: called all the time while the processes work, by the thread that forks them: to look after what they need.
        abandoned: called by a child that outlives a supervisor which was killed, before it ends: to remove what the supervisor can't.
        accepted: called when the workers have put another configuration to work: those that are started from now on begin with it.
    """

    def __init__(
        self,
        settings: Settings,
        worker: WorkerMain,
        admin: AdminMain,
        tended: Callable[[], None],
        abandoned: Callable[[], None],
        accepted: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._accepted = accepted
        self._worker = worker
        self._admin = admin
        self._tended = tended
        self._abandoned = abandoned
        self._pid = os.getpid()
        self._directory = Path(tempfile.mkdtemp(prefix="gateway-"))
        self._children: dict[int, tuple[_Role, float]] = {}
        #: When to start a process again, and what for.
        self._due: list[tuple[float, _Role]] = []
        #: Signals that came and were not acted upon yet.
        self._signals: list[int] = []
        self._stops = 0
        self._stopping_since = 0.0
        self._failure = ""
        self._banner = ""

    def __repr__(self) -> str:
        return f"<Supervisor children={sorted(self._children)}{' stopping' if self._stopping_since else ''}>"

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            ConfigError: a port is taken, or a process could not start; the message is its own.
        """
        before = {number: signal.signal(number, self._signalled) for number in _SIGNALS}
        try:
            # Held as long as we live: a port that every worker has left for a moment is not somebody else's.
            server, admin = self._settings.server, self._settings.admin
            with (
                bound_socket(server.host, server.port, "server", shared=True) as reserved,
                bound_socket(admin.host, admin.port, "admin") as site,
            ):
                self._start_all(reserved, site)
                self._watch()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            shutil.rmtree(self._directory, ignore_errors=True)
        if self._failure:
            raise ConfigError(self._failure)

    def _start_all(self, reserved: socket.socket, site: socket.socket) -> None:
        server = self._settings.server
        controls = [self._directory / f"worker-{number}.sock" for number in range(server.workers)]
        url = url_of(reserved, data_scheme(self._settings))
        self._banner = f"Gateway listening on {url} with {server.workers} workers, admin on {url_of(site)}"
        for control in controls:
            self._start(_Role(self._worker_main(reserved, site, control), worker=True))
        self._start(_Role(lambda listening: self._admin(site, controls, listening), worker=False))

    def _worker_main(self, reserved: socket.socket, site: socket.socket, control: Path) -> Callable[[Listening], None]:
        port = reserved.getsockname()[1]

        def main(listening: Listening) -> None:
            site.close()
            data = bound_socket(self._settings.server.host, port, "server", shared=True)
            self._worker(data, control, listening)

        return main

    def _start(self, role: _Role) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            os._exit(self._child(role))
        self._children[pid] = (role, time.monotonic())

    def _watch(self) -> None:
        while self._children or (self._due and not self._stopping_since):
            while self._signals:
                self._obey(self._signals.pop(0))
            pid, status = os.waitpid(-1, os.WNOHANG) if self._children else (0, 0)
            if pid:
                # Others of our process's are not ours to replace.
                if pid in self._children:
                    self._ended(pid, os.waitstatus_to_exitcode(status))
                continue
            self._start_due()
            if not self._stopping_since:
                self._tended()
            self._announce()
            self._end_admin()
            if self._stopping_since and time.monotonic() - self._stopping_since > self._longest_stop():
                self._signal(signal.SIGKILL)
                self._stopping_since = time.monotonic()
            time.sleep(_POLL_SECONDS)

    def _ended(self, pid: int, code: int) -> None:
        role, started = self._children.pop(pid)
        if self._stopping_since:
            return
        if code == CANNOT_START:
            self._failure = self._note(pid, "error").read_text()
            self._stop(signal.SIGTERM)
            return
        logger.error("%s %d ended with %d; it is replaced", "worker" if role.worker else "admin process", pid, code)
        self._due.append((started + MINIMUM_LIFE_SECONDS, role))

    def _start_due(self) -> None:
        if self._stopping_since:
            return
        now = time.monotonic()
        due = [role for when, role in self._due if when <= now]
        self._due = [(when, role) for when, role in self._due if when > now]
        for role in due:
            self._start(role)

    def _announce(self) -> None:
        """Say where we listen, once everybody does."""
        if self._banner and not self._due and all(self._note(pid, "listening").exists() for pid in self._children):
            print(self._banner, file=sys.stderr, flush=True)
            self._banner = ""

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

    def _obey(self, number: int) -> None:
        if number == RELOAD_SIGNAL and self._settings.source:
            self._signal(RELOAD_SIGNAL, admin=False)
        elif number == RELOAD_SIGNAL:
            # Nothing to load again: a terminal was closed.
            self._stop(signal.SIGINT)
        elif number == ACCEPTED_SIGNAL:
            self._accepted()
        else:
            self._stop(number)

    def _stop(self, number: int) -> None:
        """The first time an orderly end, workers first: the admin site tells of them until they are gone. The second time they wait for
        nothing any more, the third time they are killed."""
        self._stops += 1
        if self._stops == 1:
            self._banner = ""
            self._stopping_since = time.monotonic()
        self._signal(number if self._stops < KILLING_STOP else signal.SIGKILL, admin=self._stops >= KILLING_STOP)

    def _longest_stop(self) -> float:
        drain = self._settings.server.drain
        return drain.delay + drain.timeout + STOP_SECONDS

    def _end_admin(self) -> None:
        if self._stopping_since and not any(role.worker for role, _ in self._children.values()):
            self._signal(signal.SIGTERM)

    def _signal(self, number: int, *, admin: bool = True) -> None:
        for pid, (role, _) in self._children.items():
            if role.worker or admin:
                os.kill(pid, number)

    # In the child

    def _child(self, role: _Role) -> int:
        """What a forked child does; returns its exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        for number in (RELOAD_SIGNAL, ACCEPTED_SIGNAL):
            signal.signal(number, signal.SIG_IGN)
        # A terminal's Ctrl-C is for the supervisor, which tells its children once.
        os.setpgid(0, 0)
        self._die_with_parent()
        try:
            role.main(lambda: self._note(os.getpid(), "listening").touch())
        except ConfigError as error:
            self._note(os.getpid(), "error").write_text(str(error))
            return CANNOT_START
        except BaseException as error:
            logger.error("the process broke down\n%s", outline(error))
            return 1
        finally:
            if os.getppid() != self._pid:
                self._abandoned()
                shutil.rmtree(self._directory, ignore_errors=True)
            sys.stdout.flush()
            sys.stderr.flush()
        return 0

    def _note(self, pid: int, what: str) -> Path:
        """Where a child leaves a note for its supervisor."""
        return self._directory / f"{pid}.{what}"

    def _die_with_parent(self) -> None:
        """Have the kernel end this process with the supervisor (Linux): nobody else would."""
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != self._pid:
                # It ended before we asked.
                os._exit(1)
