"""One serving process: the data port on our protocol, the admin site beside it, signals, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import uvicorn

from gateway.errors import ConfigError
from gateway.failure import report
from gateway.server.controls import Controls
from gateway.server.descriptors import affordable_connections
from gateway.server.drain import CUT_OFF_SECONDS, Drain
from gateway.server.face import AsgiFace
from gateway.server.memory import keep_tls_buffers_apart
from gateway.server.protocol import server_protocol
from gateway.server.reload import Reloader
from gateway.server.tls import SecureListener, SecureProtocol, secure_protocol
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.assembly import Runtime

#: (the runtime, what an administrator can have it do) -> the admin site.
AdminApp = Callable[["Runtime", Controls], Any]

BACKLOG = 2048
#: libuv takes one connection from a listening handle in each turn of the loop, which under load is a hundred a second; so there are several
#: handles for the one socket.
ACCEPTS_A_TURN = 32
#: New objects between two looks of the garbage collector: about 20 MB if all of them were garbage.
GARBAGE_THRESHOLD = 100_000
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
RELOAD_SIGNAL = signal.SIGHUP
#: From a worker to its supervisor: the configuration as it is declared now is at work.
ACCEPTED_SIGNAL = signal.SIGUSR1


class Origin(Protocol):
    """Where the settings come from."""

    settings: Settings

    def read_again(self) -> Settings:
        """The settings as they are declared now. Raises ConfigError."""


class QuietServer(uvicorn.Server):
    """uvicorn's server without its signal handling: ours ends several servers, closes the runtime, and exits with 0."""

    #: Handles for one listening socket.
    acceptors = ACCEPTS_A_TURN

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._listening: socket.socket | None = None
        self._resuming: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @property
    def connections(self) -> Collection[Any]:
        """Those that are open."""
        return self.server_state.connections

    @property
    def tasks(self) -> Collection[asyncio.Task[None]]:
        """Requests that are being handled."""
        return self.server_state.tasks

    async def accept_faster(self, sock: socket.socket) -> None:
        """Take up to `ACCEPTS_A_TURN` connections from a listening socket in each turn of the event loop."""
        if self._listening is None:
            # The kernel's socket listens for as long as somebody has it.
            self._listening = sock.dup()
        while len(self.servers) < self.acceptors:
            self.servers.append(await self._acceptor(sock))

    def pause_accepting(self) -> None:
        """Accept no connections; the kernel queues them (`BACKLOG`) and refuses what is more."""
        if self._resuming is not None:
            self._resuming.cancel()
        for server in self.servers:
            server.close()
        self.servers.clear()

    def resume_accepting(self) -> None:
        """Accept them again."""
        if not self.should_exit and self._listening is not None:
            self._resuming = asyncio.get_running_loop().create_task(self.accept_faster(self._listening), name="resume accepting")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        await super().shutdown(sockets)

    async def _acceptor(self, sock: socket.socket) -> asyncio.Server:
        protocol: Any = self.config.http_protocol_class
        made = functools.partial(protocol, config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        # Closed with its server, while the kernel's socket goes on listening.
        return await asyncio.get_running_loop().create_server(made, sock=sock.dup(), backlog=BACKLOG)

    def stop(self) -> None:
        """Close the port and idle connections, and end when the last connection has."""
        self.should_exit = True

    def force(self) -> None:
        """End without waiting for connections."""
        self.force_exit = self.should_exit = True


class SecureServer(QuietServer):
    """The same for a port that speaks TLS.

    Args:
        config: names the protocol class.
        listen: from a socket that listens to what accepts its connections.
    """

    def __init__(self, config: uvicorn.Config, listen: Callable[[socket.socket, SecureServer], SecureListener]) -> None:
        super().__init__(config)
        self._listen = listen

    #: It takes many connections in a turn by itself.
    acceptors = 1

    async def _acceptor(self, sock: socket.socket) -> asyncio.Server:
        return self._listen(sock.dup(), self)  # type: ignore[return-value]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets is not None
        self.servers = [self._listen(sock, self) for sock in sockets]  # type: ignore[misc]
        self.started = True


def data_server(face: AsgiFace, runtime: Runtime) -> QuietServer:
    """The server of the data port, as the runtime is configured."""
    front = runtime.front
    if front.context is None:
        return QuietServer(_config(face, http=server_protocol(front)))
    config = _config(face, http=secure_protocol(front))

    def listen(sock: socket.socket, server: SecureServer) -> SecureListener:
        def make() -> SecureProtocol:
            protocol: SecureProtocol = config.http_protocol_class(config=config, server_state=server.server_state, app_state={})  # type: ignore[call-arg, assignment]
            return protocol

        record = functools.partial(runtime.telemetry.event, "handshake")
        return SecureListener(sock, front, server.server_state.connections, make, runtime.tls_failures, record)

    return SecureServer(config, listen)


def bound_socket(host: str, port: int, key: str, *, shared: bool = False) -> socket.socket:
    """A listening address, taken.

    Args:
        key: what to name in messages: `server` or `admin`.
        shared: several processes take it together (SO_REUSEPORT).

    Raises:
        ConfigError: it can't be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except OSError as exc:
        sock.close()
        why = "is taken by another process" if exc.errno == errno.EADDRINUSE else f"can't be used: {exc.strerror or exc}"
        raise ConfigError(f"{key}.host and {key}.port: {host}:{port} {why}") from exc
    sock.setblocking(False)
    sock.set_inheritable(True)
    return sock


def control_socket(path: Path) -> socket.socket:
    """A Unix socket at this path, whatever a process before us left there. Raises ConfigError."""
    admin = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        admin.bind(str(path))
    except OSError as exc:
        admin.close()
        raise ConfigError(f"the directory for temporary files can't hold a Unix socket, set TMPDIR to another: {path}: {exc}") from exc
    return admin


def with_admin_token(settings: Settings) -> Settings:
    """The settings with an admin token: the configured one, or a new one that is printed.

    Raises:
        ConfigError: there is none and `GATEWAY_ENV` is `production`.
    """
    if settings.admin.token:
        return settings
    if os.environ.get("GATEWAY_ENV") == "production":
        raise ConfigError(
            "admin.token_file: no admin token is configured, which GATEWAY_ENV=production refuses; set it or GATEWAY_ADMIN_TOKEN"
        )
    token = secrets.token_urlsafe(24)
    print(f"No admin token is configured; for this run it is {token}", file=sys.stderr, flush=True)
    return replace(settings, admin=replace(settings.admin, token=token))


def serve_one(origin: Origin, face: AsgiFace, admin_app: AdminApp) -> None:
    """Serve in this process until SIGTERM or SIGINT.

    Raises:
        ConfigError: it can't start.
    """
    settings = origin.settings
    data = bound_socket(settings.server.host, settings.server.port, "server")
    admin = bound_socket(settings.admin.host, settings.admin.port, "admin")
    run(serve_process(face, origin, data, admin, admin_app, lambda: announce(data, admin, settings)))


def serve_worker(
    origin: Origin, face: AsgiFace, data: socket.socket, admin_app: AdminApp, control: Path, listening: Callable[[], None]
) -> None:
    """Serve as one of several processes, the admin site on a Unix socket for the process that answers for all.

    Raises:
        ConfigError: it can't start.
    """
    with control_socket(control) as admin:
        run(serve_process(face, origin, data, admin, admin_app, listening, supervised=True))


def _tell_supervisor(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getppid(), number)


def _nobody_to_tell() -> None:
    """This process is the whole gateway."""


def serve_admin(admin: socket.socket, app: Any, listening: Callable[[], None]) -> None:
    """Serve the admin port alone until SIGTERM or SIGINT."""
    run(_serve_alone(QuietServer(_config(app, http="httptools")), admin, listening))


async def _serve_alone(server: QuietServer, sock: socket.socket, listening: Callable[[], None]) -> None:
    _on_signals(server.stop)
    tasks = await _started([server], [sock])
    listening()
    await tasks[0]


def run(main: Any) -> None:
    """Run a coroutine on uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        new_loop = asyncio.new_event_loop
    else:
        new_loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.get_loop().set_exception_handler(report)
        runner.run(main)


def announce(data: socket.socket, admin: socket.socket, settings: Settings) -> None:
    """Say where we listen."""
    print(f"Gateway listening on {url_of(data, data_scheme(settings))}, admin on {url_of(admin)}", file=sys.stderr, flush=True)


def data_scheme(settings: Settings) -> str:
    """What is spoken on the data port."""
    return "https" if settings.server.tls is not None else "http"


def url_of(sock: socket.socket, scheme: str = "http") -> str:
    """Where a bound socket is reached."""
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def settle_garbage_collector() -> None:
    """Leave what the start made out of the garbage collector's sight, and have it look less often.

    Its default of one look for 700 new objects is two looks for the requests of one turn of the loop, each of which finds them all in use;
    that was a tenth of the CPU time of a plain request. Requests leave next to no cycles: they are freed when they end.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, 20, 100)


async def serve_process(
    face: AsgiFace,
    origin: Origin,
    data: socket.socket,
    admin: socket.socket,
    admin_app: AdminApp,
    listening: Callable[[], None],
    *,
    supervised: bool = False,
) -> None:
    """Open the runtime, serve both ports until a signal, and close everything in order.

    Args:
        listening: called once both ports are open.
        supervised: whether this process is one of several, whose supervisor ends all of them and starts others.

    Raises:
        ConfigError: the runtime or a port can't be opened.
    """
    opening = asyncio.ensure_future(face.open())
    # What is being opened is the newest configuration there is.
    _on_signals(opening.cancel, ignoring=(RELOAD_SIGNAL,))
    declared = origin.settings
    try:
        runtime = await opening
    except asyncio.CancelledError:
        # Told to stop before it could serve anybody.
        return
    server = data_server(face, runtime)
    runtime.overload.guard(server)
    drain = Drain(runtime.front, server, lambda: runtime.settings.server.drain, runtime.begin_drain)
    accepted = _tell_supervisor(ACCEPTED_SIGNAL) if supervised else _nobody_to_tell
    reloader = Reloader(origin.read_again, declared, runtime, runtime.telemetry, accepted)
    end = _tell_supervisor(signal.SIGTERM) if supervised else functools.partial(drain.begin, "admin")
    site = QuietServer(_config(admin_app(runtime, Controls(functools.partial(reloader.reload, "admin"), end)), http="httptools"))
    _obey_signals(drain, reloader, from_file=bool(declared.source))
    try:
        runtime.bound_connections(affordable_connections)
        tasks = await _started((server, site), (data, admin))
        await server.accept_faster(data)
        settle_garbage_collector()
        keep_tls_buffers_apart()
        reloader.start()
        listening()
        runtime.telemetry.lag.arm()
        await tasks[0]
        await reloader.close()
        await drain.close()
        await _cut_off(server)
        site.stop()
        await tasks[1]
    finally:
        await face.close()


async def _started(servers: Sequence[QuietServer], sockets: Sequence[socket.socket]) -> list[asyncio.Task[None]]:
    """The servers' tasks, once all of them accept connections. Raises ConfigError."""
    for sock in sockets:
        _listen(sock)
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(server.serve(sockets=[sock])) for server, sock in zip(servers, sockets, strict=True)]
    while not all(server.started or task.done() for server, task in zip(servers, tasks, strict=True)):  # noqa: ASYNC110 - uvicorn tells by an attribute
        await asyncio.sleep(0.005)
    return tasks


