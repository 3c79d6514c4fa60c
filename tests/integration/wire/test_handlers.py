"""Functions and applications of this process as targets, under our protocol and under another ASGI server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route

from gateway import BackendAPIGateway
from gateway.errors import Forbidden
from tests.support.gateway_process import ADAPTERS, Adapter, declared, run, serving
from tests.support.redis_server import until

both = pytest.mark.parametrize("adapter", ADAPTERS)
PUBLIC = {"authentication": "none"}


def ask(path: bytes, *lines: bytes, method: bytes = b"GET", body: bytes | None = None) -> bytes:
    if body is not None:
        lines = (*lines, b"Content-Length: %d" % len(body))
    return b"%b %b HTTP/1.1\r\nHost: a\r\n" % (method, path) + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + (body or b"")


#: What a handler gives -> status, and body or code of the problem.
RESULTS: dict[str, tuple[Any, int, str]] = {
    "data only": ({"data": {"a": [1, None, "é"]}}, 200, '{"a":[1,null,"é"]}'),
    "status and data": ({"status": 201, "data": []}, 201, "[]"),
    "nothing in it": ({}, 200, "null"),
    "a key that is no string": ({"data": {1: 2}}, 200, '{"1":2}'),
    "no content": ({"status": 204}, 204, ""),
    "a response": (PlainTextResponse("text", status_code=418), 418, "text"),
    "None": (None, 500, "internal"),
    "text": ("text", 500, "internal"),
    "a list": ([1], 500, "internal"),
    "an unknown key": ({"body": 1}, 500, "internal"),
    "a status that is text": ({"status": "200"}, 500, "internal"),
    "a status that is a bool": ({"status": True}, 500, "internal"),
    "an interim status": ({"status": 100}, 500, "internal"),
    "a status over 599": ({"status": 600}, 500, "internal"),
    "headers that are no mapping": ({"headers": [("a", "b")]}, 500, "internal"),
    "a header value with a line end": ({"headers": {"X-A": "a\r\nSet-Cookie: b=c"}}, 500, "internal"),
    "a header name with a space": ({"headers": {"X A": "a"}}, 500, "internal"),
    "a header value outside Latin-1": ({"headers": {"X-A": "\u20ac"}}, 500, "internal"),
    "data that is no JSON": ({"data": object()}, 500, "internal"),
    "an exception": (ValueError("secret"), 500, "internal"),
    "an HTTPException": (HTTPException(409, "Already there.", {"X-Why": "it is"}), 409, "handler"),
    "an HTTPException of ours": (HTTPException(404), 404, "not_found"),
    "a GatewayError": (Forbidden("Not you."), 403, "forbidden"),
}


@both
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_a_handler_gives_is_what_the_client_gets(store: str, tmp_path: Path, adapter: Adapter, kind: str) -> None:
    """CONTRACT section 2, S-41: every shape, good and bad, one after the other on one connection; no reason leaks."""
    app = declared(tmp_path, store, None)

    def give(name: str) -> Any:
        result = RESULTS[name][0]
        if isinstance(result, Exception):
            raise result
        return result

    if kind == "sync":

        @app.route("/give", methods=["GET"], **PUBLIC)
        def sync_handler(request: Any) -> Any:
            assert threading.current_thread() is not threading.main_thread()
            return give(request.query_params["name"])

    else:

        @app.route("/give", methods=["GET"], **PUBLIC)
        async def async_handler(request: Any) -> Any:
            return give(request.query_params["name"])

    async def main() -> None:
        async with serving(app, tmp_path, adapter) as gateway:
            client = await gateway.connect()
            for name, (_, status, expected) in RESULTS.items():
                response = await client.ask(ask(b"/give?name=" + name.replace(" ", "%20").encode()))
                assert response.status == status, name
                if status >= 400 and name != "a response":
                    assert response.problem["code"] == expected, name
                    assert b"secret" not in response.body
                else:
                    assert response.body.decode() == expected, name
                assert len(response.values(b"x-request-id")) == 1
                assert response.values(b"set-cookie") == []

    run(main())


@both
def test_a_request_tells_what_came(store: str, tmp_path: Path, adapter: Adapter) -> None:
    """CONTRACT section 2: parameters, query, headers, cookies, client, body, JSON; managed fields are ours (S-12a)."""
    app = declared(tmp_path, store, None)

    @app.route("/things/{number:int}/{rest:path}", methods=["POST"], **PUBLIC)
    def handler(request: Any) -> Any:
        told = {
            "method": request.method,
            "path": request.path,
            "params": dict(request.path_params),
            "query": dict(request.query_params),
            "cookie": request.cookies["c"],
            "client": request.client.host,
            "json": request.json_body,
            "size": len(request.body),
            "subject": request.headers.get("x-auth-subject"),
            "for": request.headers.get("x-forwarded-for"),
            "trace": request.trace_id,
            "parent": request.headers["traceparent"].split("-")[1],
            "route": request.route.path,
        }
        return {"data": told}

    evil = (b"Cookie: c=1", b"X-Auth-Subject: evil", b"X_Auth_Subject: evil", b"X-Forwarded-For: 192.0.2.66", b"traceparent: evil")
    message = ask(b"/things/7/caf%C3%A9/x?q=%2B", *evil, method=b"POST", body=b'{"a": 1}')

    async def main() -> None:
        async with serving(app, tmp_path, adapter) as gateway:
            told = json.loads((await gateway.ask(message)).body)
            assert told.pop("trace") == told.pop("parent")
            assert told == {
                "method": "POST",
                "path": "/things/7/café/x",
                "params": {"number": 7, "rest": "café/x"},
                "query": {"q": "+"},
                "cookie": "1",
                "client": "127.0.0.1",
                "json": {"a": 1},
                "size": 8,
                "subject": None,
                "for": "127.0.0.1",
                "route": "/things/{number:int}/{rest:path}",
            }

    run(main())


def echo_gateway(directory: Path, store: str) -> BackendAPIGateway:
    """A gateway whose `/json` gives the JSON body back, and whose `/ignore` never reads it; at most 1000 bytes."""
    app = declared(directory, store, None)
    app.route("/json", methods=["POST"], max={"body_bytes": 1000}, **PUBLIC)(lambda request: {"data": request.json_body})

    async def ignoring(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("unread")(scope, receive, send)

    app.mount("/ignore", ignoring, **PUBLIC)
    return app


@both
@pytest.mark.parametrize("body", [b"", b"{", b"nope", b"NaN", b'{"a":1}}', b"\xff", b'"\xed\xa0\x80"'])
def test_a_body_that_is_no_json_is_a_400(store: str, tmp_path: Path, adapter: Adapter, body: bytes) -> None:
    """CONTRACT section 2: when `json_body` is read; the connection goes on."""

    async def main() -> None:
        async with serving(echo_gateway(tmp_path, store), tmp_path, adapter) as gateway:
            client = await gateway.connect()
            response = await client.ask(ask(b"/json", method=b"POST", body=body))
            assert (response.status, response.problem["code"]) == (400, "bad_request")
            assert (await client.ask(ask(b"/json", method=b"POST", body=b"[1]"))).body == b"[1]"

    run(main())


@both
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_over_the_bound_is_a_413(store: str, tmp_path: Path, adapter: Adapter, framing: str) -> None:
    """F-40: declared or counted; the answer survives although the client goes on sending."""
    message = ask(b"/json", method=b"POST", body=b" " * 300_000)
    if framing == "chunked":
        message = b"POST /json HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"3e8\r\n%b\r\n" % (b" " * 1000) * 300

    async def main() -> None:
        async with serving(echo_gateway(tmp_path, store), tmp_path, adapter) as gateway:
            client = await gateway.connect()
            sending = asyncio.create_task(client.send(message))
            response = await client.response()
            assert (response.status, response.problem["code"]) == (413, "body_too_large")
            await client.rest()
            await sending
            await gateway.idle()

    run(main())


@pytest.mark.parametrize("fault", ["a bad chunk", "nothing more"])
def test_a_body_that_breaks_off_is_told(store: str, tmp_path: Path, fault: str) -> None:
    """H1, H10: the handler is not called; 400 or 408, as for a service."""
    called = False
    app = declared(tmp_path, store, None, server={"timeouts": {"body": "500ms"}})

    @app.route("/x", methods=["POST"], **PUBLIC)
    def handler(request: Any) -> Any:
        nonlocal called
        called = True
        return {}

    async def main() -> None:
        async with serving(app, tmp_path) as gateway:
            client = await gateway.connect()
            await client.send(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            if fault == "a bad chunk":
                await client.send(b"zz\r\n")
            response = await client.response()
            assert response.status == (400 if fault == "a bad chunk" else 408)
            assert await client.rest() == b""
            await gateway.idle()

    run(main())
    assert not called


def test_an_unread_body_does_not_become_the_next_request(store: str, tmp_path: Path) -> None:
    """S-15: an application that answers without reading; what was not read ends the connection."""
    smuggled = ask(b"/json", method=b"POST", body=b"[1]")

    async def main() -> None:
        async with serving(echo_gateway(tmp_path, store), tmp_path) as gateway:
            client = await gateway.connect()
            response = await client.ask(ask(b"/ignore", method=b"POST", body=smuggled)[:-5])
            assert (response.status, response.values(b"connection")) == (200, [b"close"])
            assert await client.rest() == b""
            whole = await gateway.connect()
            assert (await whole.ask(ask(b"/ignore", method=b"POST", body=smuggled))).body == b"unread"
            assert (await whole.ask(smuggled)).body == b"[1]"

    run(main())


@both
def test_expect_is_answered_when_the_body_is_read(store: str, tmp_path: Path, adapter: Adapter) -> None:
    """S-15 (RFC 9110 section 10.1.1): 100, then the answer."""

    async def main() -> None:
        async with serving(echo_gateway(tmp_path, store), tmp_path, adapter) as gateway:
            client = await gateway.connect()
            head = b"POST /json HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
            assert (await client.ask(head)).status == 100
            assert (await client.ask(b"[1]")).body == b"[1]"

    run(main())


@both
def test_a_streaming_response_is_not_held_back(store: str, tmp_path: Path, adapter: Adapter) -> None:
    """H6, H7: piece by piece; to an HTTP/1.0 client without chunks (S-10)."""
    app = declared(tmp_path, store, None)
    turns: asyncio.Queue[str] = asyncio.Queue()

    @app.route("/stream", methods=["GET"], **PUBLIC)
    async def handler(request: Any) -> Any:
        async def pieces() -> AsyncIterator[str]:
            while turn := await turns.get():
                yield turn

        return StreamingResponse(pieces(), media_type="text/event-stream")

    async def main() -> None:
        async with serving(app, tmp_path, adapter) as gateway:
            client = await gateway.connect()
            await client.send(ask(b"/stream"))
            assert (await client.head()).status == 200
            for turn in ("one", "two"):
                turns.put_nowait(turn)
                assert await client.chunk() == turn.encode()
            turns.put_nowait("")
            assert await client.chunk() == b""
            if adapter == "wire":
                for turn in ("three", "four", ""):
                    turns.put_nowait(turn)
                response = await gateway.ask(b"GET /stream HTTP/1.0\r\n\r\n")
                assert (response.body, response.values(b"transfer-encoding")) == (b"threefour", [])

    run(main())


@both
def test_a_stream_that_fails_is_visibly_cut(store: str, tmp_path: Path, adapter: Adapter) -> None:
    """F-33: the head was sent, so the body has no clean end."""
    app = declared(tmp_path, store, None)

    @app.route("/stream", methods=["GET"], **PUBLIC)
    async def handler(request: Any) -> Any:
        async def pieces() -> AsyncIterator[str]:
            yield "one"
            raise ValueError("in the middle")

        return StreamingResponse(pieces())

    async def main() -> None:
        async with serving(app, tmp_path, adapter) as gateway:
            response = await gateway.ask(ask(b"/stream"))
            assert (response.status, response.body, response.whole) == (200, b"", False) or response.whole is False
            await gateway.idle()

    run(main())


@both
def test_a_client_that_leaves_ends_a_stream(store: str, tmp_path: Path, adapter: Adapter) -> None:
    """R7: the generator is closed."""
    app = declared(tmp_path, store, None)
    ended = asyncio.Event()

    @app.route("/stream", methods=["GET"], **PUBLIC)
    async def handler(request: Any) -> Any:
        async def pieces() -> AsyncIterator[str]:
            try:
                while True:
                    yield "x"
                    await asyncio.sleep(0.01)
            finally:
                ended.set()

        return StreamingResponse(pieces())

    async def main() -> None:
        async with serving(app, tmp_path, adapter) as gateway:
            client = await gateway.connect()
            await client.send(ask(b"/stream"))
            await client.head()
            client.close()
            await asyncio.wait_for(ended.wait(), 5)
            await gateway.idle()

    run(main())


@both
def test_a_client_that_leaves_while_it_sends_is_no_error(
    store: str, tmp_path: Path, adapter: Adapter, caplog: pytest.LogCaptureFixture
) -> None:
    """R7: the handler is not called, the record says 499, nothing is logged as an error."""

    async def main() -> None:
        async with serving(echo_gateway(tmp_path, store), tmp_path, adapter) as gateway:
            client = await gateway.connect()
            await client.send(ask(b"/json", method=b"POST", body=b" " * 100)[:-50])
            await until(lambda: gateway.runtime.pipeline.in_flight == 1, "the request")
            client.close()
            await gateway.idle()
            assert (await gateway.record())["response"]["status"] == 499
            assert [record for record in caplog.records if record.levelname == "ERROR"] == []

    run(main())


@both
def test_head_of_a_handler_has_no_body(store: str, tmp_path: Path, adapter: Adapter) -> None:
    """H5: GET implies HEAD; the connection goes on."""
    app = declared(tmp_path, store, None)
    app.route("/x", methods=["GET"], **PUBLIC)(lambda request: {"data": "x" * 10})

    async def main() -> None:
        async with serving(app, tmp_path, adapter) as gateway:
            client = await gateway.connect()
            response = await client.ask(ask(b"/x", method=b"HEAD"), bodiless=True)
            assert (response.status, response.values(b"content-length")) == (200, [b"12"])
            assert len((await client.ask(ask(b"/x"))).body) == 12

    run(main())


@both
def test_a_mounted_application_gets_its_root_path(store: str, tmp_path: Path, adapter: Adapter) -> None:
    """CONTRACT section 2: any ASGI application, below its path; its fields and cookies pass, Server does not."""

    async def show(request: Request) -> JSONResponse:
        told = {"root": request.scope["root_path"], "path": request.url.path, "id": request.path_params["id"]}
        response = JSONResponse(told | {"client": request.client.host if request.client else ""}, headers={"Server": "inner", "X-A": "1"})
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response

    app = declared(tmp_path, store, None)
    app.mount("/inner", Starlette(routes=[Route("/things/{id}", show)]), **PUBLIC)

    async def main() -> None:
        async with serving(app, tmp_path, adapter) as gateway:
            response = await gateway.ask(ask(b"/inner/things/7"))
            assert json.loads(response.body) == {"root": "/inner", "path": "/inner/things/7", "id": "7", "client": "127.0.0.1"}
            assert (len(response.values(b"set-cookie")), response.values(b"server"), response.values(b"x-a")) == (2, [], [b"1"])
            assert (await gateway.ask(ask(b"/inner/nowhere"))).status == 404

    run(main())


def test_pipelined_requests_to_handlers_are_answered_in_order(store: str, tmp_path: Path) -> None:
    """H9: handlers, errors and bodies mixed."""
    app = echo_gateway(tmp_path, store)

    async def main() -> None:
        async with serving(app, tmp_path) as gateway:
            client = await gateway.connect()
            bodies = [b"[%d]" % number for number in range(20)]
            await client.send(b"".join(ask(b"/json", method=b"POST", body=body) for body in bodies) + ask(b"/nowhere"))
            assert [(await client.response()).body for _ in bodies] == bodies
            assert (await client.response()).status == 404

    run(main())
