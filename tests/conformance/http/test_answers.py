"""Every row of the table of answers, under both adapters, in reads of every size, behind answers whose head is repeated."""

from __future__ import annotations

import pytest

from tests.conformance.http.answers import CASES as ROWS
from tests.conformance.http.conftest import Loop
from tests.conformance.http.scene import Scene, play_answer

CASES = {f"{answer.name} [{answer.source}]": answer for answer in ROWS}
#: All, one byte, and a number that is no divisor of anything.
PIECES_BYTES = (1 << 20, 1, 7)


def test_no_row_hides_another() -> None:
    assert len(CASES) == len(ROWS)


@pytest.mark.parametrize("name", CASES)
def test_an_answer_is_relayed_or_refused_as_its_row_says(loop: Loop, scene: Scene, name: str) -> None:
    """H2, H5, H11, H12, S-7, S-11, S-16, S-16a, S-17, S-18, S-20, S-33: and the next request gets its own answer."""

    async def main() -> None:
        answer = CASES[name]
        for adapter in answer.adapters:
            for piece_bytes in PIECES_BYTES:
                await play_answer(scene, answer, adapter, piece_bytes)

    loop.run(main())
