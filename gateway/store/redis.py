"""The shared store: from a URL to a client, and to the lines that admission uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol
from zlib import crc32

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection, SSLConnection

from discovery.tls import NOBODY, TlsFailures
from gateway.settings import StateSettings
from gateway.store.address import Address, Kind, parse_address
from gateway.store.cluster import Cluster
from gateway.store.error import StoreError, translated
from gateway.store.lines import Lines, OnChange
from gateway.store.script import Script
from gateway.store.sentinel import Guarded
from gateway.store.standalone import Standalone
from gateway.store.tls import StoreTls, with_tls

#: redis-py's client of one server, or of a cluster: the same commands, as long as the keys of one command share a hash tag.
Client = Redis | RedisCluster


class Servers(Protocol):
    """The servers behind a URL."""

    @property
    def client(self) -> Client: ...

    async def connect(self, tag: bytes = b"") -> AbstractConnection: ...

    def lines(self, tags: Sequence[bytes], prepare: Sequence[bytes], on_change: OnChange) -> Lines: ...

    async def close(self) -> None: ...


_SERVERS: dict[Kind, Callable[[Address], Servers]] = {"standalone": Standalone, "sentinel": Guarded, "cluster": Cluster}


class Store:
    """The shared store of all replicas. Made by `open`; nothing connects before it is used.

    Args:
        servers: where it is kept.
        shown: its URL, without secrets.
        shards: how many virtual shards the keys are spread over.
        tls: what its connections are made with, where they are secure.

    Attributes:
        client: for ordinary use. Its calls raise redis-py's exceptions; wrap them in `translated()`.
    """

    def __init__(self, servers: Servers, shown: str, shards: int = 1, tls: StoreTls | None = None) -> None:
        self._servers = servers
        self._tls = tls
        self._shown = shown
        self.shards = shards
        self.client = servers.client
        self._tags = tuple(b"{s%02d}" % shard for shard in range(shards))

    @classmethod
    def open(cls, settings: StateSettings, failures: TlsFailures = NOBODY) -> Store:
        """The store that the settings name. An embedded server is started before, and its own URL given here.

        Raises:
            ConfigError: the URL or a TLS file can't be used. The message never shows a password.
        """
        address, tls = parse_address(settings), None
        if issubclass(address.connection_class, SSLConnection):
            tls = StoreTls(settings, failures)
            address = with_tls(address, tls)
        return cls(_SERVERS[address.kind](address), address.shown, settings.shard_count, tls)

    def __repr__(self) -> str:
        return f"<Store {self._shown} shards={self.shards}>"

    def renew_certificates(self) -> None:
        """Use what the TLS files hold now, for connections that are made from now on. Raises ConfigError; then nothing has changed."""
        if self._tls is not None:
            self._tls.renew()

    def shard_of(self, key: bytes | str) -> int:
        """The shard that everything about `key` (a subject, a client address) lives on."""
        return crc32(key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key) % self.shards

    def tag(self, shard: int) -> bytes:
        """The hash tag of a shard: `{s07}`."""
        return self._tags[shard]

    def lines(self, prepare: Sequence[bytes], on_change: OnChange) -> Lines:
        """Lines to all shards, not opened yet.

        Args:
            prepare: whole commands that are sent first on each connection; when one fails the connection is not used.
            on_change: is told when a shard can be reached and when no longer.
        """
        return self._servers.lines(self._tags, prepare, on_change)

    async def connect(self, shard: int = 0) -> AbstractConnection:
        """A new connection of its own to the server of a shard: connected, authenticated, database selected, speaking RESP2 (a reply
        follows each command and nothing else comes). The caller disconnects it.

        Raises:
            StoreError: no server, or it does not let us in.
        """
        return await self._servers.connect(self._tags[shard])

    async def run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | int]) -> Any:
        """Runs a script once. Where the server does not know it, its text is sent: nothing was done before.

        Raises:
            StoreError: it failed, or nobody knows whether it was done (`unavailable`, `timeout`).
        """
        try:
            return await self._command("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except StoreError as exc:
            if exc.kind != "no_script":
                raise
        return await self._command("EVAL", script.text, len(keys), *keys, *arguments)

    async def hash_values(self, key: bytes) -> list[bytes]:
        """All values of a hash; empty when there is none. Raises StoreError."""
        values: list[bytes] = await self._command("HVALS", key)
        return values

    async def command(self, *words: bytes | str | int) -> Any:
        """Runs one command once. Raises StoreError."""
        return await self._command(*words)

    async def close(self) -> None:
        """Closes the client's connections."""
        await self._servers.close()

    async def _command(self, *words: bytes | str | int) -> Any:
        with translated():
            return await self.client.execute_command(*words)
