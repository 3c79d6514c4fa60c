"""docs/compliance.md: the program that verifies a chain does, and what is mapped is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from gateway.settings import AUDIT_EVENTS
from gateway.telemetry.audit import Audit, EventKind
from gateway.telemetry.lines import LineWriter
from gateway.telemetry.record import TimeText
from gateway.telemetry.trail import Trail
from tests.support.audit_chains import whole_chain
from tests.support.documents import ROOT, code_words, part, snippets
from tests.support.observations import observation

PAGE = ROOT / "docs" / "compliance.md"


def independent() -> Any:
    [program] = snippets(PAGE, "python")
    scope: dict[str, Any] = {}
    exec(program, scope)
    return scope["verify"]


def test_the_program_finds_what_was_done_to_a_file() -> None:
    """O6: the chain can be verified without us, from what the page says."""
    verify = independent()
    lines = whole_chain("gw-1", 4).lines
    mixed = [line for pair in zip(lines, whole_chain("gw-2", 4).lines, strict=True) for line in pair]
    assert verify(lines) == verify(mixed) == []
    assert verify([*lines[:2], lines[2].replace(b"00:00:03", b"00:00:04"), *lines[3:]]) == ["3: changed"]
    assert verify([*lines[:2], *lines[3:]]) == ["3: record 4 after 2", "3: does not follow the record before"]


def test_every_kind_of_event_is_in_the_table() -> None:
    """S-34: with what chooses it."""
    words = code_words(part(PAGE, "## Events"))
    assert words >= {"request", *get_args(EventKind), *AUDIT_EVENTS}


def test_the_tests_that_are_named_are_there() -> None:
    named = {word for word in code_words(PAGE.read_text(encoding="utf-8")) if word.startswith("tests/")}
    assert named
    assert all((ROOT / path).exists() for path in named)


def members(record: dict[str, Any], prefix: str = "") -> set[str]:
    """The paths of everything in a record, as the page writes them."""
    found = set()
    for name, value in record.items():
        found.add(prefix + name)
        if isinstance(value, dict):
            found |= members(value, f"{prefix}{name}.")
    return found


def test_every_field_that_retention_rules_ask_for_is_in_a_record(tmp_path: Path) -> None:
    """S-43: each field of the mapping, in a record of a request."""
    mapped = code_words(part(PAGE, "## Fields of federal logging rules"))
    assert len(mapped) > 15
    writer = LineWriter(f"file:{tmp_path / 'audit.jsonl'}")
    Audit(Trail([writer], chained=True), format="json", replica="gw-1", time=TimeText()).observe(observation())
    assert writer.close(10.0) == 0
    record = json.loads((tmp_path / "audit.jsonl").read_bytes())
    assert mapped <= members(record)
