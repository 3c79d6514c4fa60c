"""A gateway on a real socket in the test's own event loop, under our protocol or under another ASGI server, and a client that speaks bytes.

For a gateway as a process of its own see `whole_gateway`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import uvicorn
import uvloop
from uvicorn.server import ServerState

from gateway import BackendAPIGateway
from gateway.assembly import Runtime
from gateway.server.protocol import server_protocol
from gateway.server.serving import QuietServer, bound_socket
from gateway.server.tls import SecureListener, secure_protocol
from tests.support.recording_upstream import RecordingUpstream
from tests.support.redis_server import until

Adapter = Literal["wire", "asgi"]
ADAPTERS: tuple[Adapter, ...] = ("wire", "asgi")
GET = b"GET /s/x HTTP/1.1\r\nHost: api.example.gov\r\n\r\n"


@dataclass
class Response:
    """A response as a client sees it. `whole` is False when the connection ended before the body did."""

    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes
    whole: bool = True

    def values(self, name: bytes) -> list[bytes]:
        """The values of a field, in order; the name in lower case."""
        return [value for other, value in self.fields if other.lower() == name]

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document."""
        assert self.values(b"content-type") == [b"application/problem+json"], self
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed


class Client:
    """One client connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes, *, split: bool = False) -> None:
        """Write at once, or byte by byte so that the other side reads the bytes one by one. What can't be written any more is dropped."""
        with suppress(ConnectionError, RuntimeError):  # uvloop's word for a transport that is closed
            if not split:
                self.writer.write(data)
                await self.writer.drain()
                return
            for at in range(len(data)):
                self.writer.write(data[at : at + 1])
                await asyncio.sleep(0)
                await asyncio.sleep(0)

    async def head(self) -> Response:
        """The next response's head, interim ones included."""
        block = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = block.split("\r\n")[:-2]
        version, status = line.split(" ")[:2]
        assert version == "HTTP/1.1", line
        fields = [(name.encode("latin-1"), value.strip().encode("latin-1")) for name, _, value in (text.partition(":") for text in lines)]
        return Response(int(status), fields, b"")

    async def response(self, *, bodiless: bool = False) -> Response:
        """The next response, read by the rules of RFC 9112 section 6.3."""
        response = await self.head()
        if bodiless or response.status < 200 or response.status in (204, 304):
            return response
        try:
            if response.values(b"transfer-encoding") == [b"chunked"]:
                while chunk := await self.chunk():
                    response.body += chunk
            elif lengths := response.values(b"content-length"):
                response.body = await self.reader.readexactly(int(lengths[0]))
            else:
                response.body = await self.reader.read()
        except asyncio.IncompleteReadError as error:
            response.body += error.partial
            response.whole = False
        except ConnectionError:
            response.whole = False
        return response

    async def chunk(self) -> bytes:
        """The next chunk of a body; empty for the last one."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def ask(self, data: bytes, *, split: bool = False, bodiless: bool = False) -> Response:
        """Send a request and read its response."""
        await self.send(data, split=split)
        return await self.response(bodiless=bodiless)

    async def rest(self) -> bytes:
        """Everything until the gateway closes or resets the connection."""
        data = b""
        with suppress(ConnectionError):
            while piece := await self.reader.read(65536):
                data += piece
        return data

    def close(self) -> None:
        if self.writer.transport.get_write_buffer_size():
            # Nobody will read it any more, and a loop that closes while a write waits may not come to its end.
            self.writer.transport.abort()
        self.writer.close()


@dataclass
class RunningGateway:
    """A gateway that serves."""

    app: BackendAPIGateway
    port: int
    audit: Path
    clients: list[Client] = field(default_factory=list)
    #: What clients connect with unless they bring another; None for plain connections.
    tls: ssl.SSLContext | None = None
    #: Its clients' connections, of our own protocol.
    connections: set[Any] = field(default_factory=set)

    @property
    def runtime(self) -> Runtime:
        return self.app.runtime

    async def connect(self, limit: int = 1 << 26, *, tls: ssl.SSLContext | None = None) -> Client:
        """A new client connection; `limit` bounds what it reads ahead. Where the port speaks TLS, with that context or `tls`."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port, limit=limit, ssl=tls or self.tls))
        self.clients.append(client)
        return client

    async def ask(self, data: bytes, *, split: bool = False, bodiless: bool = False, tls: ssl.SSLContext | None = None) -> Response:
        """One request on a connection of its own."""
        client = await self.connect(tls=tls)
        response = await client.ask(data, split=split, bodiless=bodiless)
        client.close()
        return response

    def records(self) -> list[dict[str, Any]]:
        """The audit records of requests so far."""
        if not self.audit.exists():
            return []
        # The last line may be on its way.
        parsed = [json.loads(line) for line in self.audit.read_bytes().rpartition(b"\n")[0].splitlines()]
        return [record for record in parsed if record["event"] == "request"]

    async def record(self, condition: Callable[[dict[str, Any]], bool] = lambda record: True, *, of: int = 1) -> dict[str, Any]:
        """The newest audit record of a request that fits, once all `of` that are to come are there.

        A record is written after the answer: without their number the newest one may be that of an earlier request.
        """
        await until(lambda: sum(map(condition, self.records())) >= of, f"{of} audit records")
        fitting = list(filter(condition, self.records()))
        assert len(fitting) == of, f"{len(fitting)} records"
        return fitting[-1]

    async def idle(self) -> None:
        """Nothing is in flight, neither here nor towards an instance: connections that are kept have been given back."""
        await until(lambda: self.runtime.pipeline.in_flight == 0, "no request in flight")
        endpoints = [endpoint for name in self.runtime.forwarders for endpoint in self.runtime.directory.service(name).snapshot.endpoints]
        assert [endpoint.active for endpoint in endpoints] == [0] * len(endpoints)


