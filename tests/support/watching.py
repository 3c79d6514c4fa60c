"""A service watched in Consul, as the request path sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from discovery.consul import Consul
from discovery.directory import Directory, ServiceView, Watched
from discovery.instance import Balance, ConsulAgent, ConsulQuery
from tests.support.consul_agent import Client
from tests.support.sources import until


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine."""
    asyncio.run(test)


@asynccontextmanager
async def watching(query: ConsulQuery, settings: ConsulAgent, balance: Balance | None = None) -> AsyncIterator[ServiceView]:
    """The view of a service while it is watched."""
    consul = Consul(settings)
    directory = Directory({query.service: Watched(consul.source(query), balance or Balance())})
    await directory.start(timeout=0.5)
    try:
        yield directory.service(query.service)
    finally:
        await directory.close()
        await consul.close()


def ports(view: ServiceView) -> list[int]:
    """The ports of the instances, which tell them apart."""
    return sorted(instance.port for instance in view.snapshot.instances)


def wait_for(view: ServiceView, *expected: int) -> Coroutine[Any, Any, float]:
    """Wait until the instances are those with these ports; how long it took."""
    return until(lambda: ports(view) == list(expected))


def ttl_check(agent: Client, name: str, port: int, **fields: object) -> str:
    """Register an instance whose state the test sets; the id of its check."""
    agent.register(name, port, ID=f"{name}-{port}", Check={"TTL": "60s", "Status": "passing"}, **fields)
    return f"service:{name}-{port}"


async def bootstrapped(guarded: Client) -> str:
    """The management token of an agent whose ACLs have just been switched on."""
    answers: list[Any] = []

    def attempt() -> bool:
        response = guarded.http.put("/v1/acl/bootstrap")
        if response.status_code == 200:
            answers.append(response.json())
        return bool(answers)

    await until(attempt)
    return str(answers[0]["SecretID"])
