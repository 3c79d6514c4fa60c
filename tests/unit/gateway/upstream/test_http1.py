"""One upstream connection, without sockets: bytes in, one response or an error out, however the bytes are cut."""

from __future__ import annotations

import asyncio
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.deadlines import FORGET
from gateway.errors import BadGateway, GatewayError, GatewayTimeout
from gateway.headers import FieldList
from gateway.route import Timeouts
from gateway.upstream.http1 import HIGH_WATER_BYTES, MAX_INTERIM, ClientGone, UpstreamConnection, response_head
from gateway.upstream.repeated import RepeatedHeads
from gateway.upstream.retry import Overdue

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nX-T: 1\r\n\r\n"


class FakeTransport(asyncio.Transport):
    """Keeps what is written and remembers what was asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.paused = False
        self.aborted = False
        self.protocol: asyncio.BaseProtocol = asyncio.Protocol()

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def abort(self) -> None:
        self.aborted = True


class Sink:
    """Collects what is relayed."""

    def __init__(self) -> None:
        self.data = b""
        self.pauses: list[bool] = []
        self.interim: list[tuple[int, FieldList]] = []

    def relay_data(self, data: bytes) -> None:
        self.data += data

    def relay_pause(self, paused: bool) -> None:
        self.pauses.append(paused)

    def relay_interim(self, status: int, headers: FieldList) -> None:
        self.interim.append((status, headers))


class Talk:
    """An open exchange on a connection."""

    def __init__(
        self,
        *,
        head_request: bool = False,
        timeouts: Timeouts | None = None,
        total: float = 0.0,
        repeated: RepeatedHeads | None = None,
    ) -> None:
        self.connection = UpstreamConnection(asyncio.get_running_loop(), repeated or RepeatedHeads())
        self.transport = FakeTransport()
        self.connection.connection_made(self.transport)
        self.sink = Sink()
        self.response = self.connection.begin(b"request", self.sink, timeouts or Timeouts(), total, head_request=head_request)
        self.connection.request_sent = True

    def hear(self, data: bytes, cuts: list[int] | None = None) -> None:
        at = 0
        for cut in [*sorted(cuts or []), len(data)]:
            if at < cut and not self.connection.closed:
                self.connection.data_received(data[at:cut])
                at = cut

    def outcome(self) -> tuple[object, ...]:
        """What the exchange came to: (status, body, reusable), or (the reason,)."""
        if not self.response.done():
            return ("waiting",)
        error = self.response.exception()
        if error is not None:
            return (getattr(error, "reason", type(error).__name__),)
        body = self.sink.data + self.connection.take_body()
        assert self.connection.head is not None
        return self.connection.head.status, body, self.connection.end_exchange()


@pytest.mark.parametrize("message", [PLAIN, CHUNKED, b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + PLAIN])
@given(cuts=st.lists(st.integers(0, 120), max_size=20))
def test_a_response_is_the_same_however_it_is_cut(message: bytes, cuts: list[int]) -> None:
    """H12: and the connection may be used again."""

    async def main() -> None:
        talk = Talk()
        talk.hear(message, [cut for cut in cuts if cut <= len(message)])
        assert talk.outcome() == (200, b"hello", True)
        assert [status for status, _ in talk.sink.interim] == ([103] if b"103" in message else [])

    asyncio.run(main())


def test_a_refusal_of_our_certificate_is_no_reset() -> None:
    """S-42: with TLS 1.3 it comes when the handshake is over for us; nothing of the request was read."""

    async def main() -> None:
        talk = Talk()
        talk.connection.connection_lost(ssl.SSLError(1, "tlsv13 alert certificate required"))
        assert talk.outcome() == ("upstream_tls_failure",)
        talk = Talk()
        talk.connection.connection_lost(ConnectionResetError())
        assert talk.outcome() == ("upstream_reset",)

    asyncio.run(main())


@pytest.mark.parametrize("ends", [True, False])
def test_what_came_in_the_moment_of_being_overdue_counts(ends: bool) -> None:
    """R2: a response, or the end of the connection, between the report and the decision to wait longer."""

    async def main() -> None:
        talk = Talk()
        talk.response.set_exception(Overdue())
        talk.response.exception()
        if ends:
            talk.connection.abort(BadGateway(reason="upstream_reset"))
        else:
            talk.hear(PLAIN)
        talk.response = talk.connection.go_on(Timeouts(), 5.0)
        assert talk.outcome() == (("upstream_reset",) if ends else (200, b"hello", True))

    asyncio.run(main())


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_no_bytes_break_it(data: bytes, cuts: list[int]) -> None:
    """H12: garbage is an error of the upstream, never an exception of ours, and the connection isn't used again."""

    async def main() -> None:
        talk = Talk()
        talk.hear(data, [cut for cut in cuts if cut <= len(data)])
        if talk.connection.closed:
            assert str(talk.outcome()[0]).startswith("upstream_")

    asyncio.run(main())


@given(st.integers(0, len(PLAIN) - 1))
def test_a_close_before_the_end_is_an_error(cut: int) -> None:
    """F-33: with the reason that tells whether anything had come."""

    async def main() -> None:
        talk = Talk()
        talk.hear(PLAIN[:cut])
        finished = talk.connection.wait_finished()
        talk.connection.connection_lost(None)
        error = finished.exception()
        assert isinstance(error, BadGateway)
        assert error.reason == ("upstream_closed_early" if cut else "upstream_reset")
        if not talk.response.exception():
            assert not talk.connection.end_exchange()

    asyncio.run(main())


