"""Where lines end up: standard streams and files. Used by the writers' threads, which may wait."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
from collections.abc import Iterator
from typing import Protocol

from gateway.errors import ConfigError

MODE = 0o600
#: How long a write waits for a reader that is slow before it says that nothing was written.
WAIT_SECONDS = 0.25
STANDARD_STREAMS = {"stdout": 1, "stderr": 2}


class Target(Protocol):
    """Where bytes end up."""

    #: Longest write that can't be mixed with another process's; 0 for any length.
    atomic_bytes: int

    def write(self, data: memoryview) -> int:
        """Write lines, as much of them as goes now; how many bytes that were. Raises OSError."""
        ...

    def sync(self) -> None:
        """Make what was written durable, where that means something. Raises OSError."""
        ...

    def close(self) -> None: ...


class StreamTarget:
    """Standard output or standard error. The stream isn't ours, so it's never closed."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # POSIX: writes of up to PIPE_BUF bytes to a pipe are atomic, longer ones may be mixed with those of another worker.
        self.atomic_bytes = select.PIPE_BUF if _is_pipe(descriptor) else 0

    def write(self, data: memoryview) -> int:
        return _write_or_wait(self._descriptor, data)

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


class FileTarget:
    """A file that is appended to, and opened again when it was moved or removed (logrotate's `create` mode needs no signal then).

    Several processes may append to the same file: it is locked while lines are written, and holds whole lines only. What a process that was
    killed has left of a line is ended first, so that it spoils no other; what doesn't fit on a full disk is taken back.

    Args:
        path: created with mode 0600 when missing.
        durable: fsync after each batch.

    Raises:
        ConfigError: it can't be opened.
    """

    def __init__(self, path: str, *, durable: bool) -> None:
        self._path = path
        self._wants_durable = durable
        try:
            self._open()
        except OSError as error:
            raise ConfigError(f"sink file:{path} can't be opened for appending: {error.strerror}") from error

    def write(self, data: memoryview) -> int:
        if self._moved():
            before = self.descriptor
            self._open()
            os.close(before)
        if not self._regular:
            return _write_or_wait(self.descriptor, data)
        with _locked(self.descriptor) as locked:
            return self._append(data, locked=locked)

    def sync(self) -> None:
        if self._durable:
            os.fsync(self.descriptor)

    def close(self) -> None:
        os.close(self.descriptor)

    def _open(self) -> None:
        # Non-blocking matters for named pipes only: without a reader the open fails instead of waiting for one, and a write never hangs.
        self.descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, MODE)
        status = os.fstat(self.descriptor)
        self._identity = (status.st_dev, status.st_ino)
        self._regular = stat.S_ISREG(status.st_mode)
        self._durable = self._wants_durable and self._regular
        self.atomic_bytes = select.PIPE_BUF if stat.S_ISFIFO(status.st_mode) else 0
        #: Where the last whole line of ours ended; -1 when that is not known.
        self._end = -1

    def _moved(self) -> bool:
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return True
        return (status.st_dev, status.st_ino) != self._identity

    def _append(self, data: memoryview, *, locked: bool) -> int:
        size = os.fstat(self.descriptor).st_size
        if size != self._end and self._ends_within_a_line(size):
            size += os.write(self.descriptor, b"\n")
        self._end = -1
        written = os.write(self.descriptor, data)
        if written < len(data):
            written = self._take_back(size, bytes(data[:written]), locked=locked)
        self._end = size + written
        return written

    def _take_back(self, size: int, data: bytes, *, locked: bool) -> int:
        """Of what was written from `size` on, keep the whole lines; how many bytes those are."""
        whole = data.rfind(b"\n") + 1
        if locked:
            # A file that may only be appended to (chattr +a) keeps the piece, and the next write ends it.
            with contextlib.suppress(OSError):
                os.ftruncate(self.descriptor, size + whole)
        if not whole:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole

    def _ends_within_a_line(self, size: int) -> bool:
        if not size:
            return False
        # Ours can't be read from: opening it for both would keep named pipes, and files that one may only write, from being sinks.
        try:
            reader = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            status = os.fstat(reader)
            return (status.st_dev, status.st_ino) == self._identity and os.pread(reader, 1, size - 1) != b"\n"
        finally:
            os.close(reader)


def open_target(sink: str, *, durable: bool = False) -> Target:
    """The target that `stdout`, `stderr` or `file:/path` names.

    Raises:
        ConfigError: another word, or a file that can't be opened.
    """
    if sink in STANDARD_STREAMS:
        return StreamTarget(STANDARD_STREAMS[sink])
    kind, _, path = sink.partition(":")
    if kind != "file" or not path:
        raise ConfigError(f"sink {sink!r} is unknown: allowed are stdout, stderr and file:/path")
    return FileTarget(path, durable=durable)


@contextlib.contextmanager
def _locked(descriptor: int) -> Iterator[bool]:
    """Hold the file's lock; False where its file system has none. It ends with the process too."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _write_or_wait(descriptor: int, data: memoryview) -> int:
    try:
        return os.write(descriptor, data)
    except BlockingIOError:
        # A pipe whose reader is slow; standard output is non-blocking too when somebody made it so.
        writable = select.poll()
        writable.register(descriptor, select.POLLOUT)
        writable.poll(WAIT_SECONDS * 1000)
        return 0


def _is_pipe(descriptor: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError as error:
        raise ConfigError(f"standard stream {descriptor} is closed, so nothing can be written to it: {error.strerror}") from error
