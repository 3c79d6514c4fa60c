"""Active checks: asks every instance of a service from time to time whether it works. For fixed lists; Consul has checks of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from random import random, uniform
from typing import Protocol

from discovery.ending import end
from discovery.endpoint import Endpoint
from discovery.instance import HealthCheck, Instance

logger = logging.getLogger("discovery")

#: Checks of an instance are 0.8 to 1.2 intervals apart, so that those of many gateways do not fall together.
JITTER = 0.2
#: The first one comes within this time after the start.
FIRST_SECONDS = 1.0


class Probe(Protocol):
    """Carries out one check."""

    async def __call__(self, service: str, instance: Instance, check: HealthCheck) -> bool:
        """Whether the instance is well. Raises nothing."""


class HealthMonitor:
    """The checks of one service.

    An endpoint is taken to be healthy until `unhealthy` checks in a row have failed, then to be unhealthy until `healthy` have passed.

    Args:
        service: its name.
        check: what is asked, and how often.
        probe: asks.
    """

    def __init__(self, service: str, check: HealthCheck, probe: Probe) -> None:
        self._service = service
        self._check = check
        self._probe = probe
        self._tasks: dict[Endpoint, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<HealthMonitor {self._service} endpoints={len(self._tasks)}>"

    def follow(self, endpoints: Iterable[Endpoint]) -> None:
        """Check these from now on, and no others."""
        followed = set(endpoints)
        for endpoint in self._tasks.keys() - followed:
            self._tasks.pop(endpoint).cancel()
        for endpoint in followed - self._tasks.keys():
            name = f"health {self._service} {endpoint.address}"
            self._tasks[endpoint] = asyncio.create_task(self._watch(endpoint), name=name)

    async def close(self) -> None:
        """Stop checking. What was found last stays."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        await end(tasks)

    async def _watch(self, endpoint: Endpoint) -> None:
        check = self._check
        in_a_row = 0
        await asyncio.sleep(random() * min(FIRST_SECONDS, check.interval_seconds))
        while True:
            passed = await self._probe(self._service, endpoint.instance, check)
            healthy = self._service not in endpoint.failing_checks
            in_a_row = in_a_row + 1 if passed != healthy else 0
            if in_a_row >= (check.healthy if passed else check.unhealthy):
                in_a_row = 0
                state = "healthy again" if passed else "unhealthy"
                logger.warning("service %s: %s is %s, says %s", self._service, endpoint.address, state, check.path)
                endpoint.checked(self._service, passed)
            await asyncio.sleep(check.interval_seconds * uniform(1 - JITTER, 1 + JITTER))
