"""The tunnel itself: bytes, whoever they belong to, what bounds it, and what ends it (SPEC H6, H8, R7)."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from typing import Any

import pytest

from gateway.upstream.http1 import HIGH_WATER_BYTES
from tests.integration.tunnels.conftest import Stage, tunnels
from tests.support.gateway_process import GET, Client, run
from tests.support.recording_upstream import OK, Link, in_turn
from tests.support.redis_server import until
from tests.support.websockets import BINARY, NO_MASK, PING, TEXT, close, echo, frame, handshake, opened, silent, switching

#: One read of the event loop's, which may come on top of what the high-water mark allows.
ONE_READ_BYTES = 256 * 1024
OTHER = b"GET /s/x HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: Lines/1\r\n\r\n"
OTHER_AGREED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: lines/1\r\n\r\n"


def reset(client: Client) -> None:
    """End the client's connection by a TCP reset."""
    sock: socket.socket = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


def test_bytes_go_both_ways(stage: Stage) -> None:
    """H8: whatever they are; the record comes at the end and tells how many and why."""

    async def main() -> None:
        async with stage() as (gateway, upstream):
            client = await gateway.connect()
            response = await opened(client)
            assert response.values(b"connection") == [b"upgrade"]
            assert response.values(b"upgrade") == [b"websocket"]
            assert len(response.values(b"x-request-id")) == 1
            for sent in (frame(TEXT, b"hello"), frame(PING), frame(BINARY, os.urandom(70_000))):
                await client.send(sent)
                assert await client.reader.readexactly(len(sent)) == sent
            assert gateway.records() == []
            client.writer.write_eof()
            assert await client.rest() == b""
            record = await gateway.record()
            assert (record["response"]["status"], record["reason"], record["decision"]) == (101, "client_closed", "allow")
            assert (
                record["request"]["bytes"]
                == record["response"]["bytes"]
                == len(frame(TEXT, b"hello") + frame(PING) + frame(BINARY, bytes(70_000)))
            )
            await upstream.links[0].lost.wait()
            await gateway.idle()

    run(main())


@pytest.mark.parametrize("split", [False, True], ids=["at once", "byte by byte"])
def test_bytes_that_come_with_the_handshake_are_not_lost(stage: Stage, split: bool) -> None:
    """H8: in either direction, and in the order in which they came."""

    async def script(link: Link) -> None:
        request = await link.head()
        assert request is not None
        head = switching(request) + frame(TEXT, b"welcome", mask=b"")
        await link.send(*([head[at : at + 1] for at in range(len(head))] if split else [head]))
        await link.until_lost()

    async def main() -> None:
        async with stage(script) as (gateway, upstream):
            client = await gateway.connect()
            early = frame(TEXT, b"first") + frame(BINARY, bytes(300))
            await client.send(handshake() + early, split=split)
            assert (await client.head()).status == 101
            welcome = frame(TEXT, b"welcome", mask=b"")
            assert await client.reader.readexactly(len(welcome)) == welcome
            await client.send(frame(TEXT, b"second"), split=split)
            client.writer.write_eof()
            await upstream.links[0].lost.wait()
            received = bytes(upstream.links[0].received)
            assert received == upstream.requests[0].head + early + frame(TEXT, b"second")

    run(main())


def test_requests_before_the_handshake_are_answered_first(stage: Stage) -> None:
    """H8, H9: in one piece, and what follows the handshake goes into the tunnel."""

    async def script(link: Link) -> None:
        for _ in range(2):
            if (request := await link.head()) is not None and request.values(b"upgrade"):
                await link.send(switching(request))
                while data := await link.read():
                    await link.send(data)
                return
            await link.send(OK)

    async def main() -> None:
        async with stage(script) as (gateway, _):
            client = await gateway.connect()
            await client.send(GET + handshake() + frame(TEXT, b"hello"))
            assert (await client.response()).body == b"ok"
            assert (await client.head()).status == 101
            assert await client.reader.readexactly(len(frame(TEXT, b"hello"))) == frame(TEXT, b"hello")

    run(main())


