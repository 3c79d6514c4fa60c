"""A cluster: each shard on the node that owns its slot, found by asking the nodes, followed when it moves [redis.io: cluster spec]."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot

from gateway.store.address import Address
from gateway.store.connecting import (
    CALL_SECONDS,
    HEALTH_CHECK_SECONDS,
    POOL_CONNECTIONS,
    POOL_WAIT_SECONDS,
    connect_soon,
    connection_arguments,
)
from gateway.store.error import StoreError
from gateway.store.lines import OnChange
from gateway.store.slot_lines import SlotLines
from gateway.store.slots import Nodes

#: How often redis-py's client asks again after a connection was lost or the cluster was down. What it is used for may be done twice.
_CLIENT_RETRIES = 3


class Cluster:
    """The nodes of a cluster."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self.client = _BoundedClient(address)
        self._nodes = Nodes(address)

    async def connect(self, tag: bytes = b"") -> AbstractConnection:
        """A connection to the node that owns a tag's slot. Raises StoreError."""
        view = await self._nodes.ask_all()
        node = view.owner(key_slot(tag))
        if node is None:
            raise StoreError("unavailable", f"no node of the cluster owns the slot of {tag.decode()}")
        return await connect_soon(self._address, node)

    def lines(self, tags: Sequence[bytes], prepare: Sequence[bytes], on_change: OnChange) -> SlotLines:
        """A line for each shard, over one connection for each node that owns some."""
        return SlotLines(self._address, self._nodes, [key_slot(tag) for tag in tags], tuple(prepare), on_change)

    async def close(self) -> None:
        """Closes the client's connections."""
        await self.client.aclose()


class _BoundedClient(RedisCluster):
    """redis-py's client, which would give up at once when all connections to a node are in use."""

    def __init__(self, address: Address) -> None:
        arguments = connection_arguments(address.arguments) | {"retry": Retry(NoBackoff(), _CLIENT_RETRIES)}
        super().__init__(
            startup_nodes=[ClusterNode(node.host, node.port) for node in address.nodes],
            ssl=issubclass(address.connection_class, SSLConnection),
            # A node's loss must not take the others' slots with it.
            require_full_coverage=False,
            reinitialize_steps=1,
            max_connections=POOL_CONNECTIONS,
            health_check_interval=HEALTH_CHECK_SECONDS,
            **arguments,
        )
        # It knows of no other classes than its own two.
        self.connection_kwargs["connection_class"] = address.connection_class
        for node in self.nodes_manager.startup_nodes.values():
            node.connection_class = address.connection_class  # type: ignore[assignment]
        self._places = asyncio.Semaphore(POOL_CONNECTIONS)

    async def execute_command(self, *words: Any, **options: Any) -> Any:
        async with asyncio.timeout(POOL_WAIT_SECONDS):
            await self._places.acquire()
        try:
            async with asyncio.timeout(2 * CALL_SECONDS):
                return await super().execute_command(*words, **options)
        except redis_errors.RedisClusterException as exc:
            # No node answers, or none owns the slot. It is no RedisError, which everybody expects.
            raise redis_errors.ConnectionError(str(exc)) from exc
        finally:
            self._places.release()
