"""State URLs: which servers one names, and how to reach them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection

from gateway.errors import ConfigError
from gateway.hosts import host_and_port, split_hosts
from gateway.settings import StateSettings

Kind = Literal["standalone", "sentinel", "cluster"]
_DEFAULT_PORT = 6379
_SENTINEL_PORT = 26379
_ALLOWED = "redis://, redis+sentinel://, redis+cluster://, their rediss forms, unix:// and embedded:// are allowed"
_TCP_SCHEME = re.compile(r"(rediss?)(?:\+(sentinel|cluster))?")
_FORMS = {
    "standalone": "redis://host:6379/0",
    "sentinel": "redis+sentinel://host1,host2,host3/name-of-the-primary",
    "cluster": "redis+cluster://host1,host2",
}
_SENTINEL_OPTIONS = {f"sentinel_{argument}": argument for argument in ("username", "password")}


class Node(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Address:
    """How to reach the store.

    Attributes:
        connection_class, arguments: redis-py's class of connections and its arguments, for a server that keeps data. `host` and `port`
            are among them only for a standalone server: those of others are found out.
        shown: the URL without secrets, for messages.
        kind: what `nodes` are: nothing (standalone), the sentinels, or some nodes of the cluster.
        primary_name: what the sentinels call the primary.
        sentinel_arguments: arguments for a connection to a sentinel.
    """

    connection_class: type[AbstractConnection]
    arguments: dict[str, Any] = field(repr=False)
    shown: str
    kind: Kind = "standalone"
    nodes: tuple[Node, ...] = ()
    primary_name: str = ""
    sentinel_arguments: dict[str, Any] = field(default_factory=dict, repr=False)


def parse_address(settings: StateSettings) -> Address:
    """What `state.url` and its TLS files mean. Raises ConfigError naming the value, without its password, and what is allowed."""
    parts, hosts = _split(settings.url)
    shown = redacted(parts, hosts)
    if parts.scheme == "unix":
        return _unix_address(parts, shown)
    if parts.scheme == "embedded":
        raise ConfigError(f"state.url: {shown}: an embedded store is started first, and its unix:// URL opened")
    scheme = _TCP_SCHEME.fullmatch(parts.scheme)
    if scheme is None:
        raise ConfigError(f"state.url: {shown}: unknown scheme {parts.scheme!r}; {_ALLOWED}")
    return _TCP_ADDRESSES[scheme[2]](parts, hosts, shown, _transport(scheme[1], shown, settings))


def redacted(parts: SplitResult, hosts: str) -> str:
    """A URL to show in messages and logs: the user name stays, the password and the query do not."""
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        # A password with `/`, `?` or `#` in it that are not percent-encoded: its parts are where nobody looks for them.
        return f"{parts.scheme}://***@{parts.path.rpartition('@')[2]}"
    user = f"{parts.username or ''}:***@" if parts.password else (f"{parts.username}@" if parts.username else "")
    return f"{parts.scheme}://{user}{hosts}{parts.path}"


def _split(url: str) -> tuple[SplitResult, str]:
    try:
        return split_hosts(url)
    except ValueError as exc:
        # The parser's own words may repeat the value.
        raise ConfigError(f"state.url: not a URL; {_ALLOWED}") from exc


# Servers behind TCP: a connection class with the arguments of its transport, shared by all forms

_Transport = tuple[type[AbstractConnection], dict[str, Any]]


def _standalone_address(parts: SplitResult, hosts: str, shown: str, transport: _Transport) -> Address:
    (node,) = _nodes(hosts, shown, "standalone", _DEFAULT_PORT)
    _refuse_options(parts, shown)
    own = {"host": node.host, "port": node.port, "db": _database(parts.path.strip("/"), shown)}
    return Address(transport[0], own | _credentials(parts) | transport[1], shown)


def _sentinel_address(parts: SplitResult, hosts: str, shown: str, transport: _Transport) -> Address:
    nodes = _nodes(hosts, shown, "sentinel", _SENTINEL_PORT)
    name, _, database = parts.path.strip("/").partition("/")
    if not name:
        raise ConfigError(f"state.url: {shown}: the name of the primary is missing; {_FORMS['sentinel']} is the form")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if set(options) - set(_SENTINEL_OPTIONS) or parts.fragment:
        raise ConfigError(f"state.url: {shown}: only {' and '.join(_SENTINEL_OPTIONS)} may follow '?'")
    to_sentinels = {_SENTINEL_OPTIONS[option]: value for option, value in options.items() if value} | transport[1]
    arguments = {"db": _database(database, shown)} | _credentials(parts) | transport[1]
    return Address(transport[0], arguments, shown, "sentinel", nodes, unquote(name), to_sentinels)


def _cluster_address(parts: SplitResult, hosts: str, shown: str, transport: _Transport) -> Address:
    nodes = _nodes(hosts, shown, "cluster", _DEFAULT_PORT)
    _refuse_options(parts, shown)
    if parts.path not in ("", "/", "/0"):
        raise ConfigError(f"state.url: {shown}: a cluster has no databases but 0; {_FORMS['cluster']} is the form")
    return Address(transport[0], _credentials(parts) | transport[1], shown, "cluster", nodes)


_TCP_ADDRESSES = {None: _standalone_address, "sentinel": _sentinel_address, "cluster": _cluster_address}


def _nodes(hosts: str, shown: str, kind: Kind, default_port: int) -> tuple[Node, ...]:
    nodes = tuple(_node(host, shown, kind, default_port) for host in hosts.split(","))
    if kind == "standalone" and len(nodes) > 1:
        raise ConfigError(f"state.url: {shown}: one host is allowed; redis+sentinel:// and redis+cluster:// take several")
    return nodes


def _node(host: str, shown: str, kind: Kind, default_port: int) -> Node:
    try:
        return Node(*host_and_port(host, default_port))
    except ValueError as exc:
        raise ConfigError(f"state.url: {shown}: a host is missing, or its port is not from 1 to 65535; {_FORMS[kind]} is the form") from exc


def _refuse_options(parts: SplitResult, shown: str) -> None:
    if parts.query or parts.fragment:
        raise ConfigError(f"state.url: {shown}: options after '?' or '#' are not allowed; only user, password, host, port and database are")


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
        raise ConfigError(f"state.url: {shown}: the database must be a number from 0")
    return int(text)


def _transport(scheme: str, shown: str, settings: StateSettings) -> _Transport:
    if scheme == "rediss":
        return SSLConnection, _tls(settings)
    if settings.ca_file or settings.certificate_file or settings.key_file:
        raise ConfigError(f"state.url: {shown}: TLS files are set but the scheme is redis; rediss uses them")
    return Connection, {}


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
