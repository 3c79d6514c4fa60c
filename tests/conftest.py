"""Settings for every test."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import settings

# Tests share the machine with servers that they start: how long one example takes says nothing.
settings.register_profile("gateway", deadline=None, print_blob=True)
settings.load_profile("gateway")


@pytest.fixture(scope="session", autouse=True)
def shared_authorities() -> Iterator[None]:
    """Clients of httpx that verify alike share a context: reading the authorities takes 25 ms, and tests make thousands of clients."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", functools.cache(httpx.create_ssl_context))
        yield
