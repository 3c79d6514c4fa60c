"""How much of the tested modules a set of inputs reaches, in lines: `python -m tests.fuzz.lines TARGET FOLDER...`.

Prints one JSON object a line: module, lines that were run, lines that can be.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

from tests.fuzz.catalogue import TARGETS
from tests.fuzz.target import Target


def lines_of(code: CodeType) -> Iterator[int]:
    """The lines of a code object and of all in it."""
    yield from (line for _, _, line in code.co_lines() if line)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from lines_of(constant)


def functions_of(path: Path) -> set[int]:
    """The lines of a module that run when something in it is called; what runs at its import says nothing about inputs."""
    module = compile(path.read_text(), str(path), "exec")
    definitions = [constant for constant in module.co_consts if isinstance(constant, CodeType)]
    lines: set[int] = set()
    while definitions:
        code = definitions.pop()
        inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        if "__qualname__" in code.co_names and "__module__" in code.co_names:
            # The body of a class, which runs at import too.
            definitions += inner
            continue
        # Its first line is the `def`.
        lines |= set(lines_of(code)) - {code.co_firstlineno}
    return lines


def reached(target: Target, inputs: list[Path], modules: list[ModuleType]) -> dict[str, set[int]]:
    """The lines of each module that the inputs run, by its file."""
    seen: dict[str, set[int]] = {str(module.__file__): set() for module in modules}

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        lines = seen.get(frame.f_code.co_filename)
        if lines is None:
            return None
        lines.add(frame.f_lineno)

        def inside(frame: FrameType, event: str, argument: Any) -> Any:
            lines.add(frame.f_lineno)
            return inside

        return inside

    sys.settrace(trace)
    try:
        for path in inputs:
            target.check(path.read_bytes())
    finally:
        sys.settrace(None)
    return seen


def main() -> None:
    """Print what was reached."""
    logging.disable(logging.CRITICAL)
    name, *folders = sys.argv[1:]
    target = TARGETS[name]
    modules = [importlib.import_module(module) for module in target.modules]
    inputs = [path for folder in folders for path in sorted(Path(folder).iterdir()) if path.is_file()]
    seen = reached(target, inputs, modules)
    for module in modules:
        file = str(module.__file__)
        lines = functions_of(Path(file))
        print(json.dumps({"module": module.__name__, "reached": len(lines & seen[file]), "lines": len(lines)}))


if __name__ == "__main__":
    main()
