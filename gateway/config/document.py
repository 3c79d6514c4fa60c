"""From YAML text to plain data whose every key and value knows its line: bounded, without duplicates, without surprises.

Scalars are resolved by the YAML 1.2 core schema (`yes`, `on`, `12:30` and `2026-01-01` are text). Anchors, aliases and merge keys work,
within bounds; custom tags do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import yaml

from gateway.config.interpolation import interpolate
from gateway.config.problems import ConfigProblems, FromEnvironment, KeyPath, Mark, Marks, Problem, Report, Wrong, shown

# Bounds far above any honest file, low enough that a hostile one costs neither memory nor stack.
MAXIMUM_CHARACTERS = 1024 * 1024
MAXIMUM_DEPTH = 32
MAXIMUM_VALUES = 100_000

_CORE_TAGS = {None, "!", *(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq"))}
_NULLS = {"", "~", "null", "Null", "NULL"}
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")
_MERGE = "<<"
# The parser in C gives the same events and is ten times as fast; builds without libyaml have only the other one.
_Loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


@dataclass(frozen=True, slots=True)
class _Scalar:
    mark: Mark
    text: str
    plain: bool


@dataclass(frozen=True, slots=True)
class _Sequence:
    mark: Mark
    items: list[_Node]


@dataclass(frozen=True, slots=True)
class _Entry:
    key: str
    mark: Mark
    node: _Node


@dataclass(frozen=True, slots=True)
class _Mapping:
    mark: Mark
    entries: list[_Entry]


_Node = _Scalar | _Sequence | _Mapping


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data (`dict`, `list`, `str`, `int`, `float`, `bool`) and where each piece of it stands."""

    data: object
    marks: Marks
    #: What was already found wrong while reading; the data leaves those values out.
    problems: tuple[Problem, ...]


