"""A real cluster of three servers, from which servers are taken away."""

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
