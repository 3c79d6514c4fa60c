"""O6: checkpoints go to the store in their time, and nothing waits for it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.store.error import StoreError
from gateway.telemetry import checkpoints
from gateway.telemetry.audit import Audit
from gateway.telemetry.chain import Head
from gateway.telemetry.checkpoints import Checkpoints, kept_checkpoint, previous_heads
from gateway.telemetry.lines import LineWriter
from gateway.telemetry.record import TimeText
from gateway.telemetry.trail import Trail
from gateway.telemetry.verification import Verification
from tests.support.audit_chains import whole_chain


class Keeping:
    """A store that can be away."""

    def __init__(self) -> None:
        self.away = False
        self.values: dict[bytes, bytes] = {}
        self.asked = 0
        self.life: set[object] = set()

    def tag(self, shard: int) -> bytes:
        return b"{s%02d}" % shard

    async def command(self, *words: bytes | str | int) -> Any:
        self.asked += 1
        if self.away:
            raise StoreError("unavailable", "away")
        if words[0] == "GET":
            return self.values.get(words[1])  # type: ignore[arg-type]
        _, key, value, _, seconds = words
        assert isinstance(key, bytes)
        assert isinstance(value, bytes)
        self.values[key] = value
        self.life.add(seconds)
        return b"OK"


class Scene:
    def __init__(self, directory: Path) -> None:
        self.path = directory / "audit"
        self.writer = LineWriter(f"file:{self.path}")
        self.trail = Trail([self.writer], chained=True)
        self.audit = Audit(self.trail, format="json", replica="gw-1", time=TimeText())
        self.store = Keeping()
        self.witness = LineWriter(f"file:{directory / 'witness'}")
        self.checkpoints = Checkpoints(self.audit, self.trail, self.store, witness=self.witness, replica="gw-1", seconds=0.05)

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]

    @property
    def kept(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.store.values[b"gw:{s00}:audit-checkpoint:gw-1"])
        return found


def test_the_store_keeps_the_newest_and_the_stop_is_the_last(tmp_path: Path) -> None:
    """O6: number and hash of a record that is in the file; F-10: it expires."""
    scene = Scene(tmp_path)

    async def main() -> None:
        scene.audit.event("start")
        scene.checkpoints.start()
        await scene.until(lambda: scene.store.values and scene.kept["seq"] >= 3)
        kept = scene.kept
        record = scene.records()[kept["seq"] - 1]
        assert (record["event"], record["hash"]) == ("checkpoint", kept["hash"])
        await scene.checkpoints.close()

    asyncio.run(main())
    assert scene.writer.close(10.0) == 0
    last = scene.records()[-1]
    assert last["event"] == "stop"
    assert scene.kept == {"replica": "gw-1", "seq": last["seq"], "hash": last["hash"]}
    assert scene.store.life == {checkpoints.KEPT_SECONDS}
    assert asyncio.run(kept_checkpoint(scene.store, "gw-1")) == Head(last["seq"], last["hash"])
    assert asyncio.run(kept_checkpoint(scene.store, "gw-2")) is None
    assert scene.witness.close(10.0) == 0
    verification = Verification()
    verification.read("audit", scene.path.read_bytes().splitlines(keepends=True))
    kept = (tmp_path / "witness").read_bytes().splitlines(keepends=True)
    assert verification.expect_checkpoints("witness", kept) == len(kept) >= 2
    assert json.loads(kept[-1]) == last
    assert verification.judge() == []


def test_a_store_that_is_away_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """O6: with the newest; the records are made all the same."""
    monkeypatch.setattr(checkpoints, "RETRY_SECONDS", 0.01)
    scene = Scene(tmp_path)

    async def main() -> None:
        scene.store.away = True
        scene.checkpoints.start()
        await scene.until(lambda: scene.store.asked >= 3 and len(scene.records()) >= 2)
        assert not scene.store.values
        scene.store.away = False
        await scene.until(lambda: scene.store.values)
        assert scene.kept["seq"] >= 2
        scene.store.away = True
        await scene.checkpoints.close()

    asyncio.run(main())
    assert scene.writer.close(10.0) == 0
    assert scene.records()[-1]["event"] == "stop"


def test_nothing_is_kept_that_the_file_does_not_have(tmp_path: Path) -> None:
    """G4: a process that is killed leaves no checkpoint behind that its file falls short of."""
    path = tmp_path / "audit"
    path.symlink_to("/dev/full")
    scene = Scene(tmp_path)

    async def main() -> None:
        scene.checkpoints.start()
        await scene.until(lambda: scene.trail.head()[0].seq >= 3 and scene.writer.write_errors)
        assert (scene.store.asked, (tmp_path / "witness").read_bytes()) == (0, b"")
        path.unlink()
        await scene.until(lambda: scene.store.values)
        assert len(scene.records()) >= scene.kept["seq"]
        await scene.checkpoints.close()

    asyncio.run(main())
    scene.writer.close(10.0)


def test_who_only_started_and_stopped_tells_nobody(tmp_path: Path) -> None:
    """A port was taken: one line on standard error is all that there should be."""
    scene = Scene(tmp_path)

    async def main() -> None:
        scene.audit.event("start")
        scene.checkpoints.start()
        await scene.checkpoints.close()

    asyncio.run(main())
    assert [writer.close(10.0) for writer in (scene.writer, scene.witness)] == [0, 0]
    assert [record["event"] for record in scene.records()] == ["start", "stop"]
    assert (scene.store.asked, (tmp_path / "witness").read_bytes()) == (0, b"")


def test_a_start_names_what_is_at_the_end_of_the_files(tmp_path: Path) -> None:
    """O6: the chains of processes before, the newest first; other sinks and files that are not there have none."""
    path = tmp_path / "audit"
    first, second = whole_chain("gw-1", 3), whole_chain("gw-2", 900)
    path.write_bytes(b"".join([*first.lines, *second.lines]) + b'{"time":"torn')
    assert previous_heads(["stdout", f"file:{path}", f"file:{tmp_path / 'none'}", "file:/dev/null"]) == [second.head, first.head]
    path.write_bytes(b"".join([*first.lines, *whole_chain("gw-2", 2000).lines]))
    assert [head["replica"] for head in previous_heads([f"file:{path}"])] == ["gw-2"], "only the last 256 KiB are read"
