"""Moments as people type them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime

import click

ALLOWED = "RFC 3339 such as 2026-01-31T12:00:00Z, seconds since the epoch, now, or +1h and -5m from now"
_RFC_3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,6})?([Zz]|[+-]\d{2}:\d{2})")


def parse_when(text: str, now: float) -> float:
    """A moment in seconds since the epoch.

    Raises:
        ValueError: the text is none of the forms; the message lists them.
    """
    if text == "now":
        return now
    if re.fullmatch(r"[0-9]{1,11}(\.[0-9]{1,6})?", text):
        return float(text)
    if text[:1] in ("+", "-"):
        return now + _offset(text)
    if _RFC_3339.fullmatch(text):
        try:
            return datetime.fromisoformat(text.upper()).timestamp()
        except ValueError as error:
            raise ValueError(f"{text!r}: {error}") from error
    raise ValueError(f"{text!r} is not a moment; {ALLOWED}")


def _offset(text: str) -> float:
    from gateway.config.problems import Wrong
    from gateway.config.values import duration_seconds

    try:
        seconds = duration_seconds(text[1:])
    except Wrong as error:
        raise ValueError(f"{text!r} is not a moment; {ALLOWED}") from error
    return -seconds if text[0] == "-" else seconds


class When(click.ParamType[float]):
    """A moment as an option's value."""

    name = "when"

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return parse_when(str(value), self._clock())
        except ValueError as error:
            self.fail(str(error), param, ctx)
