"""How much the knowledge about a service is worth now: for the admin API and for metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Condition:
    """A service's directory entry at one moment. Ages are in seconds; None where there is no moment to count from.

    Args:
        service: its name.
        stale: whether the instances are those of an earlier answer, or of a server that may lag behind.
        updated_seconds_ago: since the instances changed.
        confirmed_seconds_ago: since the source last said that they are right.
        restored_seconds_ago: since instances that come from disk were last confirmed by Consul; None when they come from Consul.
        last_contact_seconds: since the answering server had heard from its leader (`X-Consul-LastContact`).
        known_leader: whether the answering server knew a leader.
        held: instances that are used although Consul names them no more, see `Guard`.
        rejected: registrations that can't be used.
        fallback: datacenters that were preferred and had no instance.
    """

    service: str
    stale: bool
    updated_seconds_ago: float | None
    confirmed_seconds_ago: float | None
    restored_seconds_ago: float | None
    last_contact_seconds: float
    known_leader: bool
    held: int
    rejected: int
    fallback: int
