"""A generation: what one configuration compiles to. It is built beside the one at work, swapped in whole, and never changed (SPEC G3).

What outlives it (connections, counters, the store, the records) belongs to the process; see `gateway/assembly.py`.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway.admission.ladder import Gate
from gateway.admission.plan import AdmissionPlan
from gateway.auth.authenticator import Authenticator
from gateway.auth.authorization import compile_rule
from gateway.auth.certificate_rule import compile_certificate_rule
from gateway.cors import compile_cors
from gateway.errors import ConfigError
from gateway.headers import FieldTable
from gateway.peer import TrustedProxies
from gateway.pipeline import Admission, FailedAuthentications, Observer, Pipeline, TraceStarter
from gateway.plan import RoutePlan, request_shape
from gateway.route import Limit, Route, Service
from gateway.router import EVERY_METHOD, Router
from gateway.server.tls import server_context
from gateway.settings import Settings
from gateway.streams import Streams
from gateway.upstream.forward import Forwarder, RequestShape
from gateway.upstream.switch import SwitchingForwarder
from gateway.upstream.tls import ContextSource, context_source

#: (service, the context for its `https` instances) -> its upstream side, with the instances as discovery knows them now.
MakeForwarder = Callable[[Service, ContextSource], Forwarder]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the pipelines of all generations use.

    Args:
        plan: compiles the limits of a route. Raises ConfigError.
        gate: how requests of a route are admitted.
        failures: what counts failed authentications against a limit. Raises ConfigError.
        admission, tracer, observer: as the pipeline wants them.
        streams: knows the exchanges that last.
    """

    plan: Callable[[Route], AdmissionPlan]
    gate: Callable[[Route, AdmissionPlan], Gate]
    failures: Callable[[Limit | None], FailedAuthentications]
    admission: Admission
    tracer: TraceStarter
    observer: Observer
    streams: Streams


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """A configuration at work.

    Args:
        number: counts the generations of a process from 1; in records, spans and metrics.
        settings: what it was compiled from.
        published: routes that services published, besides those of the settings.
        authenticator: of its requests.
        routes, pipeline, proxies: how requests are handled.
        forwarders: by service.
        call_shapes: by service, what handlers' calls add to a request.
        context: for handshakes with clients.
    """

    number: int
    settings: Settings
    published: tuple[Route, ...]
    authenticator: Authenticator
    routes: Router[RoutePlan]
    forwarders: Mapping[str, Forwarder]
    call_shapes: Mapping[str, RequestShape]
    pipeline: Pipeline
    proxies: TrustedProxies
    context: ssl.SSLContext | None


class Draft:
    """A generation that is not at work yet. Whatever can be wrong with the settings is found while it is made; `finish` can't fail.

    Raises:
        ConfigError: a route or a file can't be used.
    """

    def __init__(self, settings: Settings, published: tuple[Route, ...], surroundings: Surroundings) -> None:
        self._settings = settings
        self._published = published
        self._surroundings = surroundings
        self._contexts = {name: context_source(service) for name, service in settings.services.items()}
        self._routes: Router[RoutePlan] = Router([(route, self._plan(route)) for route in (*settings.routes, *published)])
        self._call_shapes = {
            name: request_shape(Route(name=f"client:{name}", path="/", target=name), service) for name, service in settings.services.items()
        }
        self._proxies = TrustedProxies(settings.server.trusted_proxies)
        self._context = server_context(settings.server.tls) if settings.server.tls is not None else None
        self._failures = surroundings.failures(settings.authentication.failures)

    def finish(self, number: int, authenticator: Authenticator, make_forwarder: MakeForwarder) -> Generation:
        """The generation, once discovery knows its services."""
        services = self._settings.services
        forwarders = {name: make_forwarder(service, self._contexts[name]) for name, service in services.items()}
        for _, plan in self._routes.entries:
            if plan.service:
                forwarder, websocket = forwarders[plan.service], plan.route.websocket
                plan.forwarder = SwitchingForwarder(forwarder, websocket, plan.max_body_bytes) if websocket else forwarder
        return Generation(
            number=number,
            settings=self._settings,
            published=self._published,
            authenticator=authenticator,
            routes=self._routes,
            forwarders=forwarders,
            call_shapes=self._call_shapes,
            pipeline=self._pipeline(number, authenticator),
            proxies=self._proxies,
            context=self._context,
        )

    def _pipeline(self, number: int, authenticator: Authenticator) -> Pipeline:
        api_keys = self._settings.authentication.api_keys
        api_key_header = api_keys.header.encode("ascii") if api_keys is not None else b""
        return Pipeline(
            routes=self._routes,
            # One for each generation: what a connection remembers of the last request's fields was read with the rules before these.
            fields=FieldTable((api_key_header,) if api_key_header else ()),
            tracer=self._surroundings.tracer,
            authenticator=authenticator,
            failures=self._failures,
            admission=self._surroundings.admission,
            observer=self._surroundings.observer,
            api_key_header=api_key_header,
            max_in_flight=self._settings.server.max.in_flight,
            generation=number,
            proxies=self._proxies,
        )

    def _plan(self, route: Route) -> RoutePlan:
        where = route.line or f"route {route.name}"
        shape = None
        if isinstance(route.target, str):
            service = self._settings.services.get(route.target)
            if service is None:
                known = ", ".join(sorted(self._settings.services)) or "none"
                raise ConfigError(f"{where}: no service is named {route.target!r}; defined services: {known}")
            shape = request_shape(route, service)
        admission = self._surroundings.plan(route)
        return RoutePlan(
            route,
            authorize=compile_rule(route),
            certified=compile_certificate_rule(route.client_certificate),
            admission=admission,
            gate=self._surroundings.gate(route, admission),
            cors=compile_cors(route.cors, route.methods or EVERY_METHOD, where),
            max_body_bytes=self._settings.server.max.body_bytes,
            shape=shape,
            streams=self._surroundings.streams,
        )
