"""An upstream is not trusted: what it sends wrongly becomes a 502 or a response that is visibly cut, never somebody else's response."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.wire.conftest import Stage
from tests.support.gateway_process import ADAPTERS, GET, Adapter, run
from tests.support.recording_upstream import OK, Link, Script, answering, in_turn
from tests.support.redis_server import until

both = pytest.mark.parametrize("adapter", ADAPTERS)
NEXT = b"GET /s/next HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /s/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
PUT = b"PUT /s/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nPOISONED"


def response(*lines: bytes, body: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


#: What it sends -> the reason in the records.
BROKEN: dict[str, tuple[bytes, str]] = {
    "both framings": (response(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + POISON), "upstream_protocol_error"),
    "both framings, the other way": (
        response(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n" + POISON),
        "upstream_protocol_error",
    ),
    "two lengths": (response(b"Content-Length: 5", b"Content-Length: 6", body=b"hello"), "upstream_protocol_error"),
    "a list of lengths": (response(b"Content-Length: 5, 5", body=b"hello"), "upstream_protocol_error"),
    "a length with a sign": (response(b"Content-Length: +5", body=b"hello"), "upstream_protocol_error"),
    "a length over 64 bits": (response(b"Content-Length: 18446744073709551621", body=b"hello"), "upstream_protocol_error"),
    "an unknown coding": (response(b"Transfer-Encoding: gzip", body=b"hello"), "upstream_transfer_encoding"),
    "a coding before chunked": (response(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), "upstream_transfer_encoding"),
    "chunked twice": (
        response(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        "upstream_transfer_encoding",
    ),
    "a chunk size that is none": (response(b"Transfer-Encoding: chunked", body=b"xyz\r\nhello\r\n"), "upstream_protocol_error"),
    "a folded field": (response(b"X-A: a\r\n b", b"Content-Length: 0"), "upstream_protocol_error"),
    "a space before the colon": (response(b"X-A : a", b"Content-Length: 0"), "upstream_protocol_error"),
    "a NUL in a value": (response(b"X-A: a\x00", b"Content-Length: 0"), "upstream_protocol_error"),
    "a bare CR in a value": (response(b"X-A: a\rSet-Cookie: a=b", b"Content-Length: 0"), "upstream_protocol_error"),
    "bare LFs": (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "upstream_protocol_error"),
    "no HTTP at all": (b"SSH-2.0-OpenSSH_9.2\r\n", "upstream_protocol_error"),
    "a status of two digits": (b"HTTP/1.1 20 OK\r\n\r\n", "upstream_protocol_error"),
    "a status below 100": (b"HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n", "upstream_status"),
    "a status above 599": (b"HTTP/1.1 600 High\r\nContent-Length: 0\r\n\r\n", "upstream_status"),
    "101 that nobody asked for": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "upstream_upgrade_unsolicited",
    ),
    "interim responses without end": (b"HTTP/1.1 100 Continue\r\n\r\n" * 50 + OK, "upstream_too_many_interim"),
    "too many fields": (response(*[b"X-%d: 1" % number for number in range(300)], b"Content-Length: 0"), "upstream_header_too_large"),
    "one huge field": (response(b"X: " + b"x" * (1 << 20), b"Content-Length: 0"), "upstream_header_too_large"),
    "an interim head bomb": (b"HTTP/1.1 103 Early Hints\r\nLink: " + b"x" * (1 << 20) + b"\r\n\r\n" + OK, "upstream_header_too_large"),
}


@pytest.mark.parametrize("split", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_response_is_a_502_and_the_connection_is_discarded(stage: Stage, name: str, split: bool) -> None:
    """H12, S-16, S-18: nothing of it reaches a client, the records say why, the next request gets its own answer."""
    sent, reason = BROKEN[name]
    pieces = [sent[at : at + 1] for at in range(len(sent))] if split and len(sent) < 4096 else [sent]

    async def broken(link: Link) -> None:
        if await link.request() is not None:
            await link.send(*pieces)
            await link.until_lost()

    async def main() -> None:
        async with stage(in_turn(broken, answering(OK))) as (gateway, upstream):
            client = await gateway.connect()
            refused = await client.ask(GET)
            while refused.status in (100, 103):
                refused = await client.response()
            if refused.status == 200:
                # The fault was in the body, after the head had gone out.
                assert name == "a chunk size that is none"
                return
            assert (refused.status, refused.problem["code"]) == (502, "bad_gateway")
            assert (await gateway.record())["reason"] == reason
            following = await client.ask(NEXT)
            assert (following.status, following.body) == (200, b"ok")
            await upstream.links[0].lost.wait()
            assert len(upstream.links) == 2

    run(main())


#: Endings of a response that leave bytes over.
SURPLUS: dict[str, bytes] = {
    "a second response": OK + POISON,
    "bytes after the body": OK + b"x",
    "a line end after the body": OK + b"\r\n" + POISON,
    "a body after 204": b"HTTP/1.1 204 No Content\r\n\r\n" + POISON,
    "a body after 304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello" + POISON,
    "bytes after the last chunk": response(b"Transfer-Encoding: chunked", body=b"2\r\nok\r\n0\r\n\r\n" + POISON),
}


@both
@pytest.mark.parametrize("later", [False, True], ids=["in the same segment", "a moment later"])
@pytest.mark.parametrize("name", SURPLUS)
def test_surplus_bytes_are_never_the_next_response(stage: Stage, adapter: Adapter, name: str, later: bool) -> None:
    """S-16a (RFC 9112 section 6.3): the response is delivered, the connection is not used again."""
    sent = SURPLUS[name]

    async def poisoner(link: Link) -> None:
        if await link.request() is not None:
            pieces = [sent[:-9], sent[-9:]] if later else [sent]
            await link.send(*pieces)
            await link.until_lost()

    async def main() -> None:
        async with stage(in_turn(poisoner, answering(OK)), adapter) as (gateway, upstream):
            client = await gateway.connect()
            first = await client.ask(GET)
            assert first.status in (200, 204, 304, 502)
            await upstream.links[0].lost.wait()
            following = await client.ask(NEXT)
            assert (following.status, following.body) == (200, b"ok")
            assert len(upstream.links) == 2

    run(main())


def test_a_body_after_head_is_never_the_next_response(stage: Stage) -> None:
    """S-16a, S-17: an upstream that answers HEAD with a body."""

    async def main() -> None:
        async with stage(in_turn(answering(OK + POISON), answering(OK))) as (gateway, upstream):
            client = await gateway.connect()
            assert (await client.ask(GET.replace(b"GET", b"HEAD", 1), bodiless=True)).status == 200
            following = await client.ask(NEXT)
            assert (following.status, following.body) == (200, b"ok")
            assert len(upstream.links) == 2

    run(main())


@both
@pytest.mark.parametrize("orderly", [True, False], ids=["closed", "reset"])
@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "with a length"])
def test_a_body_that_breaks_off_is_visibly_cut(stage: Stage, adapter: Adapter, chunked: bool, orderly: bool) -> None:
    """H12, F-33 (RFC 9112 section 8): no clean end of chunks, fewer bytes than promised, and the connection is closed."""
    framing, body = (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n") if chunked else (b"Content-Length: 10", b"hello")

    arrived = asyncio.Event()

    async def script(link: Link) -> None:
        if await link.request() is not None:
            await link.send(response(framing, body=body))
            await arrived.wait()
            link.close() if orderly else link.reset()

    async def main() -> None:
        async with stage(script, adapter) as (gateway, _):
            client = await gateway.connect()
            await client.send(GET)
            head = await client.head()
            got = await (client.chunk() if chunked else client.reader.readexactly(5))
            arrived.set()
            assert (head.status, got) == (200, b"hello")
            rest = await client.rest()
            assert rest == b""
            await gateway.idle()
            record = await gateway.record()
            assert record["reason"] == "upstream_closed_early"

    run(main())


def test_a_body_that_ends_with_the_connection_is_delivered(stage: Stage) -> None:
    """RFC 9112 section 6.3: without a framing field the close is the end; our client gets chunks, which it can tell from a cut."""

    async def script(link: Link) -> None:
        if await link.request() is not None:
            await link.send(b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo")
            link.close()

    async def main() -> None:
        async with stage(script) as (gateway, _):
            answer = await gateway.ask(GET)
            assert (answer.status, answer.body, answer.whole) == (200, b"hello", True)
            assert answer.values(b"transfer-encoding") == [b"chunked"]

    run(main())


def test_a_body_that_ends_with_a_reset_is_cut(stage: Stage) -> None:
    """RFC 9112 section 8: a reset is not an end."""

    arrived = asyncio.Event()

    async def script(link: Link) -> None:
        if await link.request() is not None:
            await link.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
            await arrived.wait()
            link.reset()

    async def main() -> None:
        async with stage(script) as (gateway, _):
            client = await gateway.connect()
            await client.send(GET)
            assert (await client.head()).status == 200
            assert await client.chunk() == b"hello"
            arrived.set()
            assert await client.rest() == b""

    run(main())


def test_a_cut_body_without_framing_towards_http_10_is_a_reset(stage: Stage) -> None:
    """RFC 9112 section 8: where the close would be the end, only a reset tells."""

    arrived = asyncio.Event()

    async def script(link: Link) -> None:
        if await link.request() is not None:
            await link.send(response(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n"))
            await arrived.wait()
            link.close()

    async def main() -> None:
        async with stage(script) as (gateway, _):
            client = await gateway.connect()
            await client.send(b"GET /s/x HTTP/1.0\r\n\r\n")
            assert (await client.head()).status == 200
            assert await client.reader.readexactly(5) == b"hello"
            arrived.set()
            with pytest.raises(ConnectionResetError):
                await client.reader.read()

    run(main())


def _closing_after_first(link_answers: bytes) -> Script:
    """Answers once, and closes when the second request has come."""

    async def script(link: Link) -> None:
        await link.request()
        await link.send(link_answers)
        await link.head()
        link.reset()

    return script


@pytest.mark.parametrize(("adapter", "message"), [("wire", GET), ("asgi", GET), ("wire", PUT)], ids=["wire", "asgi", "wire with a body"])
def test_an_idempotent_request_on_a_stale_connection_is_sent_once_more(stage: Stage, adapter: Adapter, message: bytes) -> None:
    """R1, F-31: on a fresh connection, with its whole body; the client sees one answer."""

    async def main() -> None:
        async with stage(in_turn(_closing_after_first(OK), answering(OK)), adapter) as (gateway, upstream):
            client = await gateway.connect()
            assert (await client.ask(GET)).status == 200
            await gateway.idle()
            assert (await client.ask(message)).status == 200
            assert len(upstream.links) == 2
            assert upstream.links[1].requests[0].body == (b"hello" if message is PUT else b"")
            assert (await gateway.record(of=2))["upstream"]["attempts"] == 2
            await gateway.idle()

    run(main())


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_that_is_not_here_any_more_is_not_sent_again(stage: Stage, framing: str) -> None:
    """R1: an idempotent request whose body was uploaded piece by piece; rather no answer than one to a request without its body."""
    line, body = (b"Content-Length: 5", b"hello") if framing == "length" else (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n")
    got_all = asyncio.Event()

    async def stale(link: Link) -> None:
        await link.request()
        await link.send(OK)
        await link.request()
        got_all.set()
        link.reset()

    async def main() -> None:
        async with stage(in_turn(stale, answering(OK))) as (gateway, upstream):
            client = await gateway.connect()
            assert (await client.ask(GET)).status == 200
            await gateway.idle()
            await client.send(b"PUT /s/x HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % line)
            await until(lambda: len(upstream.requests) == 2, "the head")
            response = await client.ask(body)
            assert got_all.is_set()
            assert (response.status, len(upstream.links)) == (502, 1)

    run(main())


@both
def test_a_post_on_a_stale_connection_is_never_sent_again(stage: Stage, adapter: Adapter) -> None:
    """R1, F-30: it may have been carried out."""

    async def main() -> None:
        async with stage(in_turn(_closing_after_first(OK), answering(OK)), adapter) as (gateway, upstream):
            client = await gateway.connect()
            assert (await client.ask(GET)).status == 200
            await gateway.idle()
            refused = await client.ask(POST)
            assert (refused.status, (await gateway.record(of=2))["reason"]) == (502, "upstream_reset")
            assert len(upstream.links) == 1
            assert (await client.ask(GET)).status == 200

    run(main())


@pytest.mark.parametrize(("attempts", "request_", "seen"), [(0, GET, 1), (1, POST, 1), (1, GET, 2)])
def test_an_instance_that_closes_on_every_request_gets_each_once_or_as_often_as_the_policy_says(
    stage: Stage, attempts: int, request_: bytes, seen: int
) -> None:
    """R1, F-30: a request that may have been acted upon is repeated only when it is idempotent and the policy allows it."""

    async def script(link: Link) -> None:
        await link.request()
        link.close()

    async def main() -> None:
        async with stage(script, service={"retry": {"attempts": attempts}}) as (gateway, upstream):
            assert (await gateway.ask(request_)).status == 502
            assert len(upstream.requests) == seen

    run(main())


def test_an_unsolicited_408_is_not_an_answer(stage: Stage) -> None:
    """F-31: what comes on an idle connection belongs to nobody."""
    timeout = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    asked = asyncio.Event()

    async def script(link: Link) -> None:
        await link.request()
        await link.send(OK)
        await asked.wait()
        await link.send(timeout)
        await link.until_lost()

    async def main() -> None:
        async with stage(in_turn(script, answering(OK))) as (gateway, upstream):
            client = await gateway.connect()
            assert (await client.ask(GET)).status == 200
            asked.set()
            await upstream.links[0].lost.wait()
            assert (await client.ask(POST)).status == 200
            assert len(upstream.links) == 2

    run(main())


def test_a_408_that_crosses_the_request_is_not_its_answer(stage: Stage) -> None:
    """F-31: sent while the request was on its way, on a reused connection; an idempotent request is sent again."""
    timeout = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    async def script(link: Link) -> None:
        await link.request()
        await link.send(OK)
        await link.head()
        await link.send(timeout)

    async def main() -> None:
        async with stage(in_turn(script, answering(OK))) as (gateway, upstream):
            client = await gateway.connect()
            assert (await client.ask(GET)).status == 200
            await gateway.idle()
            assert (await client.ask(GET)).status == 200
            assert len(upstream.links) == 2

    run(main())


def test_a_connection_that_its_upstream_closes_is_not_used_again(stage: Stage) -> None:
    """RFC 9112 section 9.3: Connection: close, and HTTP/1.0."""
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    old = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"

    async def main() -> None:
        async with stage(in_turn(answering(closing), answering(old), answering(OK))) as (gateway, upstream):
            client = await gateway.connect()
            for _ in range(4):
                answer = await client.ask(GET)
                assert (answer.status, answer.body, answer.values(b"connection")) == (200, b"ok", [])
            assert [len(link.requests) for link in upstream.links] == [1, 1, 2]

    run(main())
