"""How records are spelled."""

from __future__ import annotations

import json
import re
import uuid
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.record import MAXIMUM_LINE_BYTES, TimeText, json_line, milliseconds, word
from tests.support.observations import ENDED_NS

HOSTILE = [
    "a\r\nAUDIT: GET / -> 200",
    '"}\n{"event":"admin"}',
    "\x00\x1b[2J\x7f",
    "\x85\u2028\u2029\x9b2J",
    "\ud800",
    "\\",
    "naïve \U0001f600",
]


def test_times_are_rfc_3339_with_microseconds_in_utc() -> None:
    """S-36: AU-8."""
    assert TimeText().format(ENDED_NS) == "2026-11-23T00:58:45.123456Z"


@given(st.lists(st.integers(0, 4_000_000_000_000_000_000), max_size=5))
def test_times_agree_with_the_library_in_any_order(times_ns: list[int]) -> None:
    """S-36: the kept second never shows in another second's time."""
    time = TimeText()
    for time_ns in times_ns:
        expected = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).replace(microsecond=time_ns // 1000 % 1_000_000)
        assert datetime.fromisoformat(time.format(time_ns)) == expected


def test_durations_have_three_places() -> None:
    """A microsecond is the finest that is told."""
    assert milliseconds(1_000_000, 2_234_567) == 1.234


@pytest.mark.parametrize("text", HOSTILE)
def test_a_json_record_is_one_line_of_graphic_ascii(text: str) -> None:
    """S-37: no log injection by CR, LF or control bytes, whatever splits lines downstream."""
    line = json_line({"user_agent": text, "nested": {"list": [text]}})
    assert re.fullmatch(rb"[\x20-\x7e]+\n", line)
    assert json.loads(line)["user_agent"] == text.encode("utf-8", "replace").decode()
    assert orjson.loads(line)["nested"]["list"] == [text.encode("utf-8", "replace").decode()]


@given(st.text())
def test_any_text_survives_json(text: str) -> None:
    """S-37: escaped, not lost."""
    line = json_line({"value": text[:100]})
    assert line.count(b"\n") == 1
    assert json.loads(line)["value"] == text[:100].encode("utf-8", "replace").decode()


@given(st.text())
def test_any_text_is_one_word(text: str) -> None:
    """S-37: a value can't look like two fields of a text line."""
    assert re.fullmatch(r"[!#-~]+", word(text))


def test_empty_words_show() -> None:
    """The number of fields in a text line is constant."""
    assert word("") == "-"
    assert word("a b\n") == "a\\x20b\\x0a"


def test_a_very_long_line_has_its_texts_cut() -> None:
    """S-37: a client can't make records of any size."""
    line = json_line({"event": "request", "host": "h" * 100_000, "n": 1})
    assert len(line) <= MAXIMUM_LINE_BYTES
    assert json.loads(line) == {"event": "request", "host": "h" * 256, "n": 1}


def test_unusual_values_are_spelled_as_text() -> None:
    """A caller's detail never makes a record fail."""
    record: dict[str, Any] = {
        "a": uuid.UUID(int=1),
        "b": {
            1,
        },
        "c": {"d": (1, None, True, 1.5)},
        "e": orjson.Fragment(b'{"x":1}'),
    }
    assert json.loads(json_line(record)) == {
        "a": "00000000-0000-0000-0000-000000000001",
        "b": "{1}",
        "c": {"d": [1, None, True, 1.5]},
        "e": {"x": 1},
    }
