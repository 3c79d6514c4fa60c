"""One chain for all sinks, and what a sink that is full has lost."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from gateway.telemetry.audit import Audit
from gateway.telemetry.lines import LineWriter
from gateway.telemetry.record import TimeText
from gateway.telemetry.trail import Trail
from gateway.telemetry.verification import Verification
from tests.support.observations import observation
from tests.support.redis_server import wait_until

CAPACITY = 10_000


def audit_of(trail: Trail) -> Audit:
    return Audit(trail, format="json", replica="gw-1", time=TimeText())


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def verified(path: Path) -> list[str]:
    verification = Verification()
    with path.open("rb") as file:
        verification.read(path.name, file)
    return [str(finding) for finding in verification.judge()]


class Blocked:
    """A sink whose reader does not read until it is told to: a link to a full device, and then to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.symlink_to("/dev/full")
        self.writer = LineWriter(f"file:{path}", capacity_bytes=CAPACITY)

    def open(self) -> None:
        self._path.unlink()
        wait_until(lambda: not self.writer.waiting_bytes, "the sink to be written", 20)


def test_all_sinks_get_the_same_chain(tmp_path: Path) -> None:
    """O6: sealed once, whichever sink is quicker."""
    writers = [LineWriter(f"file:{tmp_path / name}") for name in "ab"]
    audit = audit_of(Trail(writers, chained=True))
    audit.event("start")
    for _ in range(3000):
        audit.observe(observation())
    audit.mark("stop")
    assert [writer.close(20.0) for writer in writers] == [0, 0]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert len(read(tmp_path / "a")) == 3002
    assert verified(tmp_path / "a") == []


def test_a_head_stands_for_everything_that_was_taken(tmp_path: Path) -> None:
    writer = LineWriter(f"file:{tmp_path / 'a'}")
    trail = Trail([writer], chained=True)
    audit = audit_of(trail)
    for _ in range(50):
        audit.observe(observation())
    head, line = audit.mark("checkpoint")
    position = trail.position()
    wait_until(lambda: trail.written(position), "the sink to be written")
    last = read(tmp_path / "a")[-1]
    assert (head.seq, head.hash) == (51, last["hash"]) == (last["seq"], last["hash"])
    assert (last["event"], json.loads(line)) == ("checkpoint", last)
    assert writer.close(10.0) == 0


def test_a_lossy_sink_declares_what_it_lost_once_it_is_written_again(tmp_path: Path) -> None:
    """AU-5, O6: `when_full: drop`: counted, and a record in place of the hole; a sink that was not full has all of them."""
    healthy = LineWriter(f"file:{tmp_path / 'healthy'}")
    blocked = Blocked(tmp_path / "blocked")
    trail = Trail([healthy, blocked.writer], chained=True, lossy=True)
    audit = audit_of(trail)
    while not blocked.writer.full:
        audit.observe(observation())
    kept = read_count = trail.position()[0][1] and audit._sequence
    for _ in range(40):
        audit.observe(observation())
    assert (audit.dropped, blocked.writer.dropped) == (40, 40)
    blocked.open()
    for _ in range(3):
        audit.observe(observation())
    assert [writer.close(10.0) for writer in (healthy, blocked.writer)] == [0, 0]
    assert [record["seq"] for record in read(tmp_path / "healthy")] == list(range(1, kept + 45))
    gap = read(tmp_path / "blocked")[read_count]
    sink = f"file:{tmp_path / 'blocked'}"
    assert (gap["event"], gap["detail"]) == ("gap", {"sink": sink, "first_seq": kept + 1, "last_seq": kept + 40, "records": 40})
    assert verified(tmp_path / "healthy") == []
    assert verified(tmp_path / "blocked") == [
        f"blocked:{kept + 1}: note: records {kept + 1} to {kept + 40} of gw-1 missing: lost by the sink {sink}, as this record says"
    ]


def test_two_sinks_that_were_full_declare_their_own_losses(tmp_path: Path) -> None:
    """The record about the one is lost by the other, which says so."""
    sinks = [Blocked(tmp_path / name) for name in "ab"]
    audit = audit_of(Trail([sink.writer for sink in sinks], chained=True, lossy=True))
    for _ in range(60):
        audit.observe(observation())
    for sink in sinks:
        sink.open()
    audit.observe(observation())
    assert [sink.writer.close(10.0) for sink in sinks] == [0, 0]
    for name in "ab":
        assert [told.partition(": ")[2][:13] for told in verified(tmp_path / name)] == ["note: records"]
    assert read(tmp_path / "a")[-1] == read(tmp_path / "b")[-1]


def test_records_that_no_sink_takes_are_sealed_and_forgotten(tmp_path: Path) -> None:
    """F-60: memory stays bounded while everything is full."""
    blocked = Blocked(tmp_path / "blocked")
    trail = Trail([blocked.writer], chained=True, lossy=True)
    audit = audit_of(trail)
    for _ in range(2000):
        audit.observe(observation())
    assert len(trail._pending) < 50
    assert blocked.writer.waiting_bytes < CAPACITY * 2
    assert trail.head()[0].seq == 2000
    blocked.writer.close(0.0)


def test_the_hashes_are_made_in_the_writers_thread(tmp_path: Path) -> None:
    """F-45: the event loop only queues."""
    writer = LineWriter(f"file:{tmp_path / 'a'}")
    threads: set[str] = set()
    trail = Trail([writer], chained=True)
    deliver = writer.deliver

    def watched(pieces: list[bytes]) -> None:
        threads.add(threading.current_thread().name)
        deliver(pieces)

    writer.deliver = watched  # type: ignore[method-assign]
    audit = audit_of(trail)
    for _ in range(100):
        audit.observe(observation())
    assert writer.close(10.0) == 0
    assert threads == {f"lines-file:{tmp_path / 'a'}"}
