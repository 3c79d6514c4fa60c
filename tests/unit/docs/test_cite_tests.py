"""`scripts/cite-tests` writes the proofs of a row, and nothing else."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from types import ModuleType

import pytest

from tests.support.documents import ROOT

PAGE = "| id | statement | holds | proved in |\n|---|---|---|---|\n| L5 | Five. | yes | - |\n| V3 | A `mirror`. | later | - |\n"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = SourceFileLoader("cite_tests", str(ROOT / "scripts" / "cite-tests"))
    spec = importlib.util.spec_from_loader("cite_tests", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_files_of_an_id_go_into_its_row(script: ModuleType) -> None:
    written = script.cited(PAGE, {"L5": ["tests/a.py", "tests/b.py"]})
    assert "| L5 | Five. | yes | `tests/a.py`<br>`tests/b.py` |\n" in written
    assert written.count("tests/") == 2
    assert script.cited(written, {}) == PAGE


def test_what_comes_later_has_no_proof(script: ModuleType) -> None:
    page = "| L5 | Five. | later: not yet | - |\n"
    assert script.cited(page, {"L5": ["tests/a.py"]}) == page


def test_this_repository_has_citations(script: ModuleType) -> None:
    """Whatever moves, the id of the simplest limit is proved somewhere."""
    found = script.citations(script.tests())
    assert found["L5"]
    assert all(len(files) <= script.MOST for files in found.values())