def test_a_response_to_head_has_no_body() -> None:
    """S-17: the next exchange on the connection starts afresh."""

    async def main() -> None:
        talk = Talk(head_request=True)
        talk.hear(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
        assert talk.outcome() == (200, b"", True)
        response = talk.connection.begin(b"again", talk.sink, Timeouts(), 0.0, head_request=False)
        talk.hear(PLAIN)
        assert response.done()
        assert talk.connection.take_body() == b"hello"

    asyncio.run(main())


@pytest.mark.parametrize("surplus", [b"x", PLAIN, b"\r\n\r\n"])
def test_surplus_bytes_end_the_connection_and_not_the_response(surplus: bytes) -> None:
    """S-16a."""

    async def main() -> None:
        for later in (False, True):
            talk = Talk()
            if later:
                talk.hear(PLAIN)
                talk.hear(surplus)
            else:
                talk.hear(PLAIN + surplus)
            status, body, reusable = talk.outcome()
            assert (status, body) == (200, b"hello")
            assert not reusable or (surplus == b"\r\n\r\n" and not later)

    asyncio.run(main())


def test_bytes_that_nobody_asked_for_end_an_idle_connection() -> None:
    """F-31."""

    async def main() -> None:
        talk = Talk()
        talk.hear(PLAIN)
        assert talk.outcome()[2]
        talk.hear(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        assert talk.connection.closed
        assert talk.transport.aborted

    asyncio.run(main())


def test_an_upstream_that_only_hints_is_an_error() -> None:
    """S-18: interim responses are bounded."""

    async def main() -> None:
        talk = Talk()
        talk.hear(b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_INTERIM + 1))
        assert talk.outcome() == ("upstream_too_many_interim",)

    asyncio.run(main())


def test_a_body_that_nobody_takes_pauses_the_upstream() -> None:
    """H6: and what was kept is handed over in one piece."""

    async def main() -> None:
        talk = Talk()
        size = 4 * HIGH_WATER_BYTES
        talk.hear(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * (2 * HIGH_WATER_BYTES))
        assert talk.transport.paused
        assert len(talk.connection.take_body()) == 2 * HIGH_WATER_BYTES
        finished = talk.connection.wait_finished()
        talk.connection.pause_reading(False)
        assert not talk.transport.paused
        talk.hear(b"x" * (2 * HIGH_WATER_BYTES))
        assert finished.done()
        assert len(talk.sink.data) == 2 * HIGH_WATER_BYTES

    asyncio.run(main())


def test_the_first_error_is_the_one_that_is_told() -> None:
    """F-36: the close that follows an abort changes nothing."""

    async def main() -> None:
        talk = Talk()
        talk.hear(PLAIN[:-2])
        talk.connection.abort(GatewayTimeout(reason="upstream_idle_timeout"))
        talk.connection.connection_lost(None)
        error = talk.connection.wait_finished().exception()
        assert isinstance(error, GatewayError)
        assert error.reason == "upstream_idle_timeout"

    asyncio.run(main())


def test_a_client_that_left_before_the_body_is_waited_for_is_not_forgotten() -> None:
    """R7: between the head and the body there is a moment when nobody waits."""

    async def main() -> None:
        talk = Talk()
        talk.hear(PLAIN[:-2])
        talk.connection.abort(ClientGone())
        assert isinstance(talk.connection.wait_finished().exception(), ClientGone)

    asyncio.run(main())


def test_which_deadline_runs_follows_from_what_has_moved() -> None:
    """F-36: idle while the request is sent, response until the head, idle again for the body, total over all."""

    async def main() -> None:
        now = asyncio.get_running_loop().time()
        talk = Talk(timeouts=Timeouts(response=10.0, idle=100.0), total=now + 1000)
        connection = talk.connection
        connection.request_sent = False
        connection.touch()
        assert 99 < connection.deadline - now < 101
        connection.request_sent = True
        connection.touch()
        assert 9 < connection.deadline - now < 11
        talk.hear(PLAIN[:-2])
        finished = connection.wait_finished()
        assert 99 < connection.deadline - now < 101
        connection.total_deadline = now + 1
        connection.touch()
        assert connection.deadline == now + 1
        connection.expire()
        error = finished.exception()
        assert isinstance(error, GatewayTimeout)
        assert error.reason == "upstream_total_timeout"

    asyncio.run(main())


def test_an_unsent_request_is_never_followed_by_another() -> None:
    """S-15: a response that came before the request was whole leaves a connection that can't be used."""

    async def main() -> None:
        talk = Talk()
        talk.connection.request_sent = False
        talk.hear(PLAIN)
        assert talk.outcome() == (200, b"hello", False)

    asyncio.run(main())


@pytest.mark.parametrize(
    "fields",
    [
        [(b"content-length", b"5"), (b"content-length", b"5")],
        [(b"content-length", b"+5")],
        [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")],
        [(b"transfer-encoding", b"gzip, chunked")],
        [(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")],
    ],
)
def test_framing_that_contradicts_itself_is_refused(fields: FieldList) -> None:
    """S-16: also if the parser let it pass."""
    with pytest.raises(BadGateway):
        response_head(fields, 200)


def test_a_connection_tells_its_state() -> None:
    """For logs."""

    async def main() -> None:
        talk = Talk()
        assert repr(talk.connection) == "<UpstreamConnection busy>"
        talk.hear(PLAIN)
        talk.outcome()
        assert repr(talk.connection) == "<UpstreamConnection idle>"

    asyncio.run(main())


def test_a_lost_connection_is_watched_no_longer() -> None:
    """F-40: even when its client goes on sending for a while."""

    async def main() -> None:
        talk = Talk()
        talk.connection.touch()
        assert talk.connection.deadline > 0
        talk.connection.connection_lost(None)
        assert talk.connection.deadline == FORGET
        assert isinstance(talk.response.exception(), BadGateway)
        talk.connection.touch()
        talk.connection.expire()
        assert talk.connection.deadline == FORGET

    asyncio.run(main())
