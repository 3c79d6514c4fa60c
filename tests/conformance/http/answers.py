"""Upstreams that are honest, odd, or lie (SPEC H2, H5, H11, H12; REQUIREMENTS S-7, S-16, S-16a, S-17, S-18, S-20).

More of them, with the reasons in the records: `tests/integration/wire/test_hostile_upstream.py`.
"""

from __future__ import annotations

from tests.conformance.http.answer import Answer, broken, broken_off, chunks, ok, relayed

L2 = b"Content-Length: 2"
POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nPOISONED"
#: The head of the answer to a warm request, as the upstream gives it again and again.
REPEATED = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 7\r\n\r\n"

BODIES: tuple[Answer, ...] = (
    relayed("a length", "9112 6.2", ok(L2, body=b"ok"), body=b"ok"),
    relayed("a length of zero", "9112 6.2", ok(b"Content-Length: 0")),
    relayed("chunks", "9112 7.1", chunks(b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), body=b"hello"),
    relayed("no chunk", "9112 7.1", chunks(b"0\r\n\r\n")),
    relayed("an extension", "9112 7.1.1", chunks(b'2;a="b"\r\nok\r\n0\r\n\r\n'), body=b"ok"),
    relayed("a trailer", "9110 6.5.1", chunks(b"2\r\nok\r\n0\r\nX-T: 1\r\nSet-Cookie: a=b\r\n\r\n", b"Trailer: X-T"), body=b"ok"),
    relayed("a body that ends with the connection", "9112 6.3", ok(body=b"hello"), body=b"hello", end="closes"),
    relayed("an empty body that ends with the connection", "9112 6.3", ok(), end="closes"),
    relayed("HTTP/1.0 with a length", "9112 2.3", ok(L2, body=b"ok", line=b"HTTP/1.0 200 OK"), body=b"ok", reused=False),
    relayed("HTTP/1.0 that is kept", "9112 9.3", ok(L2, b"Connection: keep-alive", body=b"ok", line=b"HTTP/1.0 200 OK"), body=b"ok"),
    relayed("HTTP/1.0 without a length", "9112 6.3", ok(body=b"ok", line=b"HTTP/1.0 200 OK"), body=b"ok", end="closes"),
    relayed("close", "9112 9.6", ok(L2, b"Connection: close", body=b"ok"), body=b"ok", reused=False),
    relayed("close in capitals among others", "9112 9.6", ok(L2, b"Connection: x, CLOSE", body=b"ok"), body=b"ok", reused=False),
    relayed("close on a second line", "9112 9.6", ok(L2, b"Connection: x", b"Connection: close", body=b"ok"), body=b"ok", reused=False),
    relayed("a length with white space behind it", "9112 5.1", ok(b"Content-Length: 2 \t", body=b"ok"), body=b"ok"),
    relayed("chunked in another case", "9112 7", ok(b"Transfer-Encoding: CHUNKED", body=b"2\r\nok\r\n0\r\n\r\n"), body=b"ok"),
    relayed("a body of every octet", "9110 6.4", ok(b"Content-Length: 256", body=bytes(range(256))), body=bytes(range(256))),
    relayed("a body that looks like a response", "9112 6.2", ok(b"Content-Length: %d" % len(POISON), body=POISON), body=POISON),
    relayed("a coded body", "9110 7.7", ok(L2, b"Content-Encoding: gzip", body=b"\x1f\x8b"), b"content-encoding: gzip", body=b"\x1f\x8b"),
    relayed("a repeated head", "9112 6.2", REPEATED + b"hello, ", body=b"hello, "),
)

