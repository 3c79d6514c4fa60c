"""What the figures were measured on. Nothing in it names the machine or its owner."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.sidebyside.peer import PYTHON, ROOT, Peer
from benchmarks.sidebyside.peers import NGINX, REDIS, WRK

#: Libraries that our request path runs on.
_LIBRARIES = ("uvicorn", "httptools", "uvloop", "redis", "hiredis", "orjson", "pyjwt", "opentelemetry-sdk")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Hardware, kernel, versions. `load` is the one-minute load average when the run began: near 0 on a quiet machine."""

    processor: str
    cores: int
    kernel: str
    python: str
    load: float
    commit: str
    versions: dict[str, str]


def machine(peers: Iterable[Peer]) -> Machine:
    """The facts; `versions` are of the peers' programs, of the load and the backend, and of our libraries."""
    programs = {program.name: program for program in (NGINX, REDIS, WRK, *(peer.program for peer in peers)) if program is not PYTHON}
    return Machine(
        processor=processor(Path("/proc/cpuinfo").read_text()),
        cores=os.cpu_count() or 1,
        kernel=f"{platform.system()} {platform.release()}",
        python=_interpreter(),
        load=round(os.getloadavg()[0], 2),
        commit=_commit(),
        versions={name: program.version() for name, program in sorted(programs.items())} | {name: version(name) for name in _LIBRARIES},
    )


def _interpreter() -> str:
    """Version of the gateway's Python, and whose build it is where that is known."""
    base = subprocess.run(
        [PYTHON.path(), "-c", "import sys; print(sys.base_prefix)"], capture_output=True, text=True, timeout=60, check=True
    )
    return PYTHON.version() + (" (Debian's build)" if base.stdout.strip() == "/usr" else "")


def processor(cpuinfo: str) -> str:
    """The model in the text of /proc/cpuinfo, or the architecture where that has none."""
    found = re.search(r"(?m)^model name\s*:\s*(.+)$", cpuinfo)
    return found[1].strip() if found else platform.machine()


def _commit() -> str:
    """The commit that is checked out, with a `+` when files that matter here differ from it; empty outside a checkout."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "gateway", "discovery", "benchmarks/sidebyside"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
