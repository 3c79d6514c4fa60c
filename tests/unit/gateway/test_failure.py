"""What a log says about an exception, and what it keeps to itself."""

from __future__ import annotations

import ast
import asyncio
import logging
from pathlib import Path

import pytest

from gateway.failure import MAXIMUM_CHAIN, Formatter, outline, report

#: Put together at run time, or the source lines that a traceback shows would have it.
SECRET = "-".join(("jane", "doe"))


def failing(depth: int = 0) -> Exception:
    """An exception with a traceback and a chain of causes, each of which repeats a value."""
    try:
        if depth:
            raise ValueError(SECRET) from failing(depth - 1)
        raise KeyError(SECRET)
    except Exception as error:
        return error


def test_it_says_where_and_what_and_never_with_which_value() -> None:
    """O4: texts of exceptions are made of the data that they failed on."""
    text = outline(failing(1))
    assert text.count("Traceback (most recent call last):") == 2
    assert text.index("KeyError") < text.index("ValueError")
    assert ", in failing" in text
    assert "raise KeyError(SECRET)" in text
    assert SECRET not in text


def test_what_was_handled_is_told_unless_it_was_hidden() -> None:
    """As Python does: the context, unless `from None`."""

    def raised(hidden: bool) -> Exception:
        try:
            try:
                raise KeyError(SECRET)
            except KeyError:
                if hidden:
                    raise ValueError(SECRET) from None
                raise ValueError(SECRET)  # noqa: B904 - the context is what is tested
        except ValueError as error:
            return error

    assert ("KeyError" in outline(raised(False)), "KeyError" in outline(raised(True))) == (True, False)


def test_a_chain_is_bounded() -> None:
    assert outline(failing(20)).count("Traceback") == MAXIMUM_CHAIN


def test_members_of_a_group_are_told() -> None:
    text = outline(ExceptionGroup(SECRET, [failing(), ValueError(SECRET)]))
    assert "ExceptionGroup of" in text
    assert "KeyError" in text
    assert SECRET not in text


def test_libraries_log_through_the_same() -> None:
    """O4: uvicorn logs what an application raises."""
    error = failing()
    record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 1, "Exception in ASGI application", (), (KeyError, error, None))
    text = Formatter("%(message)s").format(record)
    assert text.startswith("Exception in ASGI application\nTraceback")
    assert text.endswith("KeyError")
    assert SECRET not in text


def test_the_event_loop_reports_a_callback_without_its_arguments(caplog: pytest.LogCaptureFixture) -> None:
    """O4: the default handler shows what was called with what, and for a connection that is what a client has sent."""

    def data_received(data: bytes) -> None:
        raise RuntimeError(data)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(report)
        loop.call_soon(data_received, SECRET.encode())
        loop.call_exception_handler({"message": "nothing was raised", "protocol": SECRET})
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert "RuntimeError" in caplog.text
    assert "nothing was raised" in caplog.text
    assert SECRET not in caplog.text


def logging_texts(source: str) -> list[int]:
    """Lines that log an exception with its text: by `exception`, or by `exc_info`."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    return [
        call.lineno
        for call in calls
        # A future's `exception()` takes no text: it is asked, and logs nothing.
        if (isinstance(call.func, ast.Attribute) and call.func.attr == "exception" and call.args)
        or any(word.arg == "exc_info" for word in call.keywords)
    ]


def test_nobody_in_the_gateway_logs_what_an_exception_says() -> None:
    """O4: whatever logging the application has of its own; `outline` instead."""
    package = Path(__file__).resolve().parents[3] / "gateway"
    found = {file.relative_to(package).as_posix(): logging_texts(file.read_text()) for file in package.rglob("*.py")}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("line", ["logger.exception('x')", "logger.error('x', exc_info=True)", "log.warning('x', exc_info=error)"])
def test_who_does_is_found(line: str) -> None:
    assert logging_texts(line) == [1]
