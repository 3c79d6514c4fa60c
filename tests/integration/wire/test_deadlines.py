"""Every wait for an upstream ends: which deadline it was is in the records, the client gets 504."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import pytest

from tests.integration.wire.conftest import Stage
from tests.support.gateway_process import ADAPTERS, GET, Adapter, declared, run, serving
from tests.support.ports import free_port
from tests.support.recording_upstream import Link, Script

both = pytest.mark.parametrize("adapter", ADAPTERS)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"


async def silent(link: Link) -> None:
    """Reads everything and says nothing."""
    await link.until_lost()


async def deaf(link: Link) -> None:
    """Takes the head and then nothing more."""
    await link.head()
    await asyncio.sleep(60)


async def half(link: Link) -> None:
    """Begins a response and stops."""
    await link.request()
    await link.send(HEAD + b"hello")
    await link.until_lost()


async def dripping(link: Link) -> None:
    """Never silent for long, and never done."""
    await link.request()
    await link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not link.lost.is_set():
        await link.send(b"1\r\nx\r\n")
        await asyncio.sleep(0.05)


async def dripping_head(link: Link) -> None:
    """A response's head that never ends."""
    await link.request()
    await link.send(b"HTTP/1.1 200 OK\r\n")
    while not link.lost.is_set():
        await link.send(b"X: 1\r\n")
        await asyncio.sleep(0.05)


#: Name -> (what the upstream does, the service's deadlines, the reason).
CASES: dict[str, tuple[Script, dict[str, str], str]] = {
    "no response": (silent, {"response": "300ms"}, "upstream_response_timeout"),
    "a head without end": (dripping_head, {"response": "300ms"}, "upstream_response_timeout"),
    "no response in all": (silent, {"response": "5s", "total": "300ms"}, "upstream_total_timeout"),
}


@both
@pytest.mark.parametrize("name", CASES)
def test_a_response_that_does_not_come_is_a_504(stage: Stage, adapter: Adapter, name: str) -> None:
    """F-36: and the connection is not used again."""
    script, timeouts, reason = CASES[name]

    async def main() -> None:
        async with stage(script, adapter, service={"timeouts": timeouts}) as (gateway, upstream):
            started = time.monotonic()
            response = await gateway.ask(GET)
            assert (response.status, response.problem["code"]) == (504, "gateway_timeout")
            assert 0.2 < time.monotonic() - started < 10
            record = await gateway.record()
            assert record["reason"] == reason
            await upstream.links[0].lost.wait()
            await gateway.idle()

    run(main())


@both
@pytest.mark.parametrize(
    ("script", "timeouts", "reason"),
    [(half, {"idle": "500ms"}, "upstream_idle_timeout"), (dripping, {"total": "500ms", "idle": "10s"}, "upstream_total_timeout")],
    ids=["idle", "total"],
)
def test_a_body_that_stops_is_cut(stage: Stage, adapter: Adapter, script: Script, timeouts: dict[str, str], reason: str) -> None:
    """F-36, H12: the response has begun, so the client sees it cut."""

    async def main() -> None:
        async with stage(script, adapter, service={"timeouts": timeouts}) as (gateway, _):
            response = await gateway.ask(GET)
            assert (response.status, response.whole) == (200, False)
            assert (await gateway.record())["reason"] == reason
            await gateway.idle()

    run(main())


@both
def test_an_upstream_that_takes_no_body_is_a_504(stage: Stage, adapter: Adapter) -> None:
    """F-36: silence while the request's body moves is bounded by `idle`."""
    size = 32 << 20

    async def main() -> None:
        async with stage(deaf, adapter, service={"timeouts": {"idle": "500ms"}}, server={"max": {"body_bytes": size}}) as (gateway, _):
            client = await gateway.connect()
            await client.send(b"POST /s/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
            sending = asyncio.create_task(client.send(b"x" * size))
            response = await client.response()
            assert (response.status, (await gateway.record())["reason"]) == (504, "upstream_idle_timeout")
            sending.cancel()
            await gateway.idle()

    run(main())


def test_the_response_deadline_begins_when_the_request_is_sent(stage: Stage) -> None:
    """F-36: a client that takes longer to send than the upstream may take to answer is not punished."""

    async def script(link: Link) -> None:
        if await link.request() is not None:
            await link.send(HEAD + b"0123456789")

    async def main() -> None:
        async with stage(script, service={"timeouts": {"response": "1s"}}) as (gateway, _):
            client = await gateway.connect()
            await client.send(b"POST /s/x HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n")
            for _ in range(6):
                await asyncio.sleep(0.2)
                await client.send(b"x")
            assert (await client.response()).status == 200

    run(main())


@both
def test_a_connection_that_is_refused_is_a_502(store: str, tmp_path: Path, adapter: Adapter) -> None:
    """R1: at once; nothing was sent."""

    async def main() -> None:
        app = declared(tmp_path, store, f"http://127.0.0.1:{free_port()}")
        async with serving(app, tmp_path, adapter) as gateway:
            response = await gateway.ask(GET)
            assert (response.status, response.problem["code"]) == (502, "bad_gateway")
            assert (await gateway.record())["reason"] == "upstream_connect_failure"
            await gateway.idle()

    run(main())


@both
def test_a_connection_that_is_not_accepted_is_a_504(store: str, tmp_path: Path, adapter: Adapter) -> None:
    """F-36: a listener whose queue is full answers nothing to a SYN."""

    async def main() -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            with socket.socket() as filler, socket.socket() as filler2:
                for one in (filler, filler2):
                    one.setblocking(False)
                    one.connect_ex(full.getsockname())
                app = declared(
                    tmp_path, store, f"http://127.0.0.1:{full.getsockname()[1]}", service={"timeouts": {"connect": "300ms", "total": "5s"}}
                )
                async with serving(app, tmp_path, adapter) as gateway:
                    response = await gateway.ask(GET)
                    assert (response.status, (await gateway.record())["reason"]) == (504, "upstream_connect_timeout")
                    await gateway.idle()

    run(main())


def test_a_connect_failure_goes_to_another_instance(stage: Stage, store: str, tmp_path: Path) -> None:
    """R1, R2: any method, because nothing was sent."""
    post = b"POST /s/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"

    async def main() -> None:
        gone = f"http://127.0.0.1:{free_port()}"
        async with stage(service={"balance": "round_robin"}) as (_, upstream):
            directory = tmp_path / "two"
            directory.mkdir()
            app = declared(directory, store, None)
            app.service("two", instances=[gone, upstream.url], balance="round_robin")
            app.proxy("/s/{rest:path}", "two", authentication="none")
            async with serving(app, directory) as gateway:
                client = await gateway.connect()
                for _ in range(6):
                    assert (await client.ask(post)).status == 200
                assert [request.body for request in upstream.requests] == [b"hello"] * 6

    run(main())
