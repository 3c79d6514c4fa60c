"""Metrics about what is known of services: how old it is, and what is done about it (F-16, F-17).

Each is 0 when all is well, so that of several workers' values the greatest, which is shown, is the worst.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from discovery.condition import Condition
from gateway.telemetry.metrics import Source

Read = Callable[[], Iterable[Condition]]

_GAUGES: dict[str, tuple[str, Callable[[Condition], float]]] = {
    "stale": ("1 while instances are those of an earlier answer, or of a server that may lag behind.", lambda c: c.stale),
    "confirmed_age_seconds": ("Since Consul last said that the instances are right.", lambda c: c.confirmed_seconds_ago or 0.0),
    "last_contact_seconds": ("Since the answering Consul server had heard from its leader.", lambda c: c.last_contact_seconds),
    "leaderless": ("1 when the answering Consul server knew no leader.", lambda c: not c.known_leader),
    "held_instances": ("Instances that disappeared with most others and are not given up yet.", lambda c: c.held),
    "rejected_instances": ("Registrations that can't be used.", lambda c: c.rejected),
    "restored": ("1 while instances come from the snapshot on disk.", lambda c: c.restored_seconds_ago is not None),
    "fallback": ("Preferred datacenters that have no instance.", lambda c: c.fallback),
}


def discovery_sources(read: Read) -> list[Source]:
    """`gateway_discovery_*{service}`, from a function that returns the conditions of the services to be told about."""
    return [_source(name, documentation, value, read) for name, (documentation, value) in _GAUGES.items()]


def _source(name: str, documentation: str, value: Callable[[Condition], float], read: Read) -> Source:
    return Source(
        f"gateway_discovery_{name}",
        documentation,
        "gauge",
        ("service",),
        lambda: [((condition.service,), float(value(condition))) for condition in read()],
    )
