"""The load: wrk on the load core, closed loop, and its figures."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.sidebyside.errors import BenchmarkError

_REPORT_SCRIPT = Path(__file__).with_name("wrk_report.lua")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to send: `connections` that each have one request in flight, for `seconds`."""

    url: str
    headers: Mapping[str, str]
    connections: int
    seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What came back. `refused` counts answers that were not 2xx or 3xx, `socket_errors` failed connects, reads, writes and time-outs."""

    requests: int
    duration_us: int
    p50_us: int
    p99_us: int
    max_us: int
    refused: int
    socket_errors: int

    @property
    def requests_per_second(self) -> float:
        return 1e6 * self.requests / self.duration_us


def run(load: Load, *, core: int) -> LoadResult:
    """Send the load from `core`. Raises BenchmarkError when any answer was not a success: such a figure means nothing."""
    headers = [part for name, value in load.headers.items() for part in ("-H", f"{name}: {value}")]
    command = [
        "taskset",
        "-c",
        str(core),
        "wrk",
        "-t1",
        f"-c{load.connections}",
        f"-d{load.seconds}s",
        "-s",
        str(_REPORT_SCRIPT),
        *headers,
        load.url,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=load.seconds + 30, check=False)
    if done.returncode:
        raise BenchmarkError(f"wrk on {load.url} failed with exit code {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return sound(parse(done.stdout), load.url)


def parse(output: str) -> LoadResult:
    """The figures in wrk's output: the JSON line that the report script prints, whatever wrk says around it."""
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            try:
                return LoadResult(**json.loads(line))
            except (ValueError, TypeError) as exc:
                raise BenchmarkError(f"wrk's report line can't be read: {line!r}") from exc
    raise BenchmarkError(f"wrk printed no report line: {output!r}")


def sound(result: LoadResult, url: str) -> LoadResult:
    """The result itself, if every request was answered with success."""
    if result.refused or result.socket_errors or not result.requests:
        raise BenchmarkError(
            f"{url}: {result.requests} requests, {result.refused} of them not answered with success, {result.socket_errors} socket errors"
        )
    return result
