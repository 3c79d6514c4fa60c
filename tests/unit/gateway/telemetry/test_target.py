"""Files that several processes append to hold whole lines, whatever became of one of them."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.telemetry.target import FileTarget, open_target

LINE = b"x" * 99 + b"\n"


@contextmanager
def bounded_files(size: int) -> Iterator[None]:
    """No file of this process grows beyond the size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def written(path: Path, *pieces: bytes) -> bytes:
    target = open_target(f"file:{path}")
    for piece in pieces:
        assert target.write(memoryview(piece)) == len(piece)
    target.close()
    return path.read_bytes()


def test_a_plain_file_takes_writes_of_any_length(tmp_path: Path) -> None:
    target = open_target(f"file:{tmp_path / 'log'}")
    assert target.atomic_bytes == 0
    target.close()


def test_a_line_that_was_left_unfinished_is_ended_first(tmp_path: Path) -> None:
    """G4: what a killed process left spoils no record of another one."""
    path = tmp_path / "log"
    path.write_bytes(b"whole\ntor")
    assert written(path, b"next\n", b"last\n") == b"whole\ntor\nnext\nlast\n"


def test_also_when_another_process_leaves_it_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "log"
    target = open_target(f"file:{path}")
    target.write(memoryview(b"first\n"))
    with path.open("ab") as other:
        other.write(b"whole\ntor")
    target.write(memoryview(b"second\n"))
    with path.open("ab") as other:
        other.write(b"whole\n")
    target.write(memoryview(b"third\n"))
    target.close()
    assert path.read_bytes() == b"first\nwhole\ntor\nsecond\nwhole\nthird\n"


def test_what_does_not_fit_on_the_disk_is_taken_back_to_the_last_whole_line(tmp_path: Path) -> None:
    """O6: a full disk leaves no piece of a record, which another process could go on behind."""
    path = tmp_path / "log"
    target = open_target(f"file:{path}")
    with bounded_files(250):
        assert target.write(memoryview(LINE * 4)) == 200
        with pytest.raises(OSError, match="No space left on device"):
            target.write(memoryview(LINE * 2))
    assert path.read_bytes() == LINE * 2
    assert target.write(memoryview(LINE * 2)) == 200
    target.close()
    assert path.read_bytes() == LINE * 4


def test_a_file_that_can_not_be_read_is_appended_to_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end is not looked at then."""
    path = tmp_path / "log"
    path.write_bytes(b"tor")
    target = open_target(f"file:{path}")
    real = os.open

    def refuse(name: str, flags: int, *mode: int) -> int:
        if flags & os.O_ACCMODE == os.O_RDONLY:
            raise PermissionError(13, "Permission denied")
        return real(name, flags, *mode)

    monkeypatch.setattr(os, "open", refuse)
    assert target.write(memoryview(LINE)) == len(LINE)
    target.close()
    assert path.read_bytes() == b"tor" + LINE


def test_a_file_is_durable_and_regular_by_what_it_is_now(tmp_path: Path) -> None:
    """A path that led to a device leads to a file later."""
    path = tmp_path / "log"
    path.symlink_to("/dev/null")
    target = FileTarget(str(path), durable=True)
    target.write(memoryview(LINE))
    target.sync()
    path.unlink()
    target.write(memoryview(LINE))
    target.sync()
    target.close()
    assert path.read_bytes() == LINE
