"""Routes that services publish of themselves (SPEC D10)."""

from __future__ import annotations

from discovery.instance import ConsulQuery, Instance
from discovery.published import read
from gateway.published import table
from gateway.route import Limit, Route, Service
from gateway.router import Router
from gateway.settings import Settings
from gateway.template import parse_route
from tests.fuzz.target import Target

_SERVICES = {
    "patients": Service(name="patients", consul=ConsulQuery("patients")),
    "claims": Service(name="claims", consul=ConsulQuery("claims")),
    "fixed": Service(name="fixed", instances=(Instance("a", "10.0.0.1", 80),)),
}
_LIMITS = {"per-client": Limit(name="per-client", kind="gcra", count=100, period_us=60_000_000, key=("subject",), burst=100)}
_ROUTES = (
    Route(name="get-patient", path="/patients/{id}", target="patients", methods=("GET",)),
    Route(name="records", path="/records/{rest:path}", target="fixed", hosts=("api.example.gov",)),
)
_SETTINGS = Settings(services=_SERVICES, limits=_LIMITS, routes=_ROUTES)


def check(data: bytes) -> None:
    """Blocks of `KEY=VALUE` lines, each the metadata of an instance, under the name of a service.

    Whatever they say, the table is one that the router takes beside the routes of the file; a published route always asks for
    credentials, leads to the service that published it and has no path that a route of the file has; a refusal is one bounded line.
    """
    instances: dict[str, list[Instance]] = {}
    for number, block in enumerate(data.decode("utf-8", "replace").split("\n\n")[:8]):
        service, _, lines = block.partition("\n")
        meta = dict(line.partition("=")[::2] for line in lines.split("\n") if line)
        instances.setdefault(service, []).append(Instance(str(number), "10.0.0.1", 80, meta=meta))
    readings = {service: read(found) for service, found in instances.items()}
    assert readings == {service: read(found[::-1]) for service, found in instances.items()}
    published = table(readings, _SETTINGS)
    Router((route, None) for route in (*_ROUTES, *published.routes))
    for route in published.routes:
        assert route.authentication == "required"
        assert route.target in ("patients", "claims")
        assert route.target in instances
        assert not route.hosts
        parse_route(route)
    assert len({route.target for route in published.routes}) == len(published.routes)
    for conflict in published.conflicts:
        assert conflict.service in instances
        assert conflict.reason.isascii()
        assert conflict.reason.isprintable()
        assert 0 < len(conflict.reason) <= 600
    refused = {conflict.service for conflict in published.conflicts if not conflict.applied}
    said = {service for service, reading in readings.items() if reading.publication is not None}
    # Everything that was published by a service that may do so is served or told of.
    assert said & {"patients", "claims"} == refused | {str(route.target) for route in published.routes}


TARGET = Target(
    "published",
    check,
    ("discovery.published", "gateway.published", "gateway.template", "gateway.config.routes"),
    (),
    (
        b"patients\n",
        b"claims\n",
        b"gateway-path=/a/{id}\n",
        b"gateway-methods=GET,POST\n",
        b"gateway-scopes=a:read\n",
        b"gateway-limits=10/second,per-client\n",
        b"gateway-x=1\n",
        b"/patients/{x}",
        b"{r:path}",
        b"\n\n",
    ),
)
