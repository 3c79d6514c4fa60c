"""Requests whose end two parsers could see in different places: refused, closed, and never more than one request upstream."""

from __future__ import annotations

import pytest

from tests.integration.wire.conftest import Stage
from tests.support.gateway_process import run

HOST = b"Host: api.example.gov\r\n"
SMUGGLED = b"GET /s/smuggled HTTP/1.1\r\nHost: api.example.gov\r\n\r\n"


def post(*lines: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"POST /s/x HTTP/%b\r\n" % version + HOST + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


#: What is sent -> SPEC or REQUIREMENTS id.
MALFORMED: dict[str, bytes] = {
    "S-1 both framings": post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "S-1 both framings, the other order": post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n" + SMUGGLED),
    "S-1 a coding before chunked": post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "S-1 chunked is not last": post(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n" + SMUGGLED),
    "S-1 chunked twice": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "S-1 identity": post(b"Transfer-Encoding: identity", body=SMUGGLED),
    "S-1 an unknown coding": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + SMUGGLED),
    "S-1 a vertical tab before the coding": post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n" + SMUGGLED),
    "S-1 a coding in HTTP/1.0": post(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED, version=b"1.0"),
    "S-2 two different lengths": post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello" + SMUGGLED),
    "S-2 the same length twice": post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello" + SMUGGLED),
    "S-2 a list": post(b"Content-Length: 5, 5", body=b"hello" + SMUGGLED),
    "S-2 a plus sign": post(b"Content-Length: +5", body=b"hello" + SMUGGLED),
    "S-2 a minus sign": post(b"Content-Length: -0", body=SMUGGLED),
    "S-2 hexadecimal": post(b"Content-Length: 0x5", body=b"hello" + SMUGGLED),
    "S-2 an underscore": post(b"Content-Length: 5_0", body=b"hello" + SMUGGLED),
    "S-2 empty": post(b"Content-Length: ", body=SMUGGLED),
    "S-2 too large for 64 bits": post(b"Content-Length: 18446744073709551621", body=b"hello" + SMUGGLED),
    "S-3 a sign before the chunk size": post(b"Transfer-Encoding: chunked", body=b"+5\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
    "S-3 0x before the chunk size": post(b"Transfer-Encoding: chunked", body=b"0x5\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
    "S-3 an underscore in the chunk size": post(b"Transfer-Encoding: chunked", body=b"0_5\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
    "S-3 a space before the chunk size": post(b"Transfer-Encoding: chunked", body=b" 5\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
    "S-3 a bare LF after the chunk size": post(b"Transfer-Encoding: chunked", body=b"5\nhello\r\n0\r\n\r\n" + SMUGGLED),
    "S-3 a bare CR after the chunk size": post(b"Transfer-Encoding: chunked", body=b"5\rhello\r\n0\r\n\r\n" + SMUGGLED),
    "S-3 a bare LF in an extension": post(b"Transfer-Encoding: chunked", body=b"5;a\nb\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
    "S-3 a chunk longer than it says": post(b"Transfer-Encoding: chunked", body=b"5\r\nhelloX\r\n0\r\n\r\n" + SMUGGLED),
    "S-3 a chunk size that overflows": post(b"Transfer-Encoding: chunked", body=b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
    "S-4 a length in the trailer": post(b"Transfer-Encoding: chunked", body=b"0\r\nContent-Length: 5\r\n\r\n" + SMUGGLED),
    "S-5 a space before the colon": post(b"Content-Length : 5", body=b"hello" + SMUGGLED),
    "S-5 a folded line": post(b"X-Folded: a\r\n b", body=SMUGGLED),
    "S-5 a bare LF": b"GET /s/x HTTP/1.1\nHost: api.example.gov\n\n" + SMUGGLED,
    "S-5 a bare CR in a value": post(b"X-A: a\rb", body=SMUGGLED),
    "S-5 a NUL in a value": post(b"X-A: a\x00b", body=SMUGGLED),
    "S-5 a control character in a value": post(b"X-A: a\x01b", body=SMUGGLED),
    "S-5 an empty name": post(b": a", body=SMUGGLED),
    "S-5 a name with a space": post(b"X A: a", body=SMUGGLED),
    "S-5 a name outside ASCII": post(b"X-\xe9: a", body=SMUGGLED),
    "S-5 a space before the request line": b" " + post(),
    "S-6 no Host": b"GET /s/x HTTP/1.1\r\nAccept: */*\r\n\r\n" + SMUGGLED,
    "S-6 two Hosts": post(b"Host: other.example.gov", body=SMUGGLED),
    "S-6 the same Host twice": post(b"Host: api.example.gov", body=SMUGGLED),
    "S-6 a Host with a path": b"GET /s/x HTTP/1.1\r\nHost: a/b\r\n\r\n" + SMUGGLED,
    "S-6 a Host with user information": b"GET /s/x HTTP/1.1\r\nHost: a@b\r\n\r\n" + SMUGGLED,
    "S-6 HTTP/2.0": b"GET /s/x HTTP/2.0\r\n" + HOST + b"\r\n" + SMUGGLED,
    "S-6 HTTP/1.2": b"GET /s/x HTTP/1.2\r\n" + HOST + b"\r\n" + SMUGGLED,
    "S-6 no version": b"GET /s/x\r\n\r\n" + SMUGGLED,
    "S-6 the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "S-6 a version in lower case": b"GET /s/x http/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
    "S-6 a method in lower case": b"get /s/x HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
    "S-6 an unknown method": b"FETCH /s/x HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
    "S-6 a space in the target": b"GET /s/x y HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
    "S-6 a target outside ASCII": b"GET /s/\xe9 HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
    "S-6 an asterisk with GET": b"GET * HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
    "S-6 CONNECT": b"CONNECT api.example.gov:443 HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
    "S-6 an authority with GET": b"GET api.example.gov:443 HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
    "S-6 an absolute target with user information": b"GET http://a@b/s/x HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
    "S-9 a dot segment": b"GET /s/../x HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
    "S-9 an encoded slash": b"GET /s/%2fx HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 40,
}


def complete_requests(received: bytearray) -> int:
    """How many requests an upstream would see in these bytes: the heads, as nothing here has a body that looks like one."""
    return received.count(b" HTTP/1.1\r\n")


@pytest.mark.parametrize("split", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_message_is_refused_and_the_connection_closed(stage: Stage, name: str, split: bool) -> None:
    """H1: 400 and close; never two requests at the upstream from one message."""

    async def main() -> None:
        async with stage() as (gateway, upstream):
            client = await gateway.connect()
            response = await client.ask(MALFORMED[name], split=split)
            assert response.status == 400
            assert response.problem["code"] == "bad_request"
            assert response.values(b"connection") == [b"close"]
            assert await client.rest() == b""
            await gateway.idle()
            for link in upstream.links:
                assert complete_requests(link.received) <= 1
                assert b"smuggled" not in link.received
                assert not link.received.endswith(b"0\r\n\r\n"), "an upstream must never see a malformed message end well"

    run(main())


#: Messages that are legal though unusual -> (the body that the upstream gets, or None for none; its request line).
LEGAL: dict[str, tuple[bytes, bytes]] = {
    "RFC 9112 2.2: an empty line before the request line": (b"\r\n" + post(b"Content-Length: 5", body=b"hello"), b"hello"),
    "RFC 9112 5.1: white space after a length": (post(b"Content-Length: 5 \t", body=b"hello"), b"hello"),
    "RFC 9112 5.1: white space around chunked": (post(b"Transfer-Encoding: \t chunked ", body=b"5\r\nhello\r\n0\r\n\r\n"), b"hello"),
    "RFC 9112 7: chunked in another case": (post(b"Transfer-Encoding: Chunked", body=b"5\r\nhello\r\n0\r\n\r\n"), b"hello"),
    "RFC 9112 7.1.1: a chunk extension": (post(b"Transfer-Encoding: chunked", body=b'5;a="b"\r\nhello\r\n0\r\n\r\n'), b"hello"),
    "RFC 9112 7.1: leading zeros of a chunk size": (post(b"Transfer-Encoding: chunked", body=b"0005\r\nhello\r\n000\r\n\r\n"), b"hello"),
    "RFC 9112 6: a length of zero": (post(b"Content-Length: 0"), b""),
    "RFC 9110 7.8: an upgrade that we ignore": (
        post(
            b"Connection: Upgrade, HTTP2-Settings",
            b"Upgrade: h2c",
            b"HTTP2-Settings: AAMAAABkAAQAAP__",
            b"Content-Length: 5",
            body=b"hello",
        ),
        b"hello",
    ),
}


@pytest.mark.parametrize("split", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("name", LEGAL)
def test_a_legal_message_passes_with_one_framing(stage: Stage, name: str, split: bool) -> None:
    """H1, S-3: what is legal passes; extensions are not sent on, the framing is written anew."""
    message, body = LEGAL[name]

    async def main() -> None:
        async with stage() as (gateway, upstream):
            assert (await gateway.ask(message, split=split)).status == 200
            (request,) = upstream.requests
            assert request.body == body
            assert len(request.values(b"content-length")) + len(request.values(b"transfer-encoding")) == 1
            assert b"upgrade" not in request.head.lower()
            assert b";" not in upstream.links[0].received

    run(main())


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
