"""What the audit's chain costs: CPU of all threads for a record with and without it, and how fast records are verified.

Run: `python -m benchmarks.micro.audit`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.micro.telemetry import observation
from gateway.settings import TraceSettings
from gateway.telemetry.audit import Audit
from gateway.telemetry.lines import LineWriter
from gateway.telemetry.record import TimeText
from gateway.telemetry.tracing import Tracer
from gateway.telemetry.trail import Trail
from gateway.telemetry.verification import Verification

RECORDS = 40_000
ROUNDS = 5
#: As many as are told of together.
TOGETHER = 64


def write(path: Path, *, chained: bool) -> tuple[float, float]:
    """Microseconds of CPU a record: of the thread that records, and of all."""
    writer = LineWriter(f"file:{path}")
    audit = Audit(Trail([writer], chained=chained), format="json", replica="benchmark-1", time=TimeText())
    seen = observation(Tracer(TraceSettings(sample_ratio=0.0), version="0", replica="benchmark-1").start([], [], []))
    all_started, started = time.process_time_ns(), time.thread_time_ns()
    for number in range(RECORDS):
        audit.observe(seen)
        if number % TOGETHER == 0:
            time.sleep(0.001)
    own = time.thread_time_ns() - started
    assert writer.close(60.0) == 0
    return own / RECORDS / 1000, (time.process_time_ns() - all_started) / RECORDS / 1000


def verify(path: Path) -> float:
    """Seconds to verify the file."""
    started = time.process_time()
    verification = Verification()
    with path.open("rb") as file:
        verification.read(path.name, file)
    assert verification.judge() == []
    assert verification.records == RECORDS
    return time.process_time() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "audit"
        for chained in (False, True):
            rounds = []
            for _ in range(ROUNDS):
                path.unlink(missing_ok=True)
                rounds.append(write(path, chained=chained))
            size = path.stat().st_size / RECORDS
            name = "with the chain" if chained else "without it"
            own, total = (min(each) for each in zip(*rounds, strict=True))
            print(f"{name:16} {own:6.2f} us on the loop, {total:6.2f} us in all, {size:.0f} bytes")
        seconds = min(verify(path) for _ in range(ROUNDS))
        print(f"{'verifying':16} {RECORDS / seconds:,.0f} records/s, {path.stat().st_size / seconds / 1e6:,.0f} MB/s")


if __name__ == "__main__":
    main()
