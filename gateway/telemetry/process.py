"""Metrics of one process's load: what it holds, and what it refuses because of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gateway.telemetry.metrics import Source


@dataclass(frozen=True, slots=True)
class ProcessLoad:
    """What one process has to do.

    Args:
        connections: open ones of clients.
        in_flight: requests that are being handled.
        shed: requests that were refused because of overload, since the start.
        level: of overload, 0 for none to 3.
        memory_limit_bytes: what it may use; 0 for no limit.
    """

    connections: int
    in_flight: int
    shed: int
    level: int
    memory_limit_bytes: int


def load_sources(read: Callable[[], ProcessLoad]) -> list[Source]:
    """A series for each of them."""

    def source(name: str, documentation: str, kind: Literal["counter", "gauge"], value: Callable[[ProcessLoad], int]) -> Source:
        return Source(name, documentation, kind, (), lambda: [((), float(value(read())))])

    return [
        source("gateway_connections", "Open connections of clients.", "gauge", lambda load: load.connections),
        source("gateway_requests_in_flight", "Requests that are being handled.", "gauge", lambda load: load.in_flight),
        source("gateway_shed_total", "Requests refused unread because of overload.", "counter", lambda load: load.shed),
        source("gateway_overload_level", "0 calm, 1 refusing, 2 closing connections, 3 accepting none.", "gauge", lambda load: load.level),
        source("gateway_memory_limit_bytes", "What this process may use; 0 for no limit.", "gauge", lambda load: load.memory_limit_bytes),
    ]
