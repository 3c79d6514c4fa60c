"""CPU time of a process tree, to the nanosecond."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.sidebyside.errors import BenchmarkError

#: The last two bits of a Linux clock id that names a whole process: the scheduler's own count (clock_getcpuclockid(3)).
_SCHEDULER_CLOCK = 2


def parent_of(stat: str) -> int:
    """The parent's id in a line of /proc/PID/stat; the command name in it may hold spaces and parentheses."""
    return int(stat.rsplit(")", 1)[1].split()[1])


def descendants(root: int, parents: Mapping[int, int]) -> frozenset[int]:
    """`root` and everything below it, where `parents` says whose child each process is."""
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return frozenset(found)


def process_tree(root: int) -> frozenset[int]:
    """Ids of a running process and all its descendants."""
    return descendants(root, dict(_parents()))


def cpu_ns(pids: Iterable[int]) -> int:
    """Nanoseconds that these processes have run so far, all threads, ended ones included.

    The kernel's clock of a process is read instead of /proc/PID/stat, which counts in hundredths of a second, and instead of
    /proc/PID/schedstat, which is one thread's.
    """
    return sum(_process_ns(pid) for pid in pids)


def _process_ns(pid: int) -> int:
    try:
        return time.clock_gettime_ns((~pid << 3) | _SCHEDULER_CLOCK)
    except OSError as exc:
        raise BenchmarkError(f"process {pid} ended while it was measured") from exc


def _parents() -> Iterable[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), parent_of((entry / "stat").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue
