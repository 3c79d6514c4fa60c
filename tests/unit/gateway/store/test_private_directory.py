"""Directories that a process that was killed can't clear away itself."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from pathlib import Path

import pytest

from gateway.store.private_directory import LOCK_NAME, PrivateDirectory, clear_abandoned

PREFIX = "gateway-test-"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def abandoned() -> Path:
    """A directory whose owner was killed: the kernel has taken its lock away."""
    directory = PrivateDirectory(PREFIX)
    (directory.path / "data").write_text("x")
    os.close(directory.lock)
    return directory.path


def test_it_is_nobody_elses_and_goes_when_it_is_removed() -> None:
    directory = PrivateDirectory(PREFIX)
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    assert not os.get_inheritable(directory.lock)
    assert repr(directory) == f"<PrivateDirectory {directory.path}>"
    directory.remove()
    assert not directory.path.exists()


def test_only_what_nobody_uses_is_cleared_away() -> None:
    gone, used = abandoned(), PrivateDirectory(PREFIX)
    assert clear_abandoned(PREFIX) == [gone]
    assert not gone.exists()
    assert (used.path / LOCK_NAME).exists()
    used.remove()


def test_a_child_that_inherited_the_lock_keeps_it_in_use() -> None:
    directory = PrivateDirectory(PREFIX)
    inherited = os.dup(directory.lock)
    os.close(directory.lock)
    assert clear_abandoned(PREFIX) == []
    os.close(inherited)
    assert clear_abandoned(PREFIX) == [directory.path]


def test_what_is_not_certainly_abandoned_stays(temporary: Path) -> None:
    """Another name, no lock (it is just being made), a link to one, a lock that is a link, a file."""
    other = PrivateDirectory("another-")
    os.close(other.lock)
    unlocked = temporary / f"{PREFIX}unlocked"
    unlocked.mkdir()
    (unlocked / f"{LOCK_NAME}.new").touch()
    (temporary / f"{PREFIX}link").symlink_to(other.path)
    linked_lock = temporary / f"{PREFIX}linked-lock"
    linked_lock.mkdir()
    (linked_lock / LOCK_NAME).symlink_to(other.path / LOCK_NAME)
    (temporary / f"{PREFIX}file").touch()
    before = sorted(temporary.rglob("*"))
    assert clear_abandoned(PREFIX) == []
    assert sorted(temporary.rglob("*")) == before


def test_another_users_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    path = abandoned()
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    assert clear_abandoned(PREFIX) == []


def test_of_two_that_clear_at_the_same_time_one_leaves_it_to_the_other() -> None:
    path = abandoned()
    with (path / LOCK_NAME).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert clear_abandoned(PREFIX) == []
    assert clear_abandoned(PREFIX) == [path]
