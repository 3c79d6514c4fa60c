"""One gateway under each adapter for all rows, before one upstream, on an event loop of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway import BackendAPIGateway
from tests.conformance.http.scene import Scene, script_of
from tests.support.certificates import Authority, client_context
from tests.support.gateway_process import ADAPTERS, declared, serving
from tests.support.recording_upstream import recording_upstream
from tests.support.redis_server import redis_server

#: Longest time that one row may take, with all its deliveries.
ROW_SECONDS = 30


class Loop:
    """An event loop in a thread, so that what a session shares lives on while tests come and go."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine there, with a deadline."""
        asyncio.run_coroutine_threadsafe(asyncio.wait_for(main, ROW_SECONDS), self._loop).result()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture(scope="session")
def scene(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The gateways and the upstream that every row is played with."""
    scene = Scene()
    directory = tmp_path_factory.mktemp("http")
    stack = AsyncExitStack()
    with redis_server("valkey") as store:
        loop.run(_opened(scene, stack, store.url, directory))
        yield scene
        loop.run(stack.aclose())


@pytest.fixture(scope="module")
def secure_scene(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The same with one gateway, which speaks TLS."""
    scene = Scene()
    directory = tmp_path_factory.mktemp("https")
    authority = Authority(directory)
    files = authority.issue("127.0.0.1")
    tls = {"certificate_file": str(files.certificate), "key_file": str(files.key)}
    stack = AsyncExitStack()

    async def opened(store: str) -> None:
        scene.upstream = await stack.enter_async_context(recording_upstream(script_of(scene)))
        app = application(directory, store, scene, server={"tls": tls})
        gateway = scene.gateways["wire"] = await stack.enter_async_context(serving(app, directory))
        gateway.tls = client_context(authority)

    with redis_server("valkey") as store:
        loop.run(opened(store.url))
        yield scene
        loop.run(stack.aclose())


def application(directory: Path, store: str, scene: Scene, **sections: Any) -> BackendAPIGateway:
    """The gateway that rows are played with."""
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    route = {"methods": methods, "max": {"body_bytes": "1MiB"}}
    app = declared(directory, store, scene.upstream, service={"retry": {"attempts": 0}}, route=route, **sections)
    app.proxy("/p/{rest:path}", "s", methods=["GET"], authentication="none")
    return app


async def _opened(scene: Scene, stack: AsyncExitStack, store: str, directory: Path) -> None:
    scene.upstream = await stack.enter_async_context(recording_upstream(script_of(scene)))
    for adapter in ADAPTERS:
        place = directory / adapter
        place.mkdir()
        app = application(place, store, scene)
        scene.gateways[adapter] = await stack.enter_async_context(serving(app, place, adapter))
        place = directory / f"{adapter}-behind-proxies"
        place.mkdir()
        app = declared(place, store, scene.upstream, server={"trusted_proxies": ["127.0.0.0/8"]})
        scene.behind_proxies[adapter] = await stack.enter_async_context(serving(app, place, adapter))
