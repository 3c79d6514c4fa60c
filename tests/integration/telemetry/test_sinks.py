"""Sinks that block, fail and move: real pipes, a full device, rotation."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.errors import ConfigError
from gateway.telemetry.audit import Audit
from gateway.telemetry.lines import LineWriter
from gateway.telemetry.record import TimeText
from gateway.telemetry.target import FileTarget
from gateway.telemetry.trail import Trail
from tests.support.observations import observation
from tests.support.redis_server import wait_until

LINE = b"x" * 999 + b"\n"


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A named pipe with a reader that doesn't read, and its reading end."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path, reader
    os.close(reader)


def descriptor_of(writer: LineWriter) -> int:
    target = writer._target
    assert isinstance(target, FileTarget)
    return target.descriptor


def drain(reader: int, stop: threading.Event, into: list[bytes]) -> None:
    """Read all that comes until `stop`, and then what is still there."""
    while True:
        stopping = stop.is_set()
        try:
            data = os.read(reader, 65536)
        except BlockingIOError:
            data = b""
        into.append(data)
        if not data:
            if stopping:
                return
            stop.wait(0.005)


def test_a_blocked_pipe_never_blocks_the_caller(fifo: tuple[Path, int]) -> None:
    """S-36, F-45: a reader that stops reading makes the writer full, and the event loop waits for nothing."""
    path, reader = fifo
    writer = LineWriter(f"file:{path}", capacity_bytes=500_000)
    started = time.monotonic()
    offered = [writer.offer(LINE) for _ in range(2000)]
    assert time.monotonic() - started < 10.0, "who waits for this reader waits for ever"
    # The pipe itself holds 64 KiB, and so much may have left before the capacity was reached.
    assert 500 <= sum(offered) <= 600
    assert writer.full
    assert writer.dropped == offered.count(False)

    stop, read = threading.Event(), list[bytes]()
    thread = threading.Thread(target=drain, args=(reader, stop, read))
    thread.start()
    wait_until(lambda: not writer.waiting_bytes, "everything to be written")
    assert not writer.full
    assert writer.offer(b"last\n")
    assert writer.close(10.0) == 0
    stop.set()
    thread.join()
    assert b"".join(read) == LINE * sum(offered) + b"last\n"


def test_closing_on_a_blocked_pipe_takes_no_longer_than_it_may(fifo: tuple[Path, int]) -> None:
    """F-60: exit is bounded, and what was lost is known."""
    path, _ = fifo
    writer = LineWriter(f"file:{path}")
    for _ in range(1000):
        writer.offer(LINE)
    started = time.monotonic()
    lost = writer.close(0.2)
    assert time.monotonic() - started < 10.0
    # 64 KiB of the million bytes fit into the pipe.
    assert 900 <= lost <= 1000
    assert writer.dropped == lost


@pytest.mark.parametrize("flags", [os.O_NONBLOCK, 0])
def test_a_slow_reader_is_waited_for(fifo: tuple[Path, int], flags: int) -> None:
    """Blocking or not (standard output may be either): EAGAIN is no error and loses nothing."""
    path, reader = fifo
    writer = LineWriter(f"file:{path}")
    fcntl.fcntl(descriptor_of(writer), fcntl.F_SETFL, flags)
    for _ in range(500):
        writer.offer(LINE)
    stop, read = threading.Event(), list[bytes]()
    thread = threading.Thread(target=drain, args=(reader, stop, read))
    thread.start()
    assert writer.close(10.0) == 0
    stop.set()
    thread.join()
    assert b"".join(read) == LINE * 500
    assert writer.write_errors == 0


@pytest.mark.parametrize("flags", [os.O_NONBLOCK, 0])
def test_closing_on_a_blocked_pipe_ends_either_way(fifo: tuple[Path, int], flags: int) -> None:
    """F-60: even while the thread hangs in a write."""
    path, _ = fifo
    writer = LineWriter(f"file:{path}")
    fcntl.fcntl(descriptor_of(writer), fcntl.F_SETFL, flags)
    for _ in range(200):
        writer.offer(LINE)
    started = time.monotonic()
    assert 100 <= writer.close(0.1) <= 200
    assert time.monotonic() - started < 10.0


def test_a_pipe_without_a_reader_is_refused_at_start(tmp_path: Path) -> None:
    """CONTRACT section 3: one clear line instead of a start that hangs."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match=f"sink file:{path} can't be opened for appending"):
        LineWriter(f"file:{path}")


