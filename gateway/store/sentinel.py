"""A primary that sentinels watch over: found by asking them, left when they name another [redis.io: Sentinel clients]."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection, Connection
from redis.exceptions import ReadOnlyError

from discovery.ending import end
from gateway.store.address import Address, Node
from gateway.store.connecting import (
    HEALTH_CHECK_SECONDS,
    POOL_CONNECTIONS,
    POOL_WAIT_SECONDS,
    answers,
    ask,
    connect_soon,
    connection_arguments,
)
from gateway.store.error import StoreError, client_error
from gateway.store.lines import Line, OnChange, SharedLine

#: The longest that a sentinel may take to answer.
_ANSWER_SECONDS = 0.25
#: How often the sentinels are asked whether the primary is still the one that we talk to. After a handover its predecessor goes on
#: taking writes for some seconds, and what it is told is lost.
_WATCH_SECONDS = 0.5
#: The longest pause before another attempt. A failover is over within a second of its detection, however the attempts fall.
_LONGEST_PAUSE_SECONDS = 0.2
_log = logging.getLogger("gateway.store")


class Primaries:
    """Knows who the primary is, from the sentinels.

    They may differ for a while, and one that was cut off may be wrong for long. Each failover has a number that only grows
    (`config-epoch`), so the highest one of all answers is right, and what is older than something that was known before is not believed.

    Args:
        address: names the sentinels and what they call the primary.
    """

    def __init__(self, address: Address) -> None:
        arguments = connection_arguments(address.sentinel_arguments) | {
            "socket_timeout": _ANSWER_SECONDS,
            "socket_connect_timeout": _ANSWER_SECONDS,
        }
        arguments |= {"connection_class": address.connection_class, "protocol": 2}
        self._name = address.primary_name
        self._sentinels = [Redis.from_pool(ConnectionPool(host=node.host, port=node.port, **arguments)) for node in address.nodes]
        self._newest_epoch = -1

    async def find(self) -> Node:
        """Where the primary is.

        Raises:
            StoreError: no sentinel answers, none knows the name, or they take the primary to be down.
        """
        newest = max(await answers(self._answer(sentinel) for sentinel in self._sentinels), key=lambda answer: answer.epoch)
        if newest.epoch < self._newest_epoch:
            raise StoreError("unavailable", "the sentinels that answer have missed a failover")
        self._newest_epoch = newest.epoch
        if newest.down:
            raise StoreError("unavailable", f"the sentinels take the primary {self._name!r} to be down")
        return newest.primary

    async def close(self) -> None:
        for sentinel in self._sentinels:
            await sentinel.aclose()

    async def _answer(self, sentinel: Redis) -> _Answer:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                # In this order: an address may be newer than its epoch, never older. While a failover is under way, only the second
                # command names the new primary already.
                state = await sentinel.execute_command("SENTINEL MASTER", self._name)  # type: ignore[no-untyped-call]
                host, port = await sentinel.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", self._name)  # type: ignore[no-untyped-call]
        except Exception as exc:
            raise client_error(exc) from exc
        primary = Node(_text(host), int(port))
        return _Answer(primary, state["config-epoch"], state["is_odown"] and primary == (state["ip"], state["port"]))


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one sentinel says. `down`: a majority of them can't reach the primary, and there is no successor yet."""

    primary: Node
    epoch: int
    down: bool


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


class Guarded:
    """The primary of a group that sentinels guard, whichever server that is."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._primaries = Primaries(address)
        self._pool = BlockingConnectionPool(
            max_connections=POOL_CONNECTIONS,
            timeout=POOL_WAIT_SECONDS,
            connection_class=_found(address.connection_class),
            find=self._primaries.find,
            health_check_interval=HEALTH_CHECK_SECONDS,
            **connection_arguments(address.arguments),
        )
        self.client = Redis(connection_pool=self._pool)
        #: Where the newest connection of admission leads.
        self.primary: Node | None = None

    async def connect(self, tag: bytes = b"") -> AbstractConnection:
        """A connection to the primary, which has said itself that it is one. Raises StoreError."""
        node = await self._primaries.find()
        connection = await connect_soon(self._address, node)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                role = await ask(connection, "ROLE")
            if role[0] != b"master":
                raise StoreError("read_only", f"{node} is a replica, although the sentinels name it the primary")
        except TimeoutError as exc:
            await connection.disconnect(nowait=True)
            raise StoreError("timeout", f"{node} does not say what its role is") from exc
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self.primary = node
        return connection

    def lines(self, tags: Sequence[bytes], prepare: Sequence[bytes], on_change: OnChange) -> GuardedLine:
        """One connection for all shards, and a watch over whether it still leads to the primary."""
        return GuardedLine(self, prepare, len(tags), on_change)

    async def moved(self) -> Node | None:
        """Where the primary is, when that is not where admission's newest connection leads. Raises StoreError."""
        node = await self._primaries.find()
        if node == self.primary:
            return None
        # Nothing may be read from a server that was demoted: it may not know the newest revocations and keys.
        await self._pool.disconnect(inuse_connections=False)
        return node

    async def close(self) -> None:
        await self.client.aclose()
        await self._pool.disconnect()
        await self._primaries.close()


class GuardedLine:
    """The line to the primary.

    A primary that was cut off from its sentinels goes on taking calls, also when there has been a new one for long. So the sentinels are
    asked again and again.
    """

    def __init__(self, servers: Guarded, prepare: Sequence[bytes], shards: int, on_change: OnChange) -> None:
        self._servers = servers
        self._line = SharedLine(servers, prepare, shards, on_change, _LONGEST_PAUSE_SECONDS)
        self._watch: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<GuardedLine {self._line}>"

    def line(self, shard: int) -> Line:
        return self._line.line(shard)

    async def open(self) -> None:
        self._watch = asyncio.get_running_loop().create_task(self._watch_over())
        await self._line.open()

    async def close(self) -> None:
        if self._watch is not None:
            await end((self._watch,))
        await self._line.close()

    async def _watch_over(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            with contextlib.suppress(StoreError):
                if self._line.wire.up and (node := await self._servers.moved()) is not None:
                    _log.warning("the store: the sentinels name %s the primary", node)
                    self._line.wire.abort(StoreError("read_only", f"the sentinels name {node} the primary"))


class _FoundConnection(Connection):
    """A pooled connection that leads to whoever is the primary when it is opened."""

    def __init__(self, *, find: Callable[[], Awaitable[Node]], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._find = find

    async def _connect(self) -> None:
        self.host, self.port = await self._find()
        await super()._connect()  # type: ignore[no-untyped-call]

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*arguments, **options)
        except ReadOnlyError:
            # Demoted: the next use of this connection looks for the new primary.
            await self.disconnect()
            raise


def _found(connection_class: type[AbstractConnection]) -> type[AbstractConnection]:
    """The same with the transport of another class."""
    return type("FoundConnection", (_FoundConnection, connection_class), {}) if connection_class is not Connection else _FoundConnection
