"""What bandit is told not to ask about, held here instead; and every line that it passes over says why."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("discovery", "gateway", "hms_etl")
SOURCES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
_NOSEC = re.compile(r"#\s*nosec\b(.*)")
_REASONED = re.compile(r" (?:B\d{3},? )+# (?:noqa: S\d{3} - )?\w.+")
#: Modules that throw dice, and for what. None of them makes a secret; whoever makes one uses `secrets`.
DICE = {
    "discovery/balance.py": "which instance",
    "discovery/health.py": "when to look again",
    "discovery/pacing.py": "when to ask again",
    "discovery/registration.py": "when to send the next heartbeat",
    "gateway/admission/heartbeat.py": "when to send the next one",
    "gateway/admission/journal.py": "when to read again",
    "gateway/auth/keys.py": "when to fetch again",
    "gateway/client.py": "ids of traces and requests",
    "gateway/demo/synthesis.py": "made-up patients",
    "gateway/pipeline.py": "ids of requests",
    "gateway/server/overload.py": "ids of requests that are refused",
    "gateway/store/slot_lines.py": "when to ask again",
    "gateway/store/slots.py": "which node to ask",
    "gateway/store/wire.py": "when to connect again",
    "gateway/telemetry/trace_context.py": "ids of traces and spans",
    "gateway/upstream/retry.py": "when to try again",
}
#: What an assertion may call: it tells and does nothing.
_TELLING = {"isinstance", "len", "all", "any", "callable"}


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def unexplained(line: str) -> bool:
    """Whether bandit passes over a line for no stated reason, or over more than named checks."""
    found = _NOSEC.search(line)
    return found is not None and _REASONED.match(found[1]) is None


def busy(assertion: ast.Assert) -> list[str]:
    """Calls in an assertion that may do something."""
    calls = [node.func for node in ast.walk(assertion.test) if isinstance(node, ast.Call)]
    return [ast.unparse(call) for call in calls if ast.unparse(call) not in _TELLING]


def test_every_line_that_bandit_passes_over_names_the_check_and_says_why() -> None:
    lines = [(file, number, line) for file in SOURCES for number, line in enumerate(file.read_text().splitlines(), 1)]
    assert [f"{name_of(file)}:{number}" for file, number, line in lines if unexplained(line)] == []
    assert any(_NOSEC.search(line) for _, _, line in lines)


@pytest.mark.parametrize("line", ["x = 1  # nosec", "x = 1  # nosec B105", "x = 1  # nosec # because", "x = 1  # nosec B105 #"])
def test_an_unexplained_one_is_found(line: str) -> None:
    assert unexplained(line)


def test_dice_are_thrown_for_nothing_that_has_to_be_kept_secret() -> None:
    """B311: a new module that wants `random` has to say here what for."""
    throwing = {name_of(file) for file in SOURCES if "random" in set(imports(ast.parse(file.read_text())))}
    assert throwing == set(DICE)


def test_no_assertion_does_anything() -> None:
    """B101: with `python -O` they are gone, and nothing else may change."""
    trees = {file: ast.parse(file.read_text()) for file in SOURCES}
    found = [
        f"{name_of(file)}:{node.lineno} calls {', '.join(busy(node))}"
        for file, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert) and busy(node)
    ]
    assert found == []


def test_a_busy_assertion_is_found() -> None:
    (node,) = ast.parse("assert isinstance(x, list) and x.pop()").body
    assert isinstance(node, ast.Assert)
    assert busy(node) == ["x.pop"]
