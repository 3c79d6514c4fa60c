"""A real server of each kind, shared by the tests of a module and emptied for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.redis_server import KINDS, RedisServer, any_server


@pytest.fixture(scope="module", params=KINDS)
def shared_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with any_server(request.param) as server:
        yield server


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    with shared_server.client() as client:
        client.flushall()
    return shared_server
