"""Every row of the tables of requests, under both adapters, in reads of every size."""

from __future__ import annotations

import pytest

from tests.conformance.http import framing, hops, semantics, syntax, targets
from tests.conformance.http.conftest import Loop
from tests.conformance.http.scene import Scene, deliveries, play

TABLES = (framing, syntax, targets, hops, semantics)
CASES = {f"{table.__name__.rpartition('.')[2]}: {case.name} [{case.source}]": case for table in TABLES for case in table.CASES}


def test_no_row_hides_another() -> None:
    assert len(CASES) == sum(len(table.CASES) for table in TABLES) >= 250


@pytest.mark.parametrize("name", CASES)
def test_a_request_is_taken_as_its_row_says(loop: Loop, scene: Scene, name: str) -> None:
    """H1, H2, H3, H4, H5, H9, S-1, S-2, S-3, S-4, S-5, S-6, S-7, S-8, S-9, S-10, S-11, S-12, S-13, S-14, S-15, S-21, S-33.

    At once, byte by byte, in random pieces, and behind a request that has warmed the paths for repeated heads.
    """

    async def main() -> None:
        case = CASES[name]
        for adapter in case.adapters:
            for delivery in deliveries(case, adapter):
                await play(scene, case, adapter, delivery)

    loop.run(main())
