"""What the tests of tunnels share: a store, and a gateway whose route `/s/{rest:path}` lets WebSockets through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.upstream.tunnel import Tunnel
from tests.support.gateway_process import RunningGateway, declared, serving
from tests.support.recording_upstream import RecordingUpstream, Script, recording_upstream
from tests.support.redis_server import redis_server
from tests.support.websockets import echo

Stage = Callable[..., AbstractAsyncContextManager[tuple[RunningGateway, RecordingUpstream]]]


def tunnels(gateway: RunningGateway) -> list[Tunnel]:
    """Those that are open."""
    return [each for each in gateway.runtime.client_deadlines._watched if isinstance(each, Tunnel)]


@pytest.fixture(scope="session")
def store() -> Iterator[str]:
    with redis_server("valkey") as server:
        yield server.url


@pytest.fixture
def stage(store: str, tmp_path: Path) -> Stage:
    """A gateway in this process between raw sockets. `websocket` is the route's key; without a script the upstream switches and echoes."""

    @asynccontextmanager
    async def staged(
        script: Script = echo, websocket: Any = True, route: dict[str, Any] | None = None, **sections: Any
    ) -> AsyncIterator[tuple[RunningGateway, RecordingUpstream]]:
        async with recording_upstream(script) as upstream:
            app = declared(tmp_path, store, upstream, route={"websocket": websocket, **(route or {})}, **sections)
            async with serving(app, tmp_path) as gateway:
                yield gateway, upstream

    return staged
