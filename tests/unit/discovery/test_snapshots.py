"""Snapshots on disk: what is kept, and what is done about files that can't be trusted."""

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.instance import Instance
from discovery.snapshots import NoSnapshots, SnapshotFiles, decoded, encoded

KEY = "consul patients tags eu in dc1"
INSTANCES = (
    Instance(
        id="n/p1", host="10.0.0.1", port=80, weight=3, scheme="https", tags=("eu",), meta=MappingProxyType({"a": "b"}), health="warning"
    ),
    Instance(id="n/p2", host="2001:db8::1", port=81),
)


def saved(directory: Path, key: str = KEY, instances: tuple[Instance, ...] = INSTANCES) -> Path:
    """The file of a snapshot."""

    async def save() -> None:
        files = SnapshotFiles(directory)
        files.save(key, instances)
        await files.close()

    asyncio.run(save())
    return max(directory.glob("*.snapshot"), key=lambda path: path.stat().st_mtime_ns)


def test_what_was_saved_is_loaded_with_the_time_of_its_confirmation(tmp_path: Path) -> None:
    """D6."""
    file = saved(tmp_path / "made" / "here")
    os.utime(file, (1000, 1000))
    stored = SnapshotFiles(file.parent).load(KEY)
    assert stored is not None
    assert (stored.instances, stored.confirmed_at) == (INSTANCES, 1000)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_nothing_is_known_of_other_keys(tmp_path: Path) -> None:
    """D6: names of services are told apart however they are spelled."""
    saved(tmp_path, "a/b")
    assert SnapshotFiles(tmp_path).load("a b") is None
    assert SnapshotFiles(tmp_path).load("../../etc/passwd") is None
    assert SnapshotFiles(tmp_path / "missing").load("a/b") is None


def test_a_newer_confirmation_of_the_same_is_noted_without_writing_it_again(tmp_path: Path) -> None:
    """D6."""

    async def scenario() -> tuple[int, int, float]:
        files = SnapshotFiles(tmp_path)
        files.save(KEY, INSTANCES)
        await files.close()
        (file,) = (tmp_path / name for name in os.listdir(tmp_path))
        first = file.stat().st_ino
        os.utime(file, (1000, 1000))
        files.save(KEY, INSTANCES)
        await files.close()
        return first, file.stat().st_ino, file.stat().st_mtime

    first, second, moment = asyncio.run(scenario())
    assert first == second
    assert moment > 1000


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"",
        lambda text: text[:-1],
        lambda text: text[:40],
        lambda text: text.replace(b"10.0.0.1", b"10.0.0.2"),
        lambda text: b"\x00" * len(text),
        lambda text: encoded(INSTANCES, "another service"),
        lambda text: encoded(INSTANCES, KEY).replace(b'"port"', b'"door"'),
    ],
)
def test_a_damaged_file_is_told_of_put_aside_and_not_used(
    tmp_path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """D6."""
    file = saved(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    files = SnapshotFiles(tmp_path)
    assert files.load(KEY) is None
    assert "is damaged" in caplog.text
    assert str(file) in caplog.text
    assert file.with_suffix(".damaged").exists()
    assert files.load(KEY) is None
    assert saved(tmp_path) == file
    assert files.load(KEY) is not None


@given(st.binary(max_size=200))
def test_whatever_the_file_holds_it_is_read_or_refused(text: bytes) -> None:
    """D6."""
    with pytest.raises(ValueError, match=r".+"):
        decoded(text, KEY)


def test_a_write_that_fails_leaves_the_last_good_file_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """D6: a full disk."""
    file = saved(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    saved(tmp_path, instances=INSTANCES[:1])
    assert SnapshotFiles(tmp_path).load(KEY) is not None
    assert "No space left on device" in caplog.text
    assert list(tmp_path.iterdir()) == [file]


def test_a_directory_that_can_not_be_made_costs_only_the_snapshots(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """D6, F-55: a read-only file system."""
    blocked = tmp_path / "file"
    blocked.write_text("in the way")

    async def scenario() -> None:
        files = SnapshotFiles(blocked / "below")
        files.save(KEY, INSTANCES)
        await files.close()
        assert files.load(KEY) is None

    asyncio.run(scenario())
    assert caplog.text.count("can't be written") == 1


def test_changes_gather_into_few_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D6, F-19: a service that flaps is no storm of writes."""
    synced: list[int] = []
    monkeypatch.setattr("discovery.snapshots.os.fsync", synced.append)

    async def scenario() -> None:
        files = SnapshotFiles(tmp_path)
        for n in range(1000):
            files.save(KEY, (Instance(id="n/p", host="10.0.0.1", port=1 + n),))
        await files.close()
        stored = files.load(KEY)
        assert stored is not None
        assert stored.instances[0].port == 1000

    asyncio.run(scenario())
    assert len(synced) == 1


def test_without_a_directory_nothing_is_kept() -> None:
    async def scenario() -> None:
        none = NoSnapshots()
        none.save(KEY, INSTANCES)
        assert none.load(KEY) is None
        await none.close()

    asyncio.run(scenario())