@pytest.mark.parametrize("slow", ["upstream", "client"])
def test_a_side_that_does_not_read_holds_the_other_one_back(stage: Stage, slow: str) -> None:
    """H6: memory is bounded, and nothing is lost once it reads again."""
    piece = frame(BINARY, bytes(8 << 20), mask=NO_MASK)
    total = 2 * len(piece)
    read = asyncio.Event()
    told: list[int] = []

    async def script(link: Link) -> None:
        request = await link.head()
        assert request is not None
        await link.send(switching(request))
        if slow == "client":
            await link.send(piece * 2)
            return
        await read.wait()
        count = 0
        while count < total:
            count += len(await link.read())
        told.append(count)

    async def main() -> None:
        async with stage(script) as (gateway, _):
            client = await gateway.connect(limit=1024)
            await opened(client)
            (tunnel,) = tunnels(gateway)
            writer, reader = (tunnel._upstream, tunnel._client) if slow == "upstream" else (tunnel._client, tunnel._upstream)
            sending = asyncio.ensure_future(client.send(piece * 2)) if slow == "upstream" else None
            await until(lambda: writer.write_paused, "the gateway to hold back")
            await until(lambda: not reader.transport.is_reading(), "the gateway to read no more")
            assert writer.transport.get_write_buffer_size() <= HIGH_WATER_BYTES + ONE_READ_BYTES
            assert reader.received_bytes < total
            read.set()
            if sending is not None:
                await sending
                await until(lambda: told == [total], "everything to arrive")
            else:
                assert await client.reader.readexactly(total) == piece * 2

    run(main())


def test_what_is_on_its_way_arrives_though_its_sender_has_left(stage: Stage) -> None:
    """H8: both ways, a reader that takes its time gets all of it."""
    piece = frame(BINARY, bytes(4 << 20), mask=NO_MASK)
    size = len(piece)
    arrived = asyncio.Event()
    counts: list[int] = []

    async def sender(link: Link) -> None:
        request = await link.head()
        assert request is not None
        await link.send(switching(request), piece)

    async def taker(link: Link) -> None:
        request = await link.head()
        assert request is not None
        await link.send(switching(request))
        await arrived.wait()
        await link.until_lost()
        counts.append(len(link.received) - len(request.head))

    async def main() -> None:
        async with stage(in_turn(sender, taker)) as (gateway, _):
            client = await gateway.connect(limit=1024)
            await opened(client)
            # Longer than a connection lingers that has been closed.
            await asyncio.sleep(2.5)
            assert len(await client.rest()) == size
            client = await gateway.connect()
            await opened(client)
            await client.send(piece)
            client.close()
            arrived.set()
            await until(lambda: counts == [size], "everything to arrive")

    run(main())


def test_another_protocol_may_be_half_closed(stage: Stage) -> None:
    """H8: a client that has said everything gets its answer; only protocols of the list are let through."""

    async def script(link: Link) -> None:
        request = await link.head()
        assert request is not None
        assert request.values(b"upgrade") == [b"lines/1"]
        await link.send(OTHER_AGREED)
        said = b""
        while data := await link.read():
            said += data
        await link.send(b"heard " + said)

    async def main() -> None:
        async with stage(script, websocket={"protocols": ["lines/1"]}) as (gateway, _):
            client = await gateway.connect()
            await client.send(OTHER)
            response = await client.head()
            assert (response.status, response.values(b"upgrade")) == (101, [b"lines/1"])
            await client.send(b"one\ntwo\n")
            client.writer.write_eof()
            assert await client.rest() == b"heard one\ntwo\n"
            assert (await gateway.record())["reason"] == "client_closed"

    run(main())


#: Bounds of a route, what the client sends, what ends the tunnel, and with which code.
BOUNDS: dict[str, tuple[dict[str, Any], dict[str, Any], bytes, str, int]] = {
    "silence": ({"idle": "400ms"}, {}, b"", "tunnel_idle", 1001),
    "its life": ({"lifetime": "1s"}, {}, b"", "tunnel_lifetime", 1001),
    "bytes": ({"max_bytes": 1000}, {}, frame(BINARY, bytes(2000)), "tunnel_max_bytes", 1008),
    "a message": ({}, {"max": {"body_bytes": 1000}}, frame(BINARY, bytes(1001)), "tunnel_message_too_big", 1009),
    "a fragmented message": (
        {},
        {"max": {"body_bytes": 1000}},
        frame(BINARY, bytes(600), fin=False) + frame(PING) + frame(0, bytes(600), fin=False),
        "tunnel_message_too_big",
        1009,
    ),
}


