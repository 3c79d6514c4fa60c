"""Lines of records to a pipe or file, without ever making the event loop wait for it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable

from gateway.telemetry.target import open_target

logger = logging.getLogger(__name__)

DEFAULT_CAPACITY_BYTES = 4 * 1024 * 1024
#: How long the writer lets lines gather: the thread wakes at most so often, which is what keeps it out of the event loop's way.
GATHER_SECONDS = 0.02
RETRY_SECONDS = 0.25


class LineWriter:
    """Hands lines to a thread that writes them in batches.

    Lines are taken by the event loop's thread only. What is waiting is bounded: from `capacity_bytes` on the writer is `full`, and `offer`
    drops. Failed writes are repeated until they succeed, so a full disk loses nothing before that bound is reached.

    Who has lines that are not ready yet, or must not be lost, does in three steps what `offer` does in one: `reserve` the room, `wake` the
    thread, and `deliver` lines when the thread calls `feed`.

    Args:
        sink: `stdout`, `stderr` or `file:/path`.
        durable: fsync files after each batch.

    Attributes:
        feed: called by the thread before it looks for lines.
        awake: whether the thread will look anyway.

    Raises:
        ConfigError: the sink can't be opened.
    """

    def __init__(self, sink: str, *, capacity_bytes: int = DEFAULT_CAPACITY_BYTES, durable: bool = False) -> None:
        self.sink = sink
        self.capacity_bytes = capacity_bytes
        self.feed: Callable[[], None] = _nothing
        self._target = open_target(sink, durable=durable)
        self._pieces: deque[bytes] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        # Changed by the event loop's thread only
        self.taken_bytes = 0
        self.dropped = 0
        # Changed by the writer's thread only, but for `awake`, where a lost update costs one more wake-up
        self.finished_bytes = 0
        self._writing = 0
        self.awake = False
        self._failing = False
        self.write_errors = 0
        self._thread = threading.Thread(target=self._run, name=f"lines-{sink}", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<LineWriter {self.sink} waiting_bytes={self.waiting_bytes} dropped={self.dropped} write_errors={self.write_errors}>"

    @property
    def waiting_bytes(self) -> int:
        """What was taken and isn't written, and durable, yet."""
        return self.taken_bytes - self.finished_bytes

    @property
    def full(self) -> bool:
        """Whether a user who must not lose a line should stop making new ones."""
        return self.taken_bytes - self.finished_bytes >= self.capacity_bytes

    def offer(self, line: bytes) -> bool:
        """Take a line (with its newline) unless the writer is full; False when it was dropped."""
        if not self.reserve(len(line), 0):
            return False
        self._pieces.append(line)
        if not self.awake:
            self.wake()
        return True

    def reserve(self, size: int, reserve_bytes: int) -> bool:
        """Count a line of this size as taken, unless so much waits that the reserve beyond the capacity is used up: then as dropped."""
        if self.taken_bytes - self.finished_bytes >= self.capacity_bytes + reserve_bytes:
            self.dropped += 1
            return False
        self.taken_bytes += size
        return True

    def wake(self) -> None:
        """Have the thread look for lines soon."""
        self.awake = True
        self._wake.set()

    def deliver(self, pieces: list[bytes]) -> None:
        """Lines that room was reserved for, each in one piece or two. Any thread, one at a time."""
        self._pieces.extend(pieces)

    def close(self, timeout_seconds: float) -> int:
        """Write what is waiting, for at most so long; blocks. Returns the number of lines that were lost."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_seconds)
        self._abandoned.set()
        self.feed()
        lost = _count(self._pieces) + self._writing
        self.dropped += lost
        return lost

    # The writer's thread

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._closing.wait(GATHER_SECONDS)
            self._wake.clear()
            # Before the lines are taken, so that one that comes now wakes us again.
            self.awake = False
            self._drain()
        self._drain()
        self._target.close()

    def _drain(self) -> None:
        self.feed()
        while self._pieces and not self._abandoned.is_set():
            pieces = _batch(self._pieces, self._target.atomic_bytes)
            self._writing = _count(pieces)
            if self._write_all(b"".join(pieces)):
                self._writing = 0

    def _write_all(self, data: bytes) -> bool:
        rest = memoryview(data)
        while rest:
            if self._abandoned.is_set():
                return False
            try:
                rest = rest[self._target.write(rest) :]
            except OSError as error:
                self._failed(error)
                self._abandoned.wait(RETRY_SECONDS)
        self._sync()
        self.finished_bytes += len(data)
        return True

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


def _batch(pieces: deque[bytes], maximum_bytes: int) -> list[bytes]:
    """Take whole lines from the left: all that are there now, or with a maximum one, and those that fit besides."""
    if not maximum_bytes:
        return [pieces.popleft() for _ in range(len(pieces))]
    batch = _line(pieces)
    size = sum(map(len, batch))
    while pieces and size + (added := len(pieces[0]) + (0 if pieces[0].endswith(b"\n") else len(pieces[1]))) <= maximum_bytes:
        batch += _line(pieces)
        size += added
    return batch


def _line(pieces: deque[bytes]) -> list[bytes]:
    """Take the pieces of one line."""
    first = pieces.popleft()
    return [first] if first.endswith(b"\n") else [first, pieces.popleft()]


def _count(pieces: Iterable[bytes]) -> int:
    """How many lines the pieces are."""
    return sum([piece.endswith(b"\n") for piece in pieces])


def _nothing() -> None:
    """Nobody feeds it."""
