"""What the tests of the wire share: one store, which most of them never ask, and gateways between raw sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway_process import Adapter, RunningGateway, declared, serving
from tests.support.recording_upstream import RecordingUpstream, Script, recording_upstream
from tests.support.redis_server import redis_server

Stage = Callable[..., AbstractAsyncContextManager[tuple[RunningGateway, RecordingUpstream]]]


@pytest.fixture(scope="session")
def store() -> Iterator[str]:
    with redis_server("valkey") as server:
        yield server.url


@pytest.fixture
def stage(store: str, tmp_path: Path) -> Stage:
    """A gateway with the route `/s/{rest:path}` to a scripted upstream."""

    @asynccontextmanager
    async def staged(
        script: Script | None = None, adapter: Adapter = "wire", **sections: Any
    ) -> AsyncIterator[tuple[RunningGateway, RecordingUpstream]]:
        async with recording_upstream(script) as upstream:
            app = declared(tmp_path, store, upstream, **sections)
            async with serving(app, tmp_path, adapter) as gateway:
                yield gateway, upstream

    return staged
