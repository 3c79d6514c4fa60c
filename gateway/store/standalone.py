"""A standalone server: one client, one line."""

from __future__ import annotations

from collections.abc import Sequence

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection

from gateway.store.address import Address
from gateway.store.connecting import HEALTH_CHECK_SECONDS, POOL_CONNECTIONS, POOL_WAIT_SECONDS, connect, connection_arguments
from gateway.store.lines import OnChange, SharedLine


class Standalone:
    """One server, whose address does not change."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self.client = Redis(
            connection_pool=BlockingConnectionPool(
                max_connections=POOL_CONNECTIONS,
                timeout=POOL_WAIT_SECONDS,
                connection_class=address.connection_class,
                health_check_interval=HEALTH_CHECK_SECONDS,
                **connection_arguments(address.arguments),
            )
        )

    async def connect(self, tag: bytes = b"") -> AbstractConnection:
        """A connection to the server. Raises StoreError."""
        return await connect(self._address)

    def lines(self, tags: Sequence[bytes], prepare: Sequence[bytes], on_change: OnChange) -> SharedLine:
        """One connection for all shards."""
        return SharedLine(self, prepare, len(tags), on_change)

    async def close(self) -> None:
        """Closes the client's connections."""
        await self.client.aclose()
        await self.client.connection_pool.disconnect()
