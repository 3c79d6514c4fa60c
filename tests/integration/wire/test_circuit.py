"""Limits on what is asked of a service at once, on real sockets."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.integration.wire.conftest import Fleet
from tests.support.gateway_process import ADAPTERS, GET, Adapter, RunningGateway, run
from tests.support.recording_upstream import OK, Link
from tests.support.redis_server import until

both = pytest.mark.parametrize("adapter", ADAPTERS)


class Gate:
    """Instances that answer once the gate is open."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.asked = 0

    async def script(self, link: Link) -> None:
        while await link.request() is not None:
            self.asked += 1
            await self.open.wait()
            await link.send(OK)


def circuit(**limits: int) -> dict[str, Any]:
    return {"circuit": limits, "timeouts": {"connect": "10s"}}


async def together(gateway: RunningGateway, count: int) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(gateway.ask(GET)) for _ in range(count)]


async def refusals(tasks: list[asyncio.Task[Any]], count: int) -> None:
    """So many are refused at once: while all the others still wait."""
    await until(lambda: sum(task.done() for task in tasks) == count, "the refusals")
    for task in tasks:
        if task.done():
            response = await task
            assert (response.status, response.problem["code"]) == (503, "overloaded")
            assert response.values(b"retry-after") == [b"1"]


@both
def test_more_requests_than_the_circuit_allows_are_refused_at_once(fleet: Fleet, adapter: Adapter) -> None:
    """R6: the others are answered, and afterwards there is room again."""
    gate = Gate()

    async def main() -> None:
        async with fleet(gate.script, gate.script, adapter=adapter, service=circuit(requests=3)) as (gateway, _):
            tasks = await together(gateway, 8)
            await refusals(tasks, 5)
            assert gate.asked == 3
            gate.open.set()
            assert sorted([(await task).status for task in tasks]) == [200] * 3 + [503] * 5
            assert (await gateway.ask(GET)).status == 200
            record = await gateway.record(lambda record: record["reason"] == "overloaded", of=5)
            assert (record["decision"], record["upstream"]["attempts"]) == ("deny", 0)
            await gateway.idle()

    run(main())


@both
def test_requests_wait_for_a_connection_in_turn(fleet: Fleet, adapter: Adapter) -> None:
    """R6: no more connections than allowed, and no more waiting than allowed."""
    gate = Gate()

    async def main() -> None:
        async with fleet(gate.script, adapter=adapter, service=circuit(connections=2, pending=3)) as (gateway, upstreams):
            tasks = await together(gateway, 9)
            await refusals(tasks, 4)
            assert gate.asked == 2
            gate.open.set()
            assert sorted([(await task).status for task in tasks]) == [200] * 5 + [503] * 4
            assert len(upstreams[0].links) == 2
            assert gateway.runtime.forwarders["s"]._circuit.refused == 4
            await gateway.idle()

    run(main())


def test_an_idle_connection_to_another_instance_makes_room(fleet: Fleet) -> None:
    """R6: connections count for the whole service, so one instance must not keep them from another."""

    async def script(link: Link) -> None:
        while await link.request() is not None:
            await link.send(OK)

    async def main() -> None:
        async with fleet(script, script, service=circuit(connections=1)) as (gateway, upstreams):
            for _ in range(4):
                assert (await gateway.ask(GET)).status == 200
            assert [len(upstream.requests) for upstream in upstreams] == [2, 2]
            assert sum(not link.lost.is_set() for upstream in upstreams for link in upstream.links) <= 2
            assert gateway.runtime.forwarders["s"]._circuit.connections == 1

    run(main())


def test_waiting_for_a_connection_ends(fleet: Fleet) -> None:
    """F-36: within the time that a connection may take, with 503."""
    gate = Gate()

    async def main() -> None:
        async with fleet(gate.script, service={**circuit(connections=1), "timeouts": {"connect": "200ms"}}) as (gateway, _):
            first = (await together(gateway, 1))[0]
            await until(lambda: gate.asked == 1, "the first request")
            started = time.monotonic()
            assert (await gateway.ask(GET)).status == 503
            assert 0.15 < time.monotonic() - started < 10
            assert (await gateway.record())["reason"] == "overloaded"
            gate.open.set()
            assert (await first).status == 200

    run(main())


@pytest.mark.parametrize("ending", ["reset", "close"])
def test_a_connection_that_ends_lets_the_next_one_in(fleet: Fleet, ending: str) -> None:
    """R6, F-31: whatever way it ends."""

    async def script(link: Link) -> None:
        await link.request()
        await asyncio.sleep(0.05)
        if ending == "reset":
            link.reset()
        else:
            await link.send(OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"))
            link.close()

    async def main() -> None:
        service = {**circuit(connections=1), "retry": {"attempts": 0}, **STEADY}
        async with fleet(script, service=service) as (gateway, upstreams):
            statuses = [(await task).status for task in await together(gateway, 6)]
            assert statuses == [502 if ending == "reset" else 200] * 6
            assert len(upstreams[0].links) == 6
            await gateway.idle()

    run(main())


def test_a_client_that_leaves_while_it_waits_frees_its_place(fleet: Fleet) -> None:
    """R7."""
    gate = Gate()

    async def main() -> None:
        async with fleet(gate.script, service=circuit(connections=1, pending=1)) as (gateway, _):
            first = (await together(gateway, 1))[0]
            await until(lambda: gate.asked == 1, "the first request")
            leaving = await gateway.connect()
            await leaving.send(GET)
            await until(lambda: gateway.runtime.pipeline.in_flight == 2, "the second request")
            assert (await gateway.ask(GET)).status == 503
            leaving.close()
            await until(lambda: gateway.runtime.pipeline.in_flight == 1, "the end of the second request")
            third = (await together(gateway, 1))[0]
            await until(lambda: gateway.runtime.pipeline.in_flight == 2, "the third request")
            gate.open.set()
            assert ((await first).status, (await third).status) == (200, 200)

    run(main())


#: No instance is taken out, whatever it does.
STEADY: dict[str, Any] = {"outlier": {"consecutive_failures": 0}}
