"""The pipelined connection: order, loss, return."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from redis.asyncio.connection import AbstractConnection

from gateway.settings import StateSettings
from gateway.store.error import StoreError
from gateway.store.redis import Store
from gateway.store.script import bulk
from gateway.store.wire import Wire
from tests.support.redis_server import KINDS, LOOPS, RedisServer, redis_server, run, until

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
SLEEP = b"*3\r\n" + bulk(b"BLPOP") + bulk(b"nothing") + bulk(b"0")


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with redis_server(request.param) as started:
        yield started


def echo(text: bytes) -> bytes:
    return b"*2\r\n" + bulk(b"ECHO") + bulk(text)


def test_replies_come_in_order_each_to_its_caller(server: RedisServer) -> None:
    async def main() -> None:
        changes: list[StoreError | None] = []
        wire = Wire(Store.open(StateSettings(url=server.url)), (), changes.append)
        await wire.open()
        assert wire.up
        assert repr(wire) == "<Wire up>"
        got: list[tuple[int, Any]] = []

        def keep(number: int, reply: Any) -> None:
            got.append((number, reply))

        for number in range(2000):
            wire.send(echo(b"%d" % number), partial(keep, number))
        wire.send(echo(b"x" * 1_000_000), lambda reply: got.append((2000, len(reply))))
        wire.send(b"*1\r\n$5\r\nWRONG\r\n", lambda reply: got.append((2001, reply.kind)))
        await until(lambda: len(got) == 2002, "all replies")
        assert got == [*((number, b"%d" % number) for number in range(2000)), (2000, 1_000_000), (2001, "script")]
        owed: list[Any] = []
        wire.send(SLEEP, owed.append)
        await wire.close()
        assert [reply.kind for reply in owed] == ["unavailable"]
        assert [change is None for change in changes] == [True, False]

    run(main())


class _Deaf:
    """Fails instead of being cancelled, as asyncio.wait_for does before Python 3.12 when it is cancelled together with a result."""

    def __init__(self) -> None:
        self.attempts = 0

    async def connect(self) -> AbstractConnection:
        self.attempts += 1
        if self.attempts == 1:
            raise StoreError("unavailable", "refused")
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            raise StoreError("permission", "NOPERM") from None
        raise AssertionError("unreachable")


def test_closing_ends_even_when_the_cancellation_gets_lost() -> None:
    async def main() -> None:
        deaf = _Deaf()
        wire = Wire(deaf, (), lambda _: None)
        await wire.open()
        await until(lambda: deaf.attempts == 2, "the second attempt")
        async with asyncio.timeout(5):
            await wire.close()
        assert repr(wire) == "<Wire down>"

    run(main())


@pytest.mark.parametrize("loop_factory", LOOPS, ids=["asyncio", "uvloop"])
def test_a_lost_connection_answers_everybody_and_comes_back(server: RedisServer, loop_factory: LoopFactory) -> None:
    """F-11, F-12: what was in flight gets an error, exactly once; nothing is sent again."""

    async def main() -> None:
        changes: list[StoreError | None] = []
        wire = Wire(Store.open(StateSettings(url=server.url)), (), changes.append)
        await wire.open()
        got: list[Any] = []
        for _ in range(3):
            wire.send(SLEEP, got.append)
        with server.client() as client:
            await until(lambda: int(client.info("clients")["blocked_clients"]) == 1, "the command to block")
            client.client_kill_filter(_type="normal", skipme=True)
        await until(lambda: len(got) == 3, "the errors")
        assert {reply.kind for reply in got} == {"unavailable"}
        await until(lambda: wire.up, "the wire to be back")
        wire.send(echo(b"again"), got.append)
        await until(lambda: len(got) == 4, "the reply")
        assert got[3] == b"again"
        assert [change is None for change in changes] == [True, False, True]
        await wire.close()

    run(main(), loop_factory)


@pytest.mark.parametrize("loop_factory", LOOPS, ids=["asyncio", "uvloop"])
def test_giving_up_is_immediate(server: RedisServer, loop_factory: LoopFactory) -> None:
    async def main() -> None:
        wire = Wire(Store.open(StateSettings(url=server.url)), (), lambda why: None)
        await wire.open()
        got: list[Any] = []
        wire.send(SLEEP, got.append)
        wire.abort(StoreError("timeout", "enough"))
        assert not wire.up
        await until(lambda: bool(got), "the error")
        assert got[0].message == "enough"
        await until(lambda: wire.up, "the wire to be back")
        await wire.close()

    run(main(), loop_factory)


def test_a_connection_that_can_not_be_prepared_is_not_used(server: RedisServer) -> None:
    """L9: a command that fails at the start of a connection keeps the wire down; it is tried again."""

    async def main() -> None:
        wire = Wire(Store.open(StateSettings(url=server.url)), (b"*2\r\n$4\r\nLLEN\r\n$4\r\nlist\r\n",), lambda why: None)
        with server.client() as client:
            client.set("list", "no list")
            await wire.open()
            assert not wire.up
            assert repr(wire) == "<Wire down>"
            client.delete("list")
            await until(lambda: wire.up, "the wire to be up")
        await wire.close()

    run(main())


def test_a_server_that_answers_unasked_is_left() -> None:
    """F-11: from an answer too many on, nobody can tell whose is whose."""

    async def main() -> None:
        async def chatter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65_536):
                writer.write(b"+OK\r\n" * data.count(b"CLIENT"))
                if b"ECHO" in data:
                    writer.write(b"+one\r\n+two\r\n+three\r\n")
            writer.close()

        server = await asyncio.start_server(chatter, "127.0.0.1", 0)
        async with server:
            changes: list[StoreError | None] = []
            url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            wire = Wire(Store.open(StateSettings(url=url)), (), changes.append)
            await wire.open()
            got: list[Any] = []
            wire.send(echo(b"one"), got.append)
            await until(lambda: len(changes) >= 2, "the connection to be given up")
            assert got == [b"one"]
            assert changes[1] is not None
            await wire.close()

    run(main())


def test_a_server_that_hangs_up_again_and_again_is_not_hammered() -> None:
    """F-12: a connection that ends at once is as bad as none: pauses grow."""

    async def main() -> None:
        accepted: list[float] = []
        loop = asyncio.get_running_loop()

        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.append(loop.time())
            greeted = 0
            while greeted < 3 and (data := await reader.read(65_536)):
                greeted += data.count(b"CLIENT")
                writer.write(b"+OK\r\n" * data.count(b"CLIENT"))
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        async with server:
            url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            wire = Wire(Store.open(StateSettings(url=url)), (), lambda why: None)
            await wire.open()
            await until(lambda: len(accepted) >= 6, "six connections")
            assert accepted[5] - accepted[0] > 0.25
            await wire.close()

    run(main())


def test_an_outage_is_told_once_and_so_is_its_end(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """One line when the store goes, however often it is tried, and one when it is back."""

    async def main() -> None:
        attempts: list[float] = []

        class Counting:
            store = Store.open(StateSettings(url=server.url))

            async def connect(self) -> AbstractConnection:
                attempts.append(0.0)
                return await self.store.connect()

        wire = Wire(Counting(), (), lambda why: None)
        await wire.open()
        server.kill()
        await until(lambda: len(attempts) >= 4, "a few attempts")
        server.start_again()
        await until(lambda: wire.up, "the wire to be back")
        await wire.close()

    with caplog.at_level("INFO", "gateway.store"):
        run(main())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
