"""The store that these gateways share; most of them never ask it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.redis_server import redis_server


@pytest.fixture(scope="session")
def store() -> Iterator[str]:
    with redis_server("valkey") as server:
        yield server.url
