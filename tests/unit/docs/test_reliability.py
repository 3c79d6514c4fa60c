"""The table of faults: each row has a test, and figures carry their date and conditions."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.documents import ROOT
from tests.support.faults import FIGURES, Form, Measured


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = SourceFileLoader("reliability_table", str(ROOT / "scripts" / "reliability-table"))
    spec = importlib.util.spec_from_loader("reliability_table", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module  # where its dataclasses look for it
    loader.exec_module(module)
    return module


def declared(script: ModuleType) -> dict[str, str]:
    """Row to test file, as the tests declare them."""
    rows = [row for page in script.PAGES for group in script.groups(ROOT / page.tests) for row in group.rows]
    assert len({row.name for row in rows}) == len(rows), "a row has one test"
    return {row.name: row.file for row in rows}


def test_every_figure_belongs_to_a_test_and_carries_date_and_conditions(script: ModuleType) -> None:
    found = json.loads(FIGURES.read_text(encoding="utf-8"))
    assert set(found) <= set(declared(script)), "figures whose test is gone"
    for row, kept in found.items():
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", kept["date"]), row
        assert all(kept[member] for member in ("conditions", "machine", "figures")), row


def test_every_row_was_measured(script: ModuleType) -> None:
    found = json.loads(FIGURES.read_text(encoding="utf-8"))
    for row, file in declared(script).items():
        assert row in found, f"run `make faults FAULTS={file}`"


def test_pages_show_what_was_measured_last(script: ModuleType) -> None:
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    for page in script.PAGES:
        assert (ROOT / page.path).read_text(encoding="utf-8") == script.rendered(page, figures), "run scripts/reliability-table"


def test_every_row_of_a_page_links_to_a_test_that_is_there(script: ModuleType) -> None:
    for page in script.PAGES:
        path = ROOT / page.path
        cited = re.findall(r"\[`(test_\w+)`\]\(([^)]+)\)", path.read_text(encoding="utf-8"))
        assert cited
        for test, file in cited:
            assert f"def {test}(" in (path.parent / file).read_text(encoding="utf-8"), test


def test_a_row_without_figures_is_shown_as_such(script: ModuleType) -> None:
    row = script.Row("r", "what breaks", "a <= b", "tests/faults/test_x.py", "test_x")
    shown = script.table([row], {}, "../", "fault")
    assert shown.splitlines()[2] == "| what breaks | a ≤ b | not yet | - | [`test_x`](../tests/faults/test_x.py) |"


def test_a_row_shows_date_figures_and_conditions(script: ModuleType) -> None:
    row = script.Row("r", "what breaks", "promise", "tests/faults/test_x.py", "test_x")
    kept = {
        "date": "2026-01-02",
        "conditions": "2 replicas",
        "machine": "m",
        "load": 0.5,
        "figures": [["wait", 12.345, "ms"], ["lost", 0, ""]],
    }
    assert "| 2026-01-02: wait 12.3 ms; lost 0 | 2 replicas; load average 0.5 |" in script.table([row], {"r": kept}, "", "case")


def test_words_that_are_not_literal_are_refused(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text('@fault("r", WHAT, "promise")\ndef test_x(): ...\n')
    with pytest.raises(script.Unreadable, match="three literal texts"):
        script.groups(tmp_path)


def test_only_the_space_between_the_markers_changes(script: ModuleType) -> None:
    assert script.written("a\n<!-- m:begin -->\nold\n<!-- m:end -->\nb", "m", "new") == "a\n<!-- m:begin -->\nnew\n<!-- m:end -->\nb"
    with pytest.raises(script.Unreadable, match="m:begin"):
        script.written("no markers", "m", "new")


def test_the_last_value_of_a_figure_is_kept_beside_other_rows(tmp_path: Path) -> None:
    file = tmp_path / "measured.json"
    for row, value in (("b", 1.0), ("a", 2.0)):
        measured = Measured(row)
        measured.under("alone")
        measured("wait", 0.5, "ms")
        measured("wait", value, "ms")
        measured.keep(file, "a machine")
    kept = json.loads(file.read_text())
    assert list(kept) == ["a", "b"]
    assert [kept[row]["figures"] for row in kept] == [[["wait", 2.0, "ms"]], [["wait", 1.0, "ms"]]]
    assert kept["a"]["conditions"] == "alone"


def test_figures_without_conditions_are_not_kept(tmp_path: Path) -> None:
    measured = Measured("row")
    measured("wait", 1.0, "ms")
    with pytest.raises(AssertionError, match="without conditions"):
        measured.keep(tmp_path / "measured.json", "a machine")


def test_the_form_is_short_unless_told() -> None:
    assert Form.from_environment({}).seconds(1, 10) == 1
    assert Form.from_environment({"GATEWAY_FAULTS": "long"}).seconds(1, 10) == 10
    with pytest.raises(ValueError, match="short and long"):
        Form.from_environment({"GATEWAY_FAULTS": "medium"})
