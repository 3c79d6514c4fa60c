"""What a run says: a table for people, a document for machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.sidebyside.machine import Machine
from benchmarks.sidebyside.measure import CONNECTIONS, Sample
from benchmarks.sidebyside.summary import Summary, Verdict
from benchmarks.sidebyside.wrk import LoadResult

_COLUMNS = ("peer", "CPU us", "least..most", "x ours", "Redis us", "req/s", "p50 ms", "p99 ms", "added ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything that one run found. `started` is RFC 3339, UTC."""

    started: str
    rounds: int
    seconds: int
    machine: Machine
    direct: Sequence[LoadResult]
    samples: Sequence[Sample]
    summaries: Mapping[str, Summary]
    verdicts: Sequence[Verdict]


def text(run: Run) -> str:
    """The table, the ceiling, the targets."""
    return "\n\n".join((_conditions(run), _table(run.summaries), _direct(run.direct), _targets(run.verdicts)))


def document(run: Run) -> dict[str, Any]:
    """The same, and every sample, as JSON values."""
    return {
        "started": run.started,
        "rounds": run.rounds,
        "seconds": run.seconds,
        "connections": CONNECTIONS,
        "machine": asdict(run.machine),
        "summaries": [asdict(summary) for summary in run.summaries.values()],
        "targets": [asdict(verdict) for verdict in run.verdicts],
        "direct": [asdict(result) for result in run.direct],
        "samples": [asdict(sample) for sample in run.samples],
    }


def _conditions(run: Run) -> str:
    machine = run.machine
    return (
        f"{machine.processor}, {machine.cores} cores, {machine.kernel}, Python {machine.python}, load {machine.load:.2f} at the start\n"
        f"medians of {run.rounds} alternating rounds of {run.seconds} s at {CONNECTIONS} connections; "
        "one core for the peer, one for all the rest"
    )


def _table(summaries: Mapping[str, Summary]) -> str:
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for kind in ("plain", "full"):
        found = sorted((summary for summary in summaries.values() if summary.kind == kind), key=lambda summary: summary.cpu_us)
        rows += [_row(summary) for summary in found]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])


def _row(summary: Summary) -> tuple[str, ...]:
    return (
        ("* " if summary.ours else "  ") + summary.name,
        f"{summary.cpu_us:.1f}",
        f"{summary.cpu_us_least:.1f}..{summary.cpu_us_most:.1f}",
        "-" if summary.ratio_to_ours is None else f"{summary.ratio_to_ours:.2f}",
        f"{summary.redis_cpu_us:.1f}" if summary.redis_cpu_us >= 1 else "-",
        f"{summary.requests_per_second:.0f}",
        f"{summary.p50_us / 1000:.2f}",
        f"{summary.p99_us / 1000:.2f}",
        f"{summary.added_p50_us / 1000:.3f}",
    )


def _direct(direct: Sequence[LoadResult]) -> str:
    best = max(result.requests_per_second for result in direct)
    return f"straight to the backend: {best:.0f} requests/s, which is what the load core can give at most"


def _targets(verdicts: Sequence[Verdict]) -> str:
    return "\n".join(f"{_mark(verdict):12}  {verdict.statement}{_figure(verdict)}" for verdict in verdicts)


def _mark(verdict: Verdict) -> str:
    return {True: "met", False: "MISSED", None: "not measured"}[verdict.met]


def _figure(verdict: Verdict) -> str:
    return "" if verdict.value is None else f"  (is {verdict.value:.3f})"
