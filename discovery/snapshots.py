"""The last good instances of each service on disk, for a start while Consul is away (SPEC D6, F-19).

One file a service: a line with the SHA-256 of what follows, then JSON. Written to another name, synced and renamed, so that a reader,
a crash or a full disk never leaves half a file under its name; what is damaged all the same is told of and put aside.
The time of its last change is when Consul last confirmed it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import orjson

from discovery.ending import end
from discovery.instance import Instance

logger = logging.getLogger("discovery.snapshots")

FORMAT = 1
#: Changes gather for so long, so that a service that flaps costs one write a second and not four.
WRITE_SECONDS = 1.0
#: Nothing that we wrote is longer: 10,000 instances take about 3 MiB.
MAXIMUM_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Stored:
    """What was known once.

    Args:
        confirmed_at: seconds since the epoch.
    """

    instances: tuple[Instance, ...]
    confirmed_at: float


class Snapshots(Protocol):
    """Keeps instances over the end of the process."""

    def load(self, key: str) -> Stored | None:
        """What was saved under this key; None when there is nothing that can be trusted."""

    def save(self, key: str, instances: tuple[Instance, ...]) -> None:
        """Keep this, soon: it was confirmed just now. Never raises."""

    async def close(self) -> None:
        """Write what has not been written yet."""


class NoSnapshots:
    """Keeps nothing."""

    def load(self, key: str) -> Stored | None:
        """Nothing."""
        return None

    def save(self, key: str, instances: tuple[Instance, ...]) -> None:
        """Forget it."""

    async def close(self) -> None:
        """Nothing to write."""


class SnapshotFiles:
    """Files in a directory, which is made when it is missing. Several processes may share it.

    Args:
        directory: only we write there; a directory that can't be written costs nothing but the snapshots, and is told of once.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        # State, owned by the event loop's thread
        self._pending: dict[str, tuple[Instance, ...]] = {}
        self._written: dict[str, tuple[Instance, ...]] = {}
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    def __repr__(self) -> str:
        return f"<SnapshotFiles {self._directory} written={len(self._written)} pending={len(self._pending)}>"

    def load(self, key: str) -> Stored | None:
        """What was saved under this key. A damaged file is logged, and renamed so that it can be looked at."""
        path = self._path(key)
        try:
            with path.open("rb") as opened:
                text, confirmed_at = opened.read(MAXIMUM_BYTES + 1), os.fstat(opened.fileno()).st_mtime
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.error("%s: the snapshot %s can't be read: %s", key, path, error.strerror or error)
            return None
        try:
            return Stored(decoded(text, key), confirmed_at)
        except ValueError as error:
            logger.error("%s: the snapshot %s is damaged (%s); it is not used", key, path, error)
            with suppress(OSError):
                path.rename(path.with_suffix(".damaged"))
            return None

    def save(self, key: str, instances: tuple[Instance, ...]) -> None:
        """Keep this. Written within `WRITE_SECONDS`, in a thread."""
        self._pending[key] = instances
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write_soon(), name="discovery snapshots")

    async def close(self) -> None:
        """Write what is pending."""
        task, self._task = self._task, None
        if task is not None:
            await end([task])
        await self._write()

    async def _write_soon(self) -> None:
        while self._pending:
            await asyncio.sleep(WRITE_SECONDS)
            await self._write()

    async def _write(self) -> None:
        pending, self._pending = self._pending, {}
        if not pending:
            return
        try:
            await asyncio.to_thread(self._write_files, pending)
        except OSError as error:
            self._note(error)
        else:
            self._written |= pending
            self._failing = False

    def _write_files(self, pending: Mapping[str, tuple[Instance, ...]]) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for key, instances in pending.items():
            path = self._path(key)
            if self._written.get(key) == instances and path.exists():
                os.utime(path)
            else:
                _replace(path, encoded(instances, key))

    def _note(self, error: OSError) -> None:
        if not self._failing:
            reason = error.strerror or error
            logger.error("snapshots can't be written to %s: %s; a start without Consul would know less", self._directory, reason)
        self._failing = True

    def _path(self, key: str) -> Path:
        # Names of services may hold anything; the digest tells apart what the readable part does not.
        readable = re.sub(r"[^A-Za-z0-9_-]+", "_", key)[:80]
        return self._directory / f"{readable}.{hashlib.sha256(key.encode()).hexdigest()[:16]}.snapshot"


def encoded(instances: tuple[Instance, ...], key: str) -> bytes:
    """A file's content."""
    rows = [
        {
            "id": one.id,
            "host": one.host,
            "port": one.port,
            "weight": one.weight,
            "scheme": one.scheme,
            "tags": one.tags,
            "meta": dict(one.meta),
            "health": one.health,
        }
        for one in instances
    ]
    body = orjson.dumps({"format": FORMAT, "key": key, "instances": rows})
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def decoded(text: bytes, key: str) -> tuple[Instance, ...]:
    """The instances in a file's content.

    Raises:
        ValueError: it is not what was written for this key.
    """
    digest, _, body = text.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError("its checksum does not hold")
    content = orjson.loads(body)
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("key") != key:
        raise ValueError("it is of another format or for another service")
    try:
        return tuple(Instance(**{**row, "tags": tuple(row["tags"])}) for row in content["instances"])
    except (KeyError, TypeError) as exc:
        raise ValueError("its instances can't be read") from exc


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with open(temporary, "wb", opener=_private) as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
