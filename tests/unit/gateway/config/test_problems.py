"""How problems read."""

from __future__ import annotations

import pytest

from gateway.config.problems import ConfigProblems, FromEnvironment, KeyPath, Problem, render, shown, unknown


def test_a_problem_reads_as_one_line() -> None:
    """CONTRACT §3 (check): file, line, key path, what was wrong, what is allowed."""
    problem = Problem("gateway.yaml", 12, 5, "routes[0].limits[1]", 'unknown limit "dayly"', "defined limits: daily, per-client")
    assert str(problem) == 'gateway.yaml:12:5 routes[0].limits[1]: unknown limit "dayly"; defined limits: daily, per-client'


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("", 0, 0, "server.port", "wrong"), "server.port: wrong"),
        (Problem("f", 0, 0, "", "wrong"), "f: wrong"),
        (Problem("", 0, 0, "", "wrong"), "wrong"),
    ],
)
def test_what_is_unknown_is_left_out(problem: Problem, text: str) -> None:
    assert str(problem) == text


def test_problems_are_in_the_order_of_the_text() -> None:
    problems = ConfigProblems([Problem("f", 3, 1, "", "c"), Problem("f", 1, 9, "", "b"), Problem("f", 1, 2, "", "a")])
    assert str(problems) == "f:1:2: a\nf:1:9: b\nf:3:1: c"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("routes", 0, "limits", 1), "routes[0].limits[1]"),
        ((0, "a"), "[0].a"),
        (("a\nb",), '"a\\nb"'),
        (("x" * 500,), "x" * 60),
    ],
)
def test_key_paths(path: KeyPath, text: str) -> None:
    assert render(path) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", '"a"'),
        ("a\nb", '"a\\nb"'),
        ("x" * 100, f'"{"x" * 60}..."'),
        ("redis://user:secret@host/0", '"redis://user:***@host/0"'),
        ("redis://:secret@host", '"redis://:***@host"'),
        ("http://user@host", '"http://user@host"'),
        (True, "true"),
        (1.5, "1.5"),
        ([1], "a list"),
        ({}, "a mapping"),
        (None, "null"),
        (object(), "a object"),
        (FromEnvironment("secret"), "the value from the environment"),
        ([FromEnvironment("secret")], "a list"),
    ],
)
def test_bad_values_are_shown_without_secrets(value: object, text: str) -> None:
    """O4: no secret in any output."""
    assert shown(value) == text


def test_the_nearest_name_is_guessed() -> None:
    assert unknown("limit", "dayly", ["daily", "hourly"]) == 'unknown limit "dayly", did you mean "daily"?'
    assert unknown("limit", "x", ["daily"]) == 'unknown limit "x"'
