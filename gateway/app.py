"""The Python face: `BackendAPIGateway`, and `serve`, which both faces start by."""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import httpx

from gateway.admin.api import admin_app
from gateway.admin.fleet import fleet_app
from gateway.assembly import Runtime, open_runtime, with_store_url
from gateway.config import build_limit, build_route, build_service, load, settings_from_mapping
from gateway.development import development_settings
from gateway.errors import ConfigError
from gateway.failure import Formatter
from gateway.handlers import Handler, handler_app
from gateway.origin import Origin
from gateway.route import ASGIApp, Limit, Local, Route, Service
from gateway.server.face import AsgiFace
from gateway.server.serving import serve_admin, serve_one, serve_worker
from gateway.server.workers import Supervisor
from gateway.settings import Settings
from gateway.store.embedded import EmbeddedServer

#: What `start` exits with, like the command line, when it can't serve.
COULD_NOT_START = 3

H = TypeVar("H", bound=Callable[..., Any])


class BackendAPIGateway:
    """An API gateway declared in Python.

    Handlers are functions of a `GatewayRequest`; `proxy` sends requests to a service. The object is an ASGI application too, so any ASGI
    server can run it; `start()` runs it on the wire path, which costs less a request. Another server must leave the forwarding fields to
    `server.trusted_proxies`: `uvicorn --no-proxy-headers module:gateway`. Without an issuer a development issuer is made at
    start and a token of it is printed; `GATEWAY_ENV=production` refuses to start that way.

    Args:
        config: a `gateway.yaml`; its routes come first.
        settings: the top-level keys of `gateway.yaml` as keywords (`state={"url": "redis://..."}`); not together with `config`.

    Raises:
        ConfigError: a value can't be used; the message says which, where, and what is allowed.
    """

    def __init__(self, config: str | os.PathLike[str] | None = None, **settings: Any) -> None:
        if config is not None and settings:
            raise ConfigError(f"BackendAPIGateway takes either config or keyword settings, not both: {', '.join(sorted(settings))}")
        self._config = Path(config) if config is not None else None
        if self._config is not None:
            self._settings = load(self._config, os.environ)
        else:
            self._settings = settings_from_mapping(settings, os.environ)
        self._limits: dict[str, Limit] = dict(self._settings.limits)
        self._services: dict[str, Service] = dict(self._settings.services)
        self._routes: list[Route] = list(self._settings.routes)
        self._face = AsgiFace(self._open)

    def __repr__(self) -> str:
        return f"<BackendAPIGateway routes={len(self._routes)} services={len(self._services)}>"

    @property
    def settings(self) -> Settings:
        """What was declared so far."""
        return replace(self._settings, routes=tuple(self._routes), services=dict(self._services))

    # Declaring

    def limit(self, name: str, rate: str = "", **values: Any) -> str:
        """Declare a named limit for routes to refer to; returns its name.

        Args:
            name: shown in `RateLimit-Policy`.
            rate: `100/minute`, or the keys of the file's limits as keywords: `quota=...`, `concurrency=...`, `key=...`, `burst=...`.
        """
        self._limits[name] = build_limit(name, {**({"rate": rate} if rate else {}), **values}, line=_caller())
        return name

    def service(
        self, name: str, *, consul: str | Mapping[str, Any] | None = None, instances: Sequence[Any] | None = None, **values: Any
    ) -> None:
        """Declare a service; keywords are the keys of the file's services.

        Args:
            consul: the name in Consul's catalog, or a mapping with `service`, `tags`, `datacenter`.
            instances: URLs, or mappings with `url` and `weight`.
        """
        if name in self._services:
            raise ConfigError(f"{_caller()}: service {name!r} is declared already")
        given = {"consul": consul, "instances": list(instances) if instances is not None else None, **values}
        self._services[name] = build_service(name, given, line=_caller())

    def route(self, path: str, methods: Sequence[str] = ("GET",), **values: Any) -> Callable[[H], H]:
        """Have a function answer a path; keywords are the keys of the file's routes (`scopes`, `limits`, `authentication`, ...).

        Args:
            path: template: `/patients/{id}`, `{id:int}`, `{id:uuid}`, `{rest:path}`.
            methods: GET implies HEAD.
        """
        line = _caller()

        def decorate(handler: H) -> H:
            where = f"{handler.__module__}.{handler.__qualname__}" if inspect.isfunction(handler) else repr(handler)
            _check_handler(handler, f"{line}: {where}")
            self._add({"path": path, "methods": list(methods), **values}, line, Local(handler_app(handler, where)))
            return handler

        return decorate

    def proxy(self, path: str, service: str, methods: Sequence[str] = (), **values: Any) -> None:
        """Send requests for a path to a service; keywords are the keys of the file's routes."""
        line = _caller()
        if service not in self._services:
            known = ", ".join(sorted(self._services)) or "none"
            raise ConfigError(f"{line}: no service is named {service!r}; declared so far: {known}")
        self._add({"path": path, "service": service, "methods": list(methods), **values}, line, None)

    def mount(self, path: str, app: ASGIApp, **values: Any) -> None:
        """Have an ASGI application answer everything below a path, which becomes its `root_path`."""
        self._add({"path": path, "methods": [], **values}, _caller(), Local(app, mounted=True))

    def _add(self, values: dict[str, Any], line: str, target: Local | None) -> None:
        given = {key: value for key, value in values.items() if value is not None and value != []}
        self._routes.append(build_route(given, target=target, services=self._services, limits=self._limits, line=line))

    # Running

    def client(self, service: str) -> httpx.AsyncClient:
        """An httpx client whose requests go to the service's healthy instances, through the gateway's own connections and deadlines.

        Raises:
            RuntimeError: the gateway is not running.
            KeyError: no such service.
        """
        return self.runtime.client(service)

    @property
    def runtime(self) -> Runtime:
        """What is at work while the gateway runs.

        Raises:
            RuntimeError: it is not running.
        """
        return self._face.runtime

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """The ASGI application."""
        await self._face(scope, receive, send)

    def start(self, port: int | None = None, host: str | None = None, workers: int | None = None) -> None:
        """Serve until SIGTERM or SIGINT, on 127.0.0.1 unless told otherwise. SIGHUP, or a change of it, has `config` read again.

        Raises:
            SystemExit: with 3, after one line on stderr, when it can't start.
        """
        try:
            declared = listening_at(self.settings, host, port, workers)
            origin = Origin(declared, lambda: listening_at(self._declared_now(), host, port, workers))
            self._face = _face(origin)
            _serve(origin, self._face)
        except ConfigError as error:
            print(f"gateway: could not start: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
            raise SystemExit(COULD_NOT_START) from error

    def _declared_now(self) -> Settings:
        """What the file says now, and what was declared here beside it."""
        if self._config is None:
            return self.settings
        read = load(self._config, os.environ)
        ours = [route for route in self._routes if not any(route is other for other in self._settings.routes)]
        services = {name: service for name, service in self._services.items() if name not in self._settings.services}
        if twice := sorted(services.keys() & read.services.keys()):
            raise ConfigError(f"{self._config}: services {', '.join(twice)} are declared in Python already")
        return replace(read, routes=(*read.routes, *ours), services={**read.services, **services})

    async def _open(self) -> Runtime:
        return await open_runtime(development_settings(self.settings))


def serve(settings: Settings, read: Callable[[], Settings]) -> None:
    """Serve a configuration until SIGTERM or SIGINT: what `gateway run` does.

    Args:
        settings: to start with.
        read: gives them anew, whenever they are to be loaded again. Raises ConfigError.

    Raises:
        ConfigError: it can't start.
    """
    origin = Origin(settings, read)
    _serve(origin, _face(origin))


def _face(origin: Origin) -> AsgiFace:
    async def opened() -> Runtime:
        runtime = await open_runtime(origin.settings)
        if not origin.settings.state.url.startswith("embedded:"):
            # Nobody but us has a hand in an embedded one.
            runtime.test_store()
        return runtime

    return AsgiFace(opened)


def _serve(origin: Origin, face: AsgiFace) -> None:
    _log_to_stderr()
    settings = origin.settings
    if settings.server.workers == 1:
        serve_one(origin, face, admin_app)
        return
    stop_store = tend_store = _nothing
    if settings.state.url.startswith("embedded:"):
        # One store for all workers; it ends with the supervisor.
        embedded = EmbeddedServer.from_url(settings.state.url)
        url = embedded.start()
        stop_store, tend_store = embedded.stop, embedded.tend
        face.open_with(lambda: open_runtime(with_store_url(origin.settings, url)))
    try:
        Supervisor(
            settings,
            lambda data, control, listening: serve_worker(origin, face, data, admin_app, control, listening),
            lambda admin, controls, listening: serve_admin(admin, fleet_app(controls), listening),
            tended=tend_store,
            abandoned=stop_store,
            accepted=origin.renew,
        ).run()
    finally:
        stop_store()


def _nothing() -> None:
    """There is no store of our own to look after."""


def _log_to_stderr() -> None:
    """What operators should know, one line each, unless the application has logging of its own."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    for name in ("gateway", "discovery"):
        logging.getLogger(name).setLevel(logging.INFO)


def listening_at(settings: Settings, host: str | None, port: int | None, workers: int | None) -> Settings:
    """The settings with another address or number of workers; None keeps what they say."""
    changes: dict[str, Any] = {"host": host, "port": port, "workers": workers}
    changes = {name: value for name, value in changes.items() if value is not None}
    return replace(settings, server=replace(settings.server, **changes))


def _check_handler(handler: object, where: str) -> None:
    if not callable(handler):
        raise ConfigError(f"{where}: a route needs a function, not a {type(handler).__name__}")
    try:
        inspect.signature(handler).bind(None)
    except TypeError as exc:
        raise ConfigError(f"{where}: a handler takes one argument, the request ({exc})") from exc


def _caller() -> str:
    """Where in the application's code a declaration stands."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}" if frame is not None else ""


__all__ = ["BackendAPIGateway", "Handler", "serve"]
