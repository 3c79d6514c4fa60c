"""What the upstream side counts of each service, as metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Literal, Protocol

from gateway.telemetry.metrics import Labels, Source

ServiceFact = Literal["panic", "retries_denied", "circuit_refused"]

#: Name of the fact -> the metric that shows it, its meaning and its kind.
_FACTS: Mapping[ServiceFact, tuple[str, str, Literal["counter", "gauge"]]] = {
    "panic": ("gateway_service_panic", "1 while too few endpoints are usable, so that all are tried.", "gauge"),
    "retries_denied": ("gateway_retries_denied_total", "Retries that the budget refused.", "counter"),
    "circuit_refused": ("gateway_circuit_refused_total", "Requests that a circuit limit refused.", "counter"),
}


def service_sources(read: Callable[[ServiceFact], Iterable[tuple[Labels, float]]]) -> list[Source]:
    """The metrics, from a function that returns pairs of (service,) and the value of a fact."""
    return [Source(*metric, labels=("service",), read=partial(read, fact)) for fact, metric in _FACTS.items()]


class TunnelFigures(Protocol):
    """What the tunnels of one service count."""

    open: int
    opened: int
    from_clients: int
    to_clients: int


def tunnel_sources(read: Callable[[], Iterable[tuple[str, TunnelFigures]]]) -> list[Source]:
    """The metrics of tunnels, from a function that returns pairs of a service and its figures."""

    def bytes_carried() -> Iterable[tuple[Labels, float]]:
        for service, figures in read():
            yield (service, "from_client"), figures.from_clients
            yield (service, "to_client"), figures.to_clients

    return [
        Source("gateway_tunnels_open", "Open tunnels.", "gauge", ("service",), lambda: [((name,), each.open) for name, each in read()]),
        Source(
            "gateway_tunnels_opened_total",
            "Requests that became tunnels.",
            "counter",
            ("service",),
            lambda: [((name,), each.opened) for name, each in read()],
        ),
        Source("gateway_tunnel_bytes_total", "Bytes that ended tunnels carried.", "counter", ("service", "direction"), bytes_carried),
    ]
