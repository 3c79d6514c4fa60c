"""Fuzz every target for a while: `python -m tests.fuzz.run [--seconds N] [--jobs N] [TARGET...]`; `make fuzz` is the usual way to call it.

What atheris finds interesting is kept in `.cache/fuzz/TARGET` from one run to the next. A finding is written to
`tests/fuzz/crashes/TARGET`, from where `make test` repeats it; it is to be committed together with its mending. Exits with 1 when there is
one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.catalogue import TARGETS
from tests.fuzz.seeds import generated
from tests.fuzz.target import CORPUS, CRASHES, Target

WORK = Path(".cache/fuzz")
#: An input that takes longer is a hang; one that fills so much memory is a bomb.
TIMEOUT_SECONDS = 10
MEMORY_MB = 2048
_DONE = re.compile(r"^#(\d+)\s+DONE\s+cov: (\d+) ft: (\d+) corp: (\d+)/", re.MULTILINE)
_NEWEST = re.compile(r"^#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)/", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of fuzzing one target.

    Args:
        executions: inputs that were tried.
        branches: that were counted as covered, in all instrumented code.
        lines: reached and possible ones, by module.
        findings: new files in `crashes/`.
        log: where libFuzzer's words are.
    """

    target: Target
    executions: int
    branches: int
    lines: Mapping[str, tuple[int, int]]
    findings: tuple[Path, ...]
    log: Path

    def __str__(self) -> str:
        reached, possible = (sum(numbers) for numbers in zip(*self.lines.values(), strict=True))
        found = f"{len(self.findings)} FINDINGS, see {self.log}" if self.findings else "no finding"
        return f"{self.target.name:14} {self.executions:>9,} runs  {self.branches:>5} branches  {reached:>4}/{possible} lines  {found}"


def fuzz(target: Target, seconds: int) -> Outcome:
    """Fuzz one target in a process of its own."""
    work, crashes = WORK / target.name, CRASHES / target.name
    work.mkdir(parents=True, exist_ok=True)
    crashes.mkdir(parents=True, exist_ok=True)
    for name, seed in generated(target.name).items():
        (work / name).write_bytes(seed[: target.most_bytes])
    known = set(crashes.iterdir())
    log = WORK / f"{target.name}.log"
    with log.open("w") as opened:
        subprocess.run(_command(target, seconds, work, crashes), stdout=opened, stderr=subprocess.STDOUT, env=_environment(), check=False)
    text = log.read_text(errors="replace")
    numbers = (_DONE.findall(text) or _NEWEST.findall(text) or [("0", "0", "0", "0")])[-1]
    findings = tuple(sorted(set(crashes.iterdir()) - known))
    if not findings and not _DONE.search(text):
        # It ended otherwise than by time or by a finding.
        findings = (log,)
    lines = {} if findings else covered(target, (work, CORPUS / target.name))
    return Outcome(target, int(numbers[0]), int(numbers[1]), lines or {"": (0, 0)}, findings, log)


def _command(target: Target, seconds: int, work: Path, crashes: Path) -> list[str]:
    words = WORK / f"{target.name}.dict"
    words.write_text("".join(f'"{"".join(f"{chr(92)}x{byte:02x}" for byte in word)}"\n' for word in target.words))
    options = {
        "max_total_time": seconds,
        "max_len": target.most_bytes,
        "timeout": TIMEOUT_SECONDS,
        "rss_limit_mb": MEMORY_MB,
        "dict": words,
        "artifact_prefix": f"{crashes}/",
        "print_final_stats": 1,
    }
    folders = [work, *(folder for folder in (CORPUS / target.name, crashes) if folder.is_dir())]
    return [
        sys.executable,
        "-m",
        "tests.fuzz.drive",
        target.name,
        *(f"-{name}={value}" for name, value in options.items()),
        *map(str, folders),
    ]


def covered(target: Target, folders: Iterable[Path]) -> dict[str, tuple[int, int]]:
    """Lines that the inputs in some folders reach, of those that there are, by module."""
    command = [sys.executable, "-m", "tests.fuzz.lines", target.name, *map(str, folders)]
    told = subprocess.run(command, stdout=subprocess.PIPE, env=_environment(), check=True, text=True).stdout
    rows = [json.loads(line) for line in told.splitlines()]
    return {row["module"]: (row["reached"], row["lines"]) for row in rows}


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.getcwd()}


def main() -> int:
    """Fuzz what is asked for, some targets at once."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=25, help="for each target")
    parser.add_argument("--jobs", type=int, default=1, help="targets at once")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    arguments = parser.parse_args()
    unknown = set(arguments.targets) - TARGETS.keys()
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    targets = [TARGETS[name] for name in arguments.targets or TARGETS]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        outcomes = []
        for outcome in pool.map(lambda target: fuzz(target, arguments.seconds), targets):
            print(outcome, flush=True)
            outcomes.append(outcome)
    findings = [path for outcome in outcomes for path in outcome.findings]
    for path in findings:
        print(f"finding: {path}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
