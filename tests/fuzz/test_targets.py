"""Every target on what is kept of earlier runs, and on a few inputs that hypothesis makes up. `make fuzz` looks for more."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conformance.http.mutation import TOKENS
from tests.fuzz.catalogue import TARGETS
from tests.fuzz.target import CORPUS, CRASHES, Target

KEPT = [(target, path) for target in TARGETS.values() for path in target.kept()]
#: Examples of each way to make them up.
EXAMPLES = 40


@pytest.mark.parametrize(("target", "path"), KEPT, ids=[f"{target.name}-{path.parent.parent.name}-{path.name}" for target, path in KEPT])
def test_what_is_kept_holds(target: Target, path: Path) -> None:
    """H1, H2, H3, H6, H12, S-3, S-7, S-8, S-9, S-16a, S-27, S-28, S-37, F-7: seeds, and what once was a finding."""
    target.check(path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_has_seeds(name: str) -> None:
    assert list((CORPUS / name).iterdir())


def test_nothing_is_kept_for_a_target_that_is_gone() -> None:
    folders = {folder.name for kept in (CORPUS, CRASHES) for folder in kept.iterdir() if folder.is_dir()}
    assert folders <= TARGETS.keys()


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_bytes_hold(name: str, data: st.DataObject) -> None:
    """F-7: bytes that nobody chose, and words of the target in any order."""
    target = TARGETS[name]
    words = st.lists(st.one_of(st.sampled_from(target.words), st.binary(max_size=8)), max_size=12).map(b"".join)
    target.check(data.draw(st.one_of(st.binary(max_size=64), words)))


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_damaged_seeds_hold(name: str, data: st.DataObject) -> None:
    """F-7: what is nearly right comes further than what is not."""
    target = TARGETS[name]
    message = bytearray(data.draw(st.sampled_from(target.kept())).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(message)))
        end = data.draw(st.integers(start, min(start + 4, len(message))))
        message[start:end] = data.draw(st.one_of(st.sampled_from((*TOKENS, *target.words)), st.binary(max_size=4)))
    target.check(bytes(message[: target.most_bytes]))
