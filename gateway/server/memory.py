"""What this process uses of memory, and how much there is for it (Linux; elsewhere nothing is known)."""

from __future__ import annotations

import os
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
#: Without a limit, version 1 of control groups tells the largest number of pages that it knows.
_NO_LIMIT_BYTES = 1 << 62


def resident_bytes() -> int:
    """The resident set of this process; 0 where nobody tells."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0


def group_limit_bytes(root: Path = Path("/sys/fs/cgroup")) -> int:
    """What the control group of a container may use; 0 when it has no limit, or there is none to be seen.

    Args:
        root: where control groups are mounted. A container sees its own at the root.
    """
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdecimal() and int(text) < _NO_LIMIT_BYTES else 0
    return 0
