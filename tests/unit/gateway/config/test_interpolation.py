"""References to the environment."""

from __future__ import annotations

import pytest

from gateway.config.interpolation import interpolate
from gateway.config.problems import Wrong

ENVIRON = {"NAME": "value", "EMPTY": "", "NESTED": "${NAME}"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${NAME}", "value"),
        ("a${NAME}b${NAME}", "avaluebvalue"),
        ("${MISSING:-other}", "other"),
        ("${EMPTY:-other}", "other"),
        ("${EMPTY}", ""),
        ("${MISSING:-}", ""),
        ("${MISSING:-a:-b/c}", "a:-b/c"),
        ("${NESTED}", "${NAME}"),
        ("$$", "$"),
        ("$${NAME}", "${NAME}"),
        ("$$${NAME}", "$value"),
        ("$NAME costs $5", "$NAME costs $5"),
    ],
)
def test_references_are_replaced(text: str, expected: str) -> None:
    """CONTRACT §4: `${NAME}` and `${NAME:-default}` read the environment."""
    assert interpolate(text, ENVIRON) == expected


@pytest.mark.parametrize("text", ["${", "${}", "${NAME", "${1A}", "${NA ME}", "${NAME:+x}", "${NAME:x}"])
def test_malformed_references_are_refused(text: str) -> None:
    with pytest.raises(Wrong, match="malformed reference"):
        interpolate(text, ENVIRON)


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(Wrong, match="MISSING is not set"):
        interpolate("${MISSING}", ENVIRON)
