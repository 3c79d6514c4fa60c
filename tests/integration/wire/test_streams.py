"""Bodies that move: both ways at once, no faster than the slower side takes them, and ended on both sides when one ends."""

from __future__ import annotations

import asyncio
import resource

import pytest

from gateway.server import protocol
from tests.integration.wire.conftest import Stage
from tests.support.gateway_process import ADAPTERS, GET, Adapter, run
from tests.support.recording_upstream import OK, Link, answering
from tests.support.redis_server import until

both = pytest.mark.parametrize("adapter", ADAPTERS)
MEBIBYTE = 1 << 20
CHUNKED_POST = b"POST /s/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def rss_bytes() -> int:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@both
def test_a_request_body_passes_piece_by_piece(stage: Stage, adapter: Adapter) -> None:
    """H6, F-34: each piece is at the upstream before the next one is sent."""
    pieces = [b"one", b"two" * 1000, b"three"]

    async def main() -> None:
        async with stage(adapter=adapter) as (gateway, upstream):
            client = await gateway.connect()
            await client.send(CHUNKED_POST)
            for number, piece in enumerate(pieces, 1):
                await client.send(chunk(piece))
                await until(lambda: bool(upstream.links), "a connection")
                if number == 1:
                    await until(lambda: b"one" in upstream.links[0].received, "the first piece")
            response = await client.ask(b"0\r\n\r\n")
            assert response.status == 200
            assert upstream.requests[0].body == b"".join(pieces)

    run(main())


