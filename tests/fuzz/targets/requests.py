"""What a client sends, as our server side reads it (SPEC H1, H6, H9; S-1 to S-5, S-13)."""

from __future__ import annotations

from dataclasses import replace

from gateway.errors import GatewayError
from gateway.settings import Maxima
from tests.conformance.http.reading import RequestReader, h11_requests, our_requests
from tests.fuzz.target import Target, random_cuts, single_bytes

#: Small enough to be met.
_MAXIMA = Maxima(header_bytes=400, headers=8, uri_bytes=100)
#: What a read by itself may be more than a bound.
_LONGEST_READ = 24


def check(data: bytes) -> None:
    """However the bytes are cut into reads, the same requests are read, h11 reads the same, and no bound is passed."""
    once = our_requests([data])
    assert our_requests(random_cuts(data)) == once
    if len(data) <= 600:
        assert our_requests(single_bytes(data)) == once
    theirs = h11_requests(data)
    pairs = list(zip(once.messages, theirs.messages, strict=False))
    # To end a connection sooner is no difference.
    assert all(ours == replace(other, goes_on=ours.goes_on and other.goes_on) for ours, other in pairs), (once, theirs)
    assert len(once.messages) <= len(theirs.messages), (once, theirs)
    assert all(message.goes_on for message in once.messages[:-1])
    check_bounds(data)


def check_bounds(data: bytes) -> None:
    """That nothing is handed out beyond the bounds, and that nothing unfinished is kept beyond them."""
    reader = RequestReader(_MAXIMA)
    for read in random_cuts(data, _LONGEST_READ):
        reader.data_received(read)
    for message in reader.messages:
        assert len(message.start[1]) <= _MAXIMA.uri_bytes
        assert len(message.fields) <= _MAXIMA.headers
        assert sum(len(name) + len(value) for name, value in message.fields) <= _MAXIMA.header_bytes
    if reader.in_head and not reader.messages and not reader.was_refused:
        assert len(data) <= _MAXIMA.header_bytes + _MAXIMA.uri_bytes + 64 + _LONGEST_READ


TARGET = Target(
    "requests",
    check,
    ("gateway.server.http1", "gateway.head", "gateway.headers"),
    (GatewayError,),
    (
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: a\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Connection: upgrade\r\nUpgrade: websocket\r\n",
        b"Expect: 100-continue\r\n",
        b"0\r\n\r\n",
        b"5\r\nhello\r\n",
        b"HTTP/1.0",
        b"\r\n\r\n",
        b"CONNECT a:1 ",
        b"OPTIONS * ",
        b"http://b/",
        b"\x00",
        b";a=b",
    ),
)
