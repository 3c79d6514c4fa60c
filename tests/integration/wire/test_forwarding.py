"""What of a message crosses the gateway, and what never does; the same under our protocol and under another ASGI server."""

from __future__ import annotations

import pytest

from tests.integration.wire.conftest import Stage
from tests.support.gateway_process import ADAPTERS, Adapter, run
from tests.support.recording_upstream import OK, Link, answering

both = pytest.mark.parametrize("adapter", ADAPTERS)


def get(*lines: bytes, target: bytes = b"/s/x", method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    return b"%b %b HTTP/%b\r\nHost: api.example.gov\r\n" % (method, target, version) + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def answer(*lines: bytes, status: bytes = b"200 OK", body: bytes = b"ok") -> bytes:
    head = b"HTTP/1.1 %b\r\n" % status + b"".join(line + b"\r\n" for line in lines)
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


@both
def test_hop_by_hop_fields_stay_with_their_hop(stage: Stage, adapter: Adapter) -> None:
    """H2, S-7 (RFC 9110 section 7.6.1): in both directions, with what Connection names, on several lines and in any case."""
    hops = (b"Connection: keep-alive, X-One", b"CONNECTION: x-TWO", b"X-One: 1", b"X-Two: 2", b"Keep-Alive: timeout=5", b"TE: trailers")
    more = (b"Proxy-Connection: keep-alive", b"Proxy-Authorization: Basic x", b"Trailer: X-T", b"HTTP2-Settings: x", b"X-End: 1")
    back = (b"Connection: x-hop", b"X-Hop: 1", b"Keep-Alive: timeout=5", b"Proxy-Authenticate: Basic", b"X-End: 2")

    async def main() -> None:
        async with stage(answering(answer(*back)), adapter) as (gateway, upstream):
            response = await gateway.ask(get(*hops, *more))
            (request,) = upstream.requests
            names = {name.lower() for name, _ in request.fields}
            assert not names & {b"connection", b"x-one", b"x-two", b"keep-alive", b"te", b"proxy-connection", b"proxy-authorization"}
            assert not names & {b"trailer", b"http2-settings", b"upgrade"}
            assert request.values(b"x-end") == [b"1"]
            names = {name.lower() for name, _ in response.fields}
            assert not names & {b"x-hop", b"keep-alive", b"proxy-authenticate"}
            assert response.values(b"x-end") == [b"2"]

    run(main())


@both
def test_connection_cannot_remove_what_security_rests_on(stage: Stage, adapter: Adapter) -> None:
    """S-7a (CVE-2024-45410, CVE-2026-6338): neither managed fields nor framing, Host and credentials; nor a response's protections."""
    named = b"Connection: close, Host, Content-Length, Authorization, Cookie, X-Forwarded-For, x-request-id, TraceParent, X-FORWARDED-HOST"
    message = b"POST /s/x HTTP/1.1\r\nHost: api.example.gov\r\nAuthorization: Basic x\r\nCookie: a=b\r\nContent-Length: 5\r\n" + named
    back = (b"Connection: Set-Cookie, Strict-Transport-Security, Content-Type", b"Set-Cookie: a=b", b"Strict-Transport-Security: max-age=1")

    async def main() -> None:
        async with stage(answering(answer(*back, b"Content-Type: text/plain")), adapter) as (gateway, upstream):
            response = await gateway.ask(message + b"\r\n\r\nhello")
            (request,) = upstream.requests
            assert request.body == b"hello"
            for name in (b"host", b"authorization", b"cookie", b"x-forwarded-for", b"x-request-id", b"traceparent", b"x-forwarded-host"):
                assert len(request.values(name)) == 1, name
            for name in (b"set-cookie", b"strict-transport-security", b"content-type"):
                assert len(response.values(name)) == 1, name

    run(main())


MANAGED = (
    b"Traceparent",
    b"X-Auth-Issuer",
    b"X-Auth-Scopes",
    b"X-Auth-Subject",
    b"X-Client-Cert-Subject",
    b"X-Forwarded-Client-Cert",
    b"X-Forwarded-For",
    b"X-Forwarded-Host",
    b"X-Forwarded-Port",
    b"X-Forwarded-Prefix",
    b"X-Forwarded-Proto",
    b"X-Forwarded-Server",
    b"X-Real-IP",
    b"X-Request-Id",
    b"Forwarded",
)


@both
def test_an_untrusted_client_cannot_set_what_we_manage(stage: Stage, adapter: Adapter) -> None:
    """H3, S-12, S-12a, S-14: in no case and with no underscore, also on a public route."""
    spellings = [spelling for name in MANAGED for spelling in (name, name.upper(), name.lower(), name.replace(b"-", b"_"))]
    message = get(*(b"%b: evil" % spelling for spelling in spellings))

    async def main() -> None:
        async with stage(adapter=adapter) as (gateway, upstream):
            assert (await gateway.ask(message)).status == 200
            (request,) = upstream.requests
            assert b"evil" not in request.head
            assert b"_" not in b"".join(name for name, _ in request.fields)
            assert request.values(b"x-forwarded-for") == [b"127.0.0.1"]
            assert request.values(b"x-forwarded-proto") == [b"http"]
            assert request.values(b"x-forwarded-host") == [b"api.example.gov"]
            assert request.values(b"x-forwarded-port") == [b"%d" % gateway.port]
            assert len(request.values(b"traceparent")) == len(request.values(b"x-request-id")) == 1

    run(main())


@both
def test_a_trusted_proxy_is_believed_and_added_to_the_chain(stage: Stage, adapter: Adapter) -> None:
    """H3: the client's address is the last hop that isn't trusted, for the records too."""
    told = (b"X-Forwarded-For: 198.51.100.9, 192.0.2.7", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: www.example.gov")

    async def main() -> None:
        async with stage(adapter=adapter, server={"trusted_proxies": ["127.0.0.0/8"]}) as (gateway, upstream):
            assert (await gateway.ask(get(*told, b"X-Forwarded-Port: 443", b"X-Request-Id: abc-1"))).status == 200
            (request,) = upstream.requests
            assert request.values(b"x-forwarded-for") == [b"198.51.100.9, 192.0.2.7, 127.0.0.1"]
            assert request.values(b"x-forwarded-proto") == [b"https"]
            assert request.values(b"x-forwarded-host") == [b"www.example.gov"]
            assert request.values(b"x-forwarded-port") == [b"443"]
            assert request.values(b"x-request-id") == [b"abc-1"]
            assert (await gateway.record())["source"]["ip"] == "192.0.2.7"

    run(main())


@both
def test_everything_else_passes_as_it_came(stage: Stage, adapter: Adapter) -> None:
    """S-8, S-11, S-20: order, repeated lines, octets outside ASCII, query bytes, codings; nothing is invented."""
    sent = (
        b"X-A: 1",
        b"Accept: a/b",
        b"X-A: 2",
        b"Accept: c/d",
        b"X-Latin: caf\xe9 \xff",
        b"Content-Encoding: gzip",
        b'If-None-Match: W/"x"',
    )
    back = (
        b"Set-Cookie: a=1",
        b"Set-Cookie: b=2",
        b"X-Latin: \xe9\xff",
        b"Content-Encoding: gzip",
        b"WWW-Authenticate: Basic",
        b"Allow: GET",
    )
    body = bytes(range(256)) * 3

    async def main() -> None:
        async with stage(answering(answer(*back, body=body)), adapter) as (gateway, upstream):
            response = await gateway.ask(get(*sent, target=b"/s/caf%C3%A9/x?b=2&a=%2F..%2f&a=+|{}"))
            (request,) = upstream.requests
            assert request.line == b"GET /s/caf%C3%A9/x?b=2&a=%2F..%2f&a=+|{} HTTP/1.1"
            expected = [tuple(line.split(b": ", 1)) for line in sent]
            names = {name.lower() for name, _ in expected}
            assert [(n.lower(), v) for n, v in request.fields if n.lower() in names] == [(n.lower(), v) for n, v in expected]
            for name in (b"user-agent", b"accept-encoding", b"accept-language", b"content-length", b"transfer-encoding"):
                assert request.values(name) == []
            assert response.body == body
            expected = [tuple(line.split(b": ", 1)) for line in back]
            names = {name.lower() for name, _ in expected}
            assert [(n.lower(), v) for n, v in response.fields if n.lower() in names] == [(n.lower(), v) for n, v in expected]

    run(main())


@both
def test_via_is_appended(stage: Stage, adapter: Adapter) -> None:
    """H11, S-10 (RFC 9110 section 7.6.3): after what came."""

    async def main() -> None:
        async with stage(adapter=adapter) as (gateway, upstream):
            assert (await gateway.ask(get(b"Via: 1.0 fred"))).status == 200
            assert upstream.requests[0].values(b"via") == [b"1.0 fred", b"1.1 hms-gateway"]

    run(main())


@both
def test_date_is_there_and_server_is_not(stage: Stage, adapter: Adapter) -> None:
    """H11 (RFC 9110 section 6.6.1): an upstream's Date is kept, a missing one is added, its Server is hidden; for errors too."""
    dated = answer(b"Date: Sun, 22 Nov 2026 00:00:00 GMT", b"Server: backend/1.2")

    async def main() -> None:
        async with stage(answering(dated, answer(b"Server: backend/1.2")), adapter) as (gateway, _):
            client = await gateway.connect()
            first, second, third = [await client.ask(get(target=target)) for target in (b"/s/x", b"/s/x", b"/nowhere")]
            if adapter == "wire":
                assert first.values(b"date") == [b"Sun, 22 Nov 2026 00:00:00 GMT"]
            for response in (second, third):
                assert len(response.values(b"date")) == 1
            assert third.status == 404
            for response in (first, second, third):
                assert response.values(b"server") == []
                assert len(response.values(b"x-request-id")) == 1

    run(main())


@both
@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_a_status_without_body_has_none(stage: Stage, adapter: Adapter, status: bytes) -> None:
    """H5, S-17: 204 and 304 end with their head, and the connection goes on."""
    bodiless = b'HTTP/1.1 %b\r\nETag: "x"\r\n\r\n' % status

    async def main() -> None:
        async with stage(answering(bodiless, OK), adapter) as (gateway, upstream):
            client = await gateway.connect()
            response = await client.ask(get())
            assert (response.status, response.values(b"etag")) == (int(status[:3]), [b'"x"'])
            assert response.values(b"transfer-encoding") == []
            await gateway.idle()
            assert (await client.ask(get())).body == b"ok"
            assert len(upstream.links) == 1

    run(main())


@both
def test_head_gets_the_fields_and_no_body(stage: Stage, adapter: Adapter) -> None:
    """H5, S-17: Content-Length is what GET would have, for upstream answers and for errors; the upstream connection is used again."""
    only_head = b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"

    async def main() -> None:
        async with stage(answering(only_head, OK), adapter) as (gateway, upstream):
            client = await gateway.connect()
            response = await client.ask(get(method=b"HEAD"), bodiless=True)
            assert (response.status, response.values(b"content-length")) == (200, [b"1234"])
            missing = await client.ask(get(method=b"HEAD", target=b"/nowhere"), bodiless=True)
            assert missing.status == 404
            assert int(missing.values(b"content-length")[0]) > 0
            await gateway.idle()
            assert (await client.ask(get())).body == b"ok"
            assert upstream.requests[0].line == b"HEAD /s/x HTTP/1.1"
            assert len(upstream.links) == 1

    run(main())


def test_a_204_carries_no_content_length(stage: Stage) -> None:
    """RFC 9110 section 8.6, S-17: whatever the upstream says."""

    async def main() -> None:
        async with stage(answering(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")) as (gateway, _):
            response = await gateway.ask(get())
            assert (response.status, response.values(b"content-length")) == (204, [])

    run(main())


@both
def test_every_final_status_passes_unchanged(stage: Stage, adapter: Adapter) -> None:
    """S-17, S-33: redirects are returned, never followed."""
    statuses = [200, 206, 226, 301, 307, 404, 418, 451, 500, 502, 503, 511, 599]
    answers = [answer(b"Location: /elsewhere", status=b"%d Whatever" % status) for status in statuses]

    async def main() -> None:
        async with stage(answering(*answers), adapter, service={"retry": {"attempts": 0}}) as (gateway, upstream):
            client = await gateway.connect()
            for status in statuses:
                response = await client.ask(get())
                assert (response.status, response.body, response.values(b"location")) == (status, b"ok", [b"/elsewhere"])
            assert len(upstream.requests) == len(statuses)

    run(main())


def test_interim_responses_pass_in_order(stage: Stage) -> None:
    """H5, S-18 (RFC 9110 section 15.2): 100, 102 and 103 with their fields, then the final one."""
    interim = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x\r\nX: 1\r\n\r\n"

    async def main() -> None:
        async with stage(answering(interim + OK)) as (gateway, _):
            client = await gateway.connect()
            first, second, third = await client.ask(get()), await client.response(), await client.response()
            assert [first.status, second.status, third.status] == [102, 103, 200]
            assert second.fields == [(b"link", b"</a.css>")]
            assert third.body == b"ok"

    run(main())


def test_an_http_10_client_gets_no_interim_and_no_chunks(stage: Stage) -> None:
    """S-10, S-15: 1xx are for HTTP/1.1; a body without length ends with the connection."""
    chunked = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n"

    async def script(link: Link) -> None:
        assert await link.request() is not None
        await link.send(chunked)
        await link.send(b"3\r\nllo\r\n0\r\n\r\n")

    async def main() -> None:
        async with stage(script) as (gateway, upstream):
            response = await gateway.ask(get(version=b"1.0"))
            assert (response.status, response.body) == (200, b"hello")
            assert response.values(b"transfer-encoding") == []
            assert upstream.requests[0].line.endswith(b"HTTP/1.1")

    run(main())


def test_an_http_10_client_needs_no_host(stage: Stage) -> None:
    """RFC 9112 section 3.2: the HTTP/1.1 request that we make of it has one nevertheless."""

    async def main() -> None:
        async with stage() as (gateway, upstream):
            assert (await gateway.ask(b"GET /s/x HTTP/1.0\r\n\r\n")).status == 200
            assert upstream.requests[0].values(b"host") == [b"s"]

    run(main())


@both
def test_the_authority_of_an_absolute_target_wins(stage: Stage, adapter: Adapter) -> None:
    """S-6 (RFC 9112 section 3.2.2): over Host, for routing and for the upstream, and it changes nothing for the next request."""
    absolute = get(target=b"http://other.example.gov:81/s/x?q=1")

    async def main() -> None:
        async with stage() as (gateway, upstream):
            client = await gateway.connect()
            for message in (absolute, get(target=b"/s/x?q=1")):
                assert (await client.ask(message)).status == 200
            first, second = upstream.requests
            assert first.line == b"GET /s/x?q=1 HTTP/1.1"
            assert first.values(b"host") == first.values(b"x-forwarded-host") == [b"other.example.gov:81"]
            assert second.values(b"host") == second.values(b"x-forwarded-host") == [b"api.example.gov"]

    run(main())


@both
def test_options_without_a_route_is_answered_from_the_table(stage: Stage, adapter: Adapter) -> None:
    """H5: OPTIONS of a path, and of the server as a whole."""

    async def main() -> None:
        async with stage(adapter=adapter, route={"methods": ["GET", "POST"]}) as (gateway, upstream):
            response = await gateway.ask(get(method=b"OPTIONS"))
            assert response.status == 204
            assert {b"GET", b"POST", b"HEAD"} <= set(response.values(b"allow")[0].split(b", "))
            if adapter == "wire":
                assert (await gateway.ask(get(method=b"OPTIONS", target=b"*"))).status == 204
            assert upstream.requests == []

    run(main())


@both
def test_trace_is_refused(stage: Stage, adapter: Adapter) -> None:
    """H5: it would show a client what we add."""

    async def main() -> None:
        async with stage(adapter=adapter) as (gateway, upstream):
            response = await gateway.ask(get(method=b"TRACE"))
            assert (response.status, upstream.requests) == (405, [])

    run(main())


def test_expect_goes_end_to_end(stage: Stage) -> None:
    """H5, S-15 (RFC 9110 section 10.1.1): the upstream says 100, and only then the body comes."""
    message = b"POST /s/x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"

    async def script(link: Link) -> None:
        request = await link.head()
        assert request is not None
        assert request.values(b"expect") == [b"100-continue"]
        await link.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.body = await link._exactly(5)
        await link.send(OK)

    async def main() -> None:
        async with stage(script) as (gateway, upstream):
            client = await gateway.connect()
            assert (await client.ask(message)).status == 100
            response = await client.ask(b"hello")
            assert (response.status, upstream.requests[0].body) == (200, b"hello")

    run(main())


def test_a_refusal_before_the_body_leaves_nothing_to_be_read_as_a_request(stage: Stage) -> None:
    """S-15: 417 of the upstream, with the client's body still outstanding: delivered, and the connection is closed on both sides."""
    message = b"POST /s/x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 52\r\n\r\n"
    refusal = b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n"

    async def script(link: Link) -> None:
        if await link.head() is not None:
            await link.send(refusal)
            await link.until_lost()

    async def main() -> None:
        async with stage(script) as (gateway, upstream):
            client = await gateway.connect()
            response = await client.ask(message)
            assert (response.status, response.values(b"connection")) == (417, [b"close"])
            await client.send(b"GET /s/smuggled HTTP/1.1\r\nHost: api.example.gov\r\n\r\n")
            assert await client.rest() == b""
            await gateway.idle()
            assert len(upstream.requests) == 1
            await upstream.links[0].lost.wait()

    run(main())


@both
def test_a_request_needs_no_body_framing_to_have_none(stage: Stage, adapter: Adapter) -> None:
    """RFC 9110 section 8.6: no Content-Length is invented for GET, and one of zero is kept for POST."""

    async def main() -> None:
        async with stage(adapter=adapter) as (gateway, upstream):
            await gateway.ask(get())
            await gateway.ask(get(b"Content-Length: 0", method=b"POST"))
            first, second = upstream.requests
            assert first.values(b"content-length") == []
            assert second.values(b"content-length") == [b"0"]

    run(main())
