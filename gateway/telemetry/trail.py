"""The way of audit records to their sinks: sealed once, in one order, by whichever sink's thread comes first; and what a sink lost."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.telemetry.chain import GENESIS, SEAL_BYTES, Head, seal
from gateway.telemetry.lines import LineWriter

# When full, the requests that are already in flight still get their records: up to `in_flight` (4096) of them, 1 KiB each.
RESERVE_BYTES = 4 * 1024 * 1024


#: How many bytes each writer will have written.
Position = tuple[tuple[LineWriter, int], ...]


@dataclass(slots=True)
class Loss:
    """Records that a sink has not got, by their numbers: all from the first to the last."""

    sink: str
    first: int
    last: int


class Trail:
    """Takes records from the event loop and hands them, sealed, to the writers' threads.

    Every sink gets the same bytes. A sink that is full loses records from then on until it is half empty again; what it lost is told once
    by the caller, in a record of its own (see `recovered`). The hashes are made in the writers' threads: the loop only queues.

    Args:
        writers: the sinks. The trail becomes what feeds them.
        chained: whether lines are sealed.
        lossy: whether a sink loses records as soon as it is full, rather than when the reserve for requests in flight is used up too.
    """

    def __init__(self, writers: Sequence[LineWriter], *, chained: bool, lossy: bool = False) -> None:
        self._writers = tuple(writers)
        self._chained = chained
        self._seal_bytes = SEAL_BYTES if chained else 0
        self._reserve_bytes = 0 if lossy else RESERVE_BYTES
        # The event loop appends, whoever holds the lock takes away.
        self._pending: deque[tuple[bytes, tuple[LineWriter, ...]]] = deque()
        self._lock = threading.Lock()
        # Changed under the lock only
        self._hash = GENESIS
        self._sealed = 0
        self._newest = b""
        # Changed by the event loop's thread only
        self.lacking: dict[LineWriter, Loss] = {}
        #: Records that some sink lost.
        self.dropped = 0
        for writer in self._writers:
            writer.feed = self.distribute

    def __repr__(self) -> str:
        return f"<Trail to {len(self._writers)} sinks, {self._sealed} sealed, {self.dropped} dropped>"

    def take(self, line: bytes, seq: int) -> None:
        """Take the record with this number: one line of JSON with its newline. Numbers go up by one from 1."""
        size = len(line) + self._seal_bytes
        takers = self._writers
        for writer in takers:
            if (self.lacking and writer in self.lacking) or not writer.reserve(size, self._reserve_bytes):
                takers = self._without(takers, writer, seq)
        if len(takers) < len(self._writers):
            self.dropped += 1
        self._pending.append((line, takers))
        for writer in takers:
            if not writer.awake:
                writer.wake()
        if not takers:
            # Nobody will come for it, and yet the next record's hash depends on it.
            self.distribute()

    def recovered(self) -> Loss | None:
        """What a sink has lost that takes records again from now on; None when there is none. Ask before each record while `lacking`."""
        for writer, loss in self.lacking.items():
            if writer.waiting_bytes * 2 < writer.capacity_bytes:
                del self.lacking[writer]
                return loss
        return None

    def distribute(self) -> None:
        """Seal what is waiting and queue it at its writers. Any thread."""
        pending, writers = self._pending, self._writers
        with self._lock:
            if not pending:
                return
            taken = [pending.popleft() for _ in range(len(pending))]
            pieces, of_each = [line for line, _ in taken], 1
            if self._chained:
                (pieces, self._hash), of_each = seal(pieces, self._hash), 2
            self._sealed += len(taken)
            self._newest = b"".join(pieces[-of_each:])
            if all([takers is writers for _, takers in taken]):  # noqa: C419 - a generator would cost twice as much
                for writer in writers:
                    writer.deliver(pieces)
            else:
                for at, (_, takers) in enumerate(taken):
                    for writer in takers:
                        writer.deliver(pieces[at * of_each : (at + 1) * of_each])

    def head(self) -> tuple[Head, bytes]:
        """The newest record of all, sealed now, and its line."""
        self.distribute()
        with self._lock:
            return Head(self._sealed, self._hash.decode()), self._newest

    def position(self) -> Position:
        """How far the sinks will be when they have written what was taken until now; for `written`."""
        return tuple((writer, writer.taken_bytes) for writer in self._writers if writer not in self.lacking)

    @staticmethod
    def written(position: Position) -> bool:
        """Whether the sinks are that far, and durable where they can be."""
        return all(writer.finished_bytes >= taken for writer, taken in position)

    def _without(self, takers: tuple[LineWriter, ...], writer: LineWriter, seq: int) -> tuple[LineWriter, ...]:
        loss = self.lacking.get(writer)
        if loss is None:
            self.lacking[writer] = Loss(writer.sink, seq, seq)
        else:
            loss.last = seq
            writer.dropped += 1
        return tuple(other for other in takers if other is not writer)
