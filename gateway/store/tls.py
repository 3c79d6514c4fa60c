"""TLS towards the store: one context for all connections, exchanged when the configuration is loaded again and a file holds something else.

redis-py would make a context for each connection, from the files as they are at that moment, and trust the system's authorities besides
those that are configured.
"""

from __future__ import annotations

import ssl
from dataclasses import replace
from typing import Any, ClassVar

from redis.asyncio.connection import SSLConnection

from discovery.tls import TlsFailures, client_context, failure_of
from gateway.errors import ConfigError
from gateway.settings import StateSettings
from gateway.store.address import Address


class StoreTls:
    """What connections to the store are made with.

    Args:
        settings: name the files.
        failures: is told of handshakes that fail.

    Raises:
        ConfigError: a file can't be used.
    """

    def __init__(self, settings: StateSettings, failures: TlsFailures) -> None:
        self._settings = settings
        self.failures = failures
        self.context = self._read()

    def renew(self) -> None:
        """Connections that are made from now on use what the files hold now. Raises ConfigError; then nothing has changed."""
        self.context = self._read()

    def _read(self) -> ssl.SSLContext:
        settings = self._settings
        try:
            return client_context(settings.ca_file, settings.certificate_file, settings.key_file)
        except (OSError, ValueError) as exc:
            files = ", ".join(filter(None, (settings.ca_file, settings.certificate_file, settings.key_file)))
            raise ConfigError(f"state.ca_file, state.certificate_file, state.key_file: can't be used ({files}): {exc}") from exc


class StoreConnection(SSLConnection):
    """A connection of redis-py with our context. `with_tls` binds it."""

    tls: ClassVar[StoreTls]

    def _connection_arguments(self) -> dict[str, Any]:
        # Past redis-py's own context, which would be made of the files.
        return {**super(SSLConnection, self)._connection_arguments(), "ssl": self.tls.context}

    async def connect(self) -> None:
        try:
            await super().connect()  # type: ignore[no-untyped-call]
        except Exception as exc:
            if (failure := failure_of(exc)) is not None:
                self.tls.failures.note("store", f"{self.host}:{self.port}", failure)
                # With TLS 1.3 a refusal comes when the connection is made, and redis-py would leave it open.
                await self.disconnect(nowait=True)
            raise


def with_tls(address: Address, tls: StoreTls) -> Address:
    """The address, whose connections are made with `tls`."""
    return replace(address, connection_class=type("BoundStoreConnection", (StoreConnection,), {"tls": tls}))
