"""Ids that tests name are described, and what the descriptions cite proves them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support.documents import DOCS, ROOT

ID = re.compile(r"\b(?:[LVDBRHAOG]\d{1,2}|[SF]-\d{1,2}[a-z]?)\b")
ROW = re.compile(r"^\| (\S+) \| (.+?) \| (yes|partly|later)(.*?) \| (.*) \|$", re.MULTILINE)
PAGES = ("semantics.md", "security.md", "rate-limits.md", "revocation.md")


def named(path: Path) -> set[str]:
    """Ids in the docstrings of a test file."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)
    return {found for node in nodes if isinstance(node, documented) for found in ID.findall(ast.get_docstring(node) or "")}


def rows(page: str) -> dict[str, tuple[str, list[str]]]:
    """Id to (holds, cited files)."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return {found[0]: (found[2], re.findall(r"`(tests/[^`]+)`", found[4])) for found in ROW.findall(text) if ID.fullmatch(found[0])}


TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
DESCRIBED = rows("semantics.md") | rows("security.md")


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT / "tests")))
def test_every_id_that_a_test_names_is_described(path: Path) -> None:
    assert named(path) <= set(DESCRIBED)


@pytest.mark.parametrize("page", PAGES)
def test_cited_tests_name_the_id(page: str) -> None:
    found = rows(page)
    assert found
    for identifier, (_, files) in found.items():
        for file in files:
            assert identifier in named(ROOT / file), f"{page}: {identifier}: {file}"


@pytest.mark.parametrize("page", PAGES)
def test_what_comes_later_cites_no_proof(page: str) -> None:
    for identifier, (holds, files) in rows(page).items():
        assert holds != "later" or not files, identifier


@pytest.mark.parametrize("page", ["rate-limits.md", "revocation.md"])
def test_pages_agree_on_what_holds(page: str) -> None:
    for identifier, (holds, _) in rows(page).items():
        assert (holds == "later") == (DESCRIBED[identifier][0] == "later"), identifier
