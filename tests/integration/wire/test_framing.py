"""Trailers, bounds on chunks, and messages after one that ends the connection. What two parsers could read differently: the tables of
`tests/conformance/http`."""

from __future__ import annotations

import pytest

from tests.integration.wire.conftest import Stage
from tests.support.gateway_process import run

HOST = b"Host: api.example.gov\r\n"
SMUGGLED = b"GET /s/smuggled HTTP/1.1\r\nHost: api.example.gov\r\n\r\n"


def post(*lines: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"POST /s/x HTTP/%b\r\n" % version + HOST + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


@pytest.mark.parametrize("split", [False, True], ids=["at once", "byte by byte"])
def test_trailers_never_become_headers(stage: Stage, split: bool) -> None:
    """S-4 (RFC 9110 section 6.5.1): neither for the gateway nor for the upstream."""
    trailers = b"Authorization: Bearer x\r\nX-Role: admin\r\nHost: evil.example\r\nX-Forwarded-For: 192.0.2.66\r\nCookie: a=b\r\n"
    message = post(b"Transfer-Encoding: chunked", b"Trailer: X-Role", body=b"5\r\nhello\r\n0\r\n" + trailers + b"\r\n")

    async def main() -> None:
        async with stage() as (gateway, upstream):
            client = await gateway.connect()
            assert (await client.ask(message, split=split)).status == 200
            assert (await client.ask(SMUGGLED)).status == 200
            first, second = upstream.requests
            assert first.body == b"hello"
            for word in (b"Bearer", b"admin", b"evil", b"a=b", b"railer", b"192.0.2.66"):
                assert word not in upstream.links[0].received
            assert second.line == b"GET /s/smuggled HTTP/1.1"

    run(main())


def test_a_trailer_does_not_authenticate(stage: Stage) -> None:
    """S-4: a token in a trailer is no token."""
    message = post(b"Transfer-Encoding: chunked", body=b"0\r\nAuthorization: Bearer x\r\n\r\n")

    async def main() -> None:
        async with stage(route={"authentication": "required"}) as (gateway, upstream):
            response = await gateway.ask(message)
            assert (response.status, response.problem["code"]) == (401, "unauthorized")
            assert upstream.requests == []

    run(main())


def test_trailers_without_end_are_refused(stage: Stage) -> None:
    """F-41: bytes of trailers are bounded."""
    message = post(b"Transfer-Encoding: chunked", body=b"0\r\n" + b"X-T: 1\r\n" * 5000)

    async def main() -> None:
        async with stage() as (gateway, _):
            response = await gateway.ask(message)
            assert response.status == 431

    run(main())


def test_a_chunk_extension_without_end_is_refused(stage: Stage) -> None:
    """F-41: a client can't keep us busy with an extension, which no body limit counts."""
    message = post(b"Transfer-Encoding: chunked", body=b"5;" + b"a" * (2 << 20))

    async def main() -> None:
        async with stage() as (gateway, _):
            response = await gateway.ask(message)
            assert response.status in (400, 413, 431)

    run(main())


def test_an_error_in_the_next_request_keeps_the_answer_of_this_one(stage: Stage) -> None:
    """S-13: the response of N comes whole, then the 400 of N+1, then the close."""

    async def main() -> None:
        async with stage() as (gateway, upstream):
            client = await gateway.connect()
            await client.send(SMUGGLED + SMUGGLED + b"GET / HTTP/1.1\r\nHost : x\r\n\r\n" + SMUGGLED)
            statuses = [(await client.response()).status for _ in range(3)]
            assert statuses == [200, 200, 400]
            assert await client.rest() == b""
            assert len(upstream.requests) == 2

    run(main())


def test_nothing_is_read_after_a_connection_close(stage: Stage) -> None:
    """S-13 (RFC 9112 section 9.6)."""
    closing = b"GET /s/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

    async def main() -> None:
        async with stage() as (gateway, upstream):
            client = await gateway.connect()
            response = await client.ask(closing + SMUGGLED)
            assert (response.status, response.values(b"connection")) == (200, [b"close"])
            assert await client.rest() == b""
            assert [request.line for request in upstream.requests] == [b"GET /s/x HTTP/1.1"]

    run(main())
