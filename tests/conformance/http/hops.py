"""Fields of a hop, and fields that only we may set (SPEC H2, H3, H11; REQUIREMENTS S-7, S-7a, S-10, S-12, S-12a, S-14)."""

from __future__ import annotations

from tests.conformance.http.case import Case, answered, get, passed

KEPT = b"x-kept: 1"


def stripped(name: str, source: str, *fields: bytes, method: bytes = b"GET", kept: bool = True) -> Case:
    """A request of which nothing but `X-Kept` may reach the upstream."""
    return passed(name, source, get(*fields, b"X-Kept: 1", method=method), KEPT, kept=kept)


HOPS: tuple[Case, ...] = (
    stripped("Keep-Alive", "9110 7.6.1", b"Keep-Alive: timeout=5"),
    stripped("Proxy-Connection", "9110 7.6.1", b"Proxy-Connection: keep-alive"),
    stripped("TE", "9110 10.1.4", b"TE: trailers"),
    stripped("TE that Connection names", "9110 10.1.4", b"TE: trailers, deflate;q=0.5", b"Connection: TE"),
    stripped("Trailer", "9110 6.6.2", b"Trailer: X-T"),
    stripped("Proxy-Authorization", "9110 11.7.2", b"Proxy-Authorization: Basic eA=="),
    stripped("Proxy-Authenticate", "9110 11.7.1", b"Proxy-Authenticate: Basic"),
    stripped("HTTP2-Settings", "9113 3.1", b"HTTP2-Settings: AAMAAABkAAQAAP__"),
    stripped("Upgrade that Connection doesn't name", "9110 7.8", b"Upgrade: websocket"),
    stripped("hop-by-hop fields in capitals", "9110 5.1", b"KEEP-ALIVE: 1", b"PROXY-CONNECTION: 1", b"te: x", b"TRAILER: X"),
    stripped("Connection: close", "9112 9.6", b"Connection: close", kept=False),
    stripped("close in capitals", "9110 7.6.1", b"Connection: CLOSE", kept=False),
    stripped("close among others", "9112 9.6", b"Connection: x-a, close", b"X-A: 1", kept=False),
    stripped("close on a second line", "9112 9.6", b"Connection: x-a", b"Connection: close", b"X-A: 1", kept=False),
    stripped("Connection: keep-alive", "9110 7.6.1", b"Connection: keep-alive"),
)

NAMED: tuple[Case, ...] = (
    stripped("one name", "9110 7.6.1", b"Connection: x-a", b"X-A: 1"),
    stripped("names in another case", "9110 7.6.1", b"Connection: X-a, x-B", b"x-A: 1", b"X-b: 2"),
    stripped("the field before Connection", "9110 7.6.1", b"X-A: 1", b"Connection: X-A"),
    stripped("a name among plain options", "9110 7.6.1", b"Connection: keep-alive, X-A", b"X-A: 1"),
    stripped("a name on a second line", "9110 7.6.1", b"Connection: keep-alive", b"Connection: X-A", b"X-A: 1"),
    stripped("a name behind close on a second line", "9110 7.6.1", b"Connection: close", b"Connection: X-A", b"X-A: 1", kept=False),
    stripped(
        "names on three lines", "9110 7.6.1", b"Connection: X-A", b"Connection: X-B", b"Connection: X-C", b"X-A: 1", b"X-B: 1", b"X-C: 1"
    ),
    stripped("every line of a name", "9110 7.6.1", b"Connection: X-A", b"X-A: 1", b"X-A: 2"),
    stripped("empty members", "9110 5.6.1", b"Connection: , ,X-A,,", b"X-A: 1"),
    stripped("an empty Connection", "9110 5.6.1", b"Connection: "),
    stripped("tabs around a name", "9110 5.6.3", b"Connection: close\t,\tX-A\t", b"X-A: 1", kept=False),
    stripped("the name of a common field", "9110 7.6.1", b"Connection: Accept", b"Accept: */*"),
    stripped("a name that isn't there", "9110 7.6.1", b"Connection: X-Nobody"),
    stripped("Connection names itself", "9110 7.6.1", b"Connection: Connection"),
    passed("a name that is only the start of a field's", "9110 7.6.1", get(b"Connection: X", b"X-A: 1"), b"x-a: 1"),
    passed("a name with a colon", "9110 5.6.2", get(b"Connection: x-a:, x-kept: 1", b"X-A: 1"), b"x-a: 1"),
    passed("a name in quotes", "9110 7.6.1", get(b'Connection: "x-a"', b"X-A: 1"), b"x-a: 1"),
    passed("Host", "CVE-2024-45410", get(b"Connection: Host")),
    passed(
        "Content-Length",
        "CVE-2026-6338",
        get(b"Connection: Content-Length", b"Content-Length: 5", method=b"POST") + b"hello",
        body=b"hello",
    ),
    passed(
        "Transfer-Encoding",
        "CVE-2026-6338",
        get(b"Connection: Transfer-Encoding", b"Transfer-Encoding: chunked", method=b"POST") + b"5\r\nhello\r\n0\r\n\r\n",
        body=b"hello",
    ),
    passed("Authorization", "REQUIREMENTS S-7a", get(b"Connection: authorization", b"Authorization: Basic x"), b"authorization: Basic x"),
    passed(
        "Cookie and Origin",
        "REQUIREMENTS S-7a",
        get(b"Connection: Cookie, origin", b"Cookie: a=b", b"Origin: http://a"),
        b"cookie: a=b",
        b"origin: http://a",
    ),
    passed("Cache-Control", "9110 7.6.1", get(b"Connection: cache-control", b"Cache-Control: no-store"), b"cache-control: no-store"),
    stripped("forwarding fields", "CVE-2024-45410", b"Connection: X-Forwarded-For, X-Forwarded-Host, x-forwarded-proto, X-Real-IP"),
    stripped("a forwarding field in another case", "CVE-2024-45410", b"Connection: x-FORWARDED-host", b"X-Forwarded-Host: evil.example"),
    stripped("identity, trace and request id", "REQUIREMENTS S-7a", b"Connection: X-Auth-Subject, traceparent, X-Request-Id, tracestate"),
    stripped("Via", "9110 7.6.3", b"Connection: Via"),
)


