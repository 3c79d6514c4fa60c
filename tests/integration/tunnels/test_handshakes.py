"""Handshakes: which become tunnels, which are refused, and that nothing slips through behind either (SPEC H1, H8, S-18)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from tests.integration.tunnels.conftest import Stage
from tests.support.gateway_process import GET, run
from tests.support.recording_upstream import OK, Link, Script, answering
from tests.support.redis_server import until
from tests.support.websockets import ACCEPT, KEY, KEYED, TEXT, UPGRADE, echo, frame, handshake, opened, switching

#: What an attacker sends behind a handshake, hoping that somebody reads it as a request of its own.
SMUGGLED = b"GET /s/smuggled HTTP/1.1\r\nHost: api.example.gov\r\n\r\n"
VERSION = b"Sec-WebSocket-Version: 13"
ORIGIN = b"Origin: https://api.example.gov"


def offer(*lines: bytes, line: bytes = b"GET /s/x HTTP/1.1", body: bytes = b"") -> bytes:
    """A request with just these lines."""
    return b"%b\r\nHost: api.example.gov\r\n" % line + b"".join(each + b"\r\n" for each in lines) + b"\r\n" + body


@dataclass(frozen=True)
class Refused:
    """A request that gets no tunnel.

    Args:
        sent: the request.
        status, reason: of the answer, and in the record.
        websocket: the route's key.
    """

    sent: bytes
    status: int
    reason: str
    websocket: object = True


REFUSED: dict[str, Refused] = {
    "no key": Refused(offer(*UPGRADE, VERSION), 400, "websocket_handshake"),
    "a short key": Refused(offer(*UPGRADE, VERSION, b"Sec-WebSocket-Key: AAAA"), 400, "websocket_handshake"),
    "a key of 17 bytes": Refused(offer(*UPGRADE, VERSION, b"Sec-WebSocket-Key: " + KEY[:-2] + b"AA="), 400, "websocket_handshake"),
    "a key that is no base64": Refused(
        offer(*UPGRADE, VERSION, b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ!=="), 400, "websocket_handshake"
    ),
    "a key with bits too many": Refused(
        offer(*UPGRADE, VERSION, b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR=="), 400, "websocket_handshake"
    ),
    "two keys": Refused(offer(*UPGRADE, *KEYED, KEYED[0]), 400, "websocket_handshake"),
    "no version": Refused(offer(*UPGRADE, KEYED[0]), 400, "websocket_handshake"),
    "two versions": Refused(offer(*UPGRADE, *KEYED, b"Sec-WebSocket-Version: 8"), 400, "websocket_handshake"),
    "an old version": Refused(offer(*UPGRADE, KEYED[0], b"Sec-WebSocket-Version: 8"), 426, "upgrade_version"),
    "a list of versions": Refused(offer(*UPGRADE, KEYED[0], b"Sec-WebSocket-Version: 13, 8"), 426, "upgrade_version"),
    "version 013": Refused(offer(*UPGRADE, KEYED[0], b"Sec-WebSocket-Version: 013"), 426, "upgrade_version"),
    "POST": Refused(offer(*UPGRADE, *KEYED, line=b"POST /s/x HTTP/1.1"), 400, "websocket_method"),
    "HEAD": Refused(offer(*UPGRADE, *KEYED, line=b"HEAD /s/x HTTP/1.1"), 400, "websocket_method"),
    "a body": Refused(offer(*UPGRADE, *KEYED, b"Content-Length: 5", body=b"hello"), 400, "websocket_method"),
    "chunks": Refused(offer(*UPGRADE, *KEYED, b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400, "upgrade_with_body"),
    "two framings": Refused(
        offer(*UPGRADE, *KEYED, b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400, "bad_request"
    ),
    "Connection that names the key": Refused(
        offer(b"Connection: Upgrade, Sec-WebSocket-Key", UPGRADE[1], *KEYED), 400, "websocket_connection"
    ),
    "Connection that names the version": Refused(
        offer(b"Connection: sec-websocket-version, upgrade", UPGRADE[1], *KEYED), 400, "websocket_connection"
    ),
    "a page of another host": Refused(handshake(b"Origin: https://evil.example"), 403, "origin"),
    "a page of another port": Refused(handshake(b"Origin: https://api.example.gov:8443"), 403, "origin"),
    "a page of a longer host": Refused(handshake(b"Origin: https://api.example.gov.evil.example"), 403, "origin"),
    "a page without an origin": Refused(handshake(b"Origin: null"), 403, "origin"),
    "an origin with a path": Refused(handshake(b"Origin: https://api.example.gov/"), 403, "origin"),
    "an origin with a user": Refused(handshake(b"Origin: https://api.example.gov@evil.example"), 403, "origin"),
    "an origin that is none": Refused(handshake(b"Origin: api.example.gov"), 403, "origin"),
    "an empty origin": Refused(handshake(b"Origin:"), 403, "origin"),
    "two origins": Refused(handshake(ORIGIN, b"Origin: https://evil.example"), 400, "origin_repeated"),
    "an origin that isn't of the list": Refused(handshake(ORIGIN), 403, "origin", {"origins": ["https://app.example.gov"]}),
    "two hosts": Refused(handshake(b"Host: evil.example"), 400, "host_repeated"),
}


@pytest.mark.parametrize("split", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_handshake_reaches_nobody_and_nor_does_what_follows(stage: Stage, name: str, split: bool) -> None:
    """H1, H8 (RFC 6455 sections 4.2.1 and 10.2): one answer, then the end of the connection."""
    case = REFUSED[name]

    async def main() -> None:
        async with stage(websocket=case.websocket) as (gateway, upstream):
            client = await gateway.connect()
            refused = await client.ask(case.sent + SMUGGLED, split=split, bodiless=name == "HEAD")
            assert refused.status == case.status
            assert await client.rest() == b""
            assert (await gateway.record())["response"]["status"] == case.status
            assert case.reason in {gateway.records()[0].get("detail"), gateway.records()[0]["reason"]}
            if case.status == 426:
                assert refused.values(b"sec-websocket-version") == [b"13"]
                assert refused.values(b"upgrade") == [b"websocket"]
            assert len(gateway.records()) == 1
            assert upstream.links == []

    run(main())


#: Offers that are not taken: the request is answered without them.
IGNORED: dict[str, tuple[bytes, object]] = {
    "a route without websocket": (handshake(), False),
    "h2c": (offer(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"), True),
    "h2c on a route of another protocol": (offer(b"Connection: Upgrade", b"Upgrade: h2c"), {"protocols": ["lines"]}),
    "TLS": (offer(b"Connection: Upgrade", b"Upgrade: TLS/1.2"), True),
    "HTTP/2.0": (offer(b"Connection: Upgrade", b"Upgrade: HTTP/2.0"), True),
    "WebSocket where another protocol is let through": (handshake(), {"protocols": ["lines"]}),
    "HTTP/1.0": (offer(*UPGRADE, *KEYED, line=b"GET /s/x HTTP/1.0"), True),
    "a protocol that looks alike": (offer(UPGRADE[0], b"Upgrade: websocket2", *KEYED), True),
    "a version of the protocol": (offer(UPGRADE[0], b"Upgrade: websocket/13", *KEYED), True),
    "another protocol with a body": (
        offer(UPGRADE[0], b"Upgrade: lines", b"Content-Length: 5", line=b"POST /s/x HTTP/1.1", body=b"hello"),
        {"protocols": ["lines"]},
    ),
}


@pytest.mark.parametrize("split", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("name", IGNORED)
def test_an_offer_that_is_not_taken_is_an_ordinary_request_and_the_last(stage: Stage, name: str, split: bool) -> None:
    """H8, S-7 (RFC 9110 section 7.8): the service sees no offer, and what follows it reaches nobody."""
    sent, websocket = IGNORED[name]

    async def main() -> None:
        async with stage(answering(OK), websocket=websocket) as (gateway, upstream):
            client = await gateway.connect()
            answer = await client.ask(sent + SMUGGLED, split=split)
            assert (answer.status, answer.body) == (200, b"ok")
            assert await client.rest() == b""
            (request,) = upstream.requests
            assert request.values(b"upgrade") == request.values(b"connection") == request.values(b"http2-settings") == []
            assert b"smuggled" not in upstream.links[0].received
            assert len(gateway.records()) <= 1

    run(main())


@pytest.mark.parametrize("name", ["no Upgrade", "Upgrade that Connection doesn't name"])
def test_without_an_offer_the_connection_goes_on(stage: Stage, name: str) -> None:
    """H8: fields of a handshake alone change nothing."""
    lines = KEYED if name == "no Upgrade" else (UPGRADE[1], *KEYED)

    async def main() -> None:
        async with stage(answering(OK)) as (gateway, upstream):
            client = await gateway.connect()
            await client.send(offer(*lines) + SMUGGLED)
            assert [(await client.response()).status for _ in range(2)] == [200, 200]
            # Two requests for everybody, so nothing was smuggled.
            assert [request.line for request in upstream.requests] == [b"GET /s/x HTTP/1.1", b"GET /s/smuggled HTTP/1.1"]
            assert all(not request.values(b"upgrade") for request in upstream.requests)

    run(main())


#: Handshakes with fields that a sound one may have.
ACCEPTED: dict[str, tuple[bytes, object]] = {
    "no origin": (handshake(), True),
    "its own host": (handshake(ORIGIN), True),
    "its own host in capitals": (handshake(b"Origin: https://API.example.gov"), True),
    "its own host with the usual port": (handshake(b"Origin: https://api.example.gov:443"), True),
    "its own host and port": (handshake(b"Origin: http://api.example.gov:8080", host=b"api.example.gov:8080"), True),
    "an origin of the list": (handshake(b"Origin: https://app.example.gov"), {"origins": ["https://app.example.gov"]}),
    "no origin though there is a list": (handshake(), {"origins": ["https://app.example.gov"]}),
    "any origin": (handshake(b"Origin: null"), {"origins": ["*"]}),
    "names in capitals": (offer(b"CONNECTION: keep-alive, UPGRADE", b"UPGRADE: WebSocket", *KEYED), True),
    "two Connection lines": (offer(b"Connection: keep-alive", *UPGRADE, *KEYED), True),
    "a list of protocols": (offer(UPGRADE[0], b"Upgrade: h2c, websocket", *KEYED), True),
    "two Upgrade lines": (offer(UPGRADE[0], b"Upgrade: h2c", UPGRADE[1], *KEYED), True),
    "a length of zero": (handshake(b"Content-Length: 0"), True),
    "the whole target": (handshake(target=b"http://api.example.gov/s/x"), True),
}


@pytest.mark.parametrize("split", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("name", ACCEPTED)
def test_a_sound_handshake_opens_a_tunnel_in_which_nothing_is_a_request(stage: Stage, name: str, split: bool) -> None:
    """H2, H8: the service gets one offer of one protocol, with the identity fields of every request; bytes behind it are bytes."""
    sent, websocket = ACCEPTED[name]

    async def main() -> None:
        async with stage(websocket=websocket) as (gateway, upstream):
            client = await gateway.connect()
            await client.send(sent + SMUGGLED, split=split)
            response = await client.head()
            assert (response.status, response.values(b"sec-websocket-accept")) == (101, [ACCEPT])
            assert await client.reader.readexactly(len(SMUGGLED)) == SMUGGLED
            (request,) = upstream.requests
            assert (request.values(b"connection"), request.values(b"upgrade")) == ([b"upgrade"], [b"websocket"])
            assert request.values(b"sec-websocket-key") == [KEY]
            for field in (b"x-forwarded-for", b"x-request-id", b"traceparent", b"via"):
                assert len(request.values(field)) == 1, field
            client.close()
            await gateway.record()
            assert len(gateway.records()) == 1

    run(main())


def test_extensions_and_subprotocols_are_agreed_end_to_end(stage: Stage) -> None:
    """H8: what both ends say of them passes as it came."""
    extensions, subprotocol = b"permessage-deflate; client_max_window_bits", b"chat, superchat"

    async def script(link: Link) -> None:
        request = await link.head()
        assert request is not None
        assert request.values(b"sec-websocket-extensions") == [extensions]
        assert request.values(b"sec-websocket-protocol") == [subprotocol]
        await link.send(switching(request, b"Sec-WebSocket-Extensions: permessage-deflate", b"Sec-WebSocket-Protocol: chat"))
        await link.until_lost()

    async def main() -> None:
        async with stage(script) as (gateway, _):
            client = await gateway.connect()
            response = await opened(client, b"Sec-WebSocket-Extensions: " + extensions, b"Sec-WebSocket-Protocol: " + subprotocol)
            assert response.values(b"sec-websocket-extensions") == [b"permessage-deflate"]
            assert response.values(b"sec-websocket-protocol") == [b"chat"]

    run(main())


def ordinary(status: bytes, *lines: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\n" % status + b"".join(line + b"\r\n" for line in lines) + b"Content-Length: 2\r\n\r\nok"


#: Answers of a service that doesn't want to.
DECLINED: dict[str, bytes] = {
    "200": ordinary(b"200 OK"),
    "200 with Upgrade": ordinary(b"200 OK", b"Upgrade: websocket"),
    "401": ordinary(b"401 Unauthorized"),
    "403": ordinary(b"403 Forbidden"),
    "404": ordinary(b"404 Not Found"),
    "426": ordinary(b"426 Upgrade Required", b"Connection: upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 7"),
    "an interim answer first": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ordinary(b"400 Bad Request"),
}


@pytest.mark.parametrize("split", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("name", DECLINED)
def test_a_service_may_decline(stage: Stage, name: str, split: bool) -> None:
    """H1, H8, S-18: its answer is relayed, no tunnel is opened, and what the client sent behind the handshake reaches nobody."""
    data = DECLINED[name]

    async def script(link: Link) -> None:
        await link.head()
        await link.send(*([data[at : at + 1] for at in range(len(data))] if split else [data]))
        await link.until_lost()

    async def main() -> None:
        async with stage(script) as (gateway, upstream):
            client = await gateway.connect()
            await client.send(handshake() + SMUGGLED + frame(TEXT, b"hello"))
            answer = await client.response()
            while answer.status < 200:
                answer = await client.response()
            assert answer.body == b"ok"
            assert answer.values(b"upgrade") == []
            assert await client.rest() == b""
            await gateway.idle()
            assert [bytes(link.received) for link in upstream.links] == [upstream.requests[0].head]

    run(main())


def agreed(*lines: bytes) -> bytes:
    return b"HTTP/1.1 101 Switching Protocols\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


PROVED = b"Sec-WebSocket-Accept: " + ACCEPT
#: 101 responses that agree to something else -> the reason in the records.
LIES: dict[str, tuple[bytes, str]] = {
    "no Upgrade": (agreed(PROVED), "upstream_upgrade_unsolicited"),
    "Upgrade that Connection doesn't name": (agreed(UPGRADE[1], PROVED), "upstream_upgrade_unsolicited"),
    "an older HTTP": (agreed(*UPGRADE, PROVED).replace(b"1.1", b"1.0", 1), "upstream_upgrade_unsolicited"),
    "another protocol": (agreed(UPGRADE[0], b"Upgrade: h2c", PROVED), "upstream_upgrade_mismatch"),
    "two protocols": (agreed(UPGRADE[0], b"Upgrade: websocket, h2c", PROVED), "upstream_upgrade_mismatch"),
    "the protocol twice": (agreed(*UPGRADE, UPGRADE[1], PROVED), "upstream_upgrade_mismatch"),
    "no proof": (agreed(*UPGRADE), "upstream_upgrade_mismatch"),
    "a wrong proof": (agreed(*UPGRADE, b"Sec-WebSocket-Accept: " + KEY), "upstream_upgrade_mismatch"),
    "two proofs": (agreed(*UPGRADE, PROVED, b"Sec-WebSocket-Accept: " + KEY), "upstream_upgrade_mismatch"),
    "a length": (agreed(*UPGRADE, PROVED, b"Content-Length: 5"), "upstream_framing"),
    "chunks": (agreed(*UPGRADE, PROVED, b"Transfer-Encoding: chunked"), "upstream_framing"),
    "too many fields": (agreed(*UPGRADE, PROVED, *[b"X-%d: 1" % number for number in range(300)]), "upstream_header_too_large"),
}


@pytest.mark.parametrize("split", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("name", LIES)
def test_a_service_that_agrees_to_something_else_is_a_502(stage: Stage, name: str, split: bool) -> None:
    """H12, S-18: neither side gets a byte of the other's."""
    data, reason = LIES[name]

    async def script(link: Link) -> None:
        await link.head()
        await link.send(*([data[at : at + 1] for at in range(len(data))] if split and len(data) < 1000 else [data]), frame(TEXT, b"poison"))
        await link.until_lost()

    async def main() -> None:
        async with stage(script, service={"retry": {"attempts": 0}}) as (gateway, upstream):
            client = await gateway.connect()
            await client.send(handshake() + SMUGGLED)
            answer = await client.response()
            assert (answer.status, answer.problem["code"]) == (502, "bad_gateway")
            assert await client.rest() == b""
            assert (await gateway.record())["reason"] == reason
            assert bytes(upstream.links[0].received) == upstream.requests[0].head

    run(main())


