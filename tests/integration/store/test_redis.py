"""The store over TCP, TLS and Unix sockets, with users, databases and a bounded pool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from gateway.settings import StateSettings
from gateway.store.error import StoreError, translated
from gateway.store.redis import Store
from gateway.store.script import Script
from gateway.store.wire import Wire
from tests.support.certificates import Certificates, issue
from tests.support.redis_server import KINDS, LOOPS, RedisServer, free_port, redis_server, run

ECHO = Script("return {KEYS[1], ARGV[1]}")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return issue(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with redis_server(request.param) as started:
        yield started


async def answers(settings: StateSettings) -> bool:
    """Whether the client and a wire both get through."""
    store = Store.open(settings)
    try:
        assert await store.run(ECHO, [b"key"], [b"value"]) == [b"key", b"value"]
        await (await store.connect()).disconnect()
        wire = Wire(store, (ECHO.load,), lambda why: None)
        await wire.open()
        replies: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        wire.send(b"*1\r\n$4\r\nPING\r\n", replies.set_result)
        assert await replies == b"PONG"
        await wire.close()
    finally:
        await store.close()
    return True


def test_users_passwords_and_databases_are_those_of_the_url(server: RedisServer) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "gate@way", "on", ">p@ss/wörd:", "~*", "+@all")
    url = f"redis://gate%40way:p%40ss%2Fw%C3%B6rd%3A@127.0.0.1:{server.port}/3"

    async def main() -> None:
        assert await answers(StateSettings(url=url))
        store = Store.open(StateSettings(url=url))
        await store.client.set("here", 1)
        await store.close()
        by_socket = Store.open(StateSettings(url=f"unix://{server.socket_path}?db=3"))
        assert await by_socket.client.get("here") == b"1"
        await by_socket.close()
        with pytest.raises(StoreError) as caught:
            await answers(StateSettings(url=url.replace("ss%2F", "")))
        assert caught.value.kind == "authentication"

    run(main())


@pytest.mark.parametrize("loop_factory", LOOPS, ids=["asyncio", "uvloop"])
def test_tls_is_verified_on_both_sides(loop_factory: Callable[[], asyncio.AbstractEventLoop], certificates: Certificates) -> None:
    """SC-8(1): the server's certificate must come from our authority, and it may ask for ours. Debian's Redis speaks TLS."""
    options = {"tls-cert-file": certificates.server, "tls-key-file": certificates.server_key, "tls-ca-cert-file": certificates.ca}
    tls_port = str(free_port())
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with redis_server("redis", "--port", "0", "--tls-port", tls_port, *words):
        url = f"rediss://127.0.0.1:{tls_port}"
        ca_file, other_ca_file = str(certificates.ca), str(certificates.other_ca)
        ours = StateSettings(url=url, ca_file=ca_file, certificate_file=str(certificates.client), key_file=str(certificates.client_key))

        async def main() -> None:
            assert await answers(ours)
            for wrong in (
                replace(ours, ca_file=other_ca_file),
                replace(ours, ca_file=""),
                replace(ours, certificate_file="", key_file=""),
                StateSettings(url=f"redis://127.0.0.1:{tls_port}"),
            ):
                with pytest.raises(StoreError) as caught:
                    await answers(wrong)
                assert caught.value.kind in ("unavailable", "timeout")

        run(main(), loop_factory)


def test_a_script_that_the_server_forgot_is_sent_with_its_text(server: RedisServer) -> None:
    """L8, F-4."""

    async def main() -> None:
        store = Store.open(StateSettings(url=server.url))
        with server.client() as client:
            for _ in range(2):
                client.script_flush()
                assert await store.run(ECHO, [b"key"], [1]) == [b"key", b"1"]
        await store.close()

    run(main())


def test_the_pool_is_bounded_and_waiting_for_it_ends(server: RedisServer) -> None:
    """F-11: more callers than connections wait, and those that wait too long get an error instead of a connection."""

    async def main() -> None:
        store = Store.open(StateSettings(url=server.url))
        await asyncio.gather(*(store.client.ping() for _ in range(100)))
        assert int((await store.client.info("clients"))["connected_clients"]) <= 16
        blocked = [asyncio.ensure_future(store.client.blpop(["nothing"], timeout=1.5)) for _ in range(16)]
        await asyncio.sleep(0)
        with pytest.raises(StoreError) as caught, translated():
            await store.client.ping()
        assert caught.value.kind == "unavailable"
        await asyncio.gather(*blocked)
        await store.close()

    run(main())


def test_nobody_there_is_unavailable(server: RedisServer) -> None:
    server.kill()

    async def main() -> None:
        store = Store.open(StateSettings(url=f"redis://127.0.0.1:{server.port}"))
        for call in (store.connect(), store.run(ECHO, [b"key"], [1])):
            with pytest.raises(StoreError) as caught:
                await call
            assert caught.value.kind == "unavailable"
        await store.close()

    run(main())
