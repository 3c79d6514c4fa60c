"""What the documents show can be used as it stands."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator

import click
import pytest
import yaml

from gateway import BackendAPIGateway
from gateway.cli.main import gateway as command_line
from gateway.config import load_text
from tests.support.documents import README, ROOT, all_snippets

#: docs/configuration.md is held by its own tests; Kubernetes' own objects are not ours.
CONFIGURATIONS = [
    pytest.param(text, id=where)
    for where, text in all_snippets("yaml")
    if not where.startswith("docs/configuration.md") and "apiVersion:" not in text
]
PYTHON = [pytest.param(text, id=where) for where, text in all_snippets("python")]
JSON = [pytest.param(text, id=where) for where, text in all_snippets("json")]
SHELL = [pytest.param(text, id=where) for where, text in all_snippets("sh")]
TARGETS = set(re.findall(r"^([a-z0-9-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("text", CONFIGURATIONS)
def test_configurations_are_accepted(text: str) -> None:
    load_text(text if text.startswith("version") else f"version: 1\n{text}", {}, require_files=False)


@pytest.mark.parametrize("text", PYTHON)
def test_python_runs_up_to_the_start(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BackendAPIGateway, "start", lambda self, **_: None)
    exec(compile(text, "document", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("text", JSON)
def test_json_is_json(text: str) -> None:
    json.loads(text)


def commands(text: str) -> Iterator[list[str]]:
    """The simple commands of a shell text, pipes taken apart."""
    for line in text.replace("\\\n", " ").splitlines():
        for piece in re.split(r" \| |; ", line):
            words = shlex.split(piece, comments=True)
            if words:
                yield words


@pytest.mark.parametrize("text", SHELL)
def test_commands_exist_with_their_options(text: str) -> None:
    for words in commands(text):
        if words[0] == "make":
            assert len(words) == 1 or words[1] in TARGETS, words
        elif words[0] == "gateway":
            check_gateway(words[1:])
        elif words[0].startswith("scripts/"):
            assert (ROOT / words[0]).is_file()


def check_gateway(words: list[str]) -> None:
    """The command line takes these words; nothing is run."""
    command = command_line.get_command(click.Context(command_line), words[0])
    assert command is not None, words
    # Files are the reader's, so they need not be there.
    command.make_context(words[0], [str(README) if word == "gateway.yaml" else word for word in words[1:]])


def test_yaml_of_every_document_is_yaml() -> None:
    for where, text in all_snippets("yaml"):
        assert list(yaml.safe_load_all(text.replace("${", "$${"))), where
