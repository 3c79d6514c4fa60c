"""The shared store: from a URL to a client, and to the pipelined connections that admission uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit
from zlib import crc32

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.errors import ConfigError
from gateway.settings import StateSettings
from gateway.store.error import StoreError, client_error, translated
from gateway.store.script import Script

_DEFAULT_PORT = 6379
_CONNECT_SECONDS = 1.0
#: For ordinary use (revocations, API keys, heartbeats): long enough for a listing, short enough for a dead server to be noticed.
_CALL_SECONDS = 2.0
_POOL_CONNECTIONS = 16
_POOL_WAIT_SECONDS = 1.0
_HEALTH_CHECK_SECONDS = 15
_ALLOWED = "redis://, rediss://, unix:// and embedded:// are allowed"


@dataclass(frozen=True, slots=True)
class Address:
    """How to reach a server: redis-py's connection class and its keyword arguments, and a form to show that holds no secret."""

    connection_class: type[AbstractConnection]
    arguments: dict[str, Any]
    shown: str


class Store:
    """The shared store of all replicas. Made by `open`; nothing connects before it is used.

    Attributes:
        client: for ordinary use. Its calls raise redis-py's exceptions; wrap them in `translated()`.
        shards: how many virtual shards the keys are spread over. A standalone server has one.
    """

    shards: int = 1

    def __init__(self, address: Address) -> None:
        self._address = address
        self.client: Redis = Redis(connection_pool=self._pool())
        self._tags = tuple(b"{s%02d}" % shard for shard in range(self.shards))

    @classmethod
    def open(cls, settings: StateSettings) -> Store:
        """The store that the settings name. An embedded server is started before, and its own URL given here.

        Raises:
            ConfigError: the URL or a TLS file can't be used. The message never shows a password.
        """
        return cls(parse_address(settings))

    def __repr__(self) -> str:
        return f"<Store {self._address.shown} shards={self.shards}>"

    def shard_of(self, key: bytes | str) -> int:
        """The shard that everything about `key` (a subject, a client address) lives on."""
        return crc32(key.encode() if isinstance(key, str) else key) % self.shards

    def tag(self, shard: int) -> bytes:
        """The hash tag of a shard: `{s07}`."""
        return self._tags[shard]

    async def connect(self) -> AbstractConnection:
        """A new connection of its own: connected, authenticated, database selected, speaking RESP2 (a reply follows each command and
        nothing else comes). The caller disconnects it.

        Raises:
            StoreError: no server, or it does not let us in.
        """
        connection = self._address.connection_class(protocol=2, **self._arguments())
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        except Exception as exc:
            raise client_error(exc) from exc
        except BaseException:
            # Cancelled in the middle of the handshake.
            await connection.disconnect(nowait=True)
            raise
        return connection

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

    async def close(self) -> None:
        """Closes the client's connections."""
        await self.client.aclose()
        await self.client.connection_pool.disconnect()

    async def _command(self, *words: bytes | str | int) -> Any:
        with translated():
            return await self.client.execute_command(*words)  # type: ignore[no-untyped-call]

    def _arguments(self) -> dict[str, Any]:
        # No retries: a script that was sent and not answered may have counted. The defaults would send it eleven times over a minute.
        return {
            "socket_timeout": _CALL_SECONDS,
            "socket_connect_timeout": _CONNECT_SECONDS,
            "retry": Retry(NoBackoff(), 0),
            "client_name": "gateway",
            **self._address.arguments,
        }

    def _pool(self) -> BlockingConnectionPool:
        return BlockingConnectionPool(
            max_connections=_POOL_CONNECTIONS,
            timeout=_POOL_WAIT_SECONDS,
            connection_class=self._address.connection_class,
            health_check_interval=_HEALTH_CHECK_SECONDS,
            **self._arguments(),
        )


def parse_address(settings: StateSettings) -> Address:
    """What `state.url` and its TLS files mean. Raises ConfigError naming the value, without its password, and what is allowed."""
    url = settings.url
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        # The parser's own words may repeat the value.
        raise ConfigError(f"state.url: not a URL with a port from 1 to 65535; {_ALLOWED}") from exc
    shown = redacted(parts)
    if parts.scheme == "unix":
        return _unix_address(parts, shown)
    if parts.scheme in ("redis", "rediss"):
        return _tcp_address(parts, port, shown, settings)
    if parts.scheme in ("redis+sentinel", "redis+cluster"):
        raise ConfigError(f"state.url: {shown}: {parts.scheme}:// is not available yet; {_ALLOWED}")
    if parts.scheme == "embedded":
        raise ConfigError(f"state.url: {shown}: an embedded store is started first, and its unix:// URL opened")
    raise ConfigError(f"state.url: {shown}: unknown scheme {parts.scheme!r}; {_ALLOWED}")


def redacted(parts: SplitResult) -> str:
    """A URL to show in messages and logs: the user name stays, the password and the query do not."""
    host = parts.netloc.rpartition("@")[2]
    user = f"{parts.username or ''}:***@" if parts.password else (f"{parts.username}@" if parts.username else "")
    return f"{parts.scheme}://{user}{host}{parts.path}"


def _tcp_address(parts: SplitResult, port: int | None, shown: str, settings: StateSettings) -> Address:
    if not parts.hostname:
        raise ConfigError(f"state.url: {shown}: a host is missing; redis://host:6379/0 is the form")
    if parts.query or parts.fragment:
        raise ConfigError(f"state.url: {shown}: options after '?' or '#' are not allowed; only user, password, host, port and database are")
    arguments = {"host": unquote(parts.hostname), "port": port or _DEFAULT_PORT, "db": _database(parts.path.strip("/"), shown)}
    arguments |= _credentials(parts)
    if parts.scheme == "redis":
        if settings.ca_file or settings.certificate_file or settings.key_file:
            raise ConfigError(f"state.url: {shown}: TLS files are set but the scheme is redis://; rediss:// uses them")
        return Address(Connection, arguments, shown)
    return Address(SSLConnection, arguments | _tls(settings), shown)


def _unix_address(parts: SplitResult, shown: str) -> Address:
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if not parts.path.startswith("/") or parts.path == "/":
        raise ConfigError(f"state.url: {shown}: an absolute path is missing; unix:///run/redis.sock?db=0 is the form")
    if set(query) - {"db"} or parts.fragment:
        raise ConfigError(f"state.url: {shown}: only '?db=N' may follow the path")
    arguments = {"path": unquote(parts.path), "db": _database(query.get("db", ""), shown)}
    return Address(UnixDomainSocketConnection, arguments | _credentials(parts), shown)


def _credentials(parts: SplitResult) -> dict[str, Any]:
    credentials = {"username": parts.username, "password": parts.password}
    return {name: unquote(value) for name, value in credentials.items() if value}


def _database(text: str, shown: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"state.url: {shown}: the database must be a number from 0, not {text!r}")
    return int(text)


def _tls(settings: StateSettings) -> dict[str, Any]:
    files = {"ca_file": settings.ca_file, "certificate_file": settings.certificate_file, "key_file": settings.key_file}
    for name, value in files.items():
        if value and not Path(value).is_file():
            raise ConfigError(f"state.{name}: there is no file {value!r}")
    if bool(settings.certificate_file) != bool(settings.key_file):
        raise ConfigError("state.certificate_file, state.key_file: a client certificate needs both")
    return {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_ca_certs": settings.ca_file or None,
        "ssl_certfile": settings.certificate_file or None,
        "ssl_keyfile": settings.key_file or None,
    }
