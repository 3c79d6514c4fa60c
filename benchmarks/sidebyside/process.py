"""Programs that a run starts: pinned to a core, with an environment of their own, and ended by their handle whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from benchmarks.sidebyside.errors import BenchmarkError

_START_SECONDS = 20.0
#: A gateway may drain before it ends.
_STOP_SECONDS = 40.0
_TAIL_BYTES = 800


class Address(NamedTuple):
    """A TCP address on the loopback network."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def free_address() -> Address:
    """A loopback address that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Address(*probe.getsockname())


class Child:
    """A running program. A context manager: leaving it ends the program and everything that it started.

    Args:
        name: for messages.
        command: program and arguments.
        core: where it may run.
        directory: its working directory, for `output.log` (what it prints) and as its HOME.
        environment: all that it sees beside PATH and HOME: no proxy setting or token of the caller reaches it.
    """

    def __init__(self, name: str, command: Sequence[str], *, core: int, directory: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self._output = directory / "output.log"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                ["taskset", "-c", str(core), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(directory), **environment},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def wait_until_listening(self, *addresses: Address) -> None:
        """Return when every address accepts connections; raises BenchmarkError, with what the program printed, when one never does."""
        deadline = time.monotonic() + _START_SECONDS
        for address in addresses:
            while not _accepts(address):
                if self._process.poll() is not None:
                    raise BenchmarkError(f"{self.name} ended with exit code {self._process.returncode} at start: {self.tail()}")
                if time.monotonic() > deadline:
                    raise BenchmarkError(f"{self.name} does not listen on {address} after {_START_SECONDS:.0f} s: {self.tail()}")
                time.sleep(0.02)

    def tail(self) -> str:
        """The end of what the program printed."""
        return self._output.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip() or "(it printed nothing)"

    def stop(self) -> None:
        """Ask it to end, insist after a while, and leave none of its own children behind."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


def _accepts(address: Address) -> bool:
    try:
        socket.create_connection(address, 1).close()
    except OSError:
        return False
    return True
