"""What Consul answers about a service (SPEC D1, D5, D6; F-19)."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from discovery.catalog import MAXIMUM_WEIGHT, Rules, Unusable, check_host, is_loopback, read
from discovery.instance import ConsulQuery, Instance
from discovery.reply import ConsulError, decode
from discovery.snapshots import decoded, encoded
from tests.fuzz.target import Target, field_lines

_NETWORK = ip_network("10.0.0.0/8")
_RULES = (Rules(), Rules(warning=True, loopback="same_machine"), Rules(loopback="allow", networks=(_NETWORK,)))


def check(data: bytes) -> None:
    """A status, header fields, an empty line and a body.

    It is refused in one line, or every instance in it can be connected to, is nowhere that the gateway must not go, is still the same
    after a round through a snapshot file, and what was left out is named in one line each.
    """
    head, _, body = data.partition(b"\n\n")
    status, _, lines = head.partition(b"\n")
    fields = {name.decode(): value.decode("latin-1") for name, value in field_lines(lines)}
    try:
        reply = decode(int(status) if status.isdigit() and len(status) < 4 else 200, _Fields(fields), body)
    except ConsulError as error:
        assert len(str(error)) < 300
        assert str(error).isprintable()
        return
    for rules in _RULES:
        reading = read(reply.entries, ConsulQuery("s", ("a",) if rules.warning else ()), rules)
        assert len(reading.instances) + len(reading.rejected) <= len(reply.entries)
        assert all(line.isascii() and line.isprintable() and len(line) < 500 for line in reading.rejected), reading.rejected
        assert list(reading.instances) == sorted(reading.instances, key=lambda one: one.id)
        for instance in reading.instances:
            check_instance(instance, rules)
        assert decoded(encoded(reading.instances, "s"), "s") == reading.instances


class _Fields(dict[str, str]):
    """Header fields, looked up without regard to case."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__((name.lower(), value) for name, value in fields.items())

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
        return super().get(name.lower(), default)


def check_instance(instance: Instance, rules: Rules) -> None:
    """That requests may go there."""
    assert 1 <= instance.port <= 65535
    assert 1 <= instance.weight <= MAXIMUM_WEIGHT
    assert instance.host.isascii()
    assert instance.host.isprintable()
    assert not set(instance.host) & set("/@?#\\ []%")
    assert check_host(instance.host, rules) == instance.host
    assert rules.warning or instance.health == "passing"
    assert all(isinstance(word, str) for pair in instance.meta.items() for word in pair)
    try:
        number = ip_address(instance.host)
    except ValueError:
        assert not rules.networks
        return
    assert not number.is_link_local
    assert not number.is_unspecified
    assert not number.is_multicast
    assert not rules.networks or number in _NETWORK or getattr(number, "ipv4_mapped", None) in _NETWORK
    assert rules.loopback != "refuse" or not is_loopback(instance.host)


TARGET = Target(
    "catalog",
    check,
    ("discovery.catalog", "discovery.reply", "discovery.snapshots"),
    (ConsulError, Unusable),
    (
        b"200\nX-Consul-Index: 7\n\n",
        b"X-Consul-LastContact: 1\n",
        b"X-Consul-KnownLeader: false\n",
        b'[{"Service":{"ID":"a","Port":1,"Address":"10.0.0.1"},"Checks":[]}]',
        b'"Node":{"Node":"n","Address":"10.0.0.2"}',
        b'"Status":"passing"',
        b'"warning"',
        b'"Weights":{"Passing":2}',
        b'"Tags":["a"]',
        b'"Meta":{"scheme":"https"}',
        b"::ffff:127.0.0.1",
        b"169.254.169.254",
        b"fe80::1%e",
        b"0x7f000001",
        b"localhost",
    ),
)
