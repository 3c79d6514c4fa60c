"""What every `Source` promises, proved on each of them."""

import asyncio
from collections.abc import Iterator

import pytest

from discovery.consul import Consul, agent_from_environment
from discovery.failover import FailoverSource
from discovery.instance import ConsulAgent, ConsulQuery, Instance
from discovery.source import Failed, Found, Source, Update
from discovery.static import StaticSource
from tests.support.consul_agent import Client, shared_agent
from tests.support.sources import until


@pytest.fixture(scope="module")
def agent() -> Iterator[Client]:
    with shared_agent() as running:
        for port in (9001, 9002):
            running.register("contract", port, ID=f"contract-{port}", Tags=["v1"])
        yield running
        for port in (9001, 9002):
            running.deregister(f"contract-{port}")


class StaticMaker:
    """Static sources."""

    def source(self) -> Source:
        return StaticSource(tuple(Instance(id=f"127.0.0.1:{port}", host="127.0.0.1", port=port, tags=("v1",)) for port in (9001, 9002)))

    async def close(self) -> None:
        """Nothing to close."""


class FailoverMaker:
    """The second of two places, since the first has nothing."""

    def source(self) -> Source:
        return FailoverSource((StaticSource(()), StaticMaker().source()))

    async def close(self) -> None:
        """Nothing to close."""


class ConsulMaker:
    """Consul sources."""

    def __init__(self, url: str) -> None:
        token = agent_from_environment().token
        self._consul = Consul(ConsulAgent(url=url, token=token, loopback="allow"))

    def source(self) -> Source:
        return self._consul.source(ConsulQuery("contract", tags=("v1",)))

    async def close(self) -> None:
        await self._consul.close()


Maker = StaticMaker | FailoverMaker | ConsulMaker


@pytest.fixture(params=["static", "failover", "consul"])
def maker(request: pytest.FixtureRequest) -> Maker:
    if request.param == "static":
        return StaticMaker()
    if request.param == "failover":
        return FailoverMaker()
    return ConsulMaker(request.getfixturevalue("agent").url)


def watched(maker: Maker, seconds: float = 10.0) -> list[Update]:
    """What a watch publishes up to its first complete answer; it is cancelled then."""

    async def scenario() -> list[Update]:
        updates: list[Update] = []
        task: asyncio.Task[None] = asyncio.create_task(maker.source().watch(updates.append))
        await until(lambda: updates, seconds)
        task.cancel()
        await asyncio.wait([task], timeout=2)
        assert task.done()
        await maker.close()
        return updates

    return asyncio.run(scenario())


def test_it_publishes_a_complete_answer(maker: Maker) -> None:
    found = watched(maker)[-1]
    assert isinstance(found, Found)
    assert [instance.address for instance in found.instances] == ["127.0.0.1:9001", "127.0.0.1:9002"]
    assert found.rejected == ()


def test_the_same_answer_compares_equal(maker: Maker, request: pytest.FixtureRequest) -> None:
    """D1: content is compared."""
    first = watched(maker)[-1]
    again = watched(ConsulMaker(request.getfixturevalue("agent").url) if isinstance(maker, ConsulMaker) else type(maker)())[-1]
    assert isinstance(first, Found)
    assert isinstance(again, Found)
    assert first.instances == again.instances


def test_sources_of_the_same_thing_are_equal(maker: Maker) -> None:
    """A reload keeps a watch that runs already."""
    assert maker.source() == maker.source()
    assert hash(maker.source()) == hash(maker.source())
    asyncio.run(maker.close())


def test_it_says_what_it_is_in_a_few_words(maker: Maker) -> None:
    assert 0 < len(str(maker.source())) < 80
    asyncio.run(maker.close())


def test_a_failure_is_published_and_not_raised() -> None:
    """D3: an agent that is not there."""
    (failed, *_) = watched(ConsulMaker("http://127.0.0.1:1"))
    assert isinstance(failed, Failed)
    assert "can't be reached" in failed.reason


def test_the_agent_of_the_environment_is_used_when_it_is_named(agent: Client) -> None:
    """CONTRACT 1: CONSUL_HTTP_ADDR comes first."""
    assert agent_from_environment({"CONSUL_HTTP_ADDR": agent.url}).url == agent.url
