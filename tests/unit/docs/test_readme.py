"""The README claims what is there, and lists what is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

from gateway import errors
from gateway.cli.main import gateway as command_line
from gateway.config import load_text, models
from gateway.config.values import NotYet, OneOf
from tests.support.documents import README, ROOT, code_words, part, snippets

NOT_YET = part(README, "## Not available yet")


def markers(annotation: Any) -> list[object]:
    """What is attached to a type, however deep."""
    return [*getattr(annotation, "__metadata__", ()), *(found for inner in get_args(annotation) for found in markers(inner))]


def sections(annotation: Any) -> list[type[models.Section]]:
    if isinstance(annotation, type) and issubclass(annotation, models.Section):
        return [annotation]
    return [found for inner in get_args(annotation) for found in sections(inner)]


def refused(model: type[models.Section], path: tuple[str, ...] = ()) -> Iterator[str]:
    """Keys, and values of keys, that the configuration refuses as not available yet."""
    for name, field in model.model_fields.items():
        here = (*path, name)
        for marker in [*field.metadata, *markers(field.annotation)]:
            if isinstance(marker, NotYet):
                yield ".".join(here)
            elif isinstance(marker, OneOf):
                yield from (f"{'.'.join(here)}: {word}" for word in marker.later)
        for section in sections(field.annotation):
            yield from refused(section, here)


def test_the_list_of_what_is_missing_is_that_of_the_configuration() -> None:
    rows = "\n".join(line.split("|")[1] for line in NOT_YET.splitlines() if line.startswith("| `"))
    assert code_words(rows) == set(refused(models.File))


def test_missing_commands_are_missing() -> None:
    text = NOT_YET[NOT_YET.index("the commands") :].partition("the admin endpoints")[0]
    missing = {word.split()[0] for word in code_words(text)}
    assert missing
    assert not missing & set(command_line.list_commands(None))  # type: ignore[arg-type]  # it does not look at the context


def test_the_steps_name_every_code_and_no_other() -> None:
    """CONTRACT section 5: each code stands at the step that answers with it."""
    named = {word for word in code_words(part(README, "## The path of a request")) if re.fullmatch(r"[a-z_]{6,}", word)} - {"code"}
    tree = errors.__doc__ or ""
    known = set(re.findall(r"\b[a-z]+(?:_[a-z]+)*\b", " ".join(re.findall(r"[A-Z]\w+ \d{3} +(.+)", tree))))
    # `draining` has no answer of its own: the port is closed by then.
    assert named == known - {"draining"}


def test_the_smallest_examples_are_those_of_a_first_try() -> None:
    [python] = snippets(README, "python")
    [configuration] = snippets(README, "yaml")
    assert "gateway.start(port=8080)" in python
    settings = load_text(configuration, {})
    assert [route.path for route in settings.routes] == ["/patients/{id}"]
    assert settings.state.url == "embedded://"


def test_the_picture_is_there_and_says_what_it_shows() -> None:
    text = (ROOT / "docs" / "images" / "request-path.svg").read_text(encoding="utf-8")
    assert "<title" in text
    assert "<desc" in text
    assert "prefers-color-scheme: dark" in text
