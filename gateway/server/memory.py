"""What this process uses of memory, and how much there is for it (Linux; elsewhere nothing is known)."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
#: Without a limit, version 1 of control groups tells the largest number of pages that it knows.
_NO_LIMIT_BYTES = 1 << 62
#: Blocks from this size on are mapped by themselves: more than a piece of a body, less than the buffer of a connection with TLS.
MAPPED_BYTES = 200 * 1024
#: The parameter's number in glibc's malloc.h.
_M_MMAP_THRESHOLD = -3


def resident_bytes() -> int:
    """The resident set of this process; 0 where nobody tells."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0


def keep_tls_buffers_apart() -> bool:
    """Have the C library map blocks of more than 200 KiB by themselves, whatever it has seen before; returns whether it does.

    uvloop's TLS allocates 256 KiB for a connection and uses the first 32 of them. glibc maps so large a block by itself, which costs only
    what is touched, until the first such block is freed: from then on they are cut out of the heap, and leave gaps in it that nothing fits
    into. Pieces of bodies, which come and go all the time, are smaller and stay in the heap.
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES))
    except (OSError, AttributeError):
        return False


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
