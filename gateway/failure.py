"""What a log says about an exception: where it came from and of what kind it is, and nothing that it carries.

The text of an exception is written by whoever raises it, mostly from what just went wrong: `KeyError: 'Jane Doe'`, `invalid literal for
int(): '123-45-6789'`. So it may be anybody's data, or a secret, and a log is no place for either (SPEC O4). File, line, function, source
line and type are the program's own, and nearly always enough.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from typing import Any

#: Of a chain of causes; longer ones go round in circles, or say nothing more.
MAXIMUM_CHAIN = 8

_logger = logging.getLogger("gateway")


def outline(error: BaseException) -> str:
    """The traceback of an exception and of what caused it, the last one at the end, without their texts."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and len(chain) < MAXIMUM_CHAIN:
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return "\n".join(_one(each) for each in reversed(chain))


def _one(error: BaseException) -> str:
    frames = "".join(traceback.format_tb(error.__traceback__))
    kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    if isinstance(error, BaseExceptionGroup):
        members = "\n".join(_one(each) for each in error.exceptions[:MAXIMUM_CHAIN])
        return f"Traceback (most recent call last):\n{frames}{kind} of\n{members}"
    return f"Traceback (most recent call last):\n{frames}{kind}"


class Formatter(logging.Formatter):
    """Formats what any library logs, exceptions by `outline`."""

    def formatException(self, ei: Any) -> str:
        """See `outline`."""
        return outline(ei[1])


def report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An event loop's exception handler. The default one shows callbacks with their arguments, and those are what a client has sent."""
    error = context.get("exception")
    # From its first parenthesis on the message may be the arguments of a callback.
    told = str(context.get("message") or "unhandled exception in the event loop").partition("(")[0]
    _logger.error("%s%s", told, f"\n{outline(error)}" if isinstance(error, BaseException) else "")
