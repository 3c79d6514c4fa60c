"""Client connections over their whole life: kept, pipelined, bounded in number, size and time."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.server.protocol import MAX_QUEUED
from tests.integration.wire.conftest import Stage
from tests.support.gateway_process import GET, Client, run
from tests.support.recording_upstream import Link, Script, answering
from tests.support.redis_server import until

SHORT = {"timeouts": {"header": "1s", "body": "1s", "idle": "1s"}}


def get(target: bytes, *lines: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: a\r\n" % target + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def named(link_delay: dict[bytes, asyncio.Event]) -> Script:
    """An upstream that answers with the request's target, after the event of that target."""

    async def script(link: Link) -> None:
        while (request := await link.request()) is not None:
            target = request.line.split(b" ")[1]
            if target in link_delay:
                await link_delay[target].wait()
            await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(target) + target)

    return script


def test_a_connection_is_kept_for_many_requests(stage: Stage) -> None:
    """H9: on both sides."""

    async def main() -> None:
        async with stage() as (gateway, upstream):
            client = await gateway.connect()
            for _ in range(50):
                response = await client.ask(GET)
                assert (response.status, response.values(b"connection")) == (200, [])
            assert (len(upstream.links), len(upstream.requests)) == (1, 50)

    run(main())


@pytest.mark.parametrize("split", [False, True], ids=["at once", "byte by byte"])
def test_pipelined_requests_are_answered_in_order(stage: Stage, split: bool) -> None:
    """H9, S-13: services, errors, answers from the table, bodies; the first is the slowest."""
    slow = {b"/s/0": asyncio.Event()}
    post = b"POST /s/2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    chunked = b"POST /s/3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    messages = [get(b"/s/0"), get(b"/nowhere"), post, chunked, get(b"/s/4"), get(b"/s/..%2f"), get(b"/s/never")]

    async def main() -> None:
        async with stage(named(slow)) as (gateway, upstream):
            client = await gateway.connect()
            await client.send(b"".join(messages), split=split)
            await until(lambda: len(upstream.requests) == 1, "the first request")
            slow[b"/s/0"].set()
            responses = [await client.response() for _ in range(6)]
            assert [response.status for response in responses] == [200, 404, 200, 200, 200, 400]
            assert [response.body for response in responses if response.status == 200] == [b"/s/0", b"/s/2", b"/s/3", b"/s/4"]
            assert await client.rest() == b""
            assert [request.body for request in upstream.requests] == [b"", b"hello", b"hello", b""]

    run(main())


def test_a_flood_of_pipelined_requests_is_held_back(stage: Stage) -> None:
    """F-41: what is queued is bounded, the rest waits in the client's kernel; after the last that was queued the connection ends."""
    slow = {b"/s/0": asyncio.Event()}

    async def main() -> None:
        async with stage(named(slow)) as (gateway, _):
            client = await gateway.connect()
            await client.send(get(b"/s/0"))
            flood = asyncio.create_task(client.send(get(b"/s/1") * 200_000))
            await asyncio.sleep(0.3)
            assert not flood.done()
            slow[b"/s/0"].set()
            responses = [await client.response() for _ in range(1 + MAX_QUEUED)]
            assert [response.body for response in responses] == [b"/s/0"] + [b"/s/1"] * MAX_QUEUED
            assert [response.values(b"connection") for response in responses] == [[]] * MAX_QUEUED + [[b"close"]]
            assert await client.rest() == b""
            flood.cancel()


