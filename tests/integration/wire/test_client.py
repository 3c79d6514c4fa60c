"""`gateway.client(name)`: calls of handlers to services, through the gateway's own connections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway import BackendAPIGateway
from tests.support.gateway_process import ADAPTERS, Adapter, declared, run, serving
from tests.support.ports import free_port
from tests.support.recording_upstream import OK, Link, RecordingUpstream, Script, answering, recording_upstream

GET = b"GET /call HTTP/1.1\r\nHost: api.example.gov\r\n\r\n"
Call = Callable[[httpx.AsyncClient], Awaitable[Any]]


def calling(directory: Path, store: str, upstream: RecordingUpstream | str, call: Call, **sections: Any) -> BackendAPIGateway:
    """A gateway whose handler at `/call` returns what `call` makes of the client of the service."""
    app = declared(directory, store, upstream, **sections)

    @app.route("/call", methods=["GET"], authentication="none")
    async def handler(request: Any) -> dict[str, Any]:
        return {"data": await call(app.client("s"))}

    return app


def outcome(
    store: str, tmp_path: Path, script: Script | None, call: Call, adapter: Adapter = "wire", **sections: Any
) -> tuple[Any, Any, Any]:
    """(the handler's data, the upstream, the audit record) of one request to `/call`."""
    seen: list[Any] = []

    async def main() -> None:
        async with recording_upstream(script) as upstream:
            async with serving(calling(tmp_path, store, upstream, call, **sections), tmp_path, adapter) as gateway:
                response = await gateway.ask(GET)
                assert response.status == 200, response
                seen.extend((response.body, upstream, await gateway.record()))
                await gateway.idle()

    run(main())
    return seen[0], seen[1], seen[2]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_call_carries_the_requests_trace_and_id(store: str, tmp_path: Path, adapter: Adapter) -> None:
    """CONTRACT section 2, O1: one traceparent, the request's id; the try is in the request's records."""

    async def call(client: httpx.AsyncClient) -> Any:
        return (await client.get("/v1/x?q=1", headers={"X-Mine": "1", "traceparent": "00-evil", "X-Auth-Subject": "evil"})).text

    body, upstream, record = outcome(store, tmp_path, None, call, adapter)
    assert body == b'"ok"'
    (request,) = upstream.requests
    assert request.line == b"GET /v1/x?q=1 HTTP/1.1"
    assert (request.values(b"x-mine"), request.values(b"host"), request.values(b"x-auth-subject")) == ([b"1"], [b"s"], [])
    assert [value.split(b"-")[1].decode() for value in request.values(b"traceparent")] == [record["trace_id"]]
    assert [value.decode() for value in request.values(b"x-request-id")] == [record["request_id"]]
    assert record["upstream"]["attempts"] == 1


def test_a_body_is_sent_and_the_answer_parsed(store: str, tmp_path: Path) -> None:
    """CONTRACT section 2: `post(json=...)`."""
    created = b'HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{"id":7}'

    async def call(client: httpx.AsyncClient) -> Any:
        reply = await client.post("/v1/claims", json={"amount": 3})
        return [reply.status_code, reply.json()]

    body, upstream, _ = outcome(store, tmp_path, answering(created), call)
    assert body == b'[201,{"id":7}]'
    assert upstream.requests[0].body == b'{"amount":3}'


def test_a_streamed_answer_is_read_piece_by_piece(store: str, tmp_path: Path) -> None:
    """H6: with back-pressure, 8 MiB."""
    size = 8 << 20

    async def call(client: httpx.AsyncClient) -> Any:
        total = 0
        async with client.stream("GET", "/big") as reply:
            async for piece in reply.aiter_bytes():
                total += len(piece)
        return total

    big = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    assert outcome(store, tmp_path, answering(big), call)[0] == b"%d" % size


def test_a_streamed_answer_that_is_left_ends_the_upstreams_work(store: str, tmp_path: Path) -> None:
    """R7: `aclose` before the end; the connection is not used again."""

    async def call(client: httpx.AsyncClient) -> Any:
        async with client.stream("GET", "/endless") as reply:
            async for _ in reply.aiter_raw():
                return reply.status_code
            return None

    async def endless(link: Link) -> None:
        await link.request()
        await link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await link.send(b"1\r\nx\r\n")

    body, upstream, _ = outcome(store, tmp_path, endless, call)
    assert body == b"200"
    assert len(upstream.links) == 1


def test_no_cookie_of_one_answer_goes_out_with_another_call(store: str, tmp_path: Path) -> None:
    """S-19: no jar; S-33: no redirect is followed."""
    setting = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nSet-Cookie: session=secret; Path=/\r\nContent-Length: 0\r\n\r\n"

    async def call(client: httpx.AsyncClient) -> Any:
        return [(await client.get("/a")).status_code for _ in range(2)]

    body, upstream, _ = outcome(store, tmp_path, answering(setting), call)
    assert body == b"[302,302]"
    assert all(request.values(b"cookie") == [] for request in upstream.requests)
    assert len(upstream.links) == 1


async def closes(link: Link) -> None:
    """Takes a request and leaves."""
    await link.request()


async def silent(link: Link) -> None:
    """Takes a request and says nothing."""
    await link.until_lost()


async def breaks(link: Link) -> None:
    """Promises more than it sends."""
    await link.request()
    await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")


@pytest.mark.parametrize(
    ("script", "error"),
    [(closes, httpx.RemoteProtocolError), (silent, httpx.ReadTimeout), (breaks, httpx.RemoteProtocolError)],
    ids=["no answer", "silence", "a cut body"],
)
def test_errors_are_httpx_errors(store: str, tmp_path: Path, script: Script, error: type[Exception]) -> None:
    """CONTRACT section 2: what a user of httpx would catch."""

    async def call(client: httpx.AsyncClient) -> Any:
        with pytest.raises(error):
            await client.get("/x")
        return True

    assert outcome(store, tmp_path, script, call, service={"timeouts": {"response": "300ms"}})[0] == b"true"


def test_a_service_that_cannot_be_reached_is_a_connect_error(store: str, tmp_path: Path) -> None:
    """CONTRACT section 2: and one that a handler doesn't catch is its failure, 500."""

    async def call(client: httpx.AsyncClient) -> Any:
        with pytest.raises(httpx.ConnectError) as caught:
            await client.get("/x")
        assert str(free) not in str(caught.value)
        await client.get("/x")

    free = free_port()

    async def main() -> None:
        app = calling(tmp_path, store, f"http://127.0.0.1:{free}", call)
        async with serving(app, tmp_path) as gateway:
            assert (await gateway.ask(GET)).status == 500

    run(main())


def test_a_call_outside_of_a_request_has_a_trace_of_its_own(store: str, tmp_path: Path) -> None:
    """CONTRACT section 2: background work may call services too."""

    async def main() -> None:
        async with recording_upstream(answering(OK)) as upstream:
            app = declared(tmp_path, store, upstream)
            async with serving(app, tmp_path):
                assert (await app.client("s").get("/x")).text == "ok"
                assert len(upstream.requests[0].values(b"traceparent")) == 1
                with pytest.raises(KeyError):
                    app.client("nobody")

    run(main())
