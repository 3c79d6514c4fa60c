"""A source that a test speaks through."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from discovery.instance import Instance
from discovery.source import Failed, Found, Publish


class ScriptedSource:
    """Publishes what the test tells it to, at once."""

    def __init__(self, *instances: Instance) -> None:
        self._first = instances
        self._publish: Publish | None = None
        self.watches = 0
        self.cancelled = 0

    async def watch(self, publish: Publish) -> None:
        """Publish the first instances if there are any, then wait for the test."""
        self.watches += 1
        self._publish = publish
        if self._first:
            self.find(*self._first)
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled += 1

    def find(self, *instances: Instance, **details: object) -> None:
        """A complete answer."""
        assert self._publish is not None
        self._publish(Found(instances, **details))  # type: ignore[arg-type]

    def fail(self, reason: str = "broken") -> None:
        """No answer."""
        assert self._publish is not None
        self._publish(Failed(reason))


async def until(condition: Callable[[], object], seconds: float = 30.0) -> float:
    """Wait for a condition; how long it took. Fails when it does not come true in time."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "the condition did not come true in time"
        await asyncio.sleep(0.002)
    return time.monotonic() - start
