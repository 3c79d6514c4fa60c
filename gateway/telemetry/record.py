"""Pure: how records are spelled: their time, their JSON, and text that can't break out of its line (S-37)."""

from __future__ import annotations

import json
import re
from json.encoder import encode_basestring_ascii
from time import gmtime, strftime
from typing import Any

import orjson

from gateway.telemetry.chain import SEAL_BYTES
from gateway.telemetry.observation import Observation

MAXIMUM_TEXT = 256
# PIPE_BUF: a line up to this length is never mixed with that of another process on the same pipe. A seal is added later.
MAXIMUM_LINE_BYTES = 4096 - SEAL_BYTES
_NANOSECONDS = 1_000_000_000
# What may stand in a text line as it is: graphic ASCII. The rest, the space among it, would let a value look like two fields.
_NOT_GRAPHIC = re.compile(r"[^!#-\[\]-~]")


#: A text as JSON in ASCII, with its quotes. DEL passes as it is.
quoted = encode_basestring_ascii


class TimeText:
    """Times as RFC 3339 in UTC, with microseconds. Keeps the text of the last second, which is most of the work."""

    __slots__ = ("_prefix", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._prefix = ""

    def format(self, time_ns: int) -> str:
        second, rest = divmod(time_ns, _NANOSECONDS)
        if second != self._second:
            self._prefix = strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))
            self._second = second
        return f"{self._prefix}.{rest // 1000:06d}Z"

    def timing(self, observation: Observation) -> tuple[str, str]:
        """When a request ended, and how many milliseconds it took, as text: worked out once, for all of its records."""
        known = observation.timing
        if known is None:
            duration_ms = milliseconds(observation.started_ns, observation.ended_ns)
            known = observation.timing = (self.format(observation.ended_ns), repr(duration_ms))
        return known


def milliseconds(started_ns: int, ended_ns: int) -> float:
    """A duration with the three places that a microsecond is worth."""
    return (ended_ns - started_ns) // 1000 / 1000


def plain_line(text: str) -> bytes | None:
    """A line that was spelled by hand, as bytes; None when it holds what `json_line` would have to escape or cut."""
    if len(text) <= MAXIMUM_LINE_BYTES and "\x7f" not in text and text.isascii():
        return text.encode("ascii")
    return None


def json_line(record: dict[str, Any]) -> bytes:
    """The record as one line of JSON in plain ASCII; every text in a line that would be very long is cut.

    orjson escapes quotes, backslashes and C0 controls. What it leaves as UTF-8 can still end a line (U+0085, U+2028) or drive a terminal
    (DEL, U+009B) somewhere downstream, so a line that has any of it is spelled again with escapes.
    """
    try:
        line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:
        return _respelled(record)
    if line.isascii() and b"\x7f" not in line and len(line) <= MAXIMUM_LINE_BYTES:
        return line
    return _respelled(record)


def _respelled(record: dict[str, Any]) -> bytes:
    plain = orjson.loads(orjson.dumps(_plain(record)))
    return json.dumps(plain, separators=(",", ":")).replace("\x7f", "\\u007f").encode("ascii") + b"\n"


def word(text: str) -> str:
    """A value as one word of a text line: `-` when empty, bounded, everything that isn't graphic ASCII as `\\xNN`."""
    return _NOT_GRAPHIC.sub(_escape, text[:MAXIMUM_TEXT]) if text else "-"


def _escape(match: re.Match[str]) -> str:
    return "".join(f"\\x{byte:02x}" for byte in match[0].encode("utf-8", "surrogatepass"))


def _plain(value: Any) -> Any:
    """The value with texts bounded, lone surrogates replaced, and the text of whatever JSON has no word for."""
    if isinstance(value, str):
        return value[:MAXIMUM_TEXT].encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_plain(str(name)): _plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    if value is None or isinstance(value, bool | int | float | orjson.Fragment):
        return value
    return _plain(str(value))
