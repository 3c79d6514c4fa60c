"""State URLs: what they mean, and what is said about those that mean nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection

from gateway.errors import ConfigError
from gateway.settings import StateSettings
from gateway.store.redis import Store, parse_address


@pytest.mark.parametrize(
    ("url", "connection_class", "arguments"),
    [
        ("redis://host", Connection, {"host": "host", "port": 6379, "db": 0}),
        ("redis://host:7000/5", Connection, {"host": "host", "port": 7000, "db": 5}),
        ("redis://[::1]:7000", Connection, {"host": "::1", "port": 7000, "db": 0}),
        ("redis://:secret@host", Connection, {"host": "host", "port": 6379, "db": 0, "password": "secret"}),
        ("redis://u%40x:p%2Fq@host", Connection, {"host": "host", "port": 6379, "db": 0, "username": "u@x", "password": "p/q"}),
        ("unix:///run/redis.sock", UnixDomainSocketConnection, {"path": "/run/redis.sock", "db": 0}),
        ("unix://u:p@/run/a%20b?db=2", UnixDomainSocketConnection, {"path": "/run/a b", "db": 2, "username": "u", "password": "p"}),
    ],
)
def test_a_url_names_a_server(url: str, connection_class: type[object], arguments: dict[str, object]) -> None:
    address = parse_address(StateSettings(url=url))
    assert address.connection_class is connection_class
    assert address.arguments == arguments


def test_tls_is_always_verified(tmp_path: Path) -> None:
    """SC-8(1)."""
    ca_file = tmp_path / "ca.pem"
    ca_file.touch()
    address = parse_address(StateSettings(url="rediss://host", ca_file=str(ca_file)))
    assert address.connection_class is SSLConnection
    assert address.arguments["ssl_cert_reqs"] == "required"
    assert address.arguments["ssl_check_hostname"] is True
    assert address.arguments["ssl_ca_certs"] == str(ca_file)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://u:hidden@host", "state.url: http://u:***@host: unknown scheme 'http'; redis://"),
        ("", "unknown scheme ''"),
        ("redis://", "a host is missing"),
        ("redis://u:hidden@", "a host is missing"),
        ("redis://u:hidden@host:99999", "not a URL with a port from 1 to 65535"),
        ("redis://u:hidden@host:port", "not a URL with a port"),
        ("redis://u:hidden@host/zero", "the database must be a number from 0, not 'zero'"),
        ("redis://u:hidden@host/-1", "the database must be a number"),
        ("redis://u:hidden@host?ssl_cert_reqs=none", "options after '?' or '#' are not allowed"),
        ("rediss://u:hidden@host#x", "options after '?' or '#' are not allowed"),
        ("unix://relative.sock", "an absolute path is missing"),
        ("unix:///run/redis.sock?timeout=0", "only '?db=N' may follow the path"),
        ("redis+sentinel://u:hidden@a,b,c/master", "redis+sentinel:// is not available yet"),
        ("redis+cluster://a,b", "redis+cluster:// is not available yet"),
        ("embedded://", "an embedded store is started first"),
    ],
)
def test_a_url_that_can_not_be_used_is_named_without_its_password(url: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(StateSettings(url=url))
    assert message in str(caught.value)
    assert str(caught.value).startswith("state.url: ")
    assert "hidden" not in str(caught.value)


def test_tls_files_must_exist_and_belong_together(tmp_path: Path) -> None:
    there = tmp_path / "there.pem"
    there.touch()
    with pytest.raises(ConfigError, match=r"state\.ca_file: there is no file '/nowhere'"):
        parse_address(StateSettings(url="rediss://host", ca_file="/nowhere"))
    with pytest.raises(ConfigError, match="a client certificate needs both"):
        parse_address(StateSettings(url="rediss://host", certificate_file=str(there)))
    with pytest.raises(ConfigError, match="TLS files are set but the scheme is redis://"):
        parse_address(StateSettings(url="redis://host", ca_file=str(there)))


def test_a_store_shows_no_secret_and_has_one_shard() -> None:
    async def main() -> None:
        store = Store.open(StateSettings(url="redis://user:hidden@host:1/2"))
        assert repr(store) == "<Store redis://user:***@host:1/2 shards=1>"
        assert {store.shard_of(f"user-{number}") for number in range(100)} == {0}
        assert store.shard_of("a") == store.shard_of(b"a")
        assert store.tag(0) == b"{s00}"
        await store.close()

    asyncio.run(main())