def spellings(name: bytes) -> tuple[bytes, ...]:
    """What one upstream or another folds into the same variable (`HTTP_X_AUTH_SUBJECT`) or the same key."""
    return (
        name.upper(),
        name.replace(b"-", b"_"),
        name.replace(b"-", b"_", 1),
        *(name.replace(b"-", mark) for mark in (b".", b"~", b"!", b"*", b"+")),
    )


#: One row a field: every spelling of it at once, each of which would be one field too many upstream.
MANAGED_NAMES = (
    b"x-auth-subject",
    b"x-auth-scopes",
    b"x-auth-issuer",
    b"x-client-cert-fingerprint",
    b"x-client-cert-issuer",
    b"x-client-cert-san",
    b"x-client-cert-subject",
    b"x-forwarded-client-cert",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-forwarded-prefix",
    b"x-forwarded-proto",
    b"x-forwarded-server",
    b"x-forwarded-scheme",
    b"x-forwarded-ssl",
    b"x-forwarded-by",
    b"x-original-url",
    b"x-rewrite-url",
    b"x-real-ip",
    b"x-request-id",
    b"forwarded",
    b"traceparent",
    b"tracestate",
    b"baggage",
)

MANAGED: tuple[Case, ...] = (
    *(
        stripped(f"{name.decode()} in any spelling", "SPEC H3", name + b": 6", *(spelling + b": 6" for spelling in spellings(name)))
        for name in MANAGED_NAMES
    ),
    stripped("a name with an underscore", "REQUIREMENTS S-14", b"X_A: 1"),
    stripped("a name that starts with an underscore", "REQUIREMENTS S-14", b"_host: evil.example"),
    stripped("Content_Length", "REQUIREMENTS S-14", b"Content_Length: 5"),
    stripped("Transfer_Encoding", "REQUIREMENTS S-14", b"Transfer_Encoding: chunked"),
    passed("a name with a point that folds into none of ours", "9110 5.1", get(b"X.Trace.Level: 1"), b"x.trace.level: 1"),
    stripped(
        "two traceparents",
        "Trace Context 3.2",
        b"traceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01",
        b"traceparent: 00-" + b"c" * 32 + b"-" + b"d" * 16 + b"-01",
    ),
    stripped("a malformed traceparent", "Trace Context 3.2", b"traceparent: 00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01"),
    passed(
        "Via before ours", "9110 7.6.3", get(b"Via: 1.0 fred, 1.1 p.example", b"Via: 2 q"), b"via: 1.0 fred, 1.1 p.example", b"via: 2 q"
    ),
    passed("our name once in Via", "9110 7.6.3", get(b"Via: 1.1 hms-gateway"), b"via: 1.1 hms-gateway"),
    answered("a loop", "9110 7.6.3", get(b"Via: " + b", ".join([b"1.1 hms-gateway"] * 12)), 502),
    answered("a loop on several lines", "9110 7.6.3", get(*[b"Via: 1.1 hms-gateway"] * 12), 502),
    passed("HTTP/1.0 in Via", "9110 7.6.3", get(b"X-Kept: 1", version=b"HTTP/1.0"), KEPT, via=b"1.0", kept=False),
    passed(
        "HTTP/1.0 that wants to stay",
        "9112 9.3",
        get(b"Connection: keep-alive", b"X-Kept: 1", version=b"HTTP/1.0"),
        KEPT,
        via=b"1.0",
        kept=False,
    ),
)

CASES = HOPS + NAMED + MANAGED
