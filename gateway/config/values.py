"""How single values are written in the file: text, numbers, durations, sizes, rates. Each kind parses and describes itself."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from gateway.admission.limits import parse_rate
from gateway.config.problems import FromEnvironment, Wrong, shown, unrepeated
from gateway.errors import ConfigError

#: Type of the errors that carry a `Wrong`: its message and what is allowed are in their context.
WRONG = "gateway_wrong"

#: Longer ones are no honest rate, and integers of thousands of digits cost time.
MAXIMUM_RATE_CHARACTERS = 40

_REFERENCE = r"\$\{"
#: Of a duration's text, in the JSON Schema.
DURATION_PATTERN = rf"^0$|^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$|{_REFERENCE}"
_DURATION_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"([0-9]{1,15}) ?(B|KiB|MiB|GiB|kB|MB|GB)?")
_BYTES = {None: 1, "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "kB": 1000, "MB": 1000**2, "GB": 1000**3}
#: What `float` takes is more: digits of other scripts, underscores, words.
_NUMBER = re.compile(r"([0-9]{1,18}\.?[0-9]{0,18}|\.[0-9]{1,18})(e-[0-9]{1,3})?")
_RATE_ALLOWED = "allowed: COUNT/PERIOD, such as 100/minute, 10/second, 600/hour, 10000/day or 100/15m"
_DURATION_ALLOWED = "allowed: a number with ms, s, m, h or d, such as 250ms, 10s or 12h"


def duration_seconds(value: object) -> float:
    """`10s`, `250ms`, `1h30m` in seconds. A plain 0 is fine; other plain numbers have no unit and are refused."""
    if value in (0, "0") and not isinstance(value, bool):
        return 0.0
    parts = _DURATION_PART.findall(value) if isinstance(value, str) else []
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise Wrong(f"{shown(value)} is not a duration", _DURATION_ALLOWED)
    return round(sum(float(number) * _SECONDS[unit] for number, unit in parts), 9)


def duration_text(seconds: float) -> str:
    """How a duration is written in the file, in the largest unit that it is a whole number of."""
    if seconds == 0:
        return "0"
    unit = next(unit for unit in ("d", "h", "m", "s", "ms") if round(seconds * 1000) % round(_SECONDS[unit] * 1000) == 0)
    return f"{round(seconds / _SECONDS[unit])}{unit}"


def size_bytes(value: object) -> int:
    """`32KiB`, `10MiB`, `1GB` or a plain number, in bytes."""
    match = _SIZE.fullmatch(str(value)) if isinstance(value, int | str) and not isinstance(value, bool) else None
    if match is None:
        raise Wrong(f"{shown(value)} is not a size", "allowed: bytes, or a number with KiB, MiB, GiB, kB, MB or GB")
    return int(match[1]) * _BYTES[match[2]]


def rate(value: object) -> tuple[int, int]:
    """`100/minute` as (100, 60_000_000): events and the period in microseconds."""
    try:
        count, period_us = parse_rate(value) if isinstance(value, str) and len(value) <= MAXIMUM_RATE_CHARACTERS else (0, 0)
    except ConfigError:
        count, period_us = 0, 0
    if not count:
        raise Wrong(f"{shown(value)} is not a rate", _RATE_ALLOWED)
    if count > period_us:
        # Half a microsecond apart is more than the clock of the store can tell.
        raise Wrong(f"{shown(value)} is faster than the clock", "at most 1000000/second")
    return count, period_us


def ratio(value: object) -> float:
    """`0.1` or `10%` as 0.1."""
    text = str(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else ""
    number = text.removesuffix("%")
    result = float(number) / (100 if text.endswith("%") else 1) if _NUMBER.fullmatch(number) else math.nan
    if not 0 <= result <= 1:
        raise Wrong(f"{shown(value)} is not a share", "allowed: 0 to 1, or 0% to 100%")
    return result


def _is_unicode(text: str) -> bool:
    """Whether the text can be written down: bytes of the environment that are not UTF-8 come as lone surrogates."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def refused(error: Wrong) -> PydanticCustomError:
    """A `Wrong` in the form that pydantic collects."""
    return PydanticCustomError(WRONG, "{message}", {"message": error.message, "allowed": error.allowed})