async def _cut_off(server: QuietServer) -> None:
    """End the requests that were given up, while they can still be recorded."""
    if left := list(server.server_state.tasks):
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=CUT_OFF_SECONDS)


def _listen(sock: socket.socket) -> None:
    """Two sockets may be bound to one port as long as nobody listens; and uvloop doesn't tell when the second one can't."""
    try:
        sock.listen(BACKLOG)
    except OSError as exc:
        raise ConfigError(f"can't listen on {sock.getsockname()}: {exc.strerror}") from exc


def _on_signals(stop: Callable[[], object], ignoring: Sequence[signal.Signals] = ()) -> None:
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop)
    for number in ignoring:
        loop.add_signal_handler(number, _nobody_to_tell)


def _obey_signals(drain: Drain, reloader: Reloader, *, from_file: bool) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, drain.begin, "SIGTERM")
    # Somebody at a terminal: no load balancer has to take notice.
    loop.add_signal_handler(signal.SIGINT, functools.partial(drain.begin, "SIGINT", at_once=True))
    if from_file:
        loop.add_signal_handler(RELOAD_SIGNAL, reloader.request, "signal")
    else:
        # There is nothing to load again, and a terminal that is closed says the same as its Ctrl-C.
        loop.add_signal_handler(RELOAD_SIGNAL, functools.partial(drain.begin, "SIGHUP", at_once=True))


def _config(app: Any, *, http: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=http,
        ws="none",
        lifespan="off",
        loop="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=75,
        backlog=BACKLOG,
    )
