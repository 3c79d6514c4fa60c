"""What our parsers accept is read identically by another one, else it is refused; and however it is cut into reads."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.conformance.http.answers import CASES as ANSWERS
from tests.conformance.http.case import AFTER
from tests.conformance.http.mutation import damaged
from tests.conformance.http.reading import Reading, h11_requests, h11_response, our_requests, our_response
from tests.conformance.http.scene import pieces
from tests.conformance.http.test_requests import CASES as REQUESTS

#: Damaged messages made of each row.
TIMES = 30


def differs(ours: Reading, theirs: Reading) -> bool:
    """Whether we read something that the other one refuses or reads differently. To end a connection sooner is no difference."""
    pairs = zip(ours.messages, theirs.messages, strict=False)
    same = all(mine == replace(other, goes_on=mine.goes_on and other.goes_on) for mine, other in pairs)
    return not same or len(ours.messages) > len(theirs.messages)


@pytest.mark.parametrize("table", sorted({name.partition(":")[0] for name in REQUESTS}))
def test_a_request_that_we_accept_is_read_identically_by_another_parser(table: str) -> None:
    """H1, S-1, S-2, S-3, S-5, S-6: every row, and thirty damaged ones of each."""
    for name, case in REQUESTS.items():
        if name.startswith(table):
            for sent in (case.sent + AFTER, *damaged(case.sent + AFTER, name, TIMES)):
                ours = our_requests([sent])
                assert not differs(ours, h11_requests(sent)), (name, sent, ours, h11_requests(sent))


@pytest.mark.parametrize("table", sorted({name.partition(":")[0] for name in REQUESTS}))
def test_a_request_is_read_identically_in_any_reads(table: str) -> None:
    """H1, S-3: at once, byte by byte, in random pieces."""
    for name, case in REQUESTS.items():
        if name.startswith(table):
            for sent in (case.sent + AFTER, *damaged(case.sent + AFTER, name, 4)):
                once = our_requests([sent])
                for delivery in ("byte by byte", "in pieces"):
                    assert our_requests(list(pieces(sent, delivery, name))) == once, (name, sent)


def test_an_answer_that_we_accept_is_read_identically_by_another_parser() -> None:
    """H12, S-16: every row, and thirty damaged ones of each."""

    async def main() -> None:
        for answer in ANSWERS:
            for sent in (answer.sent, *damaged(answer.sent, answer.name, TIMES)):
                ours = await our_response([sent] if sent else [], answer.end, answer.method)
                assert ours.refused or not differs(ours, h11_response(sent, answer.end, answer.method)), (answer, sent, ours)

    asyncio.run(main())
