"""Rows of the table in docs/reliability.md: a test says which fault it makes and what is promised then, and measures.

    @fault("redis-killed", "Redis is killed (`kill -9`) under load", "503 at once; back within a second")
    def test_redis_killed(measured: Measured, form: Form) -> None:
        measured.under("1 replica, 100 requests/s, budget 25 ms")
        ...
        measured("longest wait", 31.2, "ms")

The short form, which `make test` runs, proves the promises. The long form (`make faults`, or `GATEWAY_FAULTS=long`) also writes the figures
into a file, from which `scripts/reliability-table` renders the table.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from benchmarks.sidebyside.machine import processor

Json = dict[str, Any]
Test = TypeVar("Test", bound=Callable[..., None])

ROOT = Path(__file__).resolve().parents[2]
#: What the long form measured last, row by row.
FIGURES = ROOT / "tests" / "faults" / "measured.json"
FORM_VARIABLE = "GATEWAY_FAULTS"


@dataclass(frozen=True, slots=True)
class Fault:
    """A row: its name, the fault, and what is promised while it lasts and afterwards."""

    row: str
    what: str
    promise: str


def fault(row: str, what: str, promise: str) -> Callable[[Test], Test]:
    """The test makes this fault. The words are literals: the table is written without importing tests."""

    def mark(test: Test) -> Test:
        vars(test)["fault"] = Fault(row, what, promise)
        return test

    return mark


@dataclass(frozen=True, slots=True)
class Form:
    """How much time the suite may take: `short` in `make test`, `long` in `make faults`."""

    name: Literal["short", "long"]

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Form:
        """Short unless `GATEWAY_FAULTS=long`. Raises ValueError for another word."""
        name = environ.get(FORM_VARIABLE) or "short"
        if name not in ("short", "long"):
            raise ValueError(f"{FORM_VARIABLE} is {name!r}; allowed are short and long")
        return cls("long" if name == "long" else "short")

    def seconds(self, short: float, long: float) -> float:
        """A duration by form."""
        return long if self.name == "long" else short


@dataclass(slots=True)
class Measured:
    """What a test measured: called with a figure's name, its value and its unit. The last value of a name counts."""

    row: str
    conditions: str = ""
    figures: dict[str, tuple[float, str]] = field(default_factory=dict)

    def __call__(self, figure: str, value: float, unit: str = "") -> None:
        self.figures[figure] = (value, unit)

    def under(self, conditions: str) -> None:
        """What has to be known to read the figures: load, replicas, settings."""
        self.conditions = conditions

    def keep(self, file: Path, machine: str) -> None:
        """Write the row into the file, beside those of other tests."""
        assert self.conditions, f"{self.row}: figures without conditions"
        assert self.figures, f"{self.row}: nothing was measured"
        kept: Json = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        kept[self.row] = {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine,
            "load": round(os.getloadavg()[0], 1),
            "conditions": self.conditions,
            "figures": [[name, round(value, 4), unit] for name, (value, unit) in self.figures.items()],
        }
        # A line each: what one run changes is seen, and merges well.
        lines = ",\n".join(f"{json.dumps(row)}: {json.dumps(kept[row], ensure_ascii=False)}" for row in sorted(kept))
        file.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def this_machine() -> str:
    """What the figures were measured on. Nothing in it names the machine or its owner."""
    return f"{processor(Path('/proc/cpuinfo').read_text())}, {os.cpu_count()} cores, Python {sys.version.split()[0]}"
