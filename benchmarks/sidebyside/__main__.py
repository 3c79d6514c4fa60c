"""`python -m benchmarks.sidebyside`: measure the gateway beside its peers, say how it compares, keep the figures."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from benchmarks.sidebyside import chart, report
from benchmarks.sidebyside.errors import BenchmarkError
from benchmarks.sidebyside.lab import LOAD_CORE, PEER_CORE, Lab
from benchmarks.sidebyside.machine import machine
from benchmarks.sidebyside.measure import Sample, measure, measure_direct, preflight
from benchmarks.sidebyside.peer import Peer
from benchmarks.sidebyside.peers import PEERS, TASKSET, WRK
from benchmarks.sidebyside.summary import TARGETS, judge, summarise
from benchmarks.sidebyside.wrk import LoadResult

RESULTS = Path(__file__).resolve().parents[1] / "results"
#: As the gateway's own commands have it: found a problem, could not start.
MISSED, COULD_NOT = 1, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; gives the exit code."""
    options = options_of(arguments)
    signal.signal(signal.SIGTERM, _leave)
    try:
        run = benchmark(options.only, rounds=options.rounds, seconds=options.seconds)
    except BenchmarkError as exc:
        print(f"benchmark: {exc}", file=sys.stderr)
        return COULD_NOT
    except KeyboardInterrupt:
        print("benchmark: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    print(report.text(run))
    if options.name:
        for path in keep(run, options.name):
            print(f"written: {path.relative_to(RESULTS.parents[1])}")
    missed = any(verdict.met is False for verdict in run.verdicts)
    return MISSED if options.strict and missed else 0


def benchmark(peers: Sequence[Peer], *, rounds: int, seconds: int) -> report.Run:
    """Prove every peer, then measure all of them in every round, in turns. Raises BenchmarkError."""
    _require_cores()
    for tool in (WRK, TASKSET):
        tool.path()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    facts = machine(peers)
    direct: list[LoadResult] = []
    samples: list[Sample] = []
    with Lab() as lab:
        for peer in peers:
            _say(f"proving {peer.name}")
            preflight(lab, peer)
        for number in range(rounds):
            direct.append(measure_direct(lab, seconds))
            for peer in in_turn(peers, number):
                samples.append(measure(lab, peer, seconds))
                _say(f"round {number + 1} of {rounds}: {peer.name} {samples[-1].cpu_us:.1f} us a request")
    summaries = summarise(peers, samples)
    return report.Run(
        started=started,
        rounds=rounds,
        seconds=seconds,
        machine=facts,
        direct=direct,
        samples=samples,
        summaries=summaries,
        verdicts=judge(TARGETS, summaries),
    )


def in_turn(peers: Sequence[Peer], number: int) -> Sequence[Peer]:
    """The order of a round: every other one goes backwards, so that a machine that slowly warms or fills favours nobody."""
    return peers if number % 2 == 0 else peers[::-1]


def keep(run: report.Run, name: str) -> tuple[Path, Path]:
    """Write the figures and the chart to benchmarks/results; gives both paths."""
    RESULTS.mkdir(exist_ok=True)
    figures = RESULTS / f"{run.started[:10]}-{name}.json"
    picture = figures.with_suffix(".svg")
    figures.write_text(json.dumps(report.document(run), indent=2) + "\n")
    chart.draw(run, picture)
    return figures, picture


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sidebyside", description=__doc__)
    parser.add_argument("--rounds", type=_count, help="how often every peer is measured (5; with --quick 1)")
    parser.add_argument("--seconds", type=_count, help="how long each load lasts (4; with --quick 1)")
    parser.add_argument("--only", type=_peers, default=PEERS, metavar="NAME[,NAME]", help=f"of {', '.join(peer.name for peer in PEERS)}")
    parser.add_argument("--quick", action="store_true", help="one round of one second: whether all works, not how fast it is")
    parser.add_argument(
        "--name", type=_name, help="keep the figures and a chart as benchmarks/results/DATE-NAME (sidebyside for a whole run)"
    )
    parser.add_argument("--strict", action="store_true", help="exit 1 when a target is missed")
    return parser


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, with the defaults that depend on each other filled in: only a whole run is kept unless a name is given."""
    options = _parser().parse_args(arguments)
    whole = not options.quick and options.only == PEERS
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.seconds = options.seconds or (1 if options.quick else 4)
    options.name = options.name or ("sidebyside" if whole else "")
    return options


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 1000")
    return int(text)


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,40}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a short name of lower-case letters, digits, dots and dashes")
    return text


def _peers(text: str) -> tuple[Peer, ...]:
    wanted = text.split(",")
    if unknown := set(wanted) - {peer.name for peer in PEERS}:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: no such peer; there are {', '.join(peer.name for peer in PEERS)}")
    return tuple(peer for peer in PEERS if peer.name in wanted)


def _require_cores() -> None:
    if not {PEER_CORE, LOAD_CORE} <= os.sched_getaffinity(0):
        raise BenchmarkError(f"needs the cores {PEER_CORE} and {LOAD_CORE}, and may use only {sorted(os.sched_getaffinity(0))}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _leave(number: int, frame: FrameType | None) -> None:
    """SIGTERM unwinds the stack, so that everything that was started is ended."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
