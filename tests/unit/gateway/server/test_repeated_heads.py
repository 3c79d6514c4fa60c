"""A head that repeats the one before is taken without the parser; nobody may be able to tell."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.errors import GatewayError
from gateway.server.http1 import RequestHead, StrictHttp1Protocol
from gateway.settings import Maxima

Seen = tuple[str, bytes, bytes, tuple[tuple[bytes, bytes], ...], bytes]

FIELDS = b" HTTP/1.1\r\nHost: api.example.gov\r\nX-Trace: 1\r\n\r\n"


class Reader(StrictHttp1Protocol):
    """Notes what it is given: one entry a request, or a refusal."""

    def __init__(self, uri_bytes: int = 200) -> None:
        loop = asyncio.new_event_loop()
        loop.close()
        super().__init__(Maxima(uri_bytes=uri_bytes), Config(_nobody, log_config=None), ServerState(), {}, loop)
        self.seen: list[Seen] = []
        self.parsed = 0
        self._current = RequestHead(b"", b"", True, [], False)
        self._body = b""

    def on_headers_complete(self) -> None:
        self.parsed += 1
        super().on_headers_complete()

    def head_received(self, head: RequestHead) -> None:
        self._current, self._body = head, b""

    def body_received(self, data: bytes) -> None:
        self._body += data

    def body_complete(self) -> None:
        head = self._current
        self.seen.append(("request", head.method, head.target, tuple(head.headers), self._body))

    def refused(self, error: GatewayError) -> None:
        self.seen.append(("refused", b"", b"", (), b""))

    def read_done(self) -> None:
        """Nothing is dispatched here."""


async def _nobody(scope: object, receive: object, send: object) -> None:
    raise AssertionError("not called")


def read_each(reads: list[bytes], reader: Reader) -> list[Seen]:
    for data in reads:
        reader.data_received(data)
    return reader.seen


def read_split(reads: list[bytes]) -> list[Seen]:
    """The same bytes, one at a time: never a whole head in one read, so the parser sees all of them."""
    reader = Reader()
    for data in reads:
        for byte in data:
            reader.data_received(bytes((byte,)))
    assert reader._again is None
    return reader.seen


def test_the_parser_is_asked_once_for_equal_fields() -> None:
    reader = Reader()
    seen = read_each([b"GET /a" + FIELDS, b"GET /b?c=d" + FIELDS, b"GET /" + FIELDS], reader)
    assert [target for _, _, target, _, _ in seen] == [b"/a", b"/b?c=d", b"/"]
    assert reader.parsed == 1


@pytest.mark.parametrize(
    "second",
    [
        b"GET /b HTTP/1.1\r\nX-Role: admin\r\n\r\nGET /c",
        b"GET /b\r\nX: y",
        b"GET /b HTTP/1.0\r\nX: 1\r\n\r\nGET /c",
        b"GET ",
        b"GET /a b",
        b"GET /caf\xc3\xa9",
        b"GET /a\x00",
        b"GET  /a",
        b"get /a",
        b"GET\t/a",
        b"GET /" + b"a" * 250,
        b"POST /a",
        b"\r\nGET /a",
    ],
)
def test_what_is_more_than_another_target_is_read_as_ever(second: bytes) -> None:
    """H1, S-1: the same requests and refusals as without the short way (RFC 9112 section 3)."""
    reads = [b"GET /a" + FIELDS, second + FIELDS]
    assert read_each(reads, Reader()) == read_split(reads)


def test_a_request_with_a_body_is_never_repeated() -> None:
    posted = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
    reader = Reader()
    assert read_each([posted, posted], reader) == read_split([posted, posted])
    assert reader.parsed == 2


def test_the_last_request_of_a_connection_is_never_repeated() -> None:
    """S-13: after `Connection: close` nothing more is read."""
    closing = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert len(read_each([closing, closing], Reader())) == 1


def test_an_unfinished_head_is_finished_by_what_follows() -> None:
    """The bytes of a remembered request may come in the middle of another one."""
    whole = b"GET /a" + FIELDS
    reads = [whole, b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(whole), whole, whole]
    assert read_each(reads, Reader()) == read_split(reads)
    reads = [whole, b"GET /b HTTP/1.1\r\nX-Cut: ", whole]
    assert read_each(reads, Reader()) == read_split(reads)


PIECES = [
    b"GET /a" + FIELDS,
    b"GET /b" + FIELDS,
    b"HEAD /a" + FIELDS,
    b"GET /a HTTP/1.1\r\nHost: other\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Trailer: 1\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    b"GET /a" + FIELDS + b"GET /b" + FIELDS,
    b"GET /a HTTP/1.1\r\nHost: x\r\n",
    b"\r\n",
    b"GET /a HTTP/1.0\r\nHost: x\r\n\r\n",
    b"nonsense\r\n\r\n",
]


@given(st.lists(st.sampled_from(PIECES), max_size=6))
def test_any_sequence_reads_alike_whole_and_byte_by_byte(reads: list[bytes]) -> None:
    """H1, H9."""
    assert read_each(reads, Reader()) == read_split(reads)