@pytest.mark.parametrize("sent", [GET, offer(b"Connection: Upgrade", b"Upgrade: h2c")], ids=["no offer", "an offer that wasn't taken"])
def test_an_unsolicited_101_is_a_502_on_such_a_route_too(stage: Stage, sent: bytes) -> None:
    """S-18: never a tunnel."""

    async def main() -> None:
        async with stage(answering(agreed(*UPGRADE, PROVED)), service={"retry": {"attempts": 0}}) as (gateway, _):
            client = await gateway.connect()
            assert (await client.ask(sent)).status == 502
            assert (await gateway.record())["reason"] == "upstream_upgrade_unsolicited"

    run(main())


def test_bytes_wait_for_the_answer_and_their_sender_is_held_back(stage: Stage) -> None:
    """H1, H6: while the service thinks, what follows the handshake is neither passed nor kept without bound."""
    decide = asyncio.Event()

    async def script(link: Link) -> None:
        await link.head()
        await decide.wait()
        await link.send(ordinary(b"403 Forbidden"))
        await link.until_lost()

    async def main() -> None:
        async with stage(script) as (gateway, upstream):
            client = await gateway.connect()
            await client.send(handshake() + bytes(65_536))
            await until(lambda: bool(upstream.requests), "the handshake to arrive")
            flood = asyncio.ensure_future(client.send(bytes(32 << 20)))
            done, _ = await asyncio.wait([flood], timeout=0.5)
            assert not done
            decide.set()
            answer = await client.response()
            assert answer.status == 403
            client.writer.transport.abort()
            await flood
            await gateway.idle()
            assert bytes(upstream.links[0].received) == upstream.requests[0].head

    run(main())


