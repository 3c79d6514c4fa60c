"""What `/v1/health/service/NAME` says, read tolerantly: a registration that makes no sense is left out and named, the others count.

Discovery data is input from a network. An address in it decides where requests with patients' data go, so addresses that would lead
the gateway to itself or to a cloud's metadata service are refused here, before anything connects.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from types import MappingProxyType
from typing import Literal

from discovery.instance import NOTHING, ConsulQuery, Instance

#: `same_machine`: only from a node that itself is on loopback.
Loopback = Literal["allow", "refuse", "same_machine"]
Health = Literal["passing", "warning", "critical"]

MAXIMUM_WEIGHT = 65535
_SEVERITY: Mapping[str, Health] = {"passing": "passing", "warning": "warning"}
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
# A last label like this makes the resolver read the name as a number: 127.1, 0x7f000001, 2130706433 (WHATWG URL, "ends in a number").
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")


class Unusable(Exception):
    """A registration that can't be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Which registrations are used: see `ConsulAgent`."""

    warning: bool = False
    loopback: Loopback = "refuse"
    networks: tuple[IPv4Network | IPv6Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """Usable instances, ordered by id since Consul's order is random, and one line for each registration that makes no sense."""

    instances: tuple[Instance, ...]
    rejected: tuple[str, ...]


def read(entries: list[object], query: ConsulQuery, rules: Rules) -> Reading:
    """The instances in a health reply (SPEC D5). Critical ones, and those without the tags, are left out silently."""
    instances: list[Instance] = []
    rejected: list[str] = []
    for entry in entries:
        try:
            instance = _instance(_object(entry, "entry"), query, rules)
        except Unusable as reason:
            rejected.append(f"{_label(entry)}: {reason}")
            continue
        if instance is not None:
            instances.append(instance)
    instances.sort(key=lambda instance: instance.id)
    return Reading(tuple(instances), tuple(sorted(rejected)))


def worst(checks: object) -> Health:
    """The state of an instance: that of its worst check. Checks of its node (`serfHealth`) and maintenance are among them.

    Raises:
        Unusable: they are no checks.
    """
    state: Health = "passing"
    for check in _list(checks, "Checks"):
        status = _object(check, "check").get("Status")
        # An unknown state is no promise that it works.
        health = _SEVERITY.get(status, "critical") if isinstance(status, str) else "critical"
        if health == "critical":
            return "critical"
        if health == "warning":
            state = "warning"
    return state


def _instance(entry: Mapping[str, object], query: ConsulQuery, rules: Rules) -> Instance | None:
    service = _object(entry.get("Service"), "Service")
    node = _object(entry.get("Node") or {}, "Node")
    health = worst(entry.get("Checks"))
    tags = tuple(tag for tag in _list(service.get("Tags"), "Tags") if isinstance(tag, str))
    if health == "critical" or (health == "warning" and not rules.warning) or not set(query.tags) <= set(tags):
        return None
    weight = _weight(service.get("Weights"), health)
    if weight == 0:
        return None
    meta = _meta(service.get("Meta"))
    return Instance(
        id=_identity(service, node),
        host=_host(service, node, rules),
        port=_port(service.get("Port")),
        weight=weight,
        scheme="https" if "https" in (meta.get("scheme"), meta.get("protocol")) else "http",
        tags=tags,
        meta=meta,
        health=health,
    )


def _identity(service: Mapping[str, object], node: Mapping[str, object]) -> str:
    identity = service.get("ID") or service.get("Service")
    if not isinstance(identity, str) or not identity:
        raise Unusable("it has no service id")
    return f"{node.get('Node') or ''}/{identity}"


def _port(port: object) -> int:
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        raise Unusable(f"its port is {_show(port)}, not 1..65535")
    return port


def _weight(weights: object, health: Health) -> int:
    """`Weights.Passing` or `Weights.Warning`; 1 where there is none, 0 for an instance that may be up but wants no requests."""
    value = weights.get("Warning" if health == "warning" else "Passing", 1) if isinstance(weights, Mapping) else 1
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return 1
    return min(value, MAXIMUM_WEIGHT)


def _meta(meta: object) -> Mapping[str, str]:
    if not isinstance(meta, Mapping) or not meta:
        return NOTHING
    return MappingProxyType({key: value for key, value in meta.items() if isinstance(key, str) and isinstance(value, str)})


def _host(service: Mapping[str, object], node: Mapping[str, object], rules: Rules) -> str:
    address = service.get("Address") or node.get("Address")
    if not isinstance(address, str) or not address:
        raise Unusable("it has no address")
    host = check_host(address.removeprefix("[").removesuffix("]") if address.startswith("[") else address, rules)
    allowed = rules.loopback == "allow" or (rules.loopback == "same_machine" and is_loopback(str(node.get("Address"))))
    if is_loopback(host) and not allowed:
        raise Unusable(f"its address {_show(host)} is a loopback address")
    return host


def check_host(host: str, rules: Rules) -> str:
    """The host in its usual form, when requests may go there at all. Whether a loopback address will do is for others to say.

    Raises:
        Unusable: they may not.
    """
    number = _number(host)
    if number is None:
        _check_name(host)
    else:
        _check_number(number)
    if rules.networks and not any(number is not None and _plain(number) in network for network in rules.networks):
        # What a name stands for is known only when it is connected to.
        raise Unusable(f"its address {_show(host)} is in none of the allowed networks")
    return host if number is None else str(number)


def _check_name(host: str) -> None:
    labels = host.removesuffix(".").split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels) or _NUMBER.fullmatch(labels[-1]):
        raise Unusable(f"its address {_show(host)} is neither an IP address nor a host name")


def _check_number(number: IPv4Address | IPv6Address) -> None:
    plain = _plain(number)
    if isinstance(number, IPv6Address) and number.scope_id is not None:
        raise Unusable(f"its address {_show(str(number))} has a zone")
    if plain.is_link_local or plain.is_multicast or plain.is_unspecified or plain == IPv4Address("255.255.255.255"):
        raise Unusable(f"its address {number} is link-local, multicast or unspecified")


def is_loopback(host: str) -> bool:
    """Whether a host, as in a URL or a registration, is this machine talking to itself."""
    number = _number(host)
    if number is None:
        name = host.lower().removesuffix(".")
        return name == "localhost" or name.endswith(".localhost")
    return _plain(number).is_loopback


def _number(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _plain(number: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """::ffff:127.0.0.1 is 127.0.0.1 to a socket."""
    mapped = number.ipv4_mapped if isinstance(number, IPv6Address) else None
    return number if mapped is None else mapped


def _object(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise Unusable(f"its {what} is {_show(value)}, not an object")
    return value


def _list(value: object, what: str) -> list[object]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise Unusable(f"its {what} is {_show(value)}, not a list")
    return value


def _label(entry: object) -> str:
    service = entry.get("Service") if isinstance(entry, Mapping) else None
    node = entry.get("Node") if isinstance(entry, Mapping) else None
    parts = (node.get("Node") if isinstance(node, Mapping) else "?", service.get("ID") if isinstance(service, Mapping) else "?")
    return "/".join(_show(part).strip("'\"") for part in parts)


def _show(value: object) -> str:
    """Short and on one line, since it comes from elsewhere and goes into logs."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
