"""A response head that repeats another is taken without the parser; nobody may be able to tell."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.route import Timeouts
from gateway.upstream.http1 import ResponseHead, UpstreamConnection
from gateway.upstream.repeated import _PATIENCE, MAXIMUM_HEAD_BYTES, MAXIMUM_HEADS, RepeatedHeads
from tests.unit.gateway.upstream.test_http1 import FakeTransport, Sink

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\n\r\nhello"
OTHER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\n\r\nother"
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
RESPONSES = [
    HELLO,
    OTHER,
    EMPTY,
    HELLO + b"x",
    HELLO[:-1],
    HELLO + HELLO,
    b"\r\n" + HELLO,
    b"HTTP/1.1 103 Early Hints\r\n\r\n" + HELLO,
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nhello",
    b"nonsense",
]


def outcomes(responses: list[tuple[bytes, bool, int]], *, remember: bool) -> list[object]:
    """What one connection after the other makes of (bytes, whether they answer a HEAD, where they are cut): with a memory or without."""

    async def main() -> list[object]:
        loop = asyncio.get_running_loop()
        repeated = RepeatedHeads()
        seen: list[object] = []
        connection: UpstreamConnection | None = None
        for data, head_request, cut in responses:
            if not remember:
                repeated = RepeatedHeads()
            if connection is None or not remember:
                connection = UpstreamConnection(loop, repeated)
                connection.connection_made(FakeTransport())
            response = connection.begin(b"request", Sink(), Timeouts(), 0.0, head_request=head_request)
            connection.request_sent = True
            for piece in (data[:cut], data[cut:]):
                if piece and not connection.closed:
                    connection.data_received(piece)
            failed = response.exception() if response.done() else None
            head = connection.head
            told = None if head is None else (head.status, head.headers, head.length, head.chunked)
            body = connection.take_body()
            complete = connection.complete
            reusable = connection.end_exchange()
            seen.append((response.done(), getattr(failed, "reason", None), told, body, complete, reusable))
            if not reusable:
                connection = None
        return seen

    return asyncio.run(main())


@given(st.lists(st.tuples(st.sampled_from(RESPONSES), st.booleans(), st.sampled_from([0, 0, 0, 7, 30])), max_size=12))
def test_a_memory_changes_nothing(responses: list[tuple[bytes, bool, int]]) -> None:
    """H12, S-16a: whatever came before, on the same connection or another one of the endpoint."""
    assert outcomes(responses, remember=True) == outcomes(responses, remember=False)


def test_a_repeated_head_is_the_same_object() -> None:
    async def main() -> None:
        repeated = RepeatedHeads()
        heads = []
        for data in (HELLO, OTHER, EMPTY, EMPTY):
            connection = UpstreamConnection(asyncio.get_running_loop(), repeated)
            connection.connection_made(FakeTransport())
            connection.begin(b"request", Sink(), Timeouts(), 0.0, head_request=False)
            connection.data_received(data)
            heads.append(connection.head)
        assert heads[0] is heads[1]
        assert heads[2] is heads[3]
        assert heads[0] is not heads[2]

    asyncio.run(main())


def head_of(length: int) -> ResponseHead:
    return ResponseHead(200, [], length, chunked=False, dated=False, limited=False)


def test_it_is_bounded() -> None:
    """F-40: in number and in bytes."""
    repeated = RepeatedHeads()
    for number in range(3 * MAXIMUM_HEADS):
        repeated.keep(b"%d\r\n\r\nx" % number, head_of(1))
        assert len(repeated._heads) <= MAXIMUM_HEADS
    assert repeated.find(b"%d\r\n\r\ny" % (3 * MAXIMUM_HEADS - 1)) is not None
    long = b"a" * MAXIMUM_HEAD_BYTES + b"\r\n\r\n"
    repeated.keep(long, head_of(0))
    assert repeated.find(long) is None


@pytest.mark.parametrize("repetitions", [0, 1])
def test_it_gives_up_on_an_upstream_that_repeats_nothing(repetitions: int) -> None:
    repeated = RepeatedHeads()
    for number in range(2 * _PATIENCE):
        data = b"%d\r\n\r\n" % number
        repeated.keep(data, head_of(0))
        for _ in range(repetitions):
            repeated.find(data)
    repeated.keep(b"last\r\n\r\n", head_of(0))
    assert (repeated.find(b"last\r\n\r\n") is not None) == bool(repetitions)
