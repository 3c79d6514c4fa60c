"""The downstream connection, on uvicorn: queues requests, dispatches them one by one, and keeps time.

Requests for services are handled here, wire to wire; requests for applications of this process go on as ASGI messages into the gateway's
ASGI face. Either way the pipeline is the same.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections import deque
from collections.abc import Coroutine
from typing import Any, ClassVar, Protocol
from urllib.parse import unquote

from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from gateway.deadlines import Deadlines
from gateway.errors import BodyTooLarge, GatewayError, RequestTimeout, Unavailable
from gateway.exchange import Exchange
from gateway.peer import Peer, TrustedProxies
from gateway.pieces import bound_buffers
from gateway.server.clients import Clients
from gateway.server.cycle import ApplicationCycle
from gateway.server.http1 import RequestHead, StrictHttp1Protocol
from gateway.server.overload import Overload
from gateway.server.shedding import NO_LIMIT
from gateway.server.upgrade import UpgradeExchange
from gateway.server.wire import WireExchange
from gateway.settings import Maxima, ServerTimeouts
from gateway.turn import Turn
from gateway.upstream.tunnel import Side

#: After the last answer of a connection we go on reading for so long, unless the client closes first: a close with bytes unread would be a
#: reset, which can take the answer with it (RFC 9112 section 9.6).
LINGER_SECONDS = 2.0
#: What a connection that has not sent anything yet gets for its first request when the server stops.
FIRST_HEAD_SECONDS = 1.0
#: Requests of one connection that wait for their turn. One read may bring eight thousand of them, at 350 bytes of memory each.
MAX_QUEUED = 256
_NO_LINGER = struct.pack("ii", 1, 0)


class Handler(Protocol):
    """The pipeline, as the protocol uses it."""

    def open(self, exchange: Exchange) -> None:
        """Read the head and find the route."""

    def begin(self, exchange: Exchange) -> bool:
        """Do the rest, if nothing on the way has to be awaited; False when nothing was done."""

    async def handle(self, exchange: Exchange) -> None:
        """Do the rest."""


class Front:
    """What all connections of a server share; changed only when a configuration generation is swapped.

    Args:
        handler: the pipeline.
        maxima, timeouts: bounds on clients.
        proxies: whose forwarding fields are believed.
        deadlines: watches over the connections.
        context: for handshakes, where the port speaks TLS.
    """

    __slots__ = ("clients", "context", "deadlines", "handler", "maxima", "overload", "proxies", "requests", "room", "timeouts")

    #: Says what to do with requests that there is no room for.
    overload: Overload

    def __init__(
        self,
        handler: Handler,
        maxima: Maxima,
        timeouts: ServerTimeouts,
        proxies: TrustedProxies,
        deadlines: Deadlines,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.handler = handler
        self.maxima = maxima
        self.timeouts = timeouts
        self.proxies = proxies
        self.deadlines = deadlines
        self.context = context
        self.clients = Clients()
        #: Requests whose turn has come.
        self.requests: Turn[WireExchange] = Turn(start)
        #: Requests that may begin before `overload` looks again; it sets this anew then.
        self.room = NO_LIMIT

    def change(
        self,
        handler: Handler,
        maxima: Maxima,
        timeouts: ServerTimeouts,
        proxies: TrustedProxies,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Requests that begin from now on are handled so. Bounds on headers hold for connections that are made from now on, and so do
        certificates."""
        self.context = context
        self.handler = handler
        self.maxima = maxima
        self.timeouts = timeouts
        self.proxies = proxies


