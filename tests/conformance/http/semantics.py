"""Expect, HEAD, OPTIONS, Max-Forwards, offered upgrades, and messages in a row (SPEC H5, H8, H9; REQUIREMENTS S-10, S-13, S-15)."""

from __future__ import annotations

from tests.conformance.http.case import Case, Seen, answered, chunked, get, on_the_wire, passed, post, refused, refused_on_the_wire, several

UPGRADE = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__")
A, B, C = (get(target=b"/s/" + name) for name in (b"a", b"b", b"c"))
SEEN_A, SEEN_B, SEEN_C = (Seen(b"GET /s/" + name) for name in (b"a", b"b", b"c"))
HELLO = post(b"Content-Length: 5", body=b"hello")
SEEN_HELLO = Seen(b"POST /s/x", body=b"hello")

EXPECTATIONS: tuple[Case, ...] = (
    passed(
        "100-continue with the body behind it",
        "9110 10.1.1",
        post(b"Expect: 100-continue", b"Content-Length: 5", body=b"hello"),
        b"expect: 100-continue",
        body=b"hello",
    ),
    passed(
        "100-continue in capitals",
        "9110 10.1.1",
        post(b"Expect: 100-CONTINUE", b"Content-Length: 5", body=b"hello"),
        b"expect: 100-CONTINUE",
        body=b"hello",
    ),
    passed("100-continue without a body", "9110 10.1.1", get(b"Expect: 100-continue"), b"expect: 100-continue"),
    passed("another expectation is the upstream's business", "9110 10.1.1", get(b"Expect: x"), b"expect: x"),
    passed(
        "100-continue in HTTP/1.0 is ignored",
        "9110 10.1.1",
        post(b"Expect: 100-continue", b"Content-Length: 5", body=b"hello", version=b"HTTP/1.0"),
        body=b"hello",
        via=b"1.0",
        kept=False,
    ),
)

OPTIONS: tuple[Case, ...] = (
    answered("OPTIONS that no route claims", "9110 9.3.7", get(method=b"OPTIONS", target=b"/p/x"), 204),
    passed("OPTIONS that a route claims", "9110 9.3.7", get(method=b"OPTIONS")),
    answered("Max-Forwards of zero", "9110 7.6.2", get(b"Max-Forwards: 0", method=b"OPTIONS"), 204),
    answered("Max-Forwards of many zeros", "9110 7.6.2", get(b"Max-Forwards: 000", method=b"OPTIONS"), 204),
    passed("Max-Forwards is counted down", "9110 7.6.2", get(b"Max-Forwards: 10", method=b"OPTIONS"), b"max-forwards: 9"),
    passed("Max-Forwards of one", "9110 7.6.2", get(b"Max-Forwards: 1", b"X-A: 1", method=b"OPTIONS"), b"max-forwards: 0", b"x-a: 1"),
    passed("Max-Forwards in capitals", "9110 7.6.2", get(b"MAX-FORWARDS: 3", method=b"OPTIONS"), b"max-forwards: 2"),
    refused("Max-Forwards that is no number", "9110 7.6.2", get(b"Max-Forwards: -1", method=b"OPTIONS")),
    refused("two Max-Forwards", "9110 7.6.2", get(b"Max-Forwards: 1", b"Max-Forwards: 0", method=b"OPTIONS")),
    passed("Max-Forwards of another method", "9110 7.6.2", get(b"Max-Forwards: 0"), b"max-forwards: 0"),
    passed(
        "Max-Forwards of a preflight without rules",
        "Fetch 3.2.2",
        get(b"Max-Forwards: 2", b"Origin: http://a", b"Access-Control-Request-Method: GET", method=b"OPTIONS"),
        b"max-forwards: 1",
        b"origin: http://a",
        b"access-control-request-method: GET",
    ),
    passed("HEAD", "9110 9.3.2", get(method=b"HEAD")),
    answered("HEAD that no route has", "9110 9.3.2", get(method=b"HEAD", target=b"/nowhere"), 404),
)

UPGRADES: tuple[Case, ...] = refused_on_the_wire(
    passed("an upgrade that is ignored", "9110 7.8", get(*UPGRADE), kept=False),
    passed("an upgrade with a body", "9110 7.8", post(*UPGRADE, b"Content-Length: 5", body=b"hello"), body=b"hello", kept=False),
    refused("an upgrade with chunks", "9110 7.8", chunked(b"0\r\n\r\n", *UPGRADE)),
    passed("an upgrade in HTTP/1.0", "9110 7.8", get(b"Connection: Upgrade", b"Upgrade: x", version=b"HTTP/1.0"), via=b"1.0", kept=False),
)

