"""Who is judged, and what they answered: asked once for all cases."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.limits.subject import SPREADS_MS, Subject, named_subject, our_replicas, our_subject
from tests.conformance.limits.trial import Trial, trial
from tests.support.fault_fixtures import form, login, measured
from tests.support.faults import FIGURES, Form
from tests.support.redis_server import redis_server
from tests.support.whole_gateway import ProcessGateway

__all__ = ["form", "login", "measured"]

#: Cases that only our own gateways can be asked: they kill processes and look into the store.
collect_ignore = ["test_ours.py", "test_shards_and_shares.py", "test_judgement.py"] if named_subject() else []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A case for which somebody else's limiter has no path is not asked."""
    named = named_subject()
    if named is not None:
        marks = {item: item.get_closest_marker("case") for item in items}
        left_out = [item for item, mark in marks.items() if mark is not None and mark.args[0] not in named.paths]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def figures_file(form: Form) -> Path | None:
    """Figures of somebody else's limiter are shown where a test fails, and not kept among ours."""
    return FIGURES if form.name == "long" and named_subject() is None else None


@pytest.fixture(scope="package")
def clocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[int, ProcessGateway]]]:
    """Nine gateways of ours on one Redis, each with how many milliseconds its clock is ahead."""
    offsets = (0, 0, 0, *SPREADS_MS)
    with redis_server("redis") as server, our_replicas(tmp_path_factory.mktemp("replicas"), server, offsets) as gateways:
        yield list(zip(offsets, gateways, strict=True))


@pytest.fixture(scope="package")
def subject(request: pytest.FixtureRequest) -> Subject:
    """Somebody else's limiter, or ours."""
    named = named_subject()
    return named if named is not None else our_subject(request.getfixturevalue("clocked"))


@pytest.fixture(scope="package")
def answered(subject: Subject, form: Form) -> Trial:
    """What the limiter answered in all cases."""
    return asyncio.run(trial(subject, form.seconds(20, 130)))
