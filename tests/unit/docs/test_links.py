"""Every link and every path that the documents name leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.documents import DOCUMENTS, ROOT, code_words, name, prose

#: Directories whose files documents may name by their path from the root.
OURS = ("gateway/", "discovery/", "tests/", "benchmarks/", "scripts/", "docs/", "examples/", "k8s/", "hms_etl/")
#: Written by runs, so they may not be there.
MADE = ("benchmarks/results",)


def anchor(heading: str) -> str:
    """The name that a renderer gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_relative_links_resolve(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        found = (document.parent / path).resolve() if path else document
        assert found.exists(), target
        assert not fragment or fragment in anchors(found), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_paths_of_the_repository_exist(document: Path) -> None:
    for word in code_words(prose(document)):
        path = word.split(" ")[0].rstrip("/")
        if word.startswith(OURS) and re.fullmatch(r"[\w./-]+", path) and not path.startswith(MADE):
            assert (ROOT / path).exists(), word


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_no_path_of_one_machine_is_named(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(home|root|work|Users)/", text)


def test_every_document_is_reached_from_the_readme() -> None:
    text = "".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    for document in (ROOT / "docs").rglob("*.md"):
        assert f"{document.name})" in text or f"{document.name}#" in text, document