def test_the_last_of_a_flood_has_its_body(stage: Stage) -> None:
    """F-41, H9: it is as whole as the others, though its body comes later."""
    slow = {b"/s/0": asyncio.Event()}

    async def main() -> None:
        async with stage(named(slow)) as (gateway, upstream):
            client = await gateway.connect()
            await client.send(get(b"/s/0"))
            await until(lambda: len(upstream.requests) == 1, "the first request")
            await client.send(get(b"/s/1") * (MAX_QUEUED - 1) + b"POST /s/2 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
            slow[b"/s/0"].set()
            await until(lambda: len(upstream.requests) == 1 + MAX_QUEUED, "the last request")
            await client.send(b"world" + get(b"/s/3"))
            responses = [await client.response() for _ in range(1 + MAX_QUEUED)]
            assert (responses[-1].body, responses[-1].values(b"connection")) == (b"/s/2", [b"close"])
            assert await client.rest() == b""
            assert (upstream.requests[-1].body, len(upstream.requests)) == (b"helloworld", 1 + MAX_QUEUED)

    run(main())


def test_a_slow_head_is_told_so(stage: Stage) -> None:
    """H10, F-42: one more byte now and then buys no time; 408 and close."""

    async def main() -> None:
        async with stage(server=SHORT) as (gateway, _):
            client = await gateway.connect()
            started = time.monotonic()
            drip = asyncio.create_task(_drip(client, GET))
            response = await client.response()
            assert (response.status, response.problem["code"]) == (408, "request_timeout")
            assert time.monotonic() - started < 7, "all of it would take 9 s"
            assert await client.rest() == b""
            drip.cancel()

    run(main())


async def _drip(client: Client, data: bytes) -> None:
    for at in range(len(data)):
        await client.send(data[at : at + 1])
        await asyncio.sleep(0.2)


def test_a_slow_second_head_is_told_so(stage: Stage) -> None:
    """H10: also on a kept connection, and while the request before it is still being answered."""
    slow = {b"/s/0": asyncio.Event()}

    async def main() -> None:
        async with stage(named(slow), server=SHORT) as (gateway, _):
            client = await gateway.connect()
            await client.send(get(b"/s/0") + b"GET /s/1 HT")
            await asyncio.sleep(0.3)
            slow[b"/s/0"].set()
            assert [(await client.response()).status, (await client.response()).status] == [200, 408]
            assert await client.rest() == b""

    run(main())


@pytest.mark.parametrize("framing", [b"Content-Length: 10", b"Transfer-Encoding: chunked"], ids=["length", "chunked"])
def test_a_slow_body_is_told_so(stage: Stage, framing: bytes) -> None:
    """H10, F-42: and its request is never whole at the upstream."""

    async def main() -> None:
        async with stage(Quiet(), server=SHORT) as (gateway, upstream):
            client = await gateway.connect()
            response = await client.ask(b"POST /s/x HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % framing)
            assert (response.status, response.problem["code"]) == (408, "request_timeout")
            assert (await gateway.record())["reason"] == "request_timeout"
            assert not upstream.links[0].received.endswith(b"0\r\n\r\n")
            await upstream.links[0].lost.wait()
            await gateway.idle()

    run(main())


def test_an_idle_connection_is_closed_without_a_word(stage: Stage) -> None:
    """H10: before its first request and between two; a line end now and then is not a request."""

    async def main() -> None:
        async with stage(server=SHORT) as (gateway, _):
            never, once, nagging = [await gateway.connect() for _ in range(3)]
            assert (await once.ask(GET)).status == 200
            nag = asyncio.create_task(_drip(nagging, b"\r\n" * 50))
            for client in (never, once, nagging):
                assert await client.rest() in (b"",) or client is nagging
            nag.cancel()

    run(main())


def test_a_client_that_never_reads_is_cut_off(stage: Stage) -> None:
    """H10: the connection and the upstream's work end after the body time-out."""
    body = b"x" * (16 << 20)

    async def main() -> None:
        async with stage(answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body), server=SHORT) as (
            gateway,
            upstream,
        ):
            client = await gateway.connect(limit=1024)
            await client.send(GET)
            await until(lambda: bool(upstream.links), "the request")
            await gateway.idle()
            assert (await gateway.record())["reason"] == "client_gone"

    run(main())


def test_connections_over_the_cap_are_told_so(stage: Stage) -> None:
    """H10, F-43: 503 and close; room is there again when one has left."""

    async def main() -> None:
        async with stage(server={"max": {"connections": 2}}) as (gateway, _):
            first, second = await gateway.connect(), await gateway.connect()
            for client in (first, second):
                assert (await client.ask(GET)).status == 200
            third = await gateway.connect()
            response = await third.response()
            assert (response.status, response.problem["code"]) == (503, "overloaded")
            assert response.values(b"retry-after")
            third.close()
            first.close()

            async def again() -> int:
                return (await gateway.ask(GET)).status

            deadline = time.monotonic() + 5
            while await again() != 200:
                assert time.monotonic() < deadline

    run(main())


#: What is sent, an unfinished head among them -> the status.
TOO_MUCH: dict[str, tuple[bytes, int]] = {
    "a long target": (get(b"/s/" + b"x" * 9000), 414),
    "a target without end": (b"GET /s/" + b"x" * 300_000, 414),
    "a huge field": (get(b"/s/x", b"X: " + b"x" * 40_000), 431),
    "a field without end": (b"GET /s/x HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 600_000, 431),
    "many fields": (get(b"/s/x", *[b"X-%d: 1" % number for number in range(120)]), 431),
    "fields without end": (b"GET /s/x HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 100_000, 431),
    "a huge field behind a request": (GET + get(b"/s/x", b"X: " + b"x" * 40_000), 431),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_head_over_the_bounds_is_refused(stage: Stage, name: str) -> None:
    """H10, F-41: bytes, fields, target; complete or not; told with the right status, then closed."""
    message, status = TOO_MUCH[name]

    async def main() -> None:
        async with stage() as (gateway, upstream):
            client = await gateway.connect()
            sending = asyncio.create_task(client.send(message))
            response = await client.response()
            if message.startswith(GET):
                assert response.status == 200
                response = await client.response()
            assert response.status == status
            assert response.values(b"connection") == [b"close"]
            assert await client.rest() == b""
            await sending
            assert all(request.line == b"GET /s/x HTTP/1.1" for request in upstream.requests)
            assert len(upstream.requests) == message.startswith(GET)

    run(main())


def test_a_head_behind_a_large_body_in_one_read_is_not_too_large(stage: Stage) -> None:
    """F-41: what belongs to the request before is not counted."""
    body = b"x" * 60_000
    message = b"POST /s/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    async def main() -> None:
        async with stage() as (gateway, _):
            client = await gateway.connect()
            await client.send(message + GET[:20])
            assert (await client.response()).status == 200
            assert (await client.ask(GET[20:])).status == 200

    run(main())


def test_a_thousand_connects_and_resets_leave_it_healthy(stage: Stage) -> None:
    """F-43: nothing is left behind."""

    async def main() -> None:
        async with stage() as (gateway, _):
            for _ in range(10):
                clients = await asyncio.gather(*(gateway.connect() for _ in range(100)))
                for at, client in enumerate(clients):
                    if at % 2:
                        await client.send(GET[: at % len(GET)])
                    client.writer.transport.abort()
            await until(lambda: len(gateway.runtime.client_deadlines) == 0, "the connections to be forgotten")
            assert (await gateway.ask(GET)).status == 200
            await gateway.idle()

    run(main())


class Quiet:
    """Reads and never answers."""

    async def __call__(self, link: Link) -> None:
        await link.until_lost()
