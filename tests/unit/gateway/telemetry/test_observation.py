"""Tries that repeat others."""

from __future__ import annotations

import pytest

from gateway.telemetry.observation import Try, resend_counts
from tests.support.observations import attempt

RESET = "upstream_reset"


def tries(*kinds: tuple[str, str, int]) -> list[Try]:
    made = []
    for service, error, status in kinds:
        one = attempt(status, error=error)
        one.service = service
        made.append(one)
    return made


@pytest.mark.parametrize(
    ("kinds", "counts"),
    [
        ([], []),
        ([("", "", 200)], [0]),
        ([("", RESET, 0), ("", "", 503), ("", "", 200)], [0, 1, 2]),
        ([("claims", "", 200), ("claims", "", 200)], [0, 0]),
        ([("claims", RESET, 0), ("patients", "", 200)], [0, 0]),
        ([("claims", RESET, 0), ("claims", "", 404), ("claims", "", 200)], [0, 1, 0]),
    ],
)
def test_only_a_try_after_a_failed_one_at_the_same_service_is_a_resend(kinds: list[tuple[str, str, int]], counts: list[int]) -> None:
    """O2: http.request.resend_count, also where a handler calls services on its own."""
    assert resend_counts(tries(*kinds)) == counts