@both
def test_a_response_body_passes_piece_by_piece(stage: Stage, adapter: Adapter) -> None:
    """H6, H7, F-34: the first byte isn't held back, nor any event of an event stream."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    turns: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(link: Link) -> None:
        await link.request()
        await link.send(head)
        while data := await turns.get():
            await link.send(chunk(data))
        await link.send(b"0\r\n\r\n")

    async def main() -> None:
        async with stage(script, adapter) as (gateway, _):
            client = await gateway.connect()
            await client.send(GET)
            assert (await client.head()).values(b"content-type") == [b"text/event-stream"]
            for event in (b"data: 1\n\n", b"data: 2\n\n"):
                turns.put_nowait(event)
                assert await client.chunk() == event
            turns.put_nowait(b"")
            assert await client.chunk() == b""

    run(main())


def test_both_directions_move_at_once(stage: Stage) -> None:
    """H6: an upstream that answers while it still reads; a conversation of ten turns."""

    async def echo(link: Link) -> None:
        await link.head()
        await link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while size := int(await link._line(), 16):
            await link.send(chunk((await link._exactly(size + 2))[:-2].upper()))
        await link._exactly(2)
        await link.send(b"0\r\n\r\n")

    async def main() -> None:
        async with stage(echo) as (gateway, _):
            client = await gateway.connect()
            await client.send(CHUNKED_POST)
            assert (await client.head()).status == 200
            for turn in range(10):
                await client.send(chunk(b"turn %d" % turn))
                assert await client.chunk() == b"TURN %d" % turn
            await client.send(b"0\r\n\r\n")
            assert await client.chunk() == b""
            await gateway.idle()

    run(main())


@both
def test_a_large_body_passes_unchanged_both_ways(stage: Stage, adapter: Adapter) -> None:
    """H6, S-20: 4 MiB up and down with a length."""
    body = bytes(range(256)) * (4 * MEBIBYTE // 256)
    message = b"POST /s/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)

    async def main() -> None:
        async with stage(answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body), adapter) as (gateway, upstream):
            client = await gateway.connect()
            for _ in range(2):
                response = await client.ask(message + body)
                assert (response.status, response.body == body) == (200, True)
                await gateway.idle()
            assert [request.body == body for request in upstream.requests] == [True, True]
            assert len(upstream.links) == 1

    run(main())


def test_a_body_in_one_read_with_its_head_does_not_stall_the_connection(stage: Stage) -> None:
    """H9: more than the high-water mark at once, then the next request on the same connection."""
    body = b"x" * (100 * 1024)
    message = b"POST /s/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    async def main() -> None:
        async with stage() as (gateway, _):
            client = await gateway.connect()
            for _ in range(3):
                assert (await client.ask(message)).status == 200

    run(main())


@both
def test_a_client_that_does_not_read_holds_the_upstream_back(stage: Stage, adapter: Adapter) -> None:
    """H6, F-40: 64 MiB towards a client that takes nothing: the upstream is stopped, and memory stays where it was."""
    sent = 0

    async def script(link: Link) -> None:
        nonlocal sent
        await link.request()
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MEBIBYTE))
        block = b"x" * 65536
        while sent < 64 * MEBIBYTE:
            await link.send(block)
            sent += len(block)

    async def main() -> None:
        async with stage(script, adapter) as (gateway, _):
            before = rss_bytes()
            client = await gateway.connect(limit=1024)
            await client.send(GET)
            await until(lambda: sent > 0, "the response to begin")
            # Nothing moves any more when it stayed the same for a while.
            seen = -1
            while seen != sent:
                seen = sent
                await asyncio.sleep(0.2)
            assert sent < 32 * MEBIBYTE
            assert rss_bytes() - before < 32 * MEBIBYTE
            total = len((await client.response()).body)
            assert total == 64 * MEBIBYTE

    run(main())


@both
def test_an_upstream_that_does_not_read_holds_the_client_back(stage: Stage, adapter: Adapter) -> None:
    """H6, F-40: likewise for 48 MiB of a request's body."""
    goes_on = asyncio.Event()
    size = 48 * MEBIBYTE

    async def script(link: Link) -> None:
        await link.head()
        await goes_on.wait()
        got = 0
        while got < size:
            got += len(await link.reader.read(MEBIBYTE))
        await link.send(OK)

    async def main() -> None:
        async with stage(script, adapter, server={"max": {"body_bytes": "64MiB"}}) as (gateway, _):
            before = rss_bytes()
            client = await gateway.connect()
            await client.send(b"POST /s/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
            sent = 0

            async def upload() -> None:
                nonlocal sent
                while sent < size:
                    await client.send(b"x" * 65536)
                    sent += 65536

            task = asyncio.create_task(upload())
            seen = -1
            while seen != sent:
                seen = sent
                await asyncio.sleep(0.2)
            assert sent < size
            assert rss_bytes() - before < 32 * MEBIBYTE
            goes_on.set()
            assert (await client.response()).status == 200
            await task

    run(main())


@both
def test_a_client_that_leaves_ends_the_upstreams_work(stage: Stage, adapter: Adapter) -> None:
    """R7, F-35: before an answer; the connection is not used again, counters return, the record says so."""

    async def main() -> None:
        async with stage(Silence(), adapter) as (gateway, upstream):
            client = await gateway.connect()
            await client.send(GET)
            await until(lambda: bool(upstream.requests), "the request")
            client.close()
            await upstream.links[0].lost.wait()
            await gateway.idle()
            assert (await gateway.record())["response"]["status"] == 499

    run(main())


@both
def test_a_client_that_leaves_in_the_middle_ends_the_upstreams_work(stage: Stage, adapter: Adapter) -> None:
    """R7: while a response streams."""

    async def script(link: Link) -> None:
        await link.request()
        await link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunk(b"x"))
        await link.until_lost()

    async def main() -> None:
        async with stage(script, adapter) as (gateway, upstream):
            client = await gateway.connect()
            await client.send(GET)
            await client.head()
            client.close()
            await upstream.links[0].lost.wait()
            await gateway.idle()
            assert (await gateway.record())["reason"] == "client_gone"

    run(main())


