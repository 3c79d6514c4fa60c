"""A directory for one process and what it starts, which the next process clears away when nobody could (kill -9, a crash).

A file in it is locked for as long as anybody uses it. The kernel gives locks back whatever way a process ends, so a directory whose lock
can be had is one that nobody uses any more.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

#: The locked file. It gets this name after it was locked: where it is there and not locked, its owner is gone.
LOCK_NAME = "in-use"


class PrivateDirectory:
    """A new directory with mode 0700 among the temporary files, in use until `remove` or the end of this process.

    Args:
        prefix: what its name begins with.

    Attributes:
        path: where it is.
        lock: file descriptor that keeps it in use. A child that inherits it keeps it in use as well.
    """

    def __init__(self, prefix: str) -> None:
        # mkdtemp makes it 0700, so what is inside is ours alone whatever the umask.
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        unlocked = self.path / f"{LOCK_NAME}.new"
        self.lock = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        unlocked.rename(self.path / LOCK_NAME)

    def __repr__(self) -> str:
        return f"<PrivateDirectory {self.path}>"

    def remove(self) -> None:
        """Take it away with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.lock)


def clear_abandoned(prefix: str) -> list[Path]:
    """Remove the directories of this user that `PrivateDirectory` made with this prefix and that nobody uses any more.

    What is not certainly such a directory stays: a link, another user's, one without a lock.

    Returns:
        Those that were removed.
    """
    with os.scandir(tempfile.gettempdir()) as entries:
        ours = [Path(entry.path) for entry in entries if entry.name.startswith(prefix) and _is_ours(entry)]
    return [path for path in ours if _remove_unused(path)]


def _is_ours(entry: os.DirEntry[str]) -> bool:
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _remove_unused(path: Path) -> bool:
    try:
        lock = os.open(path / LOCK_NAME, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Locked while it goes, so that of two that start at the same time one removes it.
        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        return False
    finally:
        os.close(lock)
    return not path.exists()
