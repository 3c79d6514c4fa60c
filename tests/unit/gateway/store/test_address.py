"""State URLs: what they mean, and what is said about those that mean nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection

from gateway.errors import ConfigError
from gateway.settings import StateSettings
from gateway.store.address import Node, parse_address


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


@pytest.mark.parametrize(
    ("url", "kind", "nodes", "arguments"),
    [
        ("redis+sentinel://a,b:7000,[::1]/primary", "sentinel", [("a", 26379), ("b", 7000), ("::1", 26379)], {"db": 0}),
        ("redis+sentinel://u:p%40@a/primary/3", "sentinel", [("a", 26379)], {"db": 3, "username": "u", "password": "p@"}),
        ("redis+cluster://a,b:7000", "cluster", [("a", 6379), ("b", 7000)], {}),
        ("redis+cluster://:p@[::1]:7,[::2]/", "cluster", [("::1", 7), ("::2", 6379)], {"password": "p"}),
    ],
)
def test_a_url_may_name_sentinels_or_nodes(url: str, kind: str, nodes: list[tuple[str, int]], arguments: dict[str, object]) -> None:
    address = parse_address(StateSettings(url=url))
    assert (address.kind, address.connection_class) == (kind, Connection)
    assert list(address.nodes) == [Node(*node) for node in nodes]
    assert address.arguments == arguments


def test_sentinels_have_a_user_of_their_own() -> None:
    url = "redis+sentinel://u:data@a/my%20primary?sentinel_username=watcher&sentinel_password=p%40ss"
    address = parse_address(StateSettings(url=url))
    assert address.primary_name == "my primary"
    assert address.sentinel_arguments == {"username": "watcher", "password": "p@ss"}
    assert address.shown == "redis+sentinel://u:***@a/my%20primary"


@pytest.mark.parametrize("url", ["rediss+sentinel://a/primary", "rediss+cluster://a"])
def test_tls_goes_to_every_server(url: str) -> None:
    """SC-8(1)."""
    address = parse_address(StateSettings(url=url))
    assert address.connection_class is SSLConnection
    assert address.arguments["ssl_cert_reqs"] == "required"
    if address.kind == "sentinel":
        assert address.sentinel_arguments["ssl_cert_reqs"] == "required"


@pytest.mark.parametrize("password", ["hid/den", "hid?den", "hid#den"])
def test_a_password_that_breaks_the_url_is_not_shown_in_pieces(password: str) -> None:
    """O4: `/`, `?` and `#` in a password have to be percent-encoded; whoever forgot is told so without it."""
    with pytest.raises(ConfigError) as caught:
        parse_address(StateSettings(url=f"redis://u:{password}@host/0"))
    assert "hid" not in str(caught.value)
    assert "den" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://u:hidden@host/0", "redis+sentinel://u:hidden@a/primary?sentinel_password=hidden", "unix://u:hidden@/s"]
)
def test_an_address_does_not_show_its_password(url: str) -> None:
    """O4."""
    address = parse_address(StateSettings(url=url))
    assert "hidden" in str((address.arguments, address.sentinel_arguments))
    assert "hidden" not in repr(address)


def test_a_node_is_shown_as_in_a_url() -> None:
    assert [str(Node("a", 1)), str(Node("::1", 2))] == ["a:1", "[::1]:2"]


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
        ("redis://u:hidden@host:99999", "its port is not from 1 to 65535"),
        ("redis://u:hidden@host:port", "its port is not from 1 to 65535"),
        ("redis://u:hidden@host/zero", "the database must be a number from 0"),
        ("redis://u:hidden@host/-1", "the database must be a number"),
        ("redis://u:hidden@host?ssl_cert_reqs=none", "options after '?' or '#' are not allowed"),
        ("rediss://u:hidden@host#x", "options after '?' or '#' are not allowed"),
        ("unix://relative.sock", "an absolute path is missing"),
        ("unix:///run/redis.sock?timeout=0", "only '?db=N' may follow the path"),
        ("redis://u:hidden@a,b", "one host is allowed"),
        ("redis://u:hidden@:6379", "a host is missing"),
        ("redis://u:hidden@host:0", "its port is not from 1 to 65535"),
        ("redis+sentinel://u:hidden@a,b,c", "the name of the primary is missing"),
        ("redis+sentinel://u:hidden@a,,c/primary", "a host is missing"),
        ("redis+sentinel://u:hidden@a,b:x/primary", "its port is not from 1 to 65535"),
        ("redis+sentinel://u:hidden@a/primary/zero", "the database must be a number"),
        ("redis+sentinel://u:hidden@a/primary?db=1", "only sentinel_username and sentinel_password may follow '?'"),
        ("redis+cluster://u:hidden@a,b/1", "a cluster has no databases but 0"),
        ("redis+cluster://u:hidden@a?x=y", "options after '?' or '#' are not allowed"),
        ("redis+other://u:hidden@a", "unknown scheme 'redis+other'"),
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
    with pytest.raises(ConfigError, match="TLS files are set but the scheme is redis"):
        parse_address(StateSettings(url="redis://host", ca_file=str(there)))
