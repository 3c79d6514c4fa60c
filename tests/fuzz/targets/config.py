"""`gateway.yaml` of any bytes (CONTRACT section 3; F-7)."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import orjson

from gateway.admin.redaction import redacted
from gateway.config.caution import warnings
from gateway.config.loading import load
from gateway.config.problems import ConfigProblems
from gateway.router import Router
from gateway.settings import Settings
from tests.fuzz.target import Target

_SECRET = "hunter2-of-the-environment"
_ENVIRONMENT = {"SECRET": _SECRET, "PORT": "9000", "LATIN": "caf\udce9"}
#: Nothing in a message may end its line or drive a terminal.
_ONE_LINE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
#: A message repeats no more than a piece of a bad value.
_LONGEST_MESSAGE = 1500
_PLACE = re.compile(r".*gateway\.yaml(:[1-9][0-9]*:[1-9][0-9]*)?( .+)?: .+")


def check(data: bytes) -> None:
    """A file with these bytes gives settings that can be used and shown, or problems: at least one, each one line with its place, in the
    order of the text, and none repeats a value of the environment."""
    path = _file(data)
    try:
        settings = load(path, _ENVIRONMENT, require_files=False)
    except ConfigProblems as error:
        check_problems(error)
        # A fuzzer that looks over our shoulder writes the value into the file.
        assert _SECRET[:8].encode() in data or _SECRET not in str(error), str(error)
        return
    check_settings(settings)


def check_problems(error: ConfigProblems) -> None:
    """That an operator can use them."""
    assert error.problems
    assert str(error) == "\n".join(map(str, error.problems))
    for problem in error.problems:
        text = str(problem)
        assert _ONE_LINE.fullmatch(text), text
        assert len(text) <= _LONGEST_MESSAGE, text
        assert _PLACE.fullmatch(text), text
        assert problem.message
    assert error.problems == sorted(error.problems, key=lambda each: (each.line, each.column))


def check_settings(settings: Settings) -> None:
    """That they can be put to work, looked through for danger, and shown without their secrets."""
    Router((route, None) for route in settings.routes)
    for caution in warnings(settings):
        assert _ONE_LINE.fullmatch(str(caution)), caution
    orjson.dumps(redacted(settings), option=orjson.OPT_NON_STR_KEYS)


def _file(data: bytes) -> Path:
    """A file that holds the bytes; one for each process."""
    path = Path(tempfile.gettempdir()) / f"fuzz-{os.getpid()}-gateway.yaml"
    path.write_bytes(data)
    return path


TARGET = Target(
    "config",
    check,
    (
        "gateway.config.document",
        "gateway.config.interpolation",
        "gateway.config.loading",
        "gateway.config.routes",
        "gateway.config.services",
        "gateway.config.limits",
        "gateway.config.authentication",
        "gateway.config.syntax",
        "gateway.config.validation",
        "gateway.config.values",
        "gateway.config.caution",
    ),
    (ConfigProblems,),
    tuple(
        word.encode()
        for word in (
            "version: 1\n",
            "routes:\n",
            "services:\n",
            "limits:\n",
            "authentication:\n",
            "issuers:\n",
            "state:\n",
            "audit:\n",
            "telemetry:\n",
            "discovery:\n",
            "- name: a\n",
            "  path: /a\n",
            "  service: s\n",
            "consul: s",
            "instances: [http://a:1]",
            "rate: 1/second",
            "key: subject",
            "${SECRET}",
            "${X:-1}",
            "${LATIN}",
            "<<: *a",
            "&a ",
            "*a",
            "!!str ",
            "{",
            "}",
            "[",
            "]",
            "|\n",
            "- ",
            "10s",
            "1KiB",
            "\xa0",
            "\x85",
            "---\n",
            "%YAML 1.2\n",
        )
    ),
    4096,
)
