"""The limits of a service, with connections that are no sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import pytest

from gateway.errors import Unavailable
from gateway.route import Circuit as Limits
from gateway.upstream.circuit import Circuit
from gateway.upstream.http1 import UpstreamConnection
from gateway.upstream.repeated import RepeatedHeads


class Wire(asyncio.Transport):
    """Forgets what is written."""

    def write(self, data: object) -> None:
        """Forgotten."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """No buffer."""

    def abort(self) -> None:
        """Nothing to end."""


def opened(circuit: Circuit, *, busy: bool = True) -> UpstreamConnection:
    assert circuit.room()
    connection = UpstreamConnection(asyncio.get_running_loop(), RepeatedHeads())
    connection.connection_made(Wire())
    circuit.opened(connection)
    if busy:
        connection._exchange_open = True
    return connection


def run(main: Coroutine[None, None, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(5):
            await main

    asyncio.run(bounded())


def test_there_is_room_until_all_connections_are_busy() -> None:
    """R6: connections that are being made count."""

    async def main() -> None:
        circuit = Circuit(Limits(connections=2))
        connection = opened(circuit)
        assert circuit.room()
        assert not circuit.room()
        circuit.failed()
        assert circuit.room()
        circuit.failed()
        connection.connection_lost(None)
        assert circuit.connections == 0

    run(main())


def test_an_idle_connection_makes_room() -> None:
    """R6: whoever is idle at one instance must not block another one."""

    async def main() -> None:
        circuit = Circuit(Limits(connections=1))
        idle = opened(circuit, busy=False)
        assert circuit.room()
        assert (idle.closed, circuit.connections) == (True, 1)

    run(main())


def test_those_who_wait_are_served_in_order_and_one_at_a_time() -> None:
    """R6: who was woken but found nothing waits as the first again."""

    async def main() -> None:
        circuit = Circuit(Limits(connections=1, pending=3))
        served: asyncio.Queue[str] = asyncio.Queue()

        async def wait(name: str, *, again: bool = False) -> None:
            await circuit.wait(4, again=again)
            served.put_nowait(name)

        tasks = [asyncio.create_task(wait(name)) for name in ("a", "b")]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(wait("first again", again=True)))
        await asyncio.sleep(0)
        for name in ("first again", "a", "b"):
            circuit.freed()
            assert await served.get() == name
            assert served.empty()
        await asyncio.gather(*tasks)

    run(main())


def test_too_many_waiting_are_refused_at_once() -> None:
    """R6."""

    async def main() -> None:
        circuit = Circuit(Limits(pending=0))
        with pytest.raises(Unavailable) as refused:
            await circuit.wait(60, again=False)
        assert (refused.value.code, refused.value.reason, circuit.refused) == ("overloaded", "circuit_pending", 1)

    run(main())


def test_nobody_waits_for_ever() -> None:
    """F-36: the wait for a connection has a deadline, and ends with 503."""

    async def main() -> None:
        circuit = Circuit(Limits())
        with pytest.raises(Unavailable) as refused:
            await circuit.wait(0.01, again=False)
        assert refused.value.reason == "circuit_connections"
        assert not circuit.waiting

    run(main())


@pytest.mark.parametrize("woken", [False, True])
def test_one_who_leaves_while_waiting_takes_nobodys_turn(woken: bool) -> None:
    """R7: the client may go while its request waits, also in the moment in which it would have been served."""

    async def main() -> None:
        circuit = Circuit(Limits())
        leaving, staying = (asyncio.create_task(circuit.wait(4, again=False)) for _ in range(2))
        await asyncio.sleep(0)
        if woken:
            circuit.freed()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        if not woken:
            circuit.freed()
        await staying

    run(main())


def test_new_limits_apply_to_what_is_in_use() -> None:
    """R6: a reload changes the limits, not the counts."""

    async def main() -> None:
        circuit = Circuit(Limits(connections=5))
        opened(circuit)
        circuit.limit(Limits(connections=1, requests=7))
        assert not circuit.room()
        assert (circuit.most_requests, circuit.connections) == (7, 1)
        assert repr(circuit) == "<Circuit requests=0 connections=1 pending=0 refused=0>"

    run(main())
