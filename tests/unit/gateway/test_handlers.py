"""What a handler may return, and what is told about anything else."""

from __future__ import annotations

import logging

import pytest

from gateway.errors import Internal
from gateway.handlers import handler_response


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ("Jane Doe", "a str;"),
        ({"data": 1, "id": 7}, "the keys 'id';"),
        ({"123-45-6789": {}, "Jane Doe": {}, 17: {}}, "the keys (a str), (a str), (a int);"),
        ({letter * 3: 1 for letter in "abcdefghijkl"}, "'hhh', ...;"),
        ({"status": "Jane Doe"}, "a status of type str or out of range;"),
        ({"headers": "Jane Doe"}, "headers of type str;"),
        ({"data": {"Jane Doe"}}, "data that is no JSON: Type is not JSON serializable: set"),
    ],
)
def test_what_can_not_be_answered_is_told_without_its_values(result: object, told: str, caplog: pytest.LogCaptureFixture) -> None:
    """S-41, O4: types, and names that a programmer wrote; not what may be somebody's data."""
    with caplog.at_level(logging.ERROR), pytest.raises(Internal):
        handler_response(result, "clinic.get_patient")
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("handler clinic.get_patient returned ")
    assert told in message
    assert "Jane Doe" not in message
    assert "6789" not in message