def patient(service: Mapping[str, Any] | None) -> dict[str, Any]:
    """The keys of a service that waits for connections for as long as a busy machine takes, unless they say how long.

    Client, gateway and service share an event loop, and one that stood still finds its timers due before it looks at its sockets.
    """
    given = dict(service or {})
    return {**given, "timeouts": {"connect": "10s", **given.get("timeouts", {})}}


def declared(
    directory: Path,
    store: str,
    upstream: RecordingUpstream | str | None,
    *,
    service: Mapping[str, Any] | None = None,
    route: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
    limits: Mapping[str, Mapping[str, Any]] | None = None,
) -> BackendAPIGateway:
    """A gateway whose public route `/s/{rest:path}` leads to the service `s` at the upstream.

    Args:
        store: URL of the state store.
        service, route, server: further keys of that service, of that route, and of `server`.
        limits: by name, for the route.
    """
    app = BackendAPIGateway(
        state={"url": store, "budget": "10s"},
        audit={"sink": [f"file:{directory / 'audit.jsonl'}"]},
        server=dict(server or {}),
    )
    for name, values in (limits or {}).items():
        app.limit(name, **values)
    if upstream is not None:
        url = upstream if isinstance(upstream, str) else upstream.url
        app.service("s", instances=[url], **patient(service))
        app.proxy("/s/{rest:path}", "s", **{"authentication": "none", **(route or {})})
    return app


@asynccontextmanager
async def serving(app: BackendAPIGateway, directory: Path, adapter: Adapter = "wire") -> AsyncIterator[RunningGateway]:
    """Serve on a free port: `wire` with our protocol, `asgi` as any ASGI application under uvicorn with h11."""
    sock = bound_socket("127.0.0.1", 0, "server")
    port: int = sock.getsockname()[1]
    running = RunningGateway(app, port, directory / "audit.jsonl")
    serve = _serving_wire if adapter == "wire" else _serving_asgi
    async with serve(app, sock, running):
        try:
            yield running
        finally:
            for client in running.clients:
                client.close()


@asynccontextmanager
async def _serving_wire(app: BackendAPIGateway, sock: socket.socket, running: RunningGateway) -> AsyncIterator[None]:
    """Our protocol on a bare asyncio server: uvicorn's own loop looks around only ten times a second, which tests need not wait for."""
    face = app._face
    runtime = await face.open()
    config = uvicorn.Config(face, log_config=None, http="httptools", ws="none", lifespan="off", proxy_headers=False)
    config.load()
    state = ServerState()
    running.connections = state.connections
    state.default_headers = [(b"date", b"Mon, 23 Nov 2026 00:58:45 GMT")]
    front = runtime.front
    protocol: Any = server_protocol(front) if front.context is None else secure_protocol(front)

    def make() -> Any:
        return protocol(config=config, server_state=state, app_state={})

    server: Any
    if front.context is None:
        server = await asyncio.get_running_loop().create_server(make, sock=sock, backlog=2048)
    else:
        sock.listen(2048)
        server = SecureListener(sock, front, state.connections, make, runtime.tls_failures, partial(runtime.telemetry.event, "handshake"))
    try:
        yield
    finally:
        server.close()
        await until(lambda: not any(task for task in state.tasks if not task.done()), "the requests to end")
        for connection in list(state.connections):
            connection.shutdown()
        await face.close()


@asynccontextmanager
async def _serving_asgi(app: BackendAPIGateway, sock: socket.socket, running: RunningGateway) -> AsyncIterator[None]:
    config = uvicorn.Config(
        app,
        http="h11",
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    server = QuietServer(config)
    task = asyncio.create_task(server.serve(sockets=[sock]))
    await until(lambda: server.started or task.done(), "the server")
    try:
        yield
    finally:
        server.stop()
        await task


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine on the event loop that gateways run on, with a deadline."""

    async def bounded() -> None:
        await asyncio.wait_for(main, 60)

    uvloop.run(bounded())
