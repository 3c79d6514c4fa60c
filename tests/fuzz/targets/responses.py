"""What an upstream sends, as our client side reads it (SPEC H6, H12; S-16 to S-18)."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import replace

from gateway.errors import BadGateway, GatewayError, GatewayTimeout
from gateway.headers import FieldList
from gateway.route import Timeouts
from gateway.upstream.http1 import HIGH_WATER_BYTES, MAX_HEAD_BYTES, MAX_INTERIM, UpstreamConnection
from gateway.upstream.repeated import RepeatedHeads
from tests.conformance.http.answer import End
from tests.conformance.http.reading import Message, Reading, h11_response, our_response
from tests.fuzz.target import Target, random_cuts, single_bytes

_OURS = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Ours: 1\r\n\r\nours"
_TIMEOUTS = Timeouts(connect=1.0, response=15.0, idle=60.0, total=60.0)
#: What an unfinished response may go on with for ever, in reads of the size that sockets give.
_FLOOD = (b"a" * 4096, b"\x00" * 4096, b"a: b\r\n" * 512, b"HTTP/1.1 103 E\r\n\r\n" * 128, b"1\r\na\r\n" * 512)
#: A head, what is kept of a body while nobody reads (in chunks of one byte, which take six), and what a few reads have on top.
_MOST_TAKEN = MAX_HEAD_BYTES + 6 * HIGH_WATER_BYTES + 16 * 4096


def check(data: bytes) -> None:
    """However the bytes are cut into reads, the same response is read or refused, h11 reads the same; the next exchange gets what is its
    own or the connection is not used again; and an upstream that never ends is stopped before it has filled more than is allowed."""
    asyncio.run(_check(data))


async def _check(data: bytes) -> None:
    method = b"HEAD" if zlib.crc32(data) % 4 == 0 else b"GET"
    ends: tuple[End, ...] = ("waits", "closes", "resets")
    for end in ends:
        reads = [data] if data else []
        once = await our_response(reads, end, method)
        for cuts in (random_cuts(data), single_bytes(data) if len(data) <= 400 else reads):
            assert alike(await our_response(cuts, end, method), once), (end, once)
        if not once.refused:
            (ours,), theirs = once.messages, h11_response(data, end, method)
            assert theirs.messages, (once, theirs)
            assert replace(theirs.messages[0], goes_on=ours.goes_on) == ours, (once, theirs)
            assert theirs.messages[0].goes_on or not ours.goes_on, (once, theirs)
    for cuts in ([data] if data else [], random_cuts(data)):
        check_next(cuts, method)
    for flood in _FLOOD:
        check_bounded(random_cuts(data, 256), flood)


def alike(one: Reading, other: Reading) -> bool:
    """Whether two readings are the same but for what is made of surplus line ends: a read of their own ends the connection."""
    kept = all(message.goes_on for reading in (one, other) for message in reading.messages)
    return one == other or (
        not kept and one.refused == other.refused and [*map(_without_end, one.messages)] == [*map(_without_end, other.messages)]
    )


def _without_end(message: Message) -> Message:
    return replace(message, goes_on=False)


class _Transport(asyncio.Transport):
    """Takes what is written; says whether reading was paused."""

    def __init__(self) -> None:
        super().__init__()
        self.paused = False
        self._protocol: asyncio.BaseProtocol = asyncio.Protocol()

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def write(self, data: object) -> None:
        """Nobody reads it."""

    def abort(self) -> None:
        """The connection knows itself that it is closed."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """It has no buffer."""

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class _Sink:
    """Takes what is relayed."""

    def __init__(self) -> None:
        self.data = b""
        self.interim = 0

    def relay_data(self, data: bytes) -> None:
        self.data += data

    def relay_pause(self, paused: bool) -> None:
        """There is nothing to send."""

    def relay_interim(self, status: int, headers: FieldList) -> None:
        assert 100 <= status <= 199
        assert status != 101
        self.interim += 1


class _Talk:
    """A connection, one exchange on it after the other."""

    def __init__(self) -> None:
        self.connection = UpstreamConnection(asyncio.get_running_loop(), RepeatedHeads())
        self.transport = _Transport()
        self.connection.connection_made(self.transport)

    def exchange(self, reads: list[bytes], *, head_request: bool = False) -> tuple[bytes, ...]:
        """The exchange's status and body as the client would get them, or the refusal. Reads stop when it is over."""
        sink, connection = _Sink(), self.connection
        response = connection.begin(b"", sink, _TIMEOUTS, 0.0, head_request=head_request)
        connection.request_sent = True
        finished: asyncio.Future[None] | None = None
        for read in reads:
            if connection.closed:
                break
            connection.data_received(read)
            if finished is None and response.done() and response.exception() is None:
                sink.data += connection.take_body()
                finished = connection.wait_finished()
        assert sink.interim <= MAX_INTERIM
        for future in filter(None, (response, finished)):
            if future.done() and (error := future.exception()) is not None:
                assert isinstance(error, (BadGateway, GatewayTimeout))
                return (error.reason.encode(),)
        response.cancel()
        if connection.head is None or not connection.complete:
            return (b"unfinished",)
        return b"%d" % connection.head.status, sink.data


def check_next(reads: list[bytes], method: bytes) -> None:
    """S-16a: the next exchange on the connection gets exactly its own response."""
    talk = _Talk()
    for _ in range(2):
        talk.exchange(reads, head_request=method == b"HEAD")
        if not talk.connection.end_exchange():
            assert talk.connection.closed
            assert not talk.connection.usable
            return
        for ours in ([_OURS], random_cuts(_OURS)):
            assert talk.exchange(ours) == (b"200", b"ours")
            assert talk.connection.end_exchange()


def check_bounded(reads: list[bytes], flood: bytes) -> None:
    """H6: what never ends is refused or paused."""
    talk = _Talk()
    connection = talk.connection
    response = connection.begin(b"", _Sink(), _TIMEOUTS, 0.0, head_request=False)
    taken = 0
    for read in (*reads, *[flood] * 400):
        if connection.closed or talk.transport.paused or connection.complete:
            break
        connection.data_received(read)
        taken += len(read)
    assert taken <= _MOST_TAKEN, "an upstream may go on for ever"
    assert len(connection.take_body()) <= HIGH_WATER_BYTES + len(flood)
    if response.done():
        response.exception()


TARGET = Target(
    "responses",
    check,
    ("gateway.upstream.http1", "gateway.upstream.repeated"),
    (GatewayError,),
    (
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.1 204 N\r\n\r\n",
        b"HTTP/1.1 103 E\r\n\r\n",
        b"HTTP/1.1 101 S\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n",
        b"Content-Length: 2\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Connection: keep-alive\r\n",
        b"\r\n\r\n",
        b"2\r\nok\r\n",
        b"0\r\n\r\n",
        b"0\r\nX: 1\r\n\r\n",
        b"ok",
    ),
)
