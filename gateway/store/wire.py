"""One pipelined connection that comes back by itself: the low-level call path of admission.

redis-py opens the connection (TLS, user and password, database); from then on commands are bytes that were built elsewhere, written as
they come, and each reply goes to the callback of its command, in order. No task, no lock, no time-out object a call: a caller that stops
waiting leaves its callback behind, so a late reply can only ever reach the call that it belongs to.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import hiredis
from redis.asyncio.connection import AbstractConnection

from discovery.ending import end
from gateway.store.error import StoreError, reply_error

#: A reply is what hiredis makes of it, or a StoreError.
Reply = Any
OnReply = Callable[[Reply], None]

_FIRST_PAUSE_SECONDS = 0.02
#: Also how soon a store that came back is noticed (SPEC L10).
LONGEST_PAUSE_SECONDS = 0.8
#: A connection that ends sooner is no better than one that could not be opened: the next one waits longer.
_STEADY_SECONDS = 1.0
_log = logging.getLogger("gateway.store")
_NOT_ENOUGH = object()


class Connector(Protocol):
    """Opens connections: the store."""

    async def connect(self) -> AbstractConnection: ...


class _Link(asyncio.Protocol):
    """The life of one connection after its handshake."""

    def __init__(self, connection: AbstractConnection) -> None:
        #: Ends with the reason as soon as no command can be sent any more.
        self.lost: asyncio.Future[StoreError] = asyncio.get_running_loop().create_future()
        #: Called at that moment; the wire sets it once it uses the link.
        self.on_lost: Callable[[StoreError], None] = _ignore
        self._pending: deque[OnReply] = deque()
        self._reader = hiredis.Reader(replyError=reply_error, notEnoughData=_NOT_ENOUGH)
        self._connection = connection
        writer = connection._writer
        assert writer is not None
        self._transport = writer.transport
        # The stream protocol is told when the connection ends, or redis-py's disconnect would wait for it.
        self._stream: asyncio.BaseProtocol = self._transport.get_protocol()
        self._transport.set_protocol(self)

    @property
    def idle(self) -> bool:
        return not self._pending

    def send(self, payload: bytes, on_reply: OnReply) -> None:
        self._pending.append(on_reply)
        self._transport.write(payload)

    def abort(self, why: StoreError) -> None:
        self._lose(why)
        self._transport.abort()

    async def close(self) -> None:
        with contextlib.suppress(Exception):
            await self._connection.disconnect()

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        while True:
            try:
                reply = reader.gets()
            except (hiredis.ProtocolError, TypeError) as exc:
                # TypeError: a map with a list as a key, which RESP3 allows and Python has no dict for.
                self.abort(StoreError("unavailable", f"the server does not speak its protocol: {exc}"))
                return
            if reply is _NOT_ENOUGH:
                return
            if not self._pending:
                # From here on nobody can tell whose reply is whose.
                self.abort(StoreError("unavailable", "the server answered what nobody had asked"))
                return
            self._pending.popleft()(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream.connection_lost(exc)
        self._lose(StoreError("unavailable", f"the connection was lost: {exc or 'closed by the server'}"))
        pending, self._pending = self._pending, deque()
        for on_reply in pending:
            on_reply(self.lost.result())

    def _lose(self, why: StoreError) -> None:
        if not self.lost.done():
            self.lost.set_result(why)
            self.on_lost(why)


async def _reply_of(link: _Link, command: bytes) -> Reply:
    answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def on_reply(reply: Reply) -> None:
        if not answered.done():
            answered.set_result(reply)

    link.send(command, on_reply)
    reply = await answered
    if isinstance(reply, StoreError):
        raise reply
    return reply


def _ignore(_: StoreError) -> None:
    """For a link that is not in use yet."""


class Wire:
    """A connection to the store that is kept open, with a queue of replies.

    Args:
        connector: opens a connection.
        prepare: whole commands that are sent first on each connection; when one fails the connection is not used.
        on_change: called with None when the wire is up, with the reason when it went down.
        name: what it leads to, for the log.
        longest_pause_seconds: between two attempts to connect.
    """

    def __init__(
        self,
        connector: Connector,
        prepare: tuple[bytes, ...],
        on_change: Callable[[StoreError | None], None],
        *,
        name: str = "the store",
        longest_pause_seconds: float = LONGEST_PAUSE_SECONDS,
    ) -> None:
        self._connector = connector
        self._prepare = prepare
        self._on_change = on_change
        self._name = name
        self._longest_pause_seconds = longest_pause_seconds
        self._link: _Link | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._first_attempt = asyncio.Event()
        self._failing = False

    def __repr__(self) -> str:
        return f"<Wire {'up' if self.up else 'down'}>"

    @property
    def up(self) -> bool:
        """Whether commands can be sent."""
        return self._link is not None

    @property
    def idle(self) -> bool:
        """Whether nobody waits for a reply."""
        return self._link is None or self._link.idle

    async def open(self) -> None:
        """Starts to keep the connection; returns after the first attempt, whatever came of it."""
        self.start()
        await self.attempted()

    def start(self) -> None:
        """Starts to keep the connection."""
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def attempted(self) -> None:
        """Returns after the first attempt to connect, whatever came of it."""
        await self._first_attempt.wait()

    async def close(self) -> None:
        """Ends the connection for good. What waits for a reply gets an error."""
        if self._keeper is not None:
            await end((self._keeper,))

    def send(self, payload: bytes, on_reply: OnReply) -> None:
        """Sends one command. `on_reply` is called exactly once, with the reply or a StoreError, never from within this call.

        Only while the wire is up.
        """
        assert self._link is not None, "the wire is down"
        self._link.send(payload, on_reply)

    async def ask(self, payload: bytes) -> Reply:
        """Sends one command and waits for its reply. Raises StoreError."""
        if self._link is None:
            raise StoreError("unavailable", "not connected")
        return await _reply_of(self._link, payload)

    def abort(self, why: StoreError) -> None:
        """Gives up the connection, because it does not answer or because the server is not the one to talk to; a new one is opened."""
        if self._link is not None:
            self._link.abort(why)

    async def _keep(self) -> None:
        pause_seconds = _FIRST_PAUSE_SECONDS
        clock = asyncio.get_running_loop().time
        while True:
            served_seconds = 0.0
            started = clock()
            try:
                served_seconds = await self._use(await self._connect())
            except StoreError as exc:
                self._tell_failed(exc)
                self._first_attempt.set()
            if served_seconds > _STEADY_SECONDS:
                # Back at once: requests may wait within their budget.
                pause_seconds = _FIRST_PAUSE_SECONDS
                continue
            # Jitter, or every replica would come back in the same millisecond.
            pause = pause_seconds * random.uniform(0.5, 1.0)
            # An attempt that nobody answered was a pause by itself: the next one follows, or a store that is back would wait for both.
            await asyncio.sleep(max(pause - (clock() - started - served_seconds), _FIRST_PAUSE_SECONDS / 2))
            pause_seconds = min(pause_seconds * 2, self._longest_pause_seconds)

    async def _connect(self) -> _Link:
        connection = await self._connector.connect()
        link = _Link(connection)
        try:
            for command in self._prepare:
                await self._prepared(link, command)
            if link.lost.done():
                raise link.lost.result()
        except BaseException:
            await link.close()
            raise
        return link

    async def _prepared(self, link: _Link, command: bytes) -> None:
        try:
            async with asyncio.timeout(1.0):
                await _reply_of(link, command)
        except TimeoutError as exc:
            raise StoreError("timeout", "no answer while the connection was prepared") from exc

    async def _use(self, link: _Link) -> float:
        """Lets callers send until the connection ends. Returns how long it served."""
        started = asyncio.get_running_loop().time()
        link.on_lost = self._lost
        self._link = link
        self._first_attempt.set()
        if self._failing:
            self._failing = False
            _log.info("%s is usable again", self._name)
        try:
            self._on_change(None)
            # Not awaited directly: closing the wire cancels the keeper, and must not cancel what the link has to say.
            await asyncio.wait([link.lost])
            self._tell_failed(link.lost.result())
        finally:
            self._link = None
            await link.close()
        return asyncio.get_running_loop().time() - started

    def _tell_failed(self, why: StoreError) -> None:
        """One line an outage, however often it is tried."""
        if not self._failing:
            self._failing = True
            reason = " ".join(str(why).split())
            _log.warning("%s is not usable, its requests get 503 store_unavailable until it is: %s", self._name, reason)

    def _lost(self, why: StoreError) -> None:
        # At once, not when the keeper's turn comes: what is sent until then would never be answered.
        self._link = None
        self._on_change(why)
