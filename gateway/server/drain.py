"""How a serving process ends so that no client notices (SPEC G1).

Load balancers learn from `/readyz` that they should send no more, each in its own time, so the port stays open meanwhile and answers tell
their clients to close. Then the port is closed, requests under way get their time, and what is left is cut so that the client sees it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Protocol

from discovery.ending import end
from gateway.errors import GatewayError, Unavailable
from gateway.exchange import Exchange
from gateway.settings import DrainSettings

logger = logging.getLogger("gateway.drain")

#: For what a request that was given up has to give back.
CUT_OFF_SECONDS = 1.0


class Handler(Protocol):
    """The pipeline."""

    def open(self, exchange: Exchange) -> None:
        """Read the head and find the route."""

    def begin(self, exchange: Exchange) -> bool:
        """Do the rest, if nothing on the way has to be awaited; False when nothing was done."""

    async def handle(self, exchange: Exchange) -> None:
        """Do the rest."""


class Handling(Protocol):
    """What new requests are handed to: the server protocol's front."""

    handler: Handler


class Connection(Protocol):
    """A client's connection."""

    def last_answer(self) -> None:
        """Close after the answer that is being prepared, if there is one."""

    def give_up(self, error: GatewayError) -> None:
        """End the request that is being answered."""


class Server(Protocol):
    """The server of the data port."""

    @property
    def connections(self) -> Collection[Connection]:
        """Those that are open."""

    @property
    def tasks(self) -> Collection[asyncio.Task[None]]:
        """Requests that are being handled."""

    def stop(self) -> None:
        """Close the port and idle connections, and end when the last connection has."""

    def force(self) -> None:
        """End without waiting for connections."""


class LastAnswers:
    """Hands requests on to the pipeline, notes when the last one came, and has the answers close their connections."""

    def __init__(self, handler: Handler, clock: Callable[[], float]) -> None:
        #: What it hands on to.
        self.handler = handler
        self._open = handler.open
        self._clock = clock
        self.begin = handler.begin
        self.handle = handler.handle
        #: Of the newest request, in the clock's seconds.
        self.came_at = clock()

    def open(self, exchange: Exchange) -> None:
        """Read the head and find the route."""
        self.came_at = self._clock()
        self._open(exchange)
        exchange.last_answer()


class Drain:
    """One process's end. Nothing happens before `begin`.

    Args:
        front: requests are handed to its handler.
        server: of the data port.
        settings: gives the settings in force when it begins.
        on_begin: called once, with who wanted it: to be not ready from then on.
    """

    def __init__(self, front: Handling, server: Server, settings: Callable[[], DrainSettings], on_begin: Callable[[str], None]) -> None:
        self._front = front
        self._server = server
        self._settings = settings
        self._on_begin = on_begin
        self._loop = asyncio.get_running_loop()
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Do nothing more: everything has ended."""
        if self._task is not None:
            await end((self._task,))

    def begin(self, who: str, *, at_once: bool = False) -> None:
        """End in order, the first time; without any more waiting the second time.

        Args:
            who: wants it, for the records.
            at_once: nobody else sends requests here, so close the port without a delay.
        """
        if self._task is not None:
            self._hurry.set()
            self._server.force()
            return
        self._on_begin(who)
        self._task = self._loop.create_task(self._run(self._settings(), at_once=at_once), name="drain")

    async def _run(self, settings: DrainSettings, *, at_once: bool) -> None:
        last = LastAnswers(self._front.handler, self._loop.time)
        self._front.handler = last
        for connection in list(self._server.connections):
            connection.last_answer()
        if not at_once:
            await self._until_quiet(last, settings)
        self._server.stop()
        await self._pause(settings.timeout)
        await self._cut_off()

    async def _until_quiet(self, last: LastAnswers, settings: DrainSettings) -> None:
        latest = self._loop.time() + settings.delay
        while (remaining := min(latest, last.came_at + settings.quiet) - self._loop.time()) > 0 and not self._hurry.is_set():
            await self._pause(remaining)

    async def _pause(self, seconds: float) -> None:
        """Wait for so long, or until somebody is in a hurry."""
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            pass

    async def _cut_off(self) -> None:
        """End what is still under way, while it can be told and recorded."""
        for connection in list(self._server.connections):
            connection.give_up(Unavailable("draining", reason="draining"))
        if tasks := list(self._server.tasks):
            logger.warning("%d requests are cut off: they were not over in time", len(tasks))
            await asyncio.wait(tasks, timeout=CUT_OFF_SECONDS)
        self._server.force()
