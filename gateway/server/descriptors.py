"""How many connections the process has file descriptors for.

A server that runs out of descriptors can't accept, nor connect to an instance, nor answer a probe. So the soft limit is raised to what the
configuration needs, and where the hard one doesn't allow that, fewer clients' connections are taken than configured.
"""

from __future__ import annotations

import logging
import resource

from gateway.errors import ConfigError
from gateway.settings import Settings

logger = logging.getLogger("gateway.descriptors")

#: For listening sockets, the admin port, the store, Consul, sinks, files that are read again.
OWN_DESCRIPTORS = 256
#: Fewer clients than this are no gateway.
FEWEST_CONNECTIONS = 64


def affordable_connections(settings: Settings) -> int:
    """Raise the soft limit as far as needed and allowed, and tell how many connections of clients there are descriptors for: those of
    `server.max.connections`, or fewer, which is warned about.

    Raises:
        ConfigError: for next to none.
    """
    wanted = settings.server.max.connections
    towards_services = min(sum(service.circuit.connections for service in settings.services.values()), settings.server.max.in_flight)
    needed = wanted + towards_services + OWN_DESCRIPTORS
    allowed = _raised_to(needed)
    if allowed >= needed:
        return wanted
    # What is short is shared as it was wanted.
    for_clients = max(0, allowed - OWN_DESCRIPTORS) * wanted // (wanted + towards_services)
    if for_clients < min(wanted, FEWEST_CONNECTIONS):
        raise ConfigError(
            f"server.max.connections: {wanted} connections need {needed} open files and this process may have {allowed} (ulimit -Hn); "
            f"allow more, or at least {OWN_DESCRIPTORS + 2 * FEWEST_CONNECTIONS}"
        )
    logger.warning(
        "server.max.connections: %d connections need %d open files and this process may have %d (ulimit -Hn): it takes %d connections",
        wanted,
        needed,
        allowed,
        for_clients,
    )
    return for_clients


def _raised_to(needed: int) -> int:
    """Open files that this process may have, after asking for so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return needed
    target = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    except (OSError, ValueError):
        return soft
    return target
