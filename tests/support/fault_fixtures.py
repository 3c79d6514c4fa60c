"""Fixtures that the fault suite and the conformance suite share; their conftest files import them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faults import FIGURES, Form, Measured, this_machine
from tests.support.identity_provider import identity_provider
from tests.support.whole_gateway import Login


@pytest.fixture(scope="session")
def form() -> Form:
    """Short or long."""
    return Form.from_environment()


@pytest.fixture(scope="session")
def figures_file(form: Form) -> Path | None:
    """Where figures are kept, if they are."""
    return FIGURES if form.name == "long" else None


@pytest.fixture
def measured(request: pytest.FixtureRequest, figures_file: Path | None) -> Iterator[Measured]:
    """Takes the figures of the test's row, and keeps those of a test that passed."""
    found = Measured(request.function.fault.row)
    failed_before = request.session.testsfailed
    yield found
    if figures_file is not None and request.session.testsfailed == failed_before:
        found.keep(figures_file, this_machine())


@pytest.fixture(scope="module")
def login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    """An issuer."""
    with identity_provider() as provider:
        yield Login.at(provider, tmp_path_factory.mktemp("login"))
