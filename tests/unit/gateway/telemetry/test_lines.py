"""The writer's bounds, order and batches, on plain files. Pipes, full disks and rotation are in the integration tests."""

from __future__ import annotations

import stat
from collections import deque
from pathlib import Path

import pytest

from gateway.errors import ConfigError
from gateway.telemetry import lines
from gateway.telemetry.lines import LineWriter


def test_lines_arrive_in_order_and_whole(tmp_path: Path) -> None:
    """S-37: one line a record."""
    path = tmp_path / "log"
    writer = LineWriter(f"file:{path}")
    expected = [b"line %d\n" % number for number in range(10_000)]
    assert all(writer.offer(line) for line in expected)
    assert writer.close(10.0) == 0
    assert path.read_bytes() == b"".join(expected)
    assert (writer.waiting_bytes, writer.dropped, writer.write_errors) == (0, 0, 0)


def test_files_are_private_and_appended_to(tmp_path: Path) -> None:
    """Records name people: mode 0600; a restart keeps what is there."""
    path = tmp_path / "log"
    for line in (b"first\n", b"second\n"):
        writer = LineWriter(f"file:{path}", durable=True)
        writer.offer(line)
        assert writer.close(10.0) == 0
    assert path.read_bytes() == b"first\nsecond\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("sink", ["", "syslog", "file:", "file", "/var/log/x"])
def test_unknown_sinks_are_refused(sink: str) -> None:
    """The message says what is allowed."""
    with pytest.raises(ConfigError, match="allowed are stdout, stderr and file:/path"):
        LineWriter(sink)


@pytest.mark.parametrize("path", ["/nonexistent/audit.jsonl", "/proc/audit.jsonl", "/"])
def test_files_that_can_not_be_opened_are_refused_by_name(path: str) -> None:
    """The message names the path."""
    with pytest.raises(ConfigError, match=f"sink file:{path} can't be opened for appending"):
        LineWriter(f"file:{path}")


@pytest.mark.parametrize("sink", ["stdout", "stderr"])
def test_standard_streams_are_sinks(sink: str, capfd: pytest.CaptureFixture[str]) -> None:
    """CONTRACT section 4."""
    writer = LineWriter(sink)
    writer.offer(b"hello\n")
    assert writer.close(10.0) == 0
    assert getattr(capfd.readouterr(), sink.removeprefix("std")) == "hello\n"


def test_offers_are_dropped_from_the_capacity_on_and_counted() -> None:
    """F-60: bounded; only who may lose lines loses them."""
    writer = LineWriter("file:/dev/full", capacity_bytes=100)
    assert [writer.offer(b"x" * 60 + b"\n") for _ in range(4)] == [True, True, False, False]
    assert writer.full
    assert writer.dropped == 2
    assert repr(writer).startswith("<LineWriter file:/dev/full waiting_bytes=122 dropped=2 write_errors=")
    assert writer.close(0.0) == 2


@pytest.mark.parametrize(
    ("sizes", "maximum", "batches"),
    [([1, 1, 1], 10, [3]), ([4, 4, 4], 8, [2, 1]), ([20, 1, 1], 8, [1, 2]), ([1, 20, 1], 8, [1, 1, 1]), ([8, 8], 8, [1, 1])],
)
def test_batches_hold_whole_lines_within_the_bound(sizes: list[int], maximum: int, batches: list[int]) -> None:
    """A write of up to PIPE_BUF bytes isn't mixed with that of another worker; a longer line goes alone."""
    whole = deque(b"x" * (size - 1) + b"\n" for size in sizes)
    # A line of one byte can't be in two pieces.
    pieces = deque(piece for line in whole for piece in ((line[:-1], line[-1:]) if len(line) > 1 else (line,)))
    for waiting in (whole, pieces):
        made = []
        while waiting:
            made.append(b"".join(lines._batch(waiting, maximum)).count(b"\n"))
        assert made == batches
