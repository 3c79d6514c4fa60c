"""One demonstration service as a process: `python -m gateway.demo.services patients --port 9001`.

Every answer names the instance that gave it in `X-Served-By`, so that balancing can be seen. With `--consul`, or `CONSUL_HTTP_ADDR` in
the environment, the service registers itself and stays registered as long as it lives; Consul may come and go meanwhile. Without, it is
reached at its static address.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.demo.applications import claims, patients, policies

SERVICES: Final[Mapping[str, Callable[[], Starlette]]] = {"patients": patients, "claims": claims, "policies": policies}

#: 0.0.0.0 and ::, to listen on and nowhere to go to.
_EVERY_ADDRESS: Final = frozenset((str(IPv4Address(0)), str(IPv6Address(0))))
#: linux/prctl.h
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How one service runs.

    Args:
        service: a name of `SERVICES`.
        host, port: where it listens; port 0 takes a free one.
        instance: its name in `X-Served-By`; service, host name and port when empty.
        listener: number of an inherited listening socket, which is used instead of host and port; -1 for none.
        parent: process whose end also ends this one; 0 for none.
        consul: URL, or host and port, of the agent to register at; not registered when empty.
        advertise: address to register; the one that it listens on when empty, or, when that is every address, the one that is used to
            reach Consul.
    """

    service: str
    host: str = "127.0.0.1"
    port: int = 0
    instance: str = ""
    listener: int = -1
    parent: int = 0
    consul: str = ""
    advertise: str = ""


class ServedBy:
    """Adds `X-Served-By` to every answer of an ASGI app."""

    def __init__(self, app: ASGIApp, instance: str) -> None:
        self._app = app
        self._instance = instance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Served-By"] = self._instance
            await send(message)

        await self._app(scope, receive, named)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code: 0, or 3 when the address can't be used."""
    options = _options(arguments)
    # uvicorn stops gracefully on these and then raises them again: an ordered end is a success, and no traceback.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    if options.parent:
        _end_with(options.parent)
    try:
        listener = _listener(options)
    except OSError as exc:
        print(f"{options.service}: cannot listen on {options.host}:{options.port}: {os.strerror(exc.errno or 0)}", file=sys.stderr)
        return 3
    _serve(options, listener)
    return 0


def _serve(options: Options, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    app: ASGIApp = ServedBy(SERVICES[options.service](), options.instance or f"{options.service}-{socket.gethostname()}-{port}")
    if options.consul:
        app = _registered(app, options, host, port)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, proxy_headers=False, server_header=False, timeout_graceful_shutdown=5
    )
    uvicorn.Server(config).run(sockets=[listener])


def _registered(app: ASGIApp, options: Options, host: str, port: int) -> ASGIApp:
    # Imported where they are used: Consul's client would double the start-up time of a static service.
    from discovery.consul import agent_from_environment
    from discovery.registration import Registration, registered

    agent = agent_from_environment({**os.environ, "CONSUL_HTTP_ADDR": options.consul})
    address = options.advertise or _reachable(host, agent.url)
    return registered(app, Registration(options.service, port, address=address, meta={"instance": options.instance}, consul=agent))


def _reachable(host: str, consul: str) -> str:
    """The address by which others reach a service that listens on `host`."""
    if host not in _EVERY_ADDRESS:
        return host
    agent = urlsplit(consul)
    with socket.socket(socket.AF_INET6 if host == "::" else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Sends nothing: it chooses the route to Consul, and with it our address.
        probe.connect((agent.hostname or "127.0.0.1", agent.port or 8500))
        return str(probe.getsockname()[0])


def _listener(options: Options) -> socket.socket:
    if options.listener >= 0:
        return socket.socket(fileno=options.listener)
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    return socket.create_server((options.host, options.port), family=family, backlog=1024)


def _end_with(parent: int) -> None:
    """Ask the kernel to end this process when its parent ends, however that happens. Only Linux offers this."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before we asked
        sys.exit(0)


def _options(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m gateway.demo.services", description="Run one service of the demonstration.")
    parser.add_argument("service", choices=sorted(SERVICES))
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free one)")
    parser.add_argument("--instance", default="", help="name in X-Served-By (default: service, host name and port)")
    parser.add_argument("--listener", type=int, default=-1, help="inherited listening socket to use instead of an address")
    parser.add_argument("--parent", type=int, default=0, help="process whose end also ends this service (Linux)")
    agent = os.environ.get("CONSUL_HTTP_ADDR", "")
    parser.add_argument("--consul", default=agent, help="URL of the Consul agent to register at (default: CONSUL_HTTP_ADDR, else none)")
    parser.add_argument("--advertise", default="", help="address to register (default: the one it listens on)")
    return Options(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
