"""Every way to get a key wrong, in `bad_configs.txt`: a piece of configuration, then each problem with its line, column and key path."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import ConfigProblems, load_text

SERVICE = "services: {p: {instances: [http://10.0.0.1:9001]}}\n"
ENVIRON = {"WORD": "word"}
FILES = {
    "secret-16": b"0123456789abcdef\n",
    "secret-32": b"0123456789abcdef0123456789abcdef\n",
    "two-lines": b"one\ntwo\n",
    "empty": b"\n",
}


def table() -> list[tuple[str, list[str]]]:
    text = Path(__file__).with_name("bad_configs.txt").read_text()
    cases = []
    for block in text.strip().split("\n\n"):
        lines = block.split("\n")
        fragment = "\n".join(line for line in lines if not line.startswith("=> "))
        cases.append((fragment, [line.removeprefix("=> ") for line in lines if line.startswith("=> ")]))
    return cases


def document(fragment: str) -> str:
    """The whole text: what the fragment does not say itself, in the first two lines."""
    version = "" if fragment.startswith("version") else "version: 1\n"
    return version + ("" if fragment.startswith("services") else SERVICE) + fragment + "\n"


def problems(fragment: str, directory: Path) -> list[str]:
    for name, content in FILES.items():
        (directory / name).write_bytes(content)
    with pytest.raises(ConfigProblems) as caught:
        load_text(document(fragment), ENVIRON, file="f", directory=directory)
    return [str(problem).removeprefix("f:").replace(str(directory), "DIRECTORY") for problem in caught.value.problems]


@pytest.mark.parametrize(("fragment", "expected"), table(), ids=[fragment for fragment, _ in table()])
def test_says_what_is_wrong_and_where(fragment: str, expected: list[str], tmp_path: Path) -> None:
    """CONTRACT §3 (check): every problem with line, key path, what was wrong, what is allowed."""
    assert problems(fragment, tmp_path) == expected


def test_table_is_large_and_without_duplicates() -> None:
    fragments = [fragment for fragment, _ in table()]
    assert len(fragments) == len(set(fragments)) >= 150