STATUSES: tuple[Answer, ...] = (
    *(
        relayed(
            f"status {status}",
            "9110 15",
            ok(L2, b"Location: /x", body=b"ok", line=b"HTTP/1.1 %d Any" % status),
            b"location: /x",
            status=status,
            body=b"ok",
        )
        for status in (201, 203, 206, 300, 302, 308, 400, 401, 402, 407, 409, 410, 421, 429, 500, 501, 599)
    ),
    relayed("no reason", "9112 4", ok(L2, body=b"ok", line=b"HTTP/1.1 200 "), body=b"ok"),
    relayed("no space before no reason", "9112 4", ok(L2, body=b"ok", line=b"HTTP/1.1 200"), body=b"ok"),
    relayed("a reason outside ASCII", "9112 4", ok(L2, body=b"ok", line=b"HTTP/1.1 200 caf\xe9"), body=b"ok"),
    relayed("204", "9110 15.3.5", ok(line=b"HTTP/1.1 204 No Content"), status=204),
    relayed(
        "304 with the length of what it isn't",
        "9110 15.4.5",
        ok(b"Content-Length: 5", b'ETag: "x"', line=b"HTTP/1.1 304 Not Modified"),
        b'etag: "x"',
        status=304,
    ),
    relayed("a 304 with a coding", "9110 15.4.5", ok(b"Transfer-Encoding: chunked", line=b"HTTP/1.1 304 Not Modified"), status=304),
    relayed("HEAD", "9110 9.3.2", ok(b"Content-Length: 1234"), method=b"HEAD"),
    relayed("HEAD with a coding", "9110 9.3.2", ok(b"Transfer-Encoding: chunked"), method=b"HEAD"),
    relayed("HEAD with no framing", "9110 9.3.2", ok(b"X-A: 1"), b"x-a: 1", method=b"HEAD"),
    relayed("HEAD and a body", "9110 9.3.2", ok(L2, body=b"ok"), method=b"HEAD", reused=False),
    relayed("HEAD and another response", "REQUIREMENTS S-16a", ok(L2, body=POISON), method=b"HEAD", reused=False),
    relayed("a 204 with a length", "9110 8.6", ok(L2, line=b"HTTP/1.1 204 No Content"), status=204),
)

INTERIM: tuple[Answer, ...] = (
    relayed("100", "9110 15.2.1", ok(line=b"HTTP/1.1 100 Continue") + ok(L2, body=b"ok"), body=b"ok", interim=(100,)),
    relayed(
        "102 and 103",
        "9110 15.2",
        ok(line=b"HTTP/1.1 102 P") + ok(b"Link: <a>", line=b"HTTP/1.1 103 E") + ok(L2, body=b"ok"),
        body=b"ok",
        interim=(102, 103),
    ),
    relayed("an unknown interim status", "9110 15.2", ok(line=b"HTTP/1.1 199 X") + ok(L2, body=b"ok"), body=b"ok", interim=(199,)),
    relayed("103 before a 204", "8297 2", ok(line=b"HTTP/1.1 103 E") + ok(line=b"HTTP/1.1 204 N"), status=204, interim=(103,)),
    broken("103 and nothing", "9110 15.2", ok(line=b"HTTP/1.1 103 E"), end="closes", interim=(103,)),
    broken("103 and garbage", "9110 15.2", ok(line=b"HTTP/1.1 103 E") + b"garbage\r\n\r\n", interim=(103,)),
    broken("101", "9110 15.2.2", ok(b"Upgrade: x", b"Connection: upgrade", line=b"HTTP/1.1 101 S") + b"data"),
    broken("101 without Upgrade", "9110 15.2.2", ok(line=b"HTTP/1.1 101 S")),
    broken("101 to HEAD", "9110 15.2.2", ok(line=b"HTTP/1.1 101 S"), method=b"HEAD"),
)

