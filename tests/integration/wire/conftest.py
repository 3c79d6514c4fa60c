"""What the tests of the wire share: one store, which most of them never ask, and gateways between raw sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway_process import Adapter, RunningGateway, declared, patient, serving
from tests.support.recording_upstream import RecordingUpstream, Script, recording_upstream
from tests.support.redis_server import redis_server

Fleet = Callable[..., AbstractAsyncContextManager[tuple[RunningGateway, list[RecordingUpstream]]]]
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


@pytest.fixture
def fleet(store: str, tmp_path: Path) -> Fleet:
    """A gateway with the route `/s/{rest:path}` to a service with several scripted instances, taken in turn unless the service says else.

    A URL in place of a script is an instance that somebody else runs, or nobody.
    """

    @asynccontextmanager
    async def started(
        *scripts: Script | str | None, adapter: Adapter = "wire", service: Mapping[str, Any] | None = None
    ) -> AsyncIterator[tuple[RunningGateway, list[RecordingUpstream]]]:
        async with AsyncExitStack() as stack:
            upstreams = [await stack.enter_async_context(recording_upstream(each)) for each in scripts if not isinstance(each, str)]
            others = [each for each in scripts if isinstance(each, str)]
            app = declared(tmp_path, store, None)
            keys = {"balance": "round_robin", **patient(service)}
            app.service("s", **keys, instances=[*(each.url for each in upstreams), *others])
            app.proxy("/s/{rest:path}", "s", authentication="none")
            async with serving(app, tmp_path, adapter) as gateway:
                yield gateway, upstreams

    return started
