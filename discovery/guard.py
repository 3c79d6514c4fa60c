"""When many instances disappear at once, who is to be believed? Pure: what is suspicious, and what explains it.

A catalog that was lost looks like a service that was shut down. Losing it is Consul's failure, and must not become ours (SPEC D4,
F-16; Eureka calls this self-preservation, Envoy a panic threshold).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from discovery.instance import Instance

#: What its peers think of a node, by gossip.
GOSSIP_CHECK = "serfHealth"


@dataclass(frozen=True, slots=True)
class Guard:
    """How much may disappear in one update.

    Args:
        share: of the instances known, 0..1; 1 lets everything disappear.
    """

    share: float = 0.5

    def suspects(self, known: tuple[Instance, ...], found: tuple[Instance, ...]) -> tuple[Instance, ...]:
        """The instances that are missing, when they are suspiciously many; one alone never is."""
        missing = gone(known, found)
        return missing if len(missing) >= 2 and len(missing) > self.share * len(known) else ()

    def collapsed(self, known: tuple[Instance, ...], found: tuple[Instance, ...]) -> bool:
        """Whether what is left is much smaller than what was, so that others have not just taken the places of those that left."""
        return len(found) < (1 - self.share) * len(known)


def gone(known: tuple[Instance, ...], found: tuple[Instance, ...]) -> tuple[Instance, ...]:
    """The known instances that are found neither by identity nor by address."""
    identities, addresses = {instance.id for instance in found}, {instance.address for instance in found}
    return tuple(instance for instance in known if instance.id not in identities and instance.address not in addresses)


def unexplained(missing: tuple[Instance, ...], entries: list[object], unbroken: bool) -> tuple[Instance, ...]:
    """Those of the missing instances that a complete reading does not account for.

    Maintenance and a weight of 0 are somebody's will, and a failing check is a finding. A registration that was taken out is a fact as long
    as the history of the catalog is unbroken. But a node that its peers have lost sight of (`serfHealth`) may be as well as ever, and so
    may an instance that a catalog forgot which has lost its memory.

    Args:
        entries: a health reply with instances in every state.
        unbroken: whether the catalog's index has only grown since the instances were seen, without an error in between.
    """
    registered = {_identity(entry): entry for entry in entries if isinstance(entry, Mapping)}
    return tuple(instance for instance in missing if not (_accounted(registered[instance.id]) if instance.id in registered else unbroken))


def absent(missing: tuple[Instance, ...], entries: list[object]) -> tuple[Instance, ...]:
    """Those of the missing instances that are not registered at all."""
    registered = {_identity(entry) for entry in entries if isinstance(entry, Mapping)}
    return tuple(instance for instance in missing if instance.id not in registered)


def _identity(entry: Mapping[str, object]) -> str:
    """Of an entry, as `catalog` makes it."""
    service, node = _mapping(entry, "Service"), _mapping(entry, "Node")
    return f"{node.get('Node') or ''}/{service.get('ID') or service.get('Service')}"


def _accounted(entry: Mapping[str, object]) -> bool:
    checks = entry.get("Checks")
    findings = (check for check in (checks if isinstance(checks, list) else []) if isinstance(check, Mapping))
    if any(check.get("Status") != "passing" and check.get("CheckID") != GOSSIP_CHECK for check in findings):
        return True
    return _mapping(_mapping(entry, "Service"), "Weights").get("Passing") == 0


def _mapping(entry: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = entry.get(key)
    return value if isinstance(value, Mapping) else {}