FIELDS: tuple[Answer, ...] = (
    relayed(
        "fields of the hop",
        "9110 7.6.1",
        ok(L2, b"Keep-Alive: x", b"Proxy-Authenticate: Basic", b"Upgrade: h2c", b"TE: x", b"X-A: 1", body=b"ok"),
        b"x-a: 1",
        body=b"ok",
    ),
    relayed(
        "a field that Connection names", "9110 7.6.1", ok(L2, b"X-A: 1", b"Connection: x-A", b"X-B: 2", body=b"ok"), b"x-b: 2", body=b"ok"
    ),
    relayed(
        "fields that two lines of Connection name",
        "9110 7.6.1",
        ok(L2, b"Connection: keep-alive", b"Connection: X-A", b"X-A: 1", b"X-B: 2", body=b"ok"),
        b"x-b: 2",
        body=b"ok",
    ),
    relayed(
        "Connection can't remove what protects",
        "REQUIREMENTS S-7a",
        ok(
            L2,
            b"Connection: set-cookie, Vary, content-type, X-Frame-Options",
            b"Set-Cookie: a=b",
            b"Vary: x",
            b"Content-Type: a/b",
            b"X-Frame-Options: DENY",
            body=b"ok",
        ),
        b"set-cookie: a=b",
        b"vary: x",
        b"content-type: a/b",
        b"x-frame-options: DENY",
        body=b"ok",
    ),
    relayed("Connection names the framing", "CVE-2026-6338", ok(L2, b"Connection: content-length", body=b"ok"), body=b"ok"),
    relayed(
        "cookies on several lines",
        "6265 3",
        ok(L2, b"Set-Cookie: a=1", b"Set-Cookie: b=2", body=b"ok"),
        b"set-cookie: a=1",
        b"set-cookie: b=2",
        body=b"ok",
    ),
    relayed(
        "challenges on several lines",
        "9110 11.6.1",
        ok(L2, b"WWW-Authenticate: A", b"WWW-Authenticate: B", body=b"ok"),
        b"www-authenticate: A",
        b"www-authenticate: B",
        body=b"ok",
    ),
    relayed("octets outside ASCII", "9110 5.5", ok(L2, b"X-A: caf\xe9\xff", body=b"ok"), b"x-a: caf\xe9\xff", body=b"ok"),
    relayed("an empty value", "9110 5.5", ok(L2, b"X-A:", body=b"ok"), b"x-a: ", body=b"ok"),
    relayed("Server", "SPEC H11", ok(L2, b"Server: backend/1", body=b"ok"), body=b"ok"),
    relayed("a request id of its own", "CONTRACT 5", ok(L2, b"X-Request-Id: forged", body=b"ok"), body=b"ok"),
    broken("white space before a colon", "9112 5.1", ok(L2, b"X-A : 1", body=b"ok")),
    broken("an empty name", "9110 5.1", ok(L2, b": 1", body=b"ok")),
    broken("a name with a space", "9110 5.1", ok(L2, b"X A: 1", body=b"ok")),
    broken("a name outside ASCII", "9110 5.1", ok(L2, b"X-\xe9: 1", body=b"ok")),
    broken("no colon", "9112 5", ok(L2, b"X-A", body=b"ok")),
    broken("a folded field", "9112 5.2", ok(L2, b"X-A: 1\r\n\t2", body=b"ok")),
    broken("a folded first field", "9112 2.2", ok(b" X-A: 1", L2, body=b"ok")),
    broken("a bare LF between fields", "9112 2.2", ok(L2, b"X-A: 1\nX-B: 2", body=b"ok")),
    broken("a bare CR between fields", "9112 2.2", ok(L2, b"X-A: 1\rX-B: 2", body=b"ok")),
    broken("a NUL in a value", "9110 5.5", ok(L2, b"X-A: \x00", body=b"ok")),
    broken("an escape in a value", "9110 5.5", ok(L2, b"X-A: a\x1b[2J", body=b"ok")),
    broken("a DEL in a value", "9110 5.5", ok(L2, b"X-A: \x7f", body=b"ok")),
    broken("a bare LF at the end of the head", "9112 2.2", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n"),
)

FRAMING: tuple[Answer, ...] = (
    broken("a coding between two lengths", "9112 6.3", ok(L2, b"Transfer-Encoding: chunked", L2, body=b"0\r\n\r\n")),
    broken(
        "a coding and a length of zero", "9112 6.3", ok(b"Transfer-Encoding: chunked", b"Content-Length: 0", body=b"0\r\n\r\n" + POISON)
    ),
    broken("the same length twice", "9112 6.3", ok(L2, L2, body=b"ok")),
    broken("an empty length", "9110 8.6", ok(b"Content-Length:", body=b"ok")),
    broken("a negative length", "9110 8.6", ok(b"Content-Length: -2", body=b"ok")),
    broken("a hexadecimal length", "9110 8.6", ok(b"Content-Length: 0x2", body=b"ok")),
    broken("a length with a word", "9110 8.6", ok(b"Content-Length: 2 bytes", body=b"ok")),
    broken("a superscript", "9110 8.6", ok(b"Content-Length: \xb2", body=b"ok")),
    broken("a length behind a space", "9112 5.1", ok(b"Content-Length : 2", body=b"ok")),
    broken("a folded length", "9112 5.2", ok(b"Content-Length:\r\n 2", body=b"ok")),
    broken("an empty coding", "9112 7", ok(b"Transfer-Encoding:", body=b"ok")),
    broken("identity", "9112 7", ok(b"Transfer-Encoding: identity", L2, body=b"ok")),
    broken("chunked is not last", "9112 6.3", ok(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n")),
    broken("chunked with a parameter", "9112 7", ok(b"Transfer-Encoding: chunked;a", body=b"0\r\n\r\n")),
    broken("a vertical tab before chunked", "9112 7", ok(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n")),
    broken("a coding in HTTP/1.0", "9112 6.1", ok(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n", line=b"HTTP/1.0 200 OK")),
    broken("a coding in HTTP/1.0 to HEAD", "9112 6.1", ok(b"Transfer-Encoding: chunked", line=b"HTTP/1.0 200 OK"), method=b"HEAD"),
    broken("both framings to HEAD", "9112 6.3", ok(b"Transfer-Encoding: chunked", L2), method=b"HEAD"),
    broken("two lengths in a 304", "9112 6.3", ok(L2, b"Content-Length: 3", line=b"HTTP/1.1 304 N")),
)

CHUNKS: tuple[Answer, ...] = (
    broken_off("a plus sign before a size", "9112 7.1", chunks(b"+2\r\nok\r\n0\r\n\r\n")),
    broken_off("0x before a size", "9112 7.1", chunks(b"0x2\r\nok\r\n0\r\n\r\n")),
    broken_off("a space before a size", "9112 7.1", chunks(b" 2\r\nok\r\n0\r\n\r\n")),
    broken_off("an empty size", "9112 7.1", chunks(b"\r\nok\r\n0\r\n\r\n")),
    broken_off("a size over 64 bits", "9112 7.1", chunks(b"10000000000000002\r\nok\r\n0\r\n\r\n")),
    broken_off("a bare LF after a size", "9112 7.1", chunks(b"2\nok\r\n0\r\n\r\n")),
    broken_off("a bare LF in an extension", "9112 7.1.1", chunks(b"2;a\nb\r\nok\r\n0\r\n\r\n")),
    broken_off("a bare LF after a chunk", "9112 7.1", chunks(b"2\r\nok\n0\r\n\r\n"), b"ok"),
    broken_off("a chunk longer than it says", "9112 7.1", chunks(b"2\r\nokay\r\n0\r\n\r\n"), b"ok"),
    broken_off("a chunk shorter than it says", "9112 7.1", chunks(b"4\r\nok\r\n0\r\n\r\n"), b"ok\r\n"),
    broken_off("a bare LF at the end", "9112 7.1", chunks(b"2\r\nok\r\n0\r\n\n"), b"ok"),
    broken_off("a trailer that is no field", "9112 7.1.2", chunks(b"2\r\nok\r\n0\r\nX\r\n\r\n"), b"ok"),
    broken_off("a length in the trailer", "9110 6.5.1", chunks(b"2\r\nok\r\n0\r\nContent-Length: 5\r\n\r\n"), b"ok"),
    broken_off("trailers without end", "REQUIREMENTS S-18", chunks(b"2\r\nok\r\n0\r\n" + b"X: 1\r\n" * 100), b"ok"),
    broken_off("no last chunk", "9112 8", chunks(b"2\r\nok\r\n"), b"ok", end="closes"),
    broken_off("half a chunk", "9112 8", chunks(b"5\r\nok"), b"ok", end="closes"),
    broken_off("no end of the trailer", "9112 8", chunks(b"2\r\nok\r\n0\r\n"), b"ok", end="closes"),
    broken_off("half a chunk and a reset", "9112 8", chunks(b"5\r\nok"), b"ok", end="resets"),
    broken_off("half a body", "9112 8", ok(b"Content-Length: 5", body=b"ok"), b"ok", end="closes"),
    broken_off("half a body and a reset", "9112 8", ok(b"Content-Length: 5", body=b"ok"), b"ok", end="resets"),
    broken_off("a body without end and a reset", "9112 8", ok(body=b"ok"), b"ok", end="resets"),
    broken_off("half a body under a repeated head", "9112 8", REPEATED + b"hell", b"hell", end="closes"),
)

LINES: tuple[Answer, ...] = (
    broken("HTTP/2.0", "9112 2.3", ok(L2, body=b"ok", line=b"HTTP/2.0 200 OK")),
    broken("HTTP/0.9", "9112 2.3", ok(L2, body=b"ok", line=b"HTTP/0.9 200 OK")),
    broken("HTTP/3.0", "9112 2.3", ok(L2, body=b"ok", line=b"HTTP/3.0 200 OK")),
    broken("HTTP/2.0 before the answer", "9112 2.3", ok(line=b"HTTP/2.0 100 OK") + ok(L2, body=b"ok")),
    broken("HTTP/1", "9112 2.3", ok(L2, body=b"ok", line=b"HTTP/1 200 OK")),
    broken("a version in lower case", "9112 2.3", ok(L2, body=b"ok", line=b"http/1.1 200 OK")),
    broken("RTSP", "9112 2.3", ok(L2, body=b"ok", line=b"RTSP/1.0 200 OK")),
    broken("ICY", "9112 2.3", ok(L2, body=b"ok", line=b"ICY 200 OK")),
    broken("two spaces before the status", "9112 4", ok(L2, body=b"ok", line=b"HTTP/1.1  200 OK")),
    broken("a status of four digits", "9112 4", ok(L2, body=b"ok", line=b"HTTP/1.1 2000 OK")),
    broken("a negative status", "9112 4", ok(L2, body=b"ok", line=b"HTTP/1.1 -200 OK")),
    broken("a status that is no number", "9112 4", ok(L2, body=b"ok", line=b"HTTP/1.1 abc OK")),
    broken("status 999", "9110 15", ok(L2, body=b"ok", line=b"HTTP/1.1 999 X")),
    broken("a NUL in the reason", "9112 4", ok(L2, body=b"ok", line=b"HTTP/1.1 200 O\x00K")),
    broken("a vertical tab in the reason", "9112 4", ok(L2, body=b"ok", line=b"HTTP/1.1 200 O\x0bK")),
    relayed("a tab in the reason", "9112 4", ok(L2, body=b"ok", line=b"HTTP/1.1 200 O\tK"), body=b"ok"),
    broken("a bare CR in the reason", "9112 4", ok(L2, body=b"ok", line=b"HTTP/1.1 200 O\rK")),
    broken("a bare LF after the status line", "9112 2.2", b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n"),
    broken("a space before the status line", "9112 4", b" " + ok(L2, body=b"ok")),
    broken("a request", "9112 2.1", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    broken("a TLS alert", "9112 4", b"\x15\x03\x01\x00\x02\x02\x46"),
    broken("HTML only", "9112 2.3", b"<html>ok</html>", end="closes"),
    broken("nothing", "9112 8", b"", end="closes"),
    broken("a reset", "9112 8", b"", end="resets"),
    broken("half a status line", "9112 8", b"HTTP/1.1 2", end="closes"),
    broken("half a head", "9112 8", b"HTTP/1.1 200 OK\r\nContent-Le", end="closes"),
    broken("half a head and a reset", "9112 8", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", end="resets"),
)

SURPLUS: tuple[Answer, ...] = (
    relayed("another response", "REQUIREMENTS S-16a", ok(L2, body=b"ok" + POISON), body=b"ok", reused=False),
    relayed("a byte too many", "9112 6.3", ok(L2, body=b"okX"), body=b"ok", reused=False),
    relayed("a line end too many", "9112 6.3", ok(L2, body=b"ok\r\n"), body=b"ok", reused=None),
    relayed("a repeated head and a byte too many", "9112 6.3", REPEATED + b"hello, X", body=b"hello, ", reused=False),
    relayed("a repeated head twice", "REQUIREMENTS S-16a", REPEATED + b"hello, " + REPEATED + b"goodbye", body=b"hello, ", reused=False),
    relayed("bytes after a length of zero", "9112 6.3", ok(b"Content-Length: 0", body=POISON), reused=False),
    relayed("bytes after the last chunk", "9112 6.3", chunks(b"2\r\nok\r\n0\r\n\r\n" + POISON), body=b"ok", reused=False),
    relayed("a body of a 204", "9112 6.3", ok(b"Content-Length: 8", body=b"POISONED", line=b"HTTP/1.1 204 N"), status=204, reused=False),
    relayed(
        "chunks of a 204",
        "9112 6.3",
        ok(b"Transfer-Encoding: chunked", body=b"2\r\nok\r\n0\r\n\r\n", line=b"HTTP/1.1 204 N"),
        status=204,
        reused=False,
    ),
    relayed("a response after a 304", "REQUIREMENTS S-16a", ok(line=b"HTTP/1.1 304 N", body=POISON), status=304, reused=False),
    relayed(
        "an interim response after the final one", "9110 15.2", ok(L2, body=b"ok" + ok(line=b"HTTP/1.1 100 C")), body=b"ok", reused=False
    ),
)

CASES = BODIES + STATUSES + INTERIM + FIELDS + FRAMING + CHUNKS + LINES + SURPLUS
