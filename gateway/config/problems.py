"""What is wrong with a configuration, where it is, and what would be right."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from gateway.errors import ConfigError

#: Where a value stands in the document: mapping keys and list indexes, outermost first.
KeyPath = tuple[str | int, ...]

_ENVIRONMENT = "the value from the environment"
#: Longest piece of a bad value that a message repeats.
SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a text, counted from 1; 0 when the value does not come from a text."""

    line: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong or dangerous.

    Args:
        file: name as it was given; empty for keyword settings.
        line, column: counted from 1; 0 when unknown.
        key_path: `routes[0].limits[1]`; empty for the whole document.
        message: what is wrong, with the value.
        allowed: what would be right; may be empty.
    """

    file: str
    line: int
    column: int
    key_path: str
    message: str
    allowed: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        subject = " ".join(part for part in (place, self.key_path) if part)
        sentence = f"{self.message}; {self.allowed}" if self.allowed else self.message
        return f"{subject}: {sentence}" if subject else sentence


class ConfigProblems(ConfigError):
    """A configuration with at least one problem; `problems` holds all of them, in the order of the text."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: (problem.line, problem.column))
        super().__init__("\n".join(map(str, self.problems)))


class Wrong(ValueError):
    """A value that does not fit: raised by the parsers of single values, which do not know where the value stands."""

    def __init__(self, message: str, allowed: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.allowed = allowed


@dataclass(frozen=True, slots=True)
class Marks:
    """Where each key and each value of a document stands."""

    file: str
    keys: Mapping[KeyPath, Mark]
    values: Mapping[KeyPath, Mark]

    def of(self, path: KeyPath, *, key: bool = False) -> Mark:
        """The place of a value (or of its key), else of the nearest thing around it that has one."""
        if key and path in self.keys:
            return self.keys[path]
        for length in range(len(path), -1, -1):
            if path[:length] in self.values:
                return self.values[path[:length]]
        return Mark()


class Report:
    """Collects the problems of one document."""

    def __init__(self, marks: Marks) -> None:
        self.marks = marks
        self.problems: list[Problem] = []

    def add(self, path: KeyPath, message: str, allowed: str = "", *, key: bool = False) -> None:
        """Notes a problem with the value at `path`, or with its key."""
        mark = self.marks.of(path, key=key)
        self.problems.append(Problem(self.marks.file, mark.line, mark.column, render(path), message, allowed))

    def wrong(self, path: KeyPath, error: Wrong) -> None:
        """Notes a value that a parser refused."""
        self.add(path, error.message, error.allowed)

    def close(self) -> None:
        """Raises what was collected, if anything was."""
        if self.problems:
            raise ConfigProblems(self.problems)


def render(path: KeyPath) -> str:
    """`("routes", 0, "limits", 1)` as `routes[0].limits[1]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            key = part[:SHOWN_CHARACTERS] if part.isprintable() else _quoted(part[:SHOWN_CHARACTERS])
            text += f".{key}" if text else key
    return text


class FromEnvironment(str):
    """Text that came from the environment, perhaps a secret in the wrong place: messages do not repeat it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<from the environment>"


def shown(value: object) -> str:
    """A bad value for a message: on one line, bounded, without the password and the query of a URL, and nothing from the environment."""
    if isinstance(value, FromEnvironment):
        return _ENVIRONMENT
    if isinstance(value, bool | int | float) or value is None:
        return json.dumps(value)
    if not isinstance(value, str):
        return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"
    text = _without_password(value)
    if len(text) > SHOWN_CHARACTERS:
        text = text[:SHOWN_CHARACTERS] + "..."
    return _quoted(text)


def unrepeated(error: Wrong) -> Wrong:
    """What is wrong with a value from the environment, when it is said of a part of it, without that part."""
    return error if _ENVIRONMENT in error.message else Wrong(f"{_ENVIRONMENT} does not fit", error.allowed)


def _quoted(text: str) -> str:
    """In quotes, and on its line: what could end the line, or drive a terminal, is escaped."""
    return json.dumps(text, ensure_ascii=not text.isprintable()).replace("\x7f", "\\u007f")


def _without_password(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    credentials, at, host = rest.rpartition("@")
    if not separator:
        return text
    user, colon, _ = credentials.partition(":")
    place, question, _ = host.partition("?")
    return f"{scheme}://{user}{colon and ':***'}{at}{place}{question and '?***'}"


def alternatives(what: str, names: Iterable[str]) -> str:
    """`defined limits: daily, per-client`, or that there are none."""
    listed = ", ".join(sorted(names))
    return f"{what}: {listed}" if listed else f"{what}: none"


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """`unknown limit "dayly", did you mean "daily"?`"""
    close = get_close_matches(name, list(known), n=1, cutoff=0.75)
    guess = f', did you mean "{close[0]}"?' if close else ""
    return f"unknown {what} {shown(name)}{guess}"
