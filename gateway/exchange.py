"""One request on its way through the pipeline, whichever adapter it came by.

An adapter (the wire or ASGI) makes an `Exchange`, the pipeline fills it step by step, and the adapter carries out what it decides:
`respond` with a whole answer, `relay` an upstream's response, or `serve` an application of this process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Coroutine, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar

from gateway.errors import GatewayError
from gateway.headers import FieldList, RequestFields

if TYPE_CHECKING:
    from discovery.endpoint import Endpoint
    from gateway.auth.principal import Principal
    from gateway.certificates import ClientCertificate
    from gateway.peer import Peer
    from gateway.plan import RoutePlan
    from gateway.route import ASGIApp
    from gateway.telemetry.observation import Observation
    from gateway.upstream.forward import Sent
    from gateway.upstream.http1 import UpstreamConnection
    from gateway.upstream.switch import Offering

NO_PARAMS: Mapping[str, object] = {}


class Exchange(ABC):
    """Request facts and the decisions about them.

    The adapter sets `method`, `target` (bytes as they came), `headers` ((lower-case name, value) in order), `version_11` and `peer`.
    The pipeline sets the rest: `path` and `query` (as they came, the query with its `?`), `host`, `fields`, `plan`, `params`, `principal`,
    `body_length` (bytes, None when chunked), `client_ip`, `observation`, `limit_lines` (wire lines of the RateLimit fields),
    `cors_lines`, `id_line` (that of X-Request-Id, for both sides), `block` (wire lines that go upstream whatever the route), and `refusal`,
    the error that was found before the first step.
    The forwarder sets `endpoint` (its first choice), `upstream` (the connection), and `sent` while nobody waits for what it has sent.
    """

    __slots__ = (
        "block",
        "body_length",
        "client_ip",
        "cors_lines",
        "endpoint",
        "fields",
        "headers",
        "host",
        "id_line",
        "limit_lines",
        "method",
        "observation",
        "params",
        "path",
        "peer",
        "plan",
        "principal",
        "query",
        "refusal",
        "sent",
        "target",
        "upstream",
        "version_11",
    )

    #: Whether the adapter waits until the pipeline has handled it. If not, what needs waiting later is given to `go_on`.
    awaited: ClassVar[bool] = True
    plan: RoutePlan | None
    # Set when it is opened
    observation: Observation
    fields: RequestFields
    host: str
    client_ip: str
    body_length: int | None
    block: bytes
    id_line: bytes

    def __init__(self, method: str, target: bytes, headers: FieldList, version_11: bool, peer: Peer) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.version_11 = version_11
        self.peer = peer
        self.path = b""
        self.query = b""
        self.params: Mapping[str, object] = NO_PARAMS
        self.plan = None
        self.principal: Principal | None = None
        self.limit_lines = b""
        self.cors_lines = b""
        self.refusal: GatewayError | None = None
        self.upstream: UpstreamConnection | None = None
        self.endpoint: Endpoint | None = None
        self.sent: Sent | None = None

    def last_answer(self) -> None:  # noqa: B027 - most have no connection of their own
        """Have the connection end after the answer to this request, or to the last one that came with it. Another server's connection is
        its own business."""

    def __repr__(self) -> str:
        route = self.plan.route.name if self.plan is not None else "-"
        return f"<{type(self).__name__} {self.method} route={route}>"

    @property
    def offering(self) -> Offering | None:
        """The exchange itself when it offers another protocol and its connection can become a tunnel."""
        return None

    @property
    def version(self) -> bytes:
        """Version of the HTTP that the request came with, as Via tells it."""
        return b"1.1" if self.version_11 else b"1.0"

    @property
    def certificate(self) -> ClientCertificate | None:
        """What the client has shown on its connection."""
        return self.peer.certificate

    @property
    def path_params(self) -> Mapping[str, object]:
        """Parameters of the path template, decoded."""
        return self.params

    def header(self, name: bytes) -> bytes | None:
        """A field by its lower-case name, several lines joined by a comma (RFC 9110 section 5.3); None when absent."""
        values = [value for other, value in self.headers if other == name]
        return b", ".join(values) if values else None

    def header_text(self, name: str) -> str | None:
        """`header` for text: what the route table asks."""
        value = self.header(name.encode("ascii"))
        return value.decode("latin-1") if value is not None else None

    # What an adapter does

    @property
    @abstractmethod
    def response_started(self) -> bool:
        """Whether the client has seen any of the response."""

    @abstractmethod
    async def respond(self, status: int, headers: FieldList, body: bytes, *, close: bool = False) -> None:
        """Send a whole response of our own."""

    @abstractmethod
    def first_body(self) -> bytes:
        """What of the request's body can be sent with its head, framed for the wire."""

    @property
    @abstractmethod
    def replayable(self) -> bool:
        """Whether `first_body` is the whole body and nothing more will come."""

    @abstractmethod
    def begin_upload(self, connection: UpstreamConnection) -> None:
        """Send the rest of the body as it comes, with back-pressure, and set `connection.request_sent` at its end."""

    @abstractmethod
    def relay_data(self, data: bytes) -> None:
        """A piece of the upstream's body, without transfer coding."""

    @abstractmethod
    def relay_pause(self, paused: bool) -> None:
        """The upstream can't take more of the request's body (True), or can again (False)."""

    @abstractmethod
    def relay_interim(self, status: int, headers: FieldList) -> None:
        """A 1xx response of the upstream."""

    @abstractmethod
    def relay(self, connection: UpstreamConnection) -> Awaitable[None] | None:
        """Send the upstream's response to the client as it arrives. None: it has been handed over whole; else what waits until it is."""

    @abstractmethod
    async def serve(self, app: ASGIApp, *, mounted: bool) -> None:
        """Let an application of this process answer."""

    def go_on(self, rest: Coroutine[Any, Any, None]) -> None:
        """Have a task do the rest of an exchange that nobody awaited."""
        raise NotImplementedError

    def end(self, error: GatewayError) -> None:
        """End an exchange that lasts; whoever runs it gets the error."""
        if self.upstream is not None:
            self.upstream.abort(error)

    @abstractmethod
    def cut(self) -> None:
        """End a response that can't be completed so that the client notices (RFC 9112 section 8)."""


#: The exchange that an application of this process is answering in this context, if any.
current_exchange: ContextVar[Exchange | None] = ContextVar("current_exchange", default=None)