def read(text: str, environ: Mapping[str, str], file: str) -> Document:
    """Parses one YAML document and fills in the environment.

    Raises:
        ConfigProblems: the text is not one YAML document within the bounds. Lesser problems are in the result.
    """
    if len(text) > MAXIMUM_CHARACTERS:
        raise ConfigProblems([Problem(file, 0, 0, "", "the file is too large", f"at most {MAXIMUM_CHARACTERS} characters")])
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ConfigProblems([Problem(file, 0, 0, "", "not valid Unicode: a surrogate on its own")])
    flattener = _Flattener(environ, file)
    try:
        data = flattener.plain(_Composer(text).document(), ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
        raise ConfigProblems([Problem(file, line, column, "", f"not valid YAML: {error.problem or error.context}")]) from error
    except yaml.YAMLError as error:
        raise ConfigProblems([Problem(file, 0, 0, "", f"not valid YAML: {' '.join(str(error).split())}")]) from error
    except _Fatal as error:
        raise ConfigProblems([Problem(file, error.mark.line, error.mark.column, "", error.message, error.allowed)]) from error
    return Document(data, flattener.report.marks, tuple(flattener.report.problems))


class _Fatal(Exception):
    """Reading can't go on."""

    def __init__(self, mark: Mark, message: str, allowed: str = "") -> None:
        super().__init__(message)
        self.mark = mark
        self.message = message
        self.allowed = allowed


class _Composer:
    """Builds nodes from the parser's events. Aliases share the node of their anchor, which is finished by then: there are no cycles."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[yaml.Event] = iter(yaml.parse(text, Loader=_Loader))
        self._anchors: dict[str, _Node] = {}

    def document(self) -> _Node:
        start = next(event for event in self._events if isinstance(event, yaml.DocumentStartEvent | yaml.StreamEndEvent))
        if isinstance(start, yaml.StreamEndEvent):
            raise _Fatal(Mark(), "the file is empty", "it needs at least `version: 1`")
        root = self._node(next(self._events), 0)
        next(self._events)
        if isinstance(after := next(self._events), yaml.DocumentStartEvent):
            raise _Fatal(_mark(after), "a second document starts here", "one document a file")
        return root

    def _node(self, event: yaml.Event, depth: int) -> _Node:
        mark = _mark(event)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise _Fatal(mark, f"alias {shown(event.anchor)} has no finished anchor before it")
            return self._anchors[event.anchor]
        if depth >= MAXIMUM_DEPTH:
            raise _Fatal(mark, "nested too deep", f"at most {MAXIMUM_DEPTH} levels")
        assert isinstance(event, yaml.CollectionStartEvent | yaml.ScalarEvent)
        if event.tag not in _CORE_TAGS:
            raise _Fatal(mark, f"the tag {shown(event.tag)} is not supported", "plain text, numbers, true and false")
        node = self._untagged(event, mark, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _untagged(self, event: yaml.Event, mark: Mark, depth: int) -> _Node:
        if isinstance(event, yaml.ScalarEvent):
            return _Scalar(mark, event.value, plain=event.implicit[0] and event.tag is None)
        if isinstance(event, yaml.SequenceStartEvent):
            return _Sequence(mark, self._items(depth))
        return _Mapping(mark, self._entries(depth))

    def _items(self, depth: int) -> list[_Node]:
        items = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return items

    def _entries(self, depth: int) -> list[_Entry]:
        entries = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise _Fatal(_mark(event), "a key must be text")
            entries.append(_Entry(event.value, _mark(event), self._node(next(self._events), depth + 1)))
        return entries


class _Unusable:
    """Stands for a value that has already been reported."""


_UNUSABLE = _Unusable()


class _Flattener:
    """Expands nodes to plain data: resolves scalars, merges, notes where everything stands."""

    def __init__(self, environ: Mapping[str, str], file: str) -> None:
        self._environ = environ
        self._keys: dict[KeyPath, Mark] = {}
        self._values: dict[KeyPath, Mark] = {}
        self._expanded = 0
        self.report = Report(Marks(file, self._keys, self._values))

    def plain(self, node: _Node, path: KeyPath) -> object:
        self._values[path] = node.mark
        self._count(node.mark)
        if len(path) > MAXIMUM_DEPTH:
            raise _Fatal(node.mark, "nested too deep", f"at most {MAXIMUM_DEPTH} levels")
        if isinstance(node, _Scalar):
            return self._scalar(node, path)
        if isinstance(node, _Sequence):
            return [self.plain(item, (*path, index)) for index, item in enumerate(node.items)]
        return self._dict(node, path)

    def _count(self, mark: Mark) -> None:
        self._expanded += 1
        if self._expanded > MAXIMUM_VALUES:
            raise _Fatal(mark, "too many values, counting what aliases expand to", f"at most {MAXIMUM_VALUES}")

    def _scalar(self, node: _Scalar, path: KeyPath) -> object:
        if "$" in node.text:
            try:
                # What the environment says is text: it can't become a list, a mapping or nothing.
                return FromEnvironment(interpolate(node.text, self._environ))
            except Wrong as error:
                self.report.wrong(path, error)
                return _UNUSABLE
        value = _resolve(node.text) if node.plain else node.text
        if value is None:
            self.report.add(path, "no value", "give one, or leave the key out")
            return _UNUSABLE
        return value

    def _dict(self, node: _Mapping, path: KeyPath) -> dict[str, object]:
        result: dict[str, object] = {}
        for entry in self._own(node, path) + self._merged(node):
            if entry.key not in result:
                inner = (*path, entry.key)
                self._keys[inner] = entry.mark
                result[entry.key] = self.plain(entry.node, inner)
        return result

    def _own(self, node: _Mapping, path: KeyPath) -> list[_Entry]:
        """What the mapping itself says; a key that is said twice is a problem."""
        own: dict[str, _Entry] = {}
        for entry in node.entries:
            first = own.setdefault(entry.key, entry)
            if first is not entry:
                self._keys[(*path, entry.key)] = entry.mark
                message = f"duplicate key {shown(entry.key)}"
                self.report.add((*path, entry.key), message, f"it is already in line {first.mark.line}", key=True)
        return [entry for entry in own.values() if entry.key != _MERGE]

    def _merged(self, node: _Mapping) -> list[_Entry]:
        """What `<<` brings in; the first source that has a key wins."""
        entries: list[_Entry] = []
        for source in self._sources(node):
            self._count(source.mark)
            if not isinstance(source, _Mapping):
                raise _Fatal(source.mark, "`<<` needs a mapping or a list of mappings")
            entries += [entry for entry in source.entries if entry.key != _MERGE] + self._merged(source)
        return entries

    @staticmethod
    def _sources(node: _Mapping) -> list[_Node]:
        merges = [entry.node for entry in node.entries if entry.key == _MERGE]
        return [source for merge in merges for source in (merge.items if isinstance(merge, _Sequence) else [merge])]


def unusable(value: object) -> bool:
    """Whether the value was already reported while reading."""
    return value is _UNUSABLE


def _mark(event: yaml.Event) -> Mark:
    start = event.start_mark
    return Mark(start.line + 1, start.column + 1) if start is not None else Mark()


def _resolve(text: str) -> object:
    """A plain scalar by the core schema (YAML 1.2.2 section 10.3.2)."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
