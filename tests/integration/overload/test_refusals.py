"""What a process does for requests that it refuses: the answer that each kind is said to get, and no more CPU than a few good requests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from benchmarks.hostile_requests import BEYOND, Keys, Kind, good, kinds
from benchmarks.refusals import BEGIN, END, PAGE, SHOWN, Figure, Started, UnexpectedAnswer, experiment, gateway, measure, service

#: How many good requests a refusal may cost. Measured were at most 8.6 where a token is looked into, and 2.7 elsewhere.
MOST_OF_A_TOKEN, MOST = 18.0, 6.0
ROW = re.compile(r"(?m)^\| (\d{3}) \| (.+?) \| (\d+) \| ([\d.]+) \| (?:yes|no) \|$")


@pytest.fixture(scope="module")
def measured() -> tuple[Figure, list[Figure]]:
    """Every kind, in a short run that fails where an answer is not that of its kind."""
    return experiment(batches=5, requests=10)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Keys, Started]]:
    """A gateway that refuses as the benchmark's does."""
    keys = Keys()
    with service(keys) as url, gateway(url, "off") as started:
        yield keys, started


def too_dear(best: Figure, figures: list[Figure], of_a_token: float, otherwise: float) -> list[str]:
    """Names of the kinds that cost more good requests than they may."""
    most = {figure.kind.name: of_a_token if figure.kind.code.startswith("token_") else otherwise for figure in figures}
    return [f"{figure.kind.name}: {figure.us / best.us:.1f}" for figure in figures if figure.us > most[figure.kind.name] * best.us]


def test_no_refusal_costs_more_than_so_many_good_requests(measured: tuple[Figure, list[Figure]]) -> None:
    """Whatever is wrong with a request, it costs a bounded amount of CPU."""
    best, figures = measured
    assert {figure.kind.status for figure in figures} == {204, 400, 401, 403, 404, 405, 413, 414, 429, 431}
    assert too_dear(best, figures, MOST_OF_A_TOKEN, MOST) == []
    assert too_dear(best, figures, 1.5, 1.5), "the figures tell dear from cheap"


def test_beyond_the_limit_of_failures_the_dearest_token_costs_little(measured: tuple[Figure, list[Figure]]) -> None:
    """A8: nothing of it is verified."""
    us = {figure.kind.name: figure.us for figure in measured[1]}
    assert us[BEYOND] < 0.3 * us["RS256 without a `kid`, four keys of 8192 bits tried, wrong signature"]


@pytest.mark.parametrize("change", [{"status": 401}, {"code": "forbidden"}])
def test_a_kind_that_gets_another_answer_is_no_figure(served: tuple[Keys, Started], change: dict[str, object]) -> None:
    keys, started = served
    wrong = replace(good(keys), **change)  # type: ignore[arg-type]
    with pytest.raises(UnexpectedAnswer, match=re.escape(f"{wrong.name}: answered with (200, '')")):
        measure(started.pid, started.port, [wrong], batches=1, requests=1)


def test_the_page_shows_the_dearest_kinds() -> None:
    keys = Keys()
    known = {(str(kind.status), kind.name) for kind in (good(keys), *kinds(keys, keys.signed()))}
    rows = ROW.findall(PAGE.read_text().partition(BEGIN)[2].partition(END)[0])
    *refused, best = rows
    assert len(refused) == SHOWN
    assert {(status, name) for status, name, _, _ in rows} <= known
    assert best[0] == "200"
    costs = [int(us) for _, _, us, _ in refused]
    assert costs == sorted(costs, reverse=True)
    assert all(int(us) <= MOST_OF_A_TOKEN * int(best[2]) for _, _, us, _ in refused)


def test_numbered_requests_differ_and_others_do_not() -> None:
    keys = Keys()
    opaque = next(kind for kind in kinds(keys, b"x") if kind.name.startswith("a short opaque token"))
    assert opaque.nth(1) != opaque.nth(2)
    assert len(opaque.nth(1)) == len(opaque.octets)
    plain: Kind = good(keys)
    assert plain.nth(1) == plain.nth(2) == plain.octets