@both
def test_a_client_that_sends_less_than_it_said_never_makes_a_whole_request(stage: Stage, adapter: Adapter) -> None:
    """F-32: neither with a length nor with chunks."""

    async def main() -> None:
        async with stage(adapter=adapter) as (gateway, upstream):
            for number, message in enumerate(
                (b"POST /s/x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello", CHUNKED_POST + chunk(b"hello")), 1
            ):
                client = await gateway.connect()
                await client.send(message)
                await until(lambda: len(upstream.links) == number, "the connection")  # noqa: B023
                await until(lambda: b"hello" in upstream.links[-1].received or bool(upstream.links[-1].requests), "the head")
                client.close()
                await until(lambda: upstream.links[-1].reader.at_eof() or upstream.links[-1].reader.exception() is not None, "the end")
                assert not upstream.links[-1].received.endswith(b"0\r\n\r\n")
            await gateway.idle()

    run(main())


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_early_answer_is_delivered(stage: Stage, framing: str) -> None:
    """R8: a 413 while the client still sends; the upload ends, and so do both connections."""
    size = 8 * MEBIBYTE
    head = CHUNKED_POST if framing == "chunked" else b"POST /s/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size

    async def script(link: Link) -> None:
        await link.head()
        await link.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await link.until_lost()

    async def main() -> None:
        async with stage(script) as (gateway, upstream):
            client = await gateway.connect()
            await client.send(head)

            async def upload() -> None:
                for _ in range(size // 65536):
                    block = b"x" * 65536
                    await client.send(chunk(block) if framing == "chunked" else block)

            task = asyncio.create_task(upload())
            response = await client.response()
            assert (response.status, response.body, response.values(b"connection")) == (413, b"big", [b"close"])
            await task
            await upstream.links[0].lost.wait()
            await gateway.idle()

    run(main())


@both
def test_a_declared_length_over_the_bound_is_refused_unread(stage: Stage, adapter: Adapter) -> None:
    """F-40: 413 before a byte of the body, and nothing at the upstream."""

    async def main() -> None:
        async with stage(adapter=adapter, route={"max": {"body_bytes": 1000}}) as (gateway, upstream):
            response = await gateway.ask(b"POST /s/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n")
            assert (response.status, response.problem["code"]) == (413, "body_too_large")
            assert upstream.links == []

    run(main())


@pytest.mark.parametrize("split", ["at once", "in pieces"])
@both
def test_chunks_over_the_bound_are_refused_on_the_way(stage: Stage, adapter: Adapter, split: str) -> None:
    """F-40: the client is told, the upstream never sees the body end; also when it came in one read with its head."""
    pieces = [chunk(b"x" * 400)] * 5

    async def main() -> None:
        async with stage(Reader(), adapter, route={"max": {"body_bytes": 1000}}) as (gateway, upstream):
            client = await gateway.connect()
            if split == "at once":
                await client.send(CHUNKED_POST + b"".join(pieces) + b"0\r\n\r\n")
            else:
                await client.send(CHUNKED_POST)
                # No more than is too much: a server that doesn't linger would answer the rest with a reset.
                for piece in pieces[:3]:
                    await client.send(piece)
                    await asyncio.sleep(0.02)
            response = await client.response()
            assert (response.status, response.problem["code"]) == (413, "body_too_large")
            await gateway.idle()
            for link in upstream.links:
                assert not link.received.endswith(b"0\r\n\r\n")

    run(main())


def test_a_body_of_exactly_the_bound_passes(stage: Stage) -> None:
    """F-40: the bound itself is allowed."""

    async def main() -> None:
        async with stage(route={"max": {"body_bytes": 1000}}) as (gateway, upstream):
            assert (await gateway.ask(CHUNKED_POST + chunk(b"x" * 1000) + b"0\r\n\r\n")).status == 200
            assert len(upstream.requests[0].body) == 1000

    run(main())


class Silence:
    """Reads a request and never answers."""

    async def __call__(self, link: Link) -> None:
        await link.request()
        await link.until_lost()


class Reader:
    """Reads and never answers."""

    async def __call__(self, link: Link) -> None:
        await link.until_lost()


def test_a_slow_reader_gets_the_end_of_the_last_answer(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """H6, H10: what was written is sent for as long as any answer is, also when the connection ends with it."""
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 0.2)
    # How much the sockets between us hold is not known; this way some of these answers wait in the gateway when they are complete.
    sizes = range(256 << 10, 6 << 20, 64 << 10)

    async def script(link: Link) -> None:
        while (request := await link.request()) is not None:
            body = b"x" * int(request.line.split()[1].rpartition(b"/")[2])
            await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async def main() -> None:
        async with stage(script) as (gateway, _):
            clients = [await gateway.connect(limit=1024) for _ in sizes]
            for client, size in zip(clients, sizes, strict=True):
                await client.send(b"GET /s/%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % size)
            # Several times as long as a connection lingers that has been closed.
            await asyncio.sleep(1)
            for client, size in zip(clients, sizes, strict=True):
                assert len((await client.response()).body) == size

    run(main())
