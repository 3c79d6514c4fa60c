"""Discovery: Consul without its leader, without its memory, silent, gone, and churning."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from discovery.consul import Consul
from discovery.directory import Directory, Watched
from discovery.instance import ConsulAgent, ConsulQuery
from tests.support.consul_agent import Agent, Client, consul_agent, consul_cluster
from tests.support.fault_scene import asks, assert_quiet
from tests.support.faults import Form, Measured, fault
from tests.support.load import Load, Reply, percentile, statuses
from tests.support.plain_service import ServiceProcess, service_process
from tests.support.redis_server import wait_until
from tests.support.sources import until
from tests.support.whole_gateway import Json, Login, ProcessGateway, base_document, process_gateway, running

RATE = 100
CONDITIONS = f"1 gateway, {RATE} requests/s to a service with 3 instances"


@pytest.fixture(scope="module")
def services() -> Iterator[Sequence[ServiceProcess]]:
    with service_process("p-1") as one, service_process("p-2") as two, service_process("p-3") as three:
        yield (one, two, three)


def register(agent: Agent, services: Sequence[ServiceProcess]) -> None:
    for service in services:
        agent.register("patients", service.port, ID=service.name, Address=service.host)


def document(directory: Path, login: Login, agent: Agent) -> Json:
    return base_document(
        directory,
        authentication={"issuers": login.authentication["issuers"]},
        services={"patients": {"consul": "patients"}},
        routes=[{"name": "public", "path": "/public", "service": "patients", "authentication": "none"}],
        discovery={"consul": {"url": agent.url, "loopback": "allow"}, "cache_dir": str(directory / "cache")},
    )


def known(gateway: ProcessGateway) -> Json:
    """What the gateway says of the service."""
    (described,) = gateway.admin("GET", "/v1/services").json()["services"]
    assert isinstance(described, dict)
    return described


def instances(gateway: ProcessGateway) -> int:
    return len(known(gateway)["instances"])


def assert_unharmed(measured: Measured, replies: Sequence[Reply]) -> None:
    """Every request was answered by an instance."""
    assert statuses(replies) == {200: len(replies)}
    measured("answered 200", len(replies), "requests")
    measured("p99", percentile([reply.seconds for reply in replies], 0.99) * 1000, "ms")


@fault(
    "consul-leader-killed",
    "the leader of three Consul servers is killed (`kill -9`)",
    "no request notices; changes are seen again once another leads",
)
def test_leader_killed(measured: Measured, tmp_path: Path, login: Login, services: Sequence[ServiceProcess]) -> None:
    """D3, F-15: the gateway asks one of the two that are left."""
    measured.under(CONDITIONS)
    with consul_cluster() as cluster:
        leader = cluster.leader()
        agent = next(server for server in cluster.servers if server is not leader)
        register(agent, services[:2])
        with running(tmp_path, document(tmp_path, login, agent)) as gateway:
            wait_until(lambda: instances(gateway) == 2, "two instances")
            with Load(asks([gateway], {}, "/public"), RATE) as load:
                wait_until(lambda: len(load.replies) > RATE, "load")
                leader.kill()
                killed_at = time.monotonic()
                register(agent, services[2:])
                wait_until(lambda: instances(gateway) == 3, "the change to be seen", 30)
                measured("a change is seen again after", time.monotonic() - killed_at, "s")
                wait_until(lambda: not known(gateway)["stale"], "an answer of the new leader", 30)
            assert_unharmed(measured, load.replies)
            assert_quiet(gateway)


@fault(
    "consul-quorum-lost",
    "two of three Consul servers are killed (`kill -9`): no leader; later they start again",
    "no request notices; changes are seen once there is a quorum",
)
def test_quorum_lost(measured: Measured, form: Form, tmp_path: Path, login: Login, services: Sequence[ServiceProcess]) -> None:
    """D3, F-15, F-17: what the server that is left says without a leader changes nothing."""
    measured.under(CONDITIONS)
    with consul_cluster() as cluster:
        agent, *others = cluster.servers
        register(agent, services[:2])
        with running(tmp_path, document(tmp_path, login, agent)) as gateway:
            wait_until(lambda: instances(gateway) == 2, "two instances")
            with Load(asks([gateway], {}, "/public"), RATE) as load:
                wait_until(lambda: len(load.replies) > RATE, "load")
                for server in others:
                    server.kill()
                lost_at = time.monotonic()
                wait_until(lambda: bool(load.since(lost_at + form.seconds(2, 20))), "the outage to last", 30)
                for server in others:
                    cluster.launch(server)
                agent.wait_until_ready()
                back_at = time.monotonic()
                register(agent, services[2:])
                wait_until(lambda: instances(gateway) == 3, "the change to be seen", 60)
                measured("a change is seen after", time.monotonic() - back_at, "s")
            assert_unharmed(measured, load.replies)
            assert_quiet(gateway)


@fault(
    "consul-forgot",
    "the only Consul agent is killed and comes back empty; services register again 3 s later",
    "no request notices, instances are held until they are back",
)
def test_forgot(measured: Measured, tmp_path: Path, login: Login, services: Sequence[ServiceProcess]) -> None:
    """D4, F-16: a catalog that was lost is no news for 10 s."""
    measured.under(CONDITIONS)
    with consul_agent() as agent:
        register(agent, services)
        with running(tmp_path, document(tmp_path, login, agent)) as gateway:
            wait_until(lambda: instances(gateway) == 3, "three instances")
            with Load(asks([gateway], {}, "/public"), RATE) as load:
                wait_until(lambda: len(load.replies) > RATE, "load")
                agent.kill()
                wait_until(lambda: bool(known(gateway)["error"]), "the gateway to notice")
                agent.start()
                wait_until(lambda: known(gateway)["held"] == 3, "the instances to be held")
                held_at = time.monotonic()
                wait_until(lambda: bool(load.since(held_at + 3)), "services to beat again")
                assert instances(gateway) == 3
                register(agent, services)
                wait_until(lambda: not known(gateway)["stale"], "all to be well", 30)
                measured("held for", time.monotonic() - held_at, "s")
            assert_unharmed(measured, load.replies)
            assert_quiet(gateway)


@fault(
    "consul-cold-start",
    "the gateway is killed while Consul hangs (SIGSTOP), and started again",
    "it is ready within seconds, from the snapshot on disk, and says so",
)
def test_cold_start(measured: Measured, tmp_path: Path, login: Login, services: Sequence[ServiceProcess]) -> None:
    """D6, F-19: the agent takes connections and says nothing."""
    measured.under("1 gateway with `discovery.cache_dir`")
    with consul_agent() as agent:
        register(agent, services)
        settings = document(tmp_path, login, agent)
        first = process_gateway(tmp_path, settings).wait_until_listening()
        try:
            wait_until(lambda: instances(first) == 3, "three instances")
            # Written at most a second later.
            wait_until(lambda: bool(list((tmp_path / "cache").glob("*.snapshot"))), "the snapshot")
            agent.pause()
        finally:
            first.kill()
        started_at = time.monotonic()
        again = process_gateway(tmp_path, settings)
        try:
            again.wait_until_listening()
            wait_until(lambda: again.admin("GET", "/readyz").status_code == 200, "it to be ready")
            took = time.monotonic() - started_at
            assert took < 15
            measured("ready after", took, "s")
            assert [again.request("GET", "/public").status_code for _ in range(6)] == [200] * 6
            assert known(again)["restored_seconds_ago"] is not None
            assert "come from the snapshot on disk" in again.said
        finally:
            again.kill()


@fault(
    "consul-churning",
    "services change all the time, more of them than there are connections",
    "all changes are seen within two rounds of 10 s, memory and connections stay bounded",
)
def test_churning(measured: Measured, form: Form) -> None:
    """F-19, D7: 1,000 services over 180 connections (the short form: 200 over 40), each changed several times."""
    count, connections, rounds = (1000, 180, 5) if form.name == "long" else (200, 40, 3)
    measured.under(f"{count} services over {connections} connections, all changed {rounds} times")

    async def main(agent: Agent) -> None:
        consul = Consul(ConsulAgent(url=agent.url, connections=connections))
        directory = Directory({name: Watched(consul.source(ConsulQuery(name))) for name in names(count)})
        await asyncio.to_thread(change, agent, count, 1000)
        started_at = time.monotonic()
        assert await directory.start(30) == ()
        measured("all known after", time.monotonic() - started_at, "s")
        memory_before, most = resident_mib(), 0
        changing = asyncio.create_task(asyncio.to_thread(change_all, agent, count, rounds))
        while not changing.done():
            most = max(most, established(agent))
            await asyncio.sleep(0.1)
        await changing
        changed_at = time.monotonic()
        await until(lambda: all(port(directory, name) == 1000 + rounds for name in names(count)), 20)
        measured("last change seen after", time.monotonic() - changed_at, "s")
        assert most <= connections + CHANGERS + 10
        assert resident_mib() - memory_before < 30
        measured("connections at most", most - CHANGERS)
        measured("memory grew by", max(0.0, resident_mib() - memory_before), "MiB")
        await directory.close()
        await consul.close()

    with consul_agent(limits={"http_max_conns_per_client": connections + CHANGERS + 20}) as agent:
        asyncio.run(main(agent))


CHANGERS = 8


def names(count: int) -> list[str]:
    return [f"service-{number}" for number in range(count)]


def port(directory: Directory, name: str) -> int:
    found = directory.service(name).snapshot.instances
    return found[0].port if found else 0


def change_all(agent: Agent, count: int, rounds: int) -> None:
    for each in range(1, rounds + 1):
        change(agent, count, 1000 + each)


def change(agent: Agent, count: int, number: int) -> None:
    """Each service's one instance gets this port."""

    def some(first: int) -> None:
        client = Client(agent.url)
        with client.http:
            for name in names(count)[first::CHANGERS]:
                service = {"ID": name, "Service": name, "Port": number, "Address": "10.0.0.1"}
                client.put("/v1/catalog/register", {"Node": "outside", "Address": "10.0.0.1", "Service": service})

    with ThreadPoolExecutor(CHANGERS) as pool:
        list(pool.map(some, range(CHANGERS)))


def established(agent: Agent) -> int:
    """Open connections to the agent, as the kernel counts them."""
    port_number = urlsplit(agent.url).port
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(1 for row in rows if row[2].endswith(f":{port_number:04X}") and row[3] == "01")


def resident_mib() -> float:
    """Of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