class GatewayProtocol(StrictHttp1Protocol):
    """One client connection. `server_protocol` binds it to a `Front`."""

    __slots__ = (
        "_head_deadline",
        "_linger_until",
        "_newest",
        "_offering",
        "_pauses",
        "_queue",
        "active",
        "closing",
        "deadline",
        "flow",
        "front",
        "loop",
        "peer",
        "transport",
        "writing_paused",
    )

    #: The front, bound by a class of its own; connections look at theirs.
    shared: ClassVar[Front]
    peer: Peer

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        # An attribute of the connection is found sooner than one of its class.
        self.front = self.shared
        super().__init__(self.front.maxima, config, server_state, app_state, _loop)
        # Per-connection state
        self._queue: deque[WireExchange] = deque()
        #: The request that is being answered, and the one whose body is being received.
        self.active: WireExchange | ApplicationCycle | None = None
        self._newest: WireExchange | ApplicationCycle | None = None
        #: The last request, when it offers another protocol.
        self._offering: UpgradeExchange | None = None
        self._pauses: set[str] = set()
        self.writing_paused = False
        #: Nothing more is sent.
        self.closing = False
        #: When lingering ends at the latest (`loop.time()`); 0 while the connection doesn't linger.
        self._linger_until = 0.0
        #: When the head that is being received has to be complete (`loop.time()`); 0 before its first byte.
        self._head_deadline = 0.0
        #: When `expire` is called (`loop.time()`); what is waited for follows from the state.
        self.deadline = 0.0

    def __repr__(self) -> str:
        state = "lingering" if self._linger_until else "busy" if self.active is not None else "idle"
        return f"<GatewayProtocol {state} queued={len(self._queue)}>"

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        bound_buffers(self.transport, self)
        front = self.front
        client = get_remote_addr(self.transport)
        local = get_local_addr(self.transport)
        scheme = "https" if is_ssl(self.transport) else "http"
        ip, port = client or ("", 0)
        self.peer = Peer(ip, port, scheme, (local[1] if local else None) or 0, front.proxies)
        # The connection starts the clock of its first head.
        self.deadline = self._head_deadline = self.loop.time() + front.timeouts.header
        front.deadlines.add(self)
        maxima = front.maxima
        mine = front.clients.enter(ip, maxima.connections_per_client, front.proxies)
        if len(self.connections) > maxima.connections:
            self._no_room("connections")
        elif not mine:
            self._no_room("client_connections")

    def _no_room(self, reason: str) -> None:
        """Tell the client why it can't stay. It takes nobody else's room while it hears that."""
        self.connections.discard(self)
        self.refused(Unavailable("overloaded", reason=reason))
        self.read_done()

    def connection_lost(self, exc: Exception | None) -> None:
        self.front.deadlines.discard(self)
        self.front.clients.leave(self.peer.ip)
        self.connections.discard(self)
        self.closing = True
        self._queue.clear()
        active = self.active
        if active is not None:
            self.active = None
            self.tasks.discard(active.task)
            active.gone()
        self.flow.resume_writing()
        # The parser refers to us; without that we are freed at once.
        self.parser = None  # type: ignore[assignment]

    def pause_writing(self) -> None:
        self.writing_paused = True
        self.flow.pause_writing()
        self.deadline = self.loop.time() + self.front.timeouts.body
        if self.active is not None:
            self.active.write_paused(True)

    def resume_writing(self) -> None:
        self.writing_paused = False
        self.flow.resume_writing()
        if self.closing:
            return
        if self.active is not None:
            self.active.write_paused(False)
            self._rearm()
        else:
            self._next()

    # Reading

    def head_received(self, head: RequestHead) -> None:
        exchange = WireExchange(self, head, head.target)
        self._head_deadline = 0.0
        self._newest = exchange
        queue = self._queue
        queue.append(exchange)
        if len(queue) >= MAX_QUEUED:
            # Answered in order like all others, and then the connection ends: what follows is not read.
            exchange.end_keep_alive()
            self._keep_alive = False

    def repeated_received(self, head: RequestHead, target: bytes) -> None:
        if self.active is not None or self._queue or self.closing or self.writing_paused:
            super().repeated_received(head, target)
            return
        # The same steps, without those that find nothing to do.
        self.deadline = self._head_deadline = 0.0
        self._begin(WireExchange(self, head, target, body_done=True))

    def body_received(self, data: bytes) -> None:
        if self._newest is not None:
            self._newest.feed(data)

    def body_complete(self) -> None:
        if self._newest is not None:
            self._newest.complete()
            self._newest = None

    def upgrade_offered(self, head: RequestHead) -> None:
        if not head.version_11 or not self._queue:
            return  # HTTP/1.0 knows no upgrade (RFC 9110 section 7.8).
        # It was queued in this very read, so nobody has seen it yet.
        plain = self._queue.pop()
        offering = self._offering = UpgradeExchange(self, head, body_done=plain.body_done)
        self._queue.append(offering)
        if self._newest is plain:
            self._newest = offering

    def early_received(self, data: bytes) -> None:
        if self._offering is not None:
            self._offering.early(data)

    def refused(self, error: GatewayError) -> None:
        self.stop_reading_requests()
        exchange = self._newest
        self._newest = None
        if exchange is None:
            exchange = WireExchange(self, RequestHead(b"", b"", True, [], False), b"")
            self._queue.append(exchange)
        exchange.fail(error)

    def read_done(self) -> None:
        if self.active is None:
            if self._queue:
                self._next()
        elif self._queue:
            self.pause_reading("pipeline")
        if self._newest is None and not self.in_head and self.active is not None:
            if not self.writing_paused:
                self.deadline = 0.0
        else:
            if self._newest is not None:
                self._newest.flush()
            self._rearm()

    def pause_reading(self, reason: str) -> None:
        """Take nothing more from the client, for a reason that is named again when it ends."""
        self._pauses.add(reason)
        self.flow.pause_reading()

    def resume_reading(self, reason: str) -> None:
        """A reason for not reading has ended."""
        if reason in self._pauses:
            self._pauses.discard(reason)
            if not self._pauses:
                self.flow.resume_reading()

    # Dispatching

    def _next(self) -> None:
        """Start the oldest queued request, when its turn has come and the client has room for the answer."""
        if self.closing or self.writing_paused:
            return
        if not self._queue:
            if self._pauses:
                self.resume_reading("pipeline")
            self._rearm()
            return
        exchange = self._queue.popleft()
        if self._pauses and not self._queue:
            # The rest of its body may be among what was not read.
            self.resume_reading("pipeline")
        self._begin(exchange)

    def _begin(self, exchange: WireExchange) -> None:
        front = self.front
        if front.room <= 0:
            self._shed(exchange)
            return
        front.room -= 1
        self.active = exchange
        front.requests.add(exchange)

    def run(self, exchange: WireExchange, steps: Coroutine[Any, Any, None]) -> None:
        """Start the task of an exchange."""
        self.tasks.discard(exchange.task)
        # A name spares the making of one.
        task = exchange.task = asyncio.Task(steps, loop=self.loop, name="request")
        if not self.closing:
            self.tasks.add(task)

    def _shed(self, exchange: WireExchange) -> None:
        """Refuse a request at the least cost: nothing is looked at but its method, and nothing is recorded of it but that it came.

        Who has sent more behind it is closed, rather than refused again and again.
        """
        overload = self.front.overload
        keep_alive = exchange.keep_alive and exchange.body_done and not self._queue and not overload.closes
        self.write(overload.refusal(self.server_state.default_headers, body=exchange.method != "HEAD", close=not keep_alive))
        self.exchange_done(exchange, keep_alive=keep_alive)
        if overload.refused(self) and keep_alive:
            self.pause_reading("held")

    def release(self) -> None:
        """Read again after a refusal."""
        if not self.closing:
            self.resume_reading("held")

    def start_cycle(self, exchange: WireExchange) -> None:
        """Let an application of this process answer."""
        cycle = ApplicationCycle(self, exchange)
        if self._newest is exchange:
            self._newest = cycle
        self.active = cycle
        task = cycle.task = asyncio.Task(cycle.run(self.app, self._http_scope(exchange)), loop=self.loop, name="request")
        self.tasks.add(task)

    def _http_scope(self, exchange: WireExchange) -> Any:
        path, _, query = exchange.target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1" if exchange.version_11 else "1.0",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": "",
            "headers": exchange.headers,
            "state": self.app_state.copy(),
            "method": exchange.method,
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
        }

    def hand_over(self) -> Side:
        """This connection as a side of a tunnel, which has its bytes from now on; we hear of its end."""
        for reason in tuple(self._pauses):
            self.resume_reading(reason)
        side = Side(self.transport, self.connection_lost)
        side.write_paused, self.writing_paused = self.writing_paused, False
        self.deadline = 0.0
        self.transport.set_protocol(side)
        return side

    # Writing

    def write(self, data: bytes) -> None:
        """Send bytes to the client, unless it is gone."""
        if not self.closing:
            self.transport.write(data)

    def exchange_done(self, exchange: WireExchange | ApplicationCycle, *, keep_alive: bool) -> None:
        """An answer was written whole."""
        if exchange.task is not None:
            self.tasks.discard(exchange.task)
        self.active = None
        if self.closing:
            return
        if not keep_alive:
            self._close(lingering=True)
            return
        if self._pauses:
            for reason in ("buffer", "upstream", "application"):
                self.resume_reading(reason)
        if self._queue or self._pauses or self._newest is not None or self.in_head or self.writing_paused:
            self._next()
        else:
            self.deadline = self.loop.time() + self.front.timeouts.idle

    def exchange_cut(self, exchange: WireExchange | ApplicationCycle, *, clean: bool) -> None:
        """An answer can't be completed. Without its last chunk or its last bytes a client notices that by a close; where the close itself
        ends the body, only a reset tells (RFC 9112 section 8)."""
        self.tasks.discard(exchange.task)
        self.active = None
        if clean:
            self._close(lingering=True)
        else:
            self.closing = True
            self._reset()

    def _reset(self) -> None:
        """Close so that the client notices: without lingering the kernel sends a reset."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()

    def _close(self, *, lingering: bool) -> None:
        self.closing = True
        self._queue.clear()
        self.stop_reading_requests()
        if self.transport.is_closing():
            return
        if not lingering or not self.transport.can_write_eof():
            self.deadline = self.loop.time() + self.front.timeouts.body
            self.transport.close()
            return
        self._linger(LINGER_SECONDS)
        self.transport.write_eof()

    def _linger(self, seconds: float) -> None:
        """Go on reading for so long, without taking anything."""
        self._linger_until = self.loop.time() + self.front.timeouts.body
        self.drop_rest()
        self._newest = None
        self._pauses.clear()
        self.flow.resume_reading()
        self.deadline = self.loop.time() + seconds

    # Ending

    @property
    def has_queued(self) -> bool:
        """Whether requests wait for their turn."""
        return bool(self._queue)

    def last_answer(self) -> None:
        """Tell the client, with the answer that is being prepared, that the connection ends. An answer that has begun can't say so."""
        active = self.active
        if active is not None and not self._queue and not active.response_started:
            active.end_keep_alive()

    def shutdown(self) -> None:
        """Called by uvicorn when the server stops: answer what is there, then close."""
        if self.closing:
            return
        if self._newest is None and not self.in_head and (self._queue or self.active is not None):
            self.stop_reading_requests()
        if self._queue:
            self._queue[-1].end_keep_alive()
        elif self.active is not None:
            self.active.end_keep_alive()
        elif self.in_head:
            return
        elif self._head_deadline:
            # Accepted a moment ago: its first request may be on its way.
            self.deadline = self._head_deadline = min(self._head_deadline, self.loop.time() + FIRST_HEAD_SECONDS)
        else:
            self._close(lingering=False)

    def give_up(self, error: GatewayError) -> None:
        """The time is over: the request that is being answered ends with the error, or its answer is cut."""
        self._queue.clear()
        self.stop_reading_requests()
        if self.active is not None:
            self.active.fail(error)
        elif not self.closing:
            self._close(lingering=False)

    # Time

    def _rearm(self) -> None:
        """Set the deadline of what is waited for now."""
        if self.closing or self.writing_paused:
            return  # Theirs were set when they began.
        if self._newest is not None:
            self.deadline = self.loop.time() + self.front.timeouts.body
        elif self.in_head:
            # From the first byte on: one more byte a second buys no time.
            if not self._head_deadline:
                self._head_deadline = self.loop.time() + self.front.timeouts.header
            self.deadline = self._head_deadline
        elif self.active is not None or self._head_deadline:
            # Nothing of the client's is outstanding, or the first head of the connection, whose clock runs.
            self.deadline = self._head_deadline
        else:
            self.deadline = self.loop.time() + self.front.timeouts.idle

    def expire(self) -> None:
        """A deadline has passed: a slow head or body is told so, silence is not, and who doesn't read is cut off."""
        self.deadline = 0.0
        now = self.loop.time()
        if now < self._linger_until and self.transport.get_write_buffer_size():
            self.deadline = min(now + LINGER_SECONDS, self._linger_until)  # It still takes what was written.
        elif self.closing or self.writing_paused:
            self.transport.abort()
        elif self._pauses:
            self.deadline = self.loop.time() + self.front.timeouts.body  # It is us, or the upstream, who don't take more.
        elif self._newest is not None:
            self.refused(RequestTimeout(reason="body_timeout"))
            self.read_done()
        elif self.in_head:
            self.in_head = False
            self.refused(RequestTimeout(reason="header_timeout"))
            self.read_done()
        elif self.active is None:
            self._close(lingering=False)


def start(exchange: WireExchange) -> None:
    """Take a request to the pipeline, unless the client has left meanwhile."""
    protocol = exchange.protocol
    if protocol.active is not exchange:
        return
    handler = protocol.front.handler
    handler.open(exchange)
    plan = exchange.plan
    if plan is not None:
        if exchange.received_bytes > plan.max_body_bytes:
            exchange.fail(BodyTooLarge())
        elif plan.local is not None and exchange.refusal is None:
            protocol.start_cycle(exchange)
            return
    if not handler.begin(exchange):
        protocol.run(exchange, handler.handle(exchange))


def server_protocol(front: Front) -> type[GatewayProtocol]:
    """The protocol class for uvicorn's `http=` option, bound to what its connections share."""
    return type("BoundGatewayProtocol", (GatewayProtocol,), {"shared": front})
