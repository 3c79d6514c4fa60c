"""What our parsers, and h11, read in the same bytes. h11 shares no line of code with them, and is strict."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, replace

import h11
from h11._state import MIGHT_SWITCH_PROTOCOL
from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.errors import GatewayError, MalformedMessage
from gateway.head import Head
from gateway.headers import FieldList, FieldTable, connection_options
from gateway.peer import Peer, TrustedProxies
from gateway.route import Timeouts
from gateway.server.http1 import RequestHead, StrictHttp1Protocol
from gateway.settings import Maxima
from gateway.upstream.http1 import UpstreamConnection
from gateway.upstream.repeated import RepeatedHeads
from tests.conformance.http.answer import End

_LINE_ENDS = b"\r\n"
#: Line ends before a response, which ours skips.
_EMPTY_LINES = re.compile(rb"(?:^|(?<=\r\n\r\n))[\r\n]+")
_EVENT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Message:
    """A message that was read whole.

    Args:
        start: method and target, or status.
        fields: (lower-case name, value).
        goes_on: another message may follow on the connection.
    """

    start: tuple[bytes, ...]
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes
    goes_on: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read, and whether the rest was refused."""

    messages: tuple[Message, ...]
    refused: bool = False


def comparable(fields: FieldList) -> tuple[tuple[bytes, bytes], ...]:
    """Fields without what is written in more than one way: white space around values, and the case of codings."""
    stripped = [(name.lower(), value.strip(b" \t")) for name, value in fields]
    return tuple((name, value.lower() if name == b"transfer-encoding" else value) for name, value in stripped)


async def _nobody(scope: object, receive: object, send: object) -> None:
    raise AssertionError("not called")


_LOOP = asyncio.new_event_loop()
_LOOP.close()
_CONFIG = Config(_nobody, log_config=None)
_MAXIMA = Maxima()
_TABLE = FieldTable()
_PEER = Peer("192.0.2.1", 1, "http", 80, TrustedProxies(()))


class RequestReader(StrictHttp1Protocol):
    """Our protocol up to the pipeline's first step: a request counts when its head is one that we forward."""

    def __init__(self, maxima: Maxima = _MAXIMA) -> None:
        super().__init__(maxima, _CONFIG, ServerState(), {}, _LOOP)
        self.messages: list[Message] = []
        self.was_refused = False
        self._newest = RequestHead(b"", b"", True, [], False)
        self._body = b""

    def head_received(self, head: RequestHead) -> None:
        self._newest, self._body = head, b""
        judged = Head(_TABLE, head.headers, _PEER)
        if judged.refusal is not None:
            raise judged.refusal
        if not judged.has_host and head.version_11:
            raise MalformedMessage()

    def body_received(self, data: bytes) -> None:
        self._body += data

    def body_complete(self) -> None:
        head = self._newest
        self.messages.append(Message((head.method, head.target), comparable(head.headers), self._body, head.keep_alive))

    def refused(self, error: GatewayError) -> None:
        self.was_refused = True

    def read_done(self) -> None:
        """Nothing is dispatched here."""


def our_requests(reads: list[bytes]) -> Reading:
    """What our protocol reads."""
    reader = RequestReader()
    for data in reads:
        reader.data_received(data)
    return Reading(tuple(reader.messages), reader.was_refused)


def h11_requests(data: bytes) -> Reading:
    """What h11 reads. It knows no line ends before a request (RFC 9112 section 2.2), so those are taken away."""
    messages: list[Message] = []
    while data := data.lstrip(_LINE_ENDS):
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_EVENT_BYTES)
        connection.receive_data(data)
        try:
            message = _h11_message(connection)
        except h11.RemoteProtocolError:
            return Reading(tuple(messages), refused=True)
        if message is None:
            break
        messages.append(message)
        if not message.goes_on:
            break
        data = connection.trailing_data[0]
    return Reading(tuple(messages))


def _h11_message(connection: h11.Connection) -> Message | None:
    """The next message; None when it is not complete."""
    head: h11.Request | h11.Response | None = None
    body = b""
    while True:
        event = connection.next_event()
        if isinstance(event, (h11.Request, h11.Response)):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            start = (head.method, head.target) if isinstance(head, h11.Request) else (b"%d" % head.status_code,)
            return Message(start, comparable(list(head.headers)), body, _goes_on(connection, head))
        elif not isinstance(event, h11.InformationalResponse):
            return None


def _goes_on(connection: h11.Connection, head: h11.Request | h11.Response) -> bool:
    """Whether another message may follow. h11 stops at any Upgrade, wherever it stands, and knows no HTTP/1.0 that is kept."""
    options = connection_options(value for name, value in head.headers if name == b"connection")
    if head.http_version == b"1.0":
        return isinstance(head, h11.Response) and b"keep-alive" in options and b"close" not in options
    if connection.their_state is MIGHT_SWITCH_PROTOCOL:
        return not options & {b"close", b"upgrade"} and not (isinstance(head, h11.Request) and head.method == b"CONNECT")
    return connection.their_state is h11.DONE


class _Transport(asyncio.Transport):
    """Takes what is written."""

    def get_protocol(self) -> asyncio.Protocol:
        return asyncio.Protocol()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Nobody reads from it."""

    def write(self, data: object) -> None:
        """Nobody reads it."""

    def abort(self) -> None:
        """Nobody is there."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """It has no buffer."""

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""


class _NoSink:
    """Nobody waits for the answer as it comes."""

    def relay_data(self, data: bytes) -> None:
        raise AssertionError("not relayed")

    def relay_pause(self, paused: bool) -> None:
        raise AssertionError("not paused")

    def relay_interim(self, status: int, headers: FieldList) -> None:
        """An interim response is none that counts."""


async def our_response(reads: list[bytes], end: End, method: bytes) -> Reading:
    """What our upstream connection reads as the response to one request."""
    connection = UpstreamConnection(asyncio.get_running_loop(), RepeatedHeads())
    connection.connection_made(_Transport())
    response = connection.begin(b"", _NoSink(), Timeouts(), 0.0, head_request=method == b"HEAD")
    connection.request_sent = True
    for data in reads:
        if connection.closed:
            break
        connection.data_received(data)
    if end != "waits" and not connection.closed:
        connection.connection_lost(None if end == "closes" else ConnectionResetError())
    head = connection.head
    failed = response.done() and response.exception() is not None
    response.cancel()
    if head is None or failed or not connection.complete:
        return Reading((), refused=True)
    message = Message(
        (b"%d" % head.status,), comparable(head.headers), connection.take_body(), connection.keep_alive and not connection.closed
    )
    return Reading((message,))


def h11_response(data: bytes, end: End, method: bytes) -> Reading:
    """What h11 reads as the response to one request. Ours skips line ends before and after a response, h11 doesn't."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_EVENT_BYTES)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    if end == "closes":
        connection.receive_data(b"")
    try:
        message = _h11_message(connection)
    except h11.RemoteProtocolError:
        without = _EMPTY_LINES.sub(b"", data)
        if without != data:
            return h11_response(without, end, method)
        message = None
    if message is None:
        return Reading((), refused=True)
    surplus, closed = connection.trailing_data
    return Reading((replace(message, goes_on=message.goes_on and not surplus.strip(_LINE_ENDS) and not closed),))