def test_a_client_that_leaves_before_the_answer_takes_its_request_along(stage: Stage) -> None:
    """H8, R7."""

    async def script(link: Link) -> None:
        await link.head()
        await link.until_lost()

    async def main() -> None:
        async with stage(script) as (gateway, upstream):
            client = await gateway.connect()
            await client.send(handshake())
            await until(lambda: bool(upstream.requests), "the handshake to arrive")
            client.close()
            await upstream.links[0].lost.wait()
            await gateway.idle()
            assert (await gateway.record())["reason"] == "client_gone"

    run(main())


def scripts_in_turn(refusing: bytes) -> Script:
    """The first connection is refused, others echo."""
    turns = iter([answering(refusing)])

    async def script(link: Link) -> None:
        await next(turns, echo)(link)

    return script


def test_an_instance_that_cannot_is_followed_by_another_try(stage: Stage) -> None:
    """R1, R2: until the answer nothing was tunnelled, so a handshake is tried again like any GET."""

    async def main() -> None:
        async with stage(scripts_in_turn(b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n")) as (gateway, upstream):
            client = await gateway.connect()
            await client.send(handshake() + frame(TEXT, b"hello"))
            assert (await client.head()).status == 101
            assert await client.reader.readexactly(len(frame(TEXT, b"hello"))) == frame(TEXT, b"hello")
            assert len(upstream.requests) == 2

    run(main())
