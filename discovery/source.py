"""Where instances come from: the one seam between discovery's directory and what it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from discovery.instance import Instance


@dataclass(frozen=True, slots=True)
class Found:
    """A complete, trustworthy answer: these are the instances now. Also published when nothing has changed, as a sign of life.

    Args:
        instances: in a stable order, so that an unchanged answer compares equal.
        rejected: registrations that can't be used, each with its reason.
        last_contact_seconds: age of what the answering server knew (`X-Consul-LastContact`); 0 when it leads.
        known_leader: False when the answer comes from a server that follows nobody, so may be old.
        held: how many of the instances the source names no more; they are kept until that is confirmed.
        restored_at: when instances that come from disk were last confirmed, seconds since the epoch; 0 when they come from the source.
        fallback: how many preferred places had nothing to offer.
    """

    instances: tuple[Instance, ...]
    rejected: tuple[str, ...] = ()
    last_contact_seconds: float = 0.0
    known_leader: bool = True
    held: int = 0
    restored_at: float = 0.0
    fallback: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """There was no trustworthy answer. It says nothing about the instances: those known before go on.

    Args:
        reason: one line for operators, without secrets.
    """

    reason: str


Update = Found | Failed
Publish = Callable[[Update], None]


class Source(Protocol):
    """Finds the instances of one service. Sources that compare equal find the same, so a reload keeps a watch that runs already."""

    async def watch(self, publish: Publish) -> None:
        """Publish what is found, again whenever it changes, until cancelled. Returns early when nothing can change any more.

        Failures are published, not raised; `publish` never raises.
        """