@pytest.mark.parametrize("split", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_end_it_with_a_close_frame_for_both(stage: Stage, name: str, split: bool) -> None:
    """H8, S-38: silence, life, bytes, and the size of a message."""
    websocket, route, sent, reason, code = BOUNDS[name]

    async def main() -> None:
        async with stage(silent(), websocket=websocket or True, route=route) as (gateway, upstream):
            client = await gateway.connect()
            await opened(client)
            await client.send(sent, split=split)
            assert await client.rest() == close(code)
            await upstream.links[0].lost.wait()
            received = bytes(upstream.links[0].received)[len(upstream.requests[0].head) :]
            assert sent.startswith(received[:-8]) or reason == "tunnel_max_bytes"
            if reason not in ("tunnel_max_bytes", "tunnel_message_too_big") or not split:
                # Between two frames, so the service is told as well; masked, as a client's frame has to be.
                assert received[-8:-6] == b"\x88\x82"
                assert bytes(byte ^ received[-6 + place] for place, byte in enumerate(received[-2:])) == code.to_bytes(2, "big")
            record = await gateway.record()
            assert (record["reason"], record["response"]["status"]) == (reason, 101)

    run(main())


def test_messages_within_the_bound_pass_however_many(stage: Stage) -> None:
    """H8: the bound is for one message."""

    async def main() -> None:
        async with stage(route={"max": {"body_bytes": 1000}}) as (gateway, _):
            client = await gateway.connect()
            await opened(client)
            sent = frame(BINARY, bytes(1000)) * 5 + frame(TEXT, bytes(500), fin=False) + frame(PING, b"x") + frame(0, bytes(500))
            await client.send(sent)
            assert await client.reader.readexactly(len(sent)) == sent

    run(main())


def test_no_close_frame_is_put_into_another_frame(stage: Stage) -> None:
    """H8: a client that waits for the rest of a frame sees the end of the connection and nothing else."""
    half = frame(BINARY, bytes(200), mask=b"")[:100]

    async def main() -> None:
        async with stage(silent(half), websocket={"idle": "400ms"}) as (gateway, _):
            client = await gateway.connect()
            await opened(client)
            assert await client.rest() == half
            assert (await gateway.record())["reason"] == "tunnel_idle"

    run(main())


def test_traffic_in_one_direction_keeps_it_open(stage: Stage) -> None:
    """H8: silence means both."""

    async def main() -> None:
        async with stage(silent(), websocket={"idle": "1s"}) as (gateway, _):
            client = await gateway.connect()
            await opened(client)
            for _ in range(12):
                await client.send(frame(PING))
                await asyncio.sleep(0.15)
            assert len(tunnels(gateway)) == 1
            assert await client.rest() == close(1001)

    run(main())


@pytest.mark.parametrize("who", ["client", "upstream"])
def test_a_reset_ends_the_other_side(stage: Stage, who: str) -> None:
    """H8, R7."""

    async def main() -> None:
        async with stage() as (gateway, upstream):
            client = await gateway.connect()
            await opened(client)
            await client.send(b"x")
            assert await client.reader.readexactly(1) == b"x"
            if who == "client":
                reset(client)
                await upstream.links[0].lost.wait()
            else:
                upstream.links[0].reset()
                assert await client.rest() == b""
            assert (await gateway.record())["reason"] == f"{who}_reset"
            await gateway.idle()

    run(main())


def test_a_tunnel_counts_as_a_request_while_it_lasts(stage: Stage) -> None:
    """H8, R6, B1: in flight, in the circuit, at the endpoint; its connection is never another request's."""

    async def main() -> None:
        both = in_turn(echo, echo, echo)
        async with stage(both, service={"circuit": {"requests": 2}}) as (gateway, upstream):
            first, second = await gateway.connect(), await gateway.connect()
            await opened(first)
            await opened(second)
            (endpoint,) = gateway.runtime.directory.service("s").snapshot.endpoints
            circuit = gateway.runtime._circuits["s"]
            assert (gateway.runtime.pipeline.in_flight, endpoint.active, circuit.requests, circuit.connections) == (2, 2, 2, 2)
            assert (circuit.tunnels.open, circuit.tunnels.opened) == (2, 2)
            refused = await gateway.ask(handshake())
            assert (refused.status, refused.problem["code"]) == (503, "overloaded")
            first.close()
            await until(lambda: circuit.requests == 1, "the first one's end")
            third = await gateway.connect()
            await opened(third)
            assert len(upstream.links) == 3
            for client in (second, third):
                client.close()
            await gateway.idle()
            assert (circuit.connections, circuit.tunnels.open, circuit.tunnels.opened) == (0, 0, 3)

    run(main())
