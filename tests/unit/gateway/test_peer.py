"""Whose forwarding fields are believed."""

from __future__ import annotations

import pytest

from gateway.headers import FieldList, FieldTable, parse_lines
from gateway.peer import MAX_HOPS, Peer, TrustedProxies

PROXIES = TrustedProxies(["10.0.0.0/8", "2001:db8::/32"])


def told(peer: Peer, *headers: tuple[bytes, bytes]) -> tuple[str, dict[bytes, bytes]]:
    """(the client's address, the forwarding fields for the upstream)."""
    fields = FieldTable().sort([(b"host", b"api.example.gov"), *headers])
    lines: FieldList = parse_lines(peer.forwarding_lines(fields))
    assert len(dict(lines)) == len(lines), "a field twice"
    return peer.client_ip(fields), dict(lines)


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("2001:db8::7%eth0", True),
        ("11.0.0.1", False),
        ("", False),
        ("unix:", False),
        ("10.1.2.3.4", False),
    ],
)
def test_trust_is_by_address(address: str, trusted: bool) -> None:
    """H3: never by what a header says."""
    assert PROXIES.trusts(address) is trusted
    assert TrustedProxies(()).trusts(address) is False


def test_an_untrusted_peer_is_the_client() -> None:
    """S-12: what it says about others is replaced."""
    evil = ((b"x-forwarded-for", b"10.0.0.1"), (b"x-forwarded-proto", b"https"), (b"x-forwarded-host", b"x"), (b"x-forwarded-port", b"1"))
    ip, fields = told(Peer("192.0.2.7", 5, "http", 8080, PROXIES), *evil)
    assert ip == "192.0.2.7"
    assert fields == {
        b"via": b"1.1 hms-gateway",
        b"x-forwarded-for": b"192.0.2.7",
        b"x-forwarded-proto": b"http",
        b"x-forwarded-port": b"8080",
        b"x-forwarded-host": b"api.example.gov",
    }


@pytest.mark.parametrize(
    ("chain", "client", "forwarded"),
    [
        ([b"192.0.2.7"], "192.0.2.7", b"192.0.2.7, 10.0.0.1"),
        ([b"198.51.100.1, 192.0.2.7, 10.9.9.9"], "192.0.2.7", b"198.51.100.1, 192.0.2.7, 10.9.9.9, 10.0.0.1"),
        ([b"198.51.100.1", b"192.0.2.7"], "192.0.2.7", b"198.51.100.1, 192.0.2.7, 10.0.0.1"),
        ([b"10.2.2.2, 10.3.3.3"], "10.2.2.2", b"10.2.2.2, 10.3.3.3, 10.0.0.1"),
        ([b"evil, 192.0.2.7"], "192.0.2.7", b"192.0.2.7, 10.0.0.1"),
        ([b"192.0.2.7, unknown"], "10.0.0.1", b"10.0.0.1"),
        ([b""], "10.0.0.1", b"10.0.0.1"),
        ([b"2001:DB8:1::1, 2001:0dC0::1"], "2001:dc0::1", b"2001:db8:1::1, 2001:dc0::1, 10.0.0.1"),
    ],
)
def test_a_trusted_chain_is_read_from_its_end(chain: list[bytes], client: str, forwarded: bytes) -> None:
    """H3: the last hop that isn't ours is the client; what is no address ends the chain."""
    ip, fields = told(Peer("10.0.0.1", 5, "http", 8080, PROXIES), *((b"x-forwarded-for", line) for line in chain))
    assert (ip, fields[b"x-forwarded-for"]) == (client, forwarded)


def test_a_chain_is_bounded() -> None:
    """F-41: the end counts, not the length."""
    chain = b", ".join(b"192.0.2.%d" % (number % 250) for number in range(1000))
    _, fields = told(Peer("10.0.0.1", 5, "http", 8080, PROXIES), (b"x-forwarded-for", chain))
    assert fields[b"x-forwarded-for"].count(b",") == MAX_HOPS


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (b"x-forwarded-proto", b"HTTPS", b"https"),
        (b"x-forwarded-proto", b"javascript", b"http"),
        (b"x-forwarded-port", b"443", b"443"),
        (b"x-forwarded-port", b"443443", b"8080"),
        (b"x-forwarded-port", b"-1", b"8080"),
        (b"x-forwarded-host", b"www.example.gov:444", b"www.example.gov:444"),
        (b"x-forwarded-host", b"a/b", b"api.example.gov"),
        (b"x-forwarded-host", b"", b"api.example.gov"),
    ],
)
def test_what_a_trusted_proxy_says_must_be_well_formed(name: bytes, value: bytes, expected: bytes) -> None:
    """H3."""
    _, fields = told(Peer("10.0.0.1", 5, "http", 8080, PROXIES), (name, value))
    assert fields[name] == expected
