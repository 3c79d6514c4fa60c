"""Failing over between two real datacenters."""

from collections.abc import Iterator

import pytest

from discovery.instance import ConsulAgent, ConsulQuery
from tests.support.consul_agent import Agent, consul_agent
from tests.support.sources import until
from tests.support.watching import run, ttl_check, wait_for, watching


@pytest.fixture(scope="module")
def east() -> Iterator[Agent]:
    with consul_agent(datacenter="east", node_name="e") as running:
        yield running


@pytest.fixture(scope="module")
def west(east: Agent) -> Iterator[Agent]:
    with consul_agent(datacenter="west", node_name="w", retry_join_wan=[east.wide_gossip], retry_interval_wan="1s") as running:
        yield running


async def joined(east: Agent) -> None:
    await until(lambda: sorted(east.get("/v1/catalog/datacenters")) == ["east", "west"], 20)
    await until(lambda: east.http.get("/v1/health/service/consul?dc=west").status_code == 200, 20)


def test_the_second_datacenter_serves_while_the_first_has_nothing(east: Agent, west: Agent) -> None:
    """D8: over as soon as the first has no instance left, and back as soon as it has one."""

    async def scenario() -> None:
        await joined(east)
        check = ttl_check(east, "both", 9001)
        ttl_check(west, "both", 9002)
        query = ConsulQuery("both", datacenter="east", failover=("west",))
        async with watching(query, ConsulAgent(url=east.url)) as view:
            await wait_for(view, 9001)
            assert view.snapshot.fallback == 0
            east.put(f"/v1/agent/check/fail/{check}")
            await wait_for(view, 9002)
            assert (view.snapshot.fallback, view.snapshot.stale) == (1, False)
            east.put(f"/v1/agent/check/pass/{check}")
            await wait_for(view, 9001)
            assert view.snapshot.fallback == 0

    run(scenario())


def test_the_agent_s_list_holds_for_queries_that_name_none(east: Agent, west: Agent) -> None:
    """D8: and a datacenter that nobody knows is an error, not a reason to wait."""

    async def scenario() -> None:
        await joined(east)
        ttl_check(west, "far", 9003)
        async with watching(ConsulQuery("far"), ConsulAgent(url=east.url, datacenter="nowhere", failover=("east", "west"))) as view:
            await wait_for(view, 9003)
            assert view.snapshot.fallback == 2
        async with watching(ConsulQuery("far", datacenter="east"), ConsulAgent(url=east.url, failover=("west",))) as view:
            await until(lambda: view.answered)
            assert view.pick() is None

    run(scenario())
