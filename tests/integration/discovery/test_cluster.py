"""A real cluster of three servers, from which servers are taken away."""

import asyncio
import time

import pytest

from discovery import watch
from discovery.directory import ServiceView
from discovery.instance import ConsulAgent, ConsulQuery
from tests.support.consul_agent import Agent, Cluster, consul_cluster
from tests.support.sources import until
from tests.support.watching import ports, run, wait_for, watching


def followers(cluster: Cluster) -> list[Agent]:
    leader = cluster.leader()
    return [server for server in cluster.servers if server is not leader]


async def changed(agent: Agent, port: int, view: ServiceView, *expected: int) -> float:
    """Register one more instance, as soon as the cluster takes it, and wait until it is seen."""

    def registered() -> bool:
        agent.register("web", port, ID=f"web-{port}")
        return any(entry["Service"]["Port"] == port for entry in agent.http.get("/v1/health/service/web?stale=1").json())

    await until(registered, 30)
    return await wait_for(view, *expected)


def test_a_leader_that_is_killed_costs_nothing_but_news() -> None:
    """D3, D7, F-15: while the others elect, instances stay and picks go on; then changes are seen again."""

    async def scenario() -> None:
        with consul_cluster() as cluster:
            agent = followers(cluster)[0]
            agent.register("web", 9001, ID="web-9001")
            agent.register("web", 9002, ID="web-9002")
            async with watching(ConsulQuery("web"), ConsulAgent(url=agent.url, wait_seconds=1)) as view:
                await wait_for(view, 9001, 9002)
                cluster.leader().kill()
                killed = time.monotonic()
                while time.monotonic() - killed < 4:
                    assert ports(view) == [9001, 9002]
                    assert view.pick() is not None
                    await asyncio.sleep(0.02)
                await changed(agent, 9003, view, 9001, 9002, 9003)
                await until(lambda: not view.snapshot.stale)

    run(scenario())


def test_without_a_quorum_instances_stay_a_cold_start_works_and_the_quorum_s_return_is_seen() -> None:
    """D3, F-17, F-19: what one server remembers is no news, and better than nothing. How old it is, is shown."""

    async def scenario() -> None:
        with consul_cluster() as cluster:
            first, second = followers(cluster)
            leader = cluster.leader()
            first.register("web", 9001, ID="web-9001")
            async with watching(ConsulQuery("web"), ConsulAgent(url=first.url, wait_seconds=1)) as view:
                await wait_for(view, 9001)
                leader.kill()
                second.kill()
                await until(lambda: "no leader" in view.snapshot.error, 20)
                assert (ports(view), view.snapshot.stale) == ([9001], True)
                async with watching(ConsulQuery("web"), ConsulAgent(url=first.url, wait_seconds=1)) as cold:
                    await wait_for(cold, 9001)
                    assert (cold.snapshot.known_leader, cold.snapshot.stale) == (False, True)
                    assert cold.snapshot.last_contact_seconds > 0
                cluster.launch(second)
                await changed(first, 9002, view, 9001, 9002)
                await until(lambda: not view.snapshot.stale, 40)

    run(scenario())


def test_a_node_that_is_out_of_sight_takes_nobody_along_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """D4, F-16: its peers mark it as failed, which says nothing about the services on it; after a while it is believed."""
    monkeypatch.setattr(watch, "CONFIRM_SECONDS", 4.0)

    async def scenario() -> None:
        with consul_cluster() as cluster:
            mine, lost = followers(cluster)
            mine.register("web", 9001, ID="web-9001")
            for port in (9002, 9003, 9004):
                lost.register("web", port, ID=f"web-{port}")
            async with watching(ConsulQuery("web"), ConsulAgent(url=mine.url)) as view:
                await wait_for(view, 9001, 9002, 9003, 9004)
                lost.kill()
                await until(lambda: view.snapshot.held == 3, 30)
                assert ports(view) == [9001, 9002, 9003, 9004]
                await wait_for(view, 9001)
                cluster.launch(lost)
                await until(lambda: ports(view) == [9001, 9002, 9003, 9004], 30)
                await until(lambda: not view.snapshot.stale)

    run(scenario())