class Value(ABC):
    """A kind of value: pydantic calls `parse`, editors get `describe`."""

    __slots__ = ()

    @abstractmethod
    def parse(self, value: object) -> object:
        """The value in the form that settings hold; raises `Wrong`."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Its JSON Schema."""

    def _parse(self, value: object) -> object:
        try:
            return self.parse(value)
        except Wrong as error:
            raise refused(unrepeated(error) if isinstance(value, FromEnvironment) else error) from error

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._parse)

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return self.describe()


@dataclass(frozen=True, slots=True)
class Text(Value):
    """Text that `check` brings into its normal form. With `optional`, empty text means that nothing was given."""

    check: Callable[[str], str] = str
    optional: bool = False

    def parse(self, value: object) -> str:
        if not isinstance(value, str):
            hint = "put it in quotes" if isinstance(value, bool | int | float) else "one text"
            raise Wrong(f"{shown(value)} is not text", hint)
        if not value and not self.optional:
            raise Wrong("empty text", "at least one character")
        if "\x00" in value or not _is_unicode(value):
            raise Wrong("text with a NUL character or an invalid one", "text without it")
        checked = self.check(value) if value else value
        # Whoever finds something else wrong with it must not repeat it either.
        return FromEnvironment(checked) if isinstance(value, FromEnvironment) else str(checked)

    def describe(self) -> dict[str, Any]:
        return {"type": "string"} if self.optional else {"type": "string", "minLength": 1}


