"""What limits count apart."""

from __future__ import annotations

import pytest

from gateway.admission.keys import digest, identity, key_part, network, of_principal_only
from gateway.auth.principal import Principal
from tests.support.admission import FixedFacts, principal

FACTS = FixedFacts("192.0.2.1", {"id": "7"}, {b"x-tenant": b"north"})
SOMEONE = Principal(
    "alice",
    "https://issuer",
    "jwt",
    session="s",
    client="c",
    claims={"dept": "cardio", "realm": {"roles": ["b", "a"]}, "dotted.name": 1},
)


def test_lists_of_values_that_are_cut_differently_differ() -> None:
    """F-10: nobody can write into a neighbour's key."""
    lists = [(b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"abc", b""), (b"", b"abc"), (b"1:a2:bc",), ()]
    assert len({digest(*values) for values in lists}) == len(lists)
    assert all(len(digest(*values)) == 16 for values in lists)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("subject", (b"subject", b"https://issuer", b"alice")),
        ("client", (b"client", b"https://issuer", b"c")),
        ("session", (b"session", b"https://issuer", b"s")),
        ("client_ip", (b"client_ip", b"192.0.2.1")),
        ("route", (b"route", b"r")),
        ("global", (b"global",)),
        ("header:X-Tenant", (b"header", b"x-tenant", b"north")),
        ("path:id", (b"path", b"7")),
        ("claim:dept", (b"claim", b"dept", b"https://issuer", b'"cardio"')),
        ("claim:realm.roles", (b"claim", b"realm.roles", b"https://issuer", b'["b", "a"]')),
        ("claim:dotted.name", (b"claim", b"dotted.name", b"https://issuer", b"1")),
    ],
)
def test_each_part_stands_for_its_value(name: str, values: tuple[bytes, ...]) -> None:
    assert key_part(name, "r")(SOMEONE, FACTS) == values


@pytest.mark.parametrize("name", ["client", "session", "header:x-absent", "claim:absent", "claim:dept.deeper"])
def test_what_is_absent_falls_back_to_the_subject(name: str) -> None:
    """Leaving something out leads neither to freedom nor into a bucket that all share."""
    bare = principal("alice", issuer="https://issuer")
    assert key_part(name, "r")(bare, FACTS) == (b"subject", b"https://issuer", b"alice")


@pytest.mark.parametrize("name", ["subject", "client", "session", "header:x-absent", "claim:dept"])
def test_without_a_principal_the_address_is_counted(name: str) -> None:
    assert key_part(name, "r")(None, FACTS) == (b"client_ip", b"192.0.2.1")


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", b"192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", bytes.fromhex("20010db800010002")),
        ("2001:db8:1:2::", bytes.fromhex("20010db800010002")),
        ("fe80::1%eth0", bytes.fromhex("fe80000000000000")),
        ("::ffff:192.0.2.1", b"192.0.2.1"),
        ("", b""),
        ("not:an:address", b"not:an:address"),
    ],
)
def test_an_ipv6_client_is_its_network(address: str, counted: bytes) -> None:
    """A subscriber has a /64 and could take a new address for each request; mapped IPv4 addresses stay apart."""
    assert network(address) == counted


def test_what_the_principal_alone_decides_can_be_kept_with_it() -> None:
    kept = ["subject", "client", "session", "route", "global", "claim:dept"]
    assert all(map(of_principal_only, kept))
    assert not any(map(of_principal_only, ["client_ip", "header:x", "path:id"]))


def test_a_claim_that_may_fall_back_never_takes_the_request_into_account() -> None:
    other = FixedFacts("198.51.100.1")
    for name in ("subject", "client", "session", "claim:absent"):
        assert key_part(name, "r")(SOMEONE, FACTS) == key_part(name, "r")(SOMEONE, other)


def test_identities_differ_by_kind_and_absent_ones_are_zeros() -> None:
    """S-30."""
    assert identity("jti", None) == bytes(16)
    assert identity("jti", "x") != identity("subject", "x")
    assert len(identity("subject", "\ud800")) == 16
