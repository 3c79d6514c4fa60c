"""What a peer is: a program, its configuration, and the claims about it that every measurement proves first."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.sidebyside.errors import BenchmarkError

ROOT = Path(__file__).resolve().parents[2]
_INSTALL = "run scripts/install-bench-peers"

Kind = Literal["plain", "full"]
Token = Literal["none", "RS256", "HS256"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """An executable.

    Args:
        name: for people.
        paths: where to look, first found wins: relative to the repository's root when there is a slash, else on PATH.
        version_arguments: make it print its version.
        version_pattern: finds the version in that, as group 1.
    """

    name: str
    paths: tuple[str, ...]
    version_arguments: tuple[str, ...] = ("--version",)
    version_pattern: str = r"(\d+\.\d+\.\d+)"

    def path(self) -> str:
        """Absolute path; raises BenchmarkError when it is not installed."""
        for candidate in self.paths:
            found = _executable(candidate)
            if found:
                return found
        raise BenchmarkError(f"{self.name} is not installed (looked for {', '.join(self.paths)}): {_INSTALL}")

    def version(self) -> str:
        """What it calls itself; raises BenchmarkError when it says nothing of the kind."""
        done = subprocess.run([self.path(), *self.version_arguments], capture_output=True, text=True, timeout=60, check=False)
        found = re.search(self.version_pattern, done.stdout + done.stderr)
        if found is None:
            raise BenchmarkError(f"{self.name} tells no version: {(done.stdout + done.stderr)[:200]!r}")
        return found[1]


def _executable(candidate: str) -> str | None:
    if "/" not in candidate:
        return shutil.which(candidate, path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin")))
    path = ROOT / candidate
    return str(path) if os.access(path, os.X_OK) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """A counter on the peer's admin port that must grow by one a request or more. `pattern` finds the number as group 1."""

    path: str
    pattern: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One row of the comparison.

    Args:
        name: for `--only`, and in the results.
        title: what people call it.
        does: what it does for a request, in a few words.
        kind: `plain` forwards and nothing else; `full` does what a gateway is for, as far as the peer can.
        ours: whether it is the gateway under test.
        program: what runs.
        arguments: its arguments; the blanks of the configuration files are filled in here too.
        configs: names in `configs/`, all written into the peer's directory before the start.
        values: blanks that only this peer has.
        environment: beside PATH and HOME.
        admin: whether it listens on the admin address too.
        token: what a client must show.
        logs: files, in its directory, that gain a line or more a request.
        redis_command: the command that it sends to Redis for a request; empty when it sends none.
        batched: one such command may carry several requests.
        growth: a counter that proves a feature which leaves no other trace.
        batch: where the number of requests a Redis call is told, as `NAME_sum` and `NAME_count` at `/metrics`.
        revokes: whether a token revoked over the admin port is refused at once.
        limits_shown: whether answers carry `RateLimit` fields.
        traced: whether spans reach the collector.
    """

    name: str
    title: str
    does: str
    kind: Kind
    program: Program
    arguments: tuple[str, ...]
    configs: tuple[str, ...]
    ours: bool = False
    values: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    admin: bool = False
    token: Token = "none"
    logs: tuple[str, ...] = ()
    redis_command: str = ""
    batched: bool = False
    growth: Growth | None = None
    batch: str = ""
    revokes: bool = False
    limits_shown: bool = False
    traced: bool = False


#: The gateway's interpreter: Debian's, which is optimised by profile as those of distributions and of the official images are, where
#: scripts/install-bench-peers could make an environment with it; else the one that runs the benchmark.
PYTHON = Program(name="Python", paths=(".cache/bench/gateway/bin/python", sys.executable), version_pattern=r"Python (\S+)")
