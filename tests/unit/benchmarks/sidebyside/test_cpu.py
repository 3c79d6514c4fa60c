"""Which processes are counted."""

from __future__ import annotations

import pytest

from benchmarks.sidebyside.cpu import descendants, parent_of


@pytest.mark.parametrize("name", ["python", "a b", "odd) name (", ") 7 8"])
def test_parent_is_read_whatever_the_command_is_called(name: str) -> None:
    assert parent_of(f"123 ({name}) S 77 123 123 0 -1 4194560") == 77


def test_tree_holds_children_and_grandchildren_and_nobody_else() -> None:
    assert descendants(10, {10: 1, 11: 10, 12: 11, 13: 12, 20: 1, 21: 20}) == {10, 11, 12, 13}


def test_process_without_children_is_its_own_tree() -> None:
    assert descendants(10, {10: 1, 20: 1}) == {10}