@dataclass(frozen=True, slots=True)
class Datacenters(Value):
    """One name, or several to fail over along; none when empty."""

    def parse(self, value: object) -> tuple[str, ...]:
        if value == "":
            return ()
        names = tuple(Text().parse(item) for item in (value if isinstance(value, list | tuple) else [value]))
        if len(set(names)) != len(names):
            raise Wrong("the same datacenter twice", "each once, first choice first")
        return names

    def describe(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string", "minLength": 1}, "uniqueItems": True}]}


@dataclass(frozen=True, slots=True)
class Whole(Value):
    """A whole number within bounds; digits in text too, because that is what the environment gives."""

    minimum: int
    maximum: int

    def parse(self, value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise Wrong(f"{shown(value)} is not a whole number", self._allowed)
        if not self.minimum <= value <= self.maximum:
            raise Wrong(f"{value} is out of range", self._allowed)
        return value

    @property
    def _allowed(self) -> str:
        return f"allowed: {self.minimum}" + (f" to {self.maximum}" if self.maximum > self.minimum else "")

    def describe(self) -> dict[str, Any]:
        number = {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}
        return {"anyOf": [number, {"type": "string", "pattern": rf"^[0-9]+$|{_REFERENCE}"}]}


@dataclass(frozen=True, slots=True)
class OrAuto(Value):
    """Another kind of value, or `auto`."""

    other: Value

    def parse(self, value: object) -> Any:
        if value == "auto":
            return "auto"
        try:
            return self.other.parse(value)
        except Wrong as error:
            raise Wrong(error.message, error.allowed.replace("allowed: ", "allowed: auto, ")) from error

    def describe(self) -> dict[str, Any]:
        return {"anyOf": [{"const": "auto"}, self.other.describe()]}


@dataclass(frozen=True, slots=True)
class Flag(Value):
    """true or false; the words in text too, because that is what the environment gives."""

    def parse(self, value: object) -> bool:
        if isinstance(value, bool):
            return value
        if value in ("true", "false"):
            return value == "true"
        raise Wrong(f"{shown(value)} is neither true nor false", "allowed: true, false")

    def describe(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": rf"^(true|false)$|{_REFERENCE}"}]}


@dataclass(frozen=True, slots=True)
class Duration(Value):
    """A span of time, in seconds once parsed. With `zero`, 0 is allowed beside what lies within the bounds."""

    minimum: str
    maximum: str
    zero: bool = False

    def parse(self, value: object) -> float:
        seconds = duration_seconds(value)
        if seconds == 0 and self.zero:
            return seconds
        if not duration_seconds(self.minimum) <= seconds <= duration_seconds(self.maximum):
            raise Wrong(f"{shown(value)} is out of range", f"allowed: {'0, or ' if self.zero else ''}{self.minimum} to {self.maximum}")
        return seconds

    def describe(self) -> dict[str, Any]:
        text = {"type": "string", "pattern": DURATION_PATTERN}
        return {"anyOf": [text, {"const": 0}]} if self.zero else text


@dataclass(frozen=True, slots=True)
class Size(Value):
    """A number of bytes."""

    minimum: int
    maximum: int

    def parse(self, value: object) -> int:
        size = size_bytes(value)
        if not self.minimum <= size <= self.maximum:
            raise Wrong(f"{shown(value)} is out of range", f"allowed: {self.minimum} to {self.maximum} bytes")
        return size

    def describe(self) -> dict[str, Any]:
        number = {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}
        return {"anyOf": [number, {"type": "string", "pattern": rf"^[0-9]+ ?(B|KiB|MiB|GiB|kB|MB|GB)?$|{_REFERENCE}"}]}


@dataclass(frozen=True, slots=True)
class Rate(Value):
    """Events in a period, as (count, microseconds)."""

    def parse(self, value: object) -> tuple[int, int]:
        return rate(value)

    def describe(self) -> dict[str, Any]:
        return {"type": "string", "pattern": rf"^[0-9]+ ?/ ?[0-9a-z.]+$|{_REFERENCE}", "examples": ["100/minute", "10/second", "100/15m"]}


@dataclass(frozen=True, slots=True)
class Ratio(Value):
    """A share of a whole, 0..1."""

    def parse(self, value: object) -> float:
        return ratio(value)

    def describe(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "string", "pattern": rf"^[0-9.]+%?$|{_REFERENCE}"}]}


@dataclass(frozen=True, slots=True)
class OneOf(Value):
    """One word of a few. `later` lists words that are known but not available yet, `also` says what may stand there instead of a word."""

    words: tuple[str, ...]
    later: tuple[str, ...] = ()
    also: str = ""

    def parse(self, value: object) -> str:
        if isinstance(value, str) and value in self.words:
            return str(value)
        allowed = f"allowed: {', '.join([*self.words, self.also] if self.also else self.words)}"
        if isinstance(value, str) and value in self.later:
            raise Wrong(f"{shown(value)} is not available yet", allowed)
        raise Wrong(f"{shown(value)} is not allowed here", allowed)

    def describe(self) -> dict[str, Any]:
        return {"anyOf": [{"enum": list(self.words)}, {"type": "string", "pattern": _REFERENCE}]}


@dataclass(frozen=True, slots=True)
class Keys(Value):
    """What a limit counts apart: one key or a list of them."""

    check: Callable[[str], str]

    def parse(self, value: object) -> tuple[str, ...]:
        items = value if isinstance(value, list | tuple) else [value]
        if not items:
            raise Wrong("an empty list of keys", "at least one")
        keys = tuple(Text(self.check).parse(item) for item in items)
        if len(set(keys)) != len(keys):
            raise Wrong("the same key twice", "each key once")
        return keys

    def describe(self) -> dict[str, Any]:
        text = {"type": "string", "minLength": 1}
        return {"anyOf": [text, {"type": "array", "items": text, "minItems": 1, "uniqueItems": True}]}


@dataclass(frozen=True, slots=True)
class Plain(Value):
    """Text, a number or a boolean, as it was written."""

    def parse(self, value: object) -> object:
        if isinstance(value, str | int | float):
            return str(value) if isinstance(value, str) else value
        raise Wrong(f"{shown(value)} is not a single value", "text, a number, true or false")

    def describe(self) -> dict[str, Any]:
        return {"type": ["string", "number", "boolean"]}


@dataclass(frozen=True, slots=True)
class NotYet(Value):
    """A key of the file whose feature comes later. `today` are values that ask for what happens anyway."""

    today: tuple[object, ...] = ()

    def parse(self, value: object) -> object:
        if any(value == word and isinstance(value, bool) == isinstance(word, bool) for word in self.today):
            return value
        raise Wrong("not available yet", self._allowed)

    @property
    def _allowed(self) -> str:
        return f"allowed: {', '.join(map(shown, self.today))}" if self.today else "leave the key out"

    def describe(self) -> dict[str, Any]:
        return {"enum": list(self.today)} if self.today else {"not": {}}
