"""The project's documents, and what stands in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
DOCUMENTS = tuple(sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *DOCS.glob("decisions/*.md"), ROOT / "benchmarks" / "README.md"]))

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name(path: Path) -> str:
    """A document's path for the names of tests."""
    return str(path.relative_to(ROOT))


def snippets(path: Path, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return [text for found, text in _FENCE.findall(path.read_text(encoding="utf-8")) if found == language]


def all_snippets(language: str) -> list[tuple[str, str]]:
    """(document and number, text) of every fenced block of one language."""
    return [(f"{name(path)}-{number}", text) for path in DOCUMENTS for number, text in enumerate(snippets(path, language), 1)]


def prose(path: Path) -> str:
    """The text without its fenced blocks."""
    return _FENCE.sub("", path.read_text(encoding="utf-8"))


def part(path: Path, heading: str) -> str:
    """What stands under a heading, up to the next one of its level or above."""
    text = path.read_text(encoding="utf-8")
    level = len(heading) - len(heading.lstrip("#"))
    begin = text.index(f"\n{heading}\n") + len(heading) + 2
    end = re.search(rf"^#{{1,{level}}} ", text[begin:], re.MULTILINE)
    return text[begin : begin + end.start()] if end else text[begin:]


def code_words(text: str) -> set[str]:
    """What stands in backquotes."""
    return set(re.findall(r"`([^`\n]+)`", text))
