"""Lines of records to a pipe or file, without ever making the event loop wait for it."""

from __future__ import annotations

import logging
import os
import select
import stat
import threading
from collections import deque
from typing import Protocol

from gateway.errors import ConfigError

logger = logging.getLogger(__name__)

DEFAULT_CAPACITY_BYTES = 4 * 1024 * 1024
# When full, the requests that are already in flight still get their records: up to `in_flight` (4096) of them, 1 KiB each.
RESERVE_BYTES = 4 * 1024 * 1024
#: How long the writer lets lines gather: the thread wakes at most so often, which is what keeps it out of the event loop's way.
GATHER_SECONDS = 0.02
RETRY_SECONDS = 0.25
MODE = 0o600
STANDARD_STREAMS = {"stdout": 1, "stderr": 2}


class Target(Protocol):
    """Where bytes end up. Used by the writer's thread only."""

    #: Longest write that can't be mixed with another process's; 0 for any length.
    atomic_bytes: int

    def prepare(self) -> int:
        """The descriptor to write the next batch to. Raises OSError."""
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

    def prepare(self) -> int:
        return self._descriptor

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


class FileTarget:
    """A file that is appended to, and opened again when it was moved or removed (logrotate's `create` mode needs no signal then).

    Args:
        path: created with mode 0600 when missing.
        durable: fsync after each batch.

    Raises:
        ConfigError: it can't be opened.
    """

    def __init__(self, path: str, *, durable: bool) -> None:
        self._path = path
        self._durable = durable
        try:
            self._descriptor = self._open()
        except OSError as error:
            raise ConfigError(f"sink file:{path} can't be opened for appending: {error.strerror}") from error
        status = os.fstat(self._descriptor)
        self._identity = (status.st_dev, status.st_ino)
        self._durable = durable and stat.S_ISREG(status.st_mode)
        self.atomic_bytes = select.PIPE_BUF if stat.S_ISFIFO(status.st_mode) else 0

    def prepare(self) -> int:
        if self._moved():
            descriptor = self._open()
            os.close(self._descriptor)
            self._descriptor = descriptor
            status = os.fstat(descriptor)
            self._identity = (status.st_dev, status.st_ino)
        return self._descriptor

    def sync(self) -> None:
        if self._durable:
            os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    def _open(self) -> int:
        # Non-blocking matters for named pipes only: without a reader the open fails instead of waiting for one, and a write never hangs.
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, MODE)

    def _moved(self) -> bool:
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return True
        return (status.st_dev, status.st_ino) != self._identity


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


class LineWriter:
    """Hands lines to a thread that writes them in batches.

    Lines are taken by the event loop's thread only. What is waiting is bounded: from `capacity_bytes` on the writer is `full`; `offer`
    then drops, `append` goes on until the reserve for requests in flight is used up too. Failed writes are repeated until they succeed,
    so a full disk loses nothing before that bound is reached.

    Args:
        sink: `stdout`, `stderr` or `file:/path`.
        durable: fsync files after each batch.

    Raises:
        ConfigError: the sink can't be opened.
    """

    def __init__(self, sink: str, *, capacity_bytes: int = DEFAULT_CAPACITY_BYTES, durable: bool = False) -> None:
        self.sink = sink
        self._target = open_target(sink, durable=durable)
        self._capacity_bytes = capacity_bytes
        self._lines: deque[bytes] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        # Changed by the event loop's thread only
        self._taken_bytes = 0
        self.dropped = 0
        # Changed by the writer's thread only, but for `_awake`, where a lost update costs one more wake-up
        self._finished_bytes = 0
        self._writing = 0
        self._awake = False
        self._failing = False
        self.write_errors = 0
        self._thread = threading.Thread(target=self._run, name=f"lines-{sink}", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<LineWriter {self.sink} waiting_bytes={self.waiting_bytes} dropped={self.dropped} write_errors={self.write_errors}>"

    @property
    def waiting_bytes(self) -> int:
        """What was taken and isn't written yet."""
        return self._taken_bytes - self._finished_bytes

    @property
    def full(self) -> bool:
        """Whether a user who must not lose a line should stop making new ones."""
        return self._taken_bytes - self._finished_bytes >= self._capacity_bytes

    def append(self, line: bytes) -> bool:
        """Take a line (with its newline) that must not be lost; False when it was, because even the reserve is used up."""
        return self._take(line, self._capacity_bytes + RESERVE_BYTES)

    def offer(self, line: bytes) -> bool:
        """Take a line (with its newline) unless the writer is full; False when it was dropped."""
        return self._take(line, self._capacity_bytes)

    def _take(self, line: bytes, limit_bytes: int) -> bool:
        if self._taken_bytes - self._finished_bytes >= limit_bytes:
            self.dropped += 1
            return False
        self._taken_bytes += len(line)
        self._lines.append(line)
        if not self._awake:
            self._awake = True
            self._wake.set()
        return True

    def close(self, timeout_seconds: float) -> int:
        """Write what is waiting, for at most so long; blocks. Returns the number of lines that were lost."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_seconds)
        self._abandoned.set()
        lost = len(self._lines) + self._writing
        self.dropped += lost
        return lost

    # The writer's thread

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._closing.wait(GATHER_SECONDS)
            self._wake.clear()
            # Before the lines are taken, so that one that comes now wakes us again.
            self._awake = False
            self._drain()
        self._drain()
        self._target.close()

    def _drain(self) -> None:
        while self._lines and not self._abandoned.is_set():
            lines = _batch(self._lines, self._target.atomic_bytes)
            self._writing = len(lines)
            if self._write_all(b"".join(lines)):
                self._writing = 0

    def _write_all(self, data: bytes) -> bool:
        rest = memoryview(data)
        while rest:
            if self._abandoned.is_set():
                return False
            try:
                rest = rest[self._write(rest) :]
            except OSError as error:
                self._failed(error)
                self._abandoned.wait(RETRY_SECONDS)
        self._finished_bytes += len(data)
        self._sync()
        return True

    def _write(self, data: memoryview) -> int:
        descriptor = self._target.prepare()
        try:
            return os.write(descriptor, data)
        except BlockingIOError:
            # A pipe whose reader is slow; standard output is non-blocking too when somebody made it so.
            writable = select.poll()
            writable.register(descriptor, select.POLLOUT)
            writable.poll(RETRY_SECONDS * 1000)
            return 0

    def _sync(self) -> None:
        try:
            self._target.sync()
        except OSError as error:
            # Not repeated: after a failed fsync the pages are gone, and a second one that succeeds proves nothing.
            self._failed(error)
            return
        if self._failing:
            self._failing = False
            logger.warning("sink %s works again", self.sink)

    def _failed(self, error: OSError) -> None:
        self.write_errors += 1
        if not self._failing:
            self._failing = True
            logger.error("sink %s can't be written, trying again: %s", self.sink, error.strerror)


def _batch(lines: deque[bytes], maximum_bytes: int) -> list[bytes]:
    """Take lines from the left: all that are there now, or with a maximum one, and those that fit besides."""
    if not maximum_bytes:
        return [lines.popleft() for _ in range(len(lines))]
    batch = [lines.popleft()]
    size = len(batch[0])
    while lines and size + len(lines[0]) <= maximum_bytes:
        batch.append(lines.popleft())
        size += len(batch[-1])
    return batch


def _is_pipe(descriptor: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError as error:
        raise ConfigError(f"standard stream {descriptor} is closed, so nothing can be written to it: {error.strerror}") from error
