"""A start while Consul is away, from what an earlier run left on disk."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from discovery.consul import Consul
from discovery.directory import Directory, Watched
from discovery.instance import ConsulAgent, ConsulQuery
from tests.support.consul_agent import Agent, consul_agent
from tests.support.sources import until
from tests.support.watching import ports, run, wait_for, watching

QUERY = ConsulQuery("kept")


@pytest.fixture
def agent() -> Iterator[Agent]:
    with consul_agent() as running:
        running.register("kept", 9001, ID="kept-1", Weights={"Passing": 3, "Warning": 1}, Tags=["a"], Meta={"m": "x"})
        running.register("kept", 9002, ID="kept-2")
        yield running


async def leave_snapshot(settings: ConsulAgent) -> None:
    """A run while Consul is well."""
    async with watching(QUERY, settings) as view:
        await wait_for(view, 9001, 9002)


def snapshots(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.snapshot"))


@pytest.mark.parametrize("way", ["kill", "pause"])
def test_a_start_without_consul_serves_what_was_known_and_says_so(
    agent: Agent, tmp_path: Path, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """D6, F-19: the agent is gone, or takes connections and says nothing. When it is back it is believed."""
    settings = ConsulAgent(url=agent.url, cache_dir=str(tmp_path))

    async def scenario() -> None:
        await leave_snapshot(settings)
        getattr(agent, way)()
        started = time.monotonic()
        consul = Consul(settings)
        directory = Directory({"kept": Watched(consul.source(QUERY))})
        assert await directory.start() == ()
        assert time.monotonic() - started < 15
        view = directory.service("kept")
        assert (ports(view), view.snapshot.stale, directory.ready) == ([9001, 9002], True, True)
        first = view.snapshot.instances[0]
        assert (first.weight, first.tags, dict(first.meta)) == (3, ("a",), {"m": "x"})
        (described,) = directory.describe()
        assert isinstance(described["restored_seconds_ago"], float)
        assert described["restored_seconds_ago"] == described["confirmed_seconds_ago"]
        agent.kill()
        await asyncio.to_thread(agent.start)
        agent.register("kept", 9001, ID="kept-1")
        agent.register("kept", 9003, ID="kept-3")
        await wait_for(view, 9001, 9003)
        await until(lambda: not view.snapshot.stale)
        assert directory.describe()[0]["restored_seconds_ago"] is None
        await directory.close()
        await consul.close()

    run(scenario())
    assert "2 instances come from the snapshot on disk" in caplog.text


def test_an_answer_from_consul_is_preferred_to_the_disk(agent: Agent, tmp_path: Path) -> None:
    """D6: the snapshot is for when there is no answer."""
    settings = ConsulAgent(url=agent.url, cache_dir=str(tmp_path))

    async def scenario() -> None:
        await leave_snapshot(settings)
        for number in (1, 2):
            agent.deregister(f"kept-{number}")
        async with watching(QUERY, settings) as view:
            assert (ports(view), view.snapshot.stale) == ([], False)
        # Also that there is none now was kept, so that nobody comes back from the dead.
        agent.kill()
        async with watching(QUERY, settings) as view:
            await until(lambda: view.answered)
            assert (ports(view), view.snapshot.stale) == ([], True)

    run(scenario())


def test_a_damaged_snapshot_is_told_of_and_the_start_goes_on(agent: Agent, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """D6: as if there were none: not ready, until Consul answers."""
    settings = ConsulAgent(url=agent.url, cache_dir=str(tmp_path))

    async def scenario() -> None:
        await leave_snapshot(settings)
        (file,) = snapshots(tmp_path)
        file.write_bytes(file.read_bytes()[:100])
        agent.kill()
        async with watching(QUERY, settings) as view:
            await until(lambda: view.snapshot.error)
            assert not view.answered
            assert f"the snapshot {file} is damaged" in caplog.text
            await asyncio.to_thread(agent.start)
            agent.register("kept", 9001, ID="kept-1")
            await wait_for(view, 9001)
        assert snapshots(tmp_path) == [file]

    run(scenario())


def test_a_catalog_that_came_back_empty_does_not_empty_what_came_from_disk(agent: Agent, tmp_path: Path) -> None:
    """D4, D6: the agent restarts without its memory while the gateway does, too."""
    settings = ConsulAgent(url=agent.url, cache_dir=str(tmp_path))

    async def scenario() -> None:
        await leave_snapshot(settings)
        agent.kill()
        async with watching(QUERY, settings) as view:
            await wait_for(view, 9001, 9002)
            await asyncio.to_thread(agent.start)
            await until(lambda: view.snapshot.held)
            assert ports(view) == [9001, 9002]

    run(scenario())


def test_addresses_on_disk_keep_to_the_allowed_networks(agent: Agent, tmp_path: Path) -> None:
    """F-18, D6: the networks may have been narrowed since."""

    async def scenario() -> None:
        await leave_snapshot(ConsulAgent(url=agent.url, cache_dir=str(tmp_path)))
        agent.kill()
        narrowed = ConsulAgent(url=agent.url, cache_dir=str(tmp_path), networks=("10.0.0.0/8",))
        async with watching(QUERY, narrowed) as view:
            await until(lambda: view.answered)
            assert view.pick() is None

    run(scenario())
