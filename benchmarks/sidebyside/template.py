"""The peers' configuration files with their blanks filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from benchmarks.sidebyside.errors import BenchmarkError

CONFIGS = Path(__file__).with_name("configs")
_BLANK = re.compile(r"@([A-Z][A-Z0-9_]*)@")


def fill(text: str, values: Mapping[str, str], *, name: str) -> str:
    """`text` with every `@NAME@` replaced. Raises BenchmarkError for a name that has no value; `name` says whose text it is."""

    def value(blank: re.Match[str]) -> str:
        try:
            return values[blank[1]]
        except KeyError:
            raise BenchmarkError(f"{name}: there is no value for {blank[0]}; known are {', '.join(sorted(values))}") from None

    return _BLANK.sub(value, text)


def write(name: str, values: Mapping[str, str], directory: Path) -> Path:
    """Fill `configs/NAME` into `directory`; gives the new file."""
    target = directory / name
    target.write_text(fill((CONFIGS / name).read_text(), values, name=name))
    return target
