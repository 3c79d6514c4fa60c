"""Processes of this machine as /proc shows them: who runs, and who is below whom."""

from __future__ import annotations

import os
from pathlib import Path


def alive(pid: int) -> bool:
    """Whether any thread of a process runs; one that has ended and waits for its parent does not.

    The first thread may be over while others still hold the process's files, and with them its locks.
    """
    return any(_runs(thread) for thread in _threads(pid))


def descendants(pid: int) -> list[int]:
    """Processes below one, whatever group they are in."""
    children = [int(text) for thread in _threads(pid) for text in _read(thread / "children").split()]
    return [each for child in children for each in (child, *descendants(child))]


def command_line(pid: int) -> str:
    """Its words, each ended by a NUL; empty when it is gone."""
    return _read(Path(f"/proc/{pid}/cmdline"))


def _threads(pid: int) -> list[Path]:
    try:
        return [Path(f"/proc/{pid}/task/{thread}") for thread in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def _runs(thread: Path) -> bool:
    state = _read(thread / "stat").rpartition(")")[2].split()
    return bool(state) and state[0] not in "ZX"


def _read(file: Path) -> str:
    """What the file says; nothing when whom it tells of is gone."""
    try:
        return file.read_text()
    except OSError:
        return ""