def test_workers_on_one_pipe_do_not_mix_their_lines(fifo: tuple[Path, int]) -> None:
    """S-37: with several workers on one standard output every line stays whole."""
    path, reader = fifo
    writers = [LineWriter(f"file:{path}") for _ in range(3)]
    stop, read = threading.Event(), list[bytes]()
    thread = threading.Thread(target=drain, args=(reader, stop, read))
    thread.start()
    for _ in range(2000):
        for number, writer in enumerate(writers):
            writer.offer(b"%d" % number * 700 + b"\n")
    assert [writer.close(20.0) for writer in writers] == [0, 0, 0]
    stop.set()
    thread.join()
    lines = b"".join(read).splitlines()
    assert len(lines) == 6000
    assert {bytes(sorted(set(line))) for line in lines} == {b"0", b"1", b"2"}
    assert {len(line) for line in lines} == {700}


def test_a_full_disk_is_counted_reported_once_and_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """S-36: AU-5: a full disk raises a metric; nothing is lost once there is room again."""
    path = tmp_path / "audit"
    path.symlink_to("/dev/full")
    with caplog.at_level(logging.WARNING):
        writer = LineWriter(f"file:{path}", durable=True)
        writer.offer(b"first\n")
        wait_until(lambda: writer.write_errors >= 2, "two errors")
        # Room again: the operator points the path at another disk.
        path.unlink()
        writer.offer(b"second\n")
        wait_until(lambda: not writer.waiting_bytes, "everything to be written")
        assert writer.close(10.0) == 0
    assert path.read_bytes() == b"first\nsecond\n"
    assert [record.message for record in caplog.records] == [
        f"sink file:{path} can't be written, trying again: No space left on device",
        f"sink file:{path} works again",
    ]


def test_a_full_disk_makes_the_audit_full(tmp_path: Path) -> None:
    """O6: the pipeline is told in time to refuse; what was in flight is kept."""
    writer = LineWriter("file:/dev/full", capacity_bytes=100_000)
    audit = Audit(Trail([writer], chained=False), format="json", replica="gw-1", time=TimeText())
    records = 0
    while not writer.full:
        audit.observe(observation())
        records += 1
    assert records > 100
    assert audit.dropped == 0
    assert writer.close(0.1) == records


def test_a_file_that_was_moved_is_opened_again(tmp_path: Path) -> None:
    """F-60: rotation by renaming, without a signal; no line is lost or written twice, the new file is private too."""
    path = tmp_path / "audit"
    writer = LineWriter(f"file:{path}", durable=True)
    for number in range(30):
        writer.offer(b"line %d\n" % number)
        wait_until(lambda: not writer.waiting_bytes, "everything to be written")
        if number % 10 == 9:
            path.rename(tmp_path / f"audit.{number // 10}")
    assert writer.close(10.0) == 0
    rotated = [(tmp_path / f"audit.{number}").read_bytes().splitlines() for number in range(3)]
    assert [len(lines) for lines in rotated] == [10, 10, 10]
    assert [line for lines in rotated for line in lines] == [b"line %d" % number for number in range(30)]


def test_a_file_that_was_removed_is_made_again(tmp_path: Path) -> None:
    """Records don't go to a file without a name."""
    path = tmp_path / "audit"
    writer = LineWriter(f"file:{path}")
    writer.offer(b"gone\n")
    wait_until(lambda: not writer.waiting_bytes, "everything to be written")
    path.unlink()
    writer.offer(b"kept\n")
    assert writer.close(10.0) == 0
    assert path.read_bytes() == b"kept\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_directory_that_is_away_for_a_while_costs_nothing(tmp_path: Path) -> None:
    """A volume that is remounted: lines wait for it."""
    directory = tmp_path / "logs"
    directory.mkdir()
    writer = LineWriter(f"file:{directory / 'audit'}")
    writer.offer(b"one\n")
    wait_until(lambda: not writer.waiting_bytes, "everything to be written")
    directory.rename(tmp_path / "away")
    writer.offer(b"two\n")
    wait_until(lambda: writer.write_errors > 0, "an error")
    directory.mkdir()
    assert writer.close(10.0) == 0
    assert (directory / "audit").read_bytes() == b"two\n"


def test_audit_records_on_a_real_pipe_are_whole(fifo: tuple[Path, int]) -> None:
    """S-37: one JSON object a line, whatever the reader's pace."""
    path, reader = fifo
    writer = LineWriter(f"file:{path}")
    audit = Audit(Trail([writer], chained=False), format="json", replica="gw-1", time=TimeText())
    for _ in range(1000):
        audit.observe(observation())
    stop, read = threading.Event(), list[bytes]()
    thread = threading.Thread(target=drain, args=(reader, stop, read))
    thread.start()
    assert writer.close(10.0) == 0
    stop.set()
    thread.join()
    assert [json.loads(line)["seq"] for line in b"".join(read).splitlines()] == list(range(1, 1001))
