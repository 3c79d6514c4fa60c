"""Reading YAML: bounds, marks, and what the core schema makes of scalars."""

from __future__ import annotations

import pytest

from gateway.config.document import MAXIMUM_CHARACTERS, Document, read, unusable
from gateway.config.problems import ConfigProblems, Mark


def document(text: str, environ: dict[str, str] | None = None) -> Document:
    return read(text, environ or {}, "f")


def refusal(text: str) -> str:
    with pytest.raises(ConfigProblems) as caught:
        document(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("0640", 640),
        ("1_000", "1_000"),
        ("true", True),
        ("False", False),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".inf", ".inf"),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("99999999999999999999", 1e20),
        ("10s", "10s"),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    data = document(f"a: {text}").data
    assert data == {"a": value}


def test_every_value_and_key_has_its_place() -> None:
    marks = document("a:\n  - b: 1\n    c: [2, 3]\n").marks
    assert marks.of(("a", 0, "c", 1)) == Mark(3, 12)
    assert marks.of(("a", 0, "c"), key=True) == Mark(3, 5)
    assert marks.of(("a", 0, "missing")) == Mark(2, 5)


def test_anchors_and_merge_keys_work_and_the_own_value_wins() -> None:
    text = "base: &base {x: 1, y: 2}\nmore: &more {y: 9, z: 3}\na: {<<: [*base, *more], x: 7}\nb: *base\n"
    data = document(text).data
    assert isinstance(data, dict)
    assert data["a"] == {"x": 7, "y": 2, "z": 3}
    assert data["b"] == {"x": 1, "y": 2}


def test_an_alias_bomb_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "too many values" in refusal("\n".join(lines))


def test_a_merge_bomb_is_refused() -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 9)]
    assert "too many values" in refusal("\n".join(lines))


def test_deep_nesting_is_refused() -> None:
    assert "nested too deep; at most 32 levels" in refusal("a: " + "[" * 40 + "]" * 40)


def test_nesting_through_aliases_is_refused() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [[[[[[[[[*a{n - 1}]]]]]]]]]" for n in range(1, 6)]
    assert "nested too deep" in refusal("\n".join(lines))


def test_a_large_text_is_refused_before_it_is_parsed() -> None:
    assert refusal("#" * (MAXIMUM_CHARACTERS + 1)) == f"f: the file is too large; at most {MAXIMUM_CHARACTERS} characters"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f: the file is empty; it needs at least `version: 1`"),
        ("# nothing\n", "f: the file is empty; it needs at least `version: 1`"),
        ("a: 1\n---\nb: 2\n", "f:2:1: a second document starts here; one document a file"),
        ("a: &x [*x]", 'f:1:8: alias "x" has no finished anchor before it'),
        ("a: !custom 1", 'f:1:4: the tag "!custom" is not supported; plain text, numbers, true and false'),
        ("a: !!binary aGk=", 'f:1:4: the tag "tag:yaml.org,2002:binary" is not supported; plain text, numbers, true and false'),
        ("? {a: b}\n: c", "f:1:3: a key must be text"),
    ],
)
def test_what_is_no_configuration_is_refused(text: str, message: str) -> None:
    assert refusal(text) == message


def test_lesser_problems_leave_the_rest_readable() -> None:
    found = document("a: ${X}\nb:\nc: 1\nc: 2\n")
    assert sorted(str(problem) for problem in found.problems) == [
        "f:1:4 a: the environment variable X is not set; set it, or write ${X:-default}",
        "f:2:3 b: no value; give one, or leave the key out",
        'f:4:1 c: duplicate key "c"; it is already in line 3',
    ]
    assert isinstance(found.data, dict)
    assert unusable(found.data["a"])
    assert unusable(found.data["b"])
    assert found.data["c"] == 1


def test_what_the_environment_says_stays_text() -> None:
    """CONTRACT §4: a variable can't change the structure of the document."""
    assert document("a: ${X}", {"X": "[1, 2]\nb: 3"}).data == {"a": "[1, 2]\nb: 3"}
    assert document("a: ${X}", {"X": "null"}).data == {"a": "null"}
