"""One serving process: the data port on our protocol, the admin site beside it, signals, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from gateway.errors import ConfigError
from gateway.server.face import AsgiFace
from gateway.server.protocol import server_protocol
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.assembly import Runtime

AdminApp = Callable[["Runtime"], Any]

GRACE_SECONDS = 30
BACKLOG = 2048
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class QuietServer(uvicorn.Server):
    """uvicorn's server without its signal handling: ours ends several servers, closes the runtime, and exits with 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        """End in an orderly way; a second time, at once."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True


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


def serve_one(settings: Settings, face: AsgiFace, admin_app: AdminApp) -> None:
    """Serve in this process until SIGTERM or SIGINT.

    Raises:
        ConfigError: it can't start.
    """
    data = bound_socket(settings.server.host, settings.server.port, "server")
    admin = bound_socket(settings.admin.host, settings.admin.port, "admin")
    run(serve_process(face, data, admin, admin_app, lambda: announce(data, admin)))


def serve_worker(settings: Settings, face: AsgiFace, admin_app: AdminApp, control: Path) -> None:
    """Serve as one of several processes: the data port shared, the admin site on a Unix socket for the process that answers for all."""
    data = bound_socket(settings.server.host, settings.server.port, "server", shared=True)
    control.unlink(missing_ok=True)
    admin = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    admin.bind(str(control))
    run(serve_process(face, data, admin, admin_app, lambda: None))


def serve_admin(settings: Settings, app: Any) -> None:
    """Serve the admin port alone until SIGTERM or SIGINT."""
    admin = bound_socket(settings.admin.host, settings.admin.port, "admin")
    run(_serve_alone(QuietServer(_config(app, http="httptools")), admin))


async def _serve_alone(server: QuietServer, sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, server.stop)
    await server.serve(sockets=[sock])


def run(main: Any) -> None:
    """Run a coroutine on uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def announce(data: socket.socket, admin: socket.socket) -> None:
    """Say where we listen."""
    where = [_url(sock) for sock in (data, admin)]
    print(f"Gateway listening on {where[0]}, admin on {where[1]}", file=sys.stderr, flush=True)


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve_process(
    face: AsgiFace, data: socket.socket, admin: socket.socket, admin_app: AdminApp, listening: Callable[[], None]
) -> None:
    """Open the runtime, serve both ports until a signal, and close everything in order. `listening` is called once both are open.

    Raises:
        ConfigError: the runtime can't be opened.
    """
    runtime = await face.open()
    servers = [
        QuietServer(_config(face, http=server_protocol(runtime.front))),
        QuietServer(_config(admin_app(runtime), http="httptools")),
    ]
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, _stop, runtime, servers)
    try:
        tasks = [loop.create_task(server.serve(sockets=[sock])) for server, sock in zip(servers, (data, admin), strict=True)]
        while not all(server.started or task.done() for server, task in zip(servers, tasks, strict=True)):  # noqa: ASYNC110 - uvicorn tells by an attribute
            await asyncio.sleep(0.005)
        listening()
        await tasks[0]
        servers[1].stop()
        await tasks[1]
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
        await face.close()


def _stop(runtime: Runtime, servers: list[QuietServer]) -> None:
    runtime.draining = True
    servers[0].stop()


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
        timeout_graceful_shutdown=GRACE_SECONDS,
        backlog=BACKLOG,
    )
