"""Requests on an idle connection of the pool, which no task awaits: every way in which they end is that of a request that one awaits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.wire.conftest import Stage
from tests.support.gateway_process import GET, Client, RunningGateway, run
from tests.support.recording_upstream import OK, Link, Script
from tests.support.redis_server import until

POST = b"POST /s/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
HEAD = b"HEAD /s/x HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def warmed(*answers: bytes, reset: bool = False) -> Script:
    """Answers the first request, so that its connection is idle, and then another one with these pieces."""

    async def script(link: Link) -> None:
        if await link.request() is None:
            return
        await link.send(OK)
        if await link.request() is None:
            return
        for piece in answers:
            await link.send(piece)
            await asyncio.sleep(0.01)
        if reset:
            link.reset()
        else:
            await link.until_lost()

    return script


async def second(gateway: RunningGateway, request: bytes) -> tuple[Client, list[str]]:
    """Ask once, then send the request; also what tasks were started for it."""
    client = await gateway.connect()
    assert (await client.ask(GET)).status == 200
    pipeline = gateway.runtime.pipeline
    tasks: list[str] = []
    handle = pipeline.handle

    async def counted(exchange: Any) -> None:
        tasks.append(exchange.method)
        await handle(exchange)

    pipeline.handle = counted  # type: ignore[method-assign]
    await client.send(request)
    return client, tasks


#: Name -> (what the upstream does, the request, status and body for the client, reason in the record, tasks).
ENDS: dict[str, tuple[Callable[[], Script], bytes, tuple[int, bytes], str, list[str]]] = {
    "whole": (lambda: warmed(OK), GET, (200, b"ok"), "", []),
    "whole, asked with a body": (lambda: warmed(OK), POST, (200, b"ok"), "", []),
    "no body": (lambda: warmed(b"HTTP/1.1 204 No Content\r\n\r\n"), GET, (204, b""), "", []),
    "HEAD": (lambda: warmed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"), HEAD, (200, b""), "", []),
    "an error of the application": (lambda: warmed(OK.replace(b"200", b"500")), GET, (500, b"ok"), "", []),
    "in pieces": (lambda: warmed(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok", b"ok"), GET, (200, b"okok"), "", ["GET"]),
    "in chunks": (lambda: warmed(CHUNKED + b"2\r\nok\r\n", b"0\r\n\r\n"), GET, (200, b"ok"), "", ["GET"]),
    "head in two pieces": (lambda: warmed(OK[:20], OK[20:]), GET, (200, b"ok"), "", []),
    "after an interim response": (lambda: warmed(b"HTTP/1.1 102 Processing\r\n\r\n", OK), GET, (200, b"ok"), "", []),
    "a gateway's error": (lambda: warmed(OK.replace(b"200", b"503")), POST, (503, b"ok"), "", ["POST"]),
    "not HTTP": (lambda: warmed(b"SSH-2.0-OpenSSH_9.2\r\n"), GET, (502, b""), "upstream_protocol_error", ["GET"]),
    "no answer in time": (lambda: warmed(), GET, (504, b""), "upstream_response_timeout", ["GET"]),
}


@pytest.mark.parametrize("name", ENDS)
def test_ends_like_a_request_that_a_task_awaits(stage: Stage, name: str) -> None:
    """F-30, R6, R7: status, body, record and counters; only what needs waiting starts a task."""
    script, request, (status, body), reason, expected_tasks = ENDS[name]

    async def main() -> None:
        service = {"timeouts": {"response": "1s"}, "retry": {"attempts": 0}}
        async with stage(script(), service=service) as (gateway, _):
            client, tasks = await second(gateway, request)
            response = await client.response(bodiless=request == HEAD)
            while response.status < 200:
                response = await client.response()
            assert response.status == status
            if reason:
                await gateway.record(lambda record: record.get("reason") == reason)
            else:
                assert response.body == body
            assert tasks == expected_tasks
            await until(lambda: len(gateway.records()) == 2, "a record of each request")
            assert all(0 < record["duration_ms"] < 60_000 for record in gateway.records())
            await gateway.idle()

    run(main())


def test_a_connection_that_ended_meanwhile_is_replaced(stage: Stage) -> None:
    """R2: whatever the policy says, since it had been idle before."""

    async def main() -> None:
        async with stage(warmed(reset=True), service={"retry": {"attempts": 0}}) as (gateway, upstream):
            client, tasks = await second(gateway, GET)
            assert (await client.response()).body == b"ok"
            assert tasks == ["GET"]
            assert len(upstream.requests) == 3
            await gateway.idle()

    run(main())


def test_a_client_that_leaves_stops_the_upstreams_work(stage: Stage) -> None:
    """R7: and the record says so."""
    lost = asyncio.Event()

    async def script(link: Link) -> None:
        await link.request()
        await link.send(OK)
        if await link.request() is not None:
            await link.until_lost()
            lost.set()

    async def main() -> None:
        async with stage(script) as (gateway, upstream):
            client, _ = await second(gateway, GET)
            await until(lambda: len(upstream.requests) == 2, "the request at the upstream")
            client.close()
            await lost.wait()
            await gateway.record(lambda record: record.get("reason") == "client_gone")
            await gateway.idle()

    run(main())


def test_requests_in_a_row_are_answered_in_order_on_one_connection(stage: Stage) -> None:
    """H1: an answer gives its connection back before the next request of the same client is sent."""

    async def main() -> None:
        async with stage() as (gateway, upstream):
            client = await gateway.connect()
            assert (await client.ask(GET)).status == 200
            await client.send(b"".join(GET.replace(b"/s/x", b"/s/%d" % number) for number in range(20)))
            assert [(await client.response()).status for _ in range(20)] == [200] * 20
            assert [request.line.split(b" ")[1] for request in upstream.requests[1:]] == [b"/s/%d" % number for number in range(20)]
            assert len(upstream.links) == 1
            await gateway.idle()

    run(main())
