"""A sample of the tables over TLS: the parser sees the same bytes, and connections end as rows say."""

from __future__ import annotations

import pytest

from tests.conformance.http.conftest import Loop
from tests.conformance.http.scene import Scene, play, play_answer
from tests.conformance.http.test_answers import CASES as ANSWERS
from tests.conformance.http.test_requests import CASES as REQUESTS

#: Rows whose connection is kept, and rows that close it: these take half a second each, because TLS has no half-closed connection.
KEPT = [name for name, case in REQUESTS.items() if case.kept and "wire" in case.adapters][::6]
CLOSED = [name for name, case in REQUESTS.items() if not case.kept and "wire" in case.adapters][::20]
RELAYED = [name for name, answer in ANSWERS.items() if "wire" in answer.adapters][::6]


@pytest.mark.parametrize("name", [*KEPT, *CLOSED])
def test_a_request_is_taken_as_its_row_says(loop: Loop, secure_scene: Scene, name: str) -> None:
    """H1, H5, H9, H13."""

    async def main() -> None:
        case = REQUESTS[name]
        for delivery in ("at once", "warm", "in pieces") if case.kept else ("at once",):
            await play(secure_scene, case, "wire", delivery)

    loop.run(main())


@pytest.mark.parametrize("name", RELAYED)
def test_an_answer_is_relayed_or_refused_as_its_row_says(loop: Loop, secure_scene: Scene, name: str) -> None:
    """H12, H13."""

    async def main() -> None:
        for piece_bytes in (1 << 20, 7):
            await play_answer(secure_scene, ANSWERS[name], "wire", piece_bytes)

    loop.run(main())


def test_the_sample_is_large() -> None:
    assert min(len(KEPT), len(RELAYED)) >= 15
    assert len(CLOSED) >= 5