IN_A_ROW: tuple[Case, ...] = (
    several("two", "9112 9.3.2", A + B, (200, 200), SEEN_A, SEEN_B),
    several("three", "9112 9.3.2", A + B + C, (200, 200, 200), SEEN_A, SEEN_B, SEEN_C),
    several("the same three times", "9112 9.3.2", A * 3, (200, 200, 200), SEEN_A, SEEN_A, SEEN_A),
    several("a body between two", "9112 9.3.2", A + HELLO + B, (200, 200, 200), SEEN_A, SEEN_HELLO, SEEN_B),
    several("chunks between two", "9112 9.3.2", A + chunked(b"5\r\nhello\r\n0\r\n\r\n") + B, (200, 200, 200), SEEN_A, SEEN_HELLO, SEEN_B),
    several("a trailer between two", "9110 6.5.1", chunked(b"5\r\nhello\r\n0\r\nX-A: 1\r\n\r\n") + A, (200, 200), SEEN_HELLO, SEEN_A),
    several("one of no route between two", "9112 9.3.2", A + get(target=b"/nowhere") + B, (200, 404, 200), SEEN_A, SEEN_B),
    several(
        "other fields each time", "9112 9.3.2", A + get(b"X-A: 1") + B, (200, 200, 200), SEEN_A, Seen(b"GET /s/x", (b"x-a: 1",)), SEEN_B
    ),
    several(
        "another Host each time",
        "9112 3.2",
        A + get(host=b"b.example") + B,
        (200, 200, 200),
        SEEN_A,
        Seen(b"GET /s/x", host=b"b.example"),
        SEEN_B,
    ),
    several(
        "an ambiguous path after two", "REQUIREMENTS S-13", A + B + get(target=b"/s/../x") + C, (200, 200, 400), SEEN_A, SEEN_B, kept=False
    ),
    *refused_on_the_wire(
        several("a malformed one after one", "REQUIREMENTS S-13", A + get(b"X : 1") + C, (200, 400), SEEN_A, kept=False),
        several("a malformed one after a body", "REQUIREMENTS S-13", HELLO + b"X\r\n\r\n", (200, 400), SEEN_HELLO, kept=False),
        several("a bad chunk after one", "REQUIREMENTS S-13", A + chunked(b"x\r\n") + C, (200, 400), SEEN_A, kept=False),
        several("one byte too many", "9112 9.3", HELLO + b"x" + A, (200, 400), SEEN_HELLO, kept=False),
        *on_the_wire(several("line ends between two", "9112 2.2", A + b"\r\n" + B, (200, 200), SEEN_A, SEEN_B)),
        several(
            "a body too short for its length",
            "9112 6.2",
            post(b"Content-Length: 6", body=b"hello") + A,
            (200, 400),
            Seen(b"POST /s/x", body=b"helloG"),
            kept=False,
        ),
        several("close between two", "9112 9.6", get(b"Connection: close") + A, (200,), Seen(b"GET /s/x"), kept=False),
        several(
            "close in the second of three", "9112 9.6", A + get(b"Connection: close") + B, (200, 200), SEEN_A, Seen(b"GET /s/x"), kept=False
        ),
        several("HTTP/1.0 before another", "9112 9.3", get(version=b"HTTP/1.0") + A, (200,), Seen(b"GET /s/x", via=b"1.0"), kept=False),
        several(
            "HTTP/1.0 that wants to stay before another",
            "9112 9.3",
            get(b"Connection: keep-alive", version=b"HTTP/1.0") + A,
            (200,),
            Seen(b"GET /s/x", via=b"1.0"),
            kept=False,
        ),
        several("an upgrade before another", "9110 7.8", get(*UPGRADE) + A, (200,), Seen(b"GET /s/x"), kept=False),
    ),
    several("a HEAD between two", "9110 9.3.2", A + get(method=b"HEAD") + B, (200, 200, 200), SEEN_A, Seen(b"HEAD /s/x"), SEEN_B),
)

CASES = EXPECTATIONS + OPTIONS + UPGRADES + IN_A_ROW
