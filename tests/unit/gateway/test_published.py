"""Which published routes are served."""

import asyncio
from dataclasses import replace

import pytest

from discovery.instance import ConsulAgent, ConsulQuery, Instance
from discovery.published import Publication, Reading
from gateway import published
from gateway.config import load_text
from gateway.published import Conflict, Publisher, Table, table
from gateway.route import Route
from gateway.settings import Settings
from tests.support.sources import until

SETTINGS = load_text(
    """
version: 1
discovery: {consul: {publish_routes: true}}
limits: {daily: 1000/day}
services: {a: {consul: a}, b: {consul: b}, fixed: {instances: ["http://10.0.0.1:80"]}}
routes:
  - {name: patient, path: "/patients/{id}", methods: [GET], service: a}
  - {name: inside, path: "/files/{rest:path}", hosts: [a.example], service: a}
""".replace("daily: 1000/day", "daily: {quota: 1000/day}"),
    {},
)


def published_by(service: str = "b", path: str = "/claims/{id}", settings: Settings = SETTINGS, **words: tuple[str, ...]) -> Table:
    return table({service: Reading(Publication(path, **words))}, settings)


def test_a_route_that_fits_needs_a_token_and_leads_to_its_service() -> None:
    """D10: never public."""
    (route,) = published_by(methods=("GET", "POST"), scopes=("claims:read",), limits=("daily", "10/second")).routes
    assert (route.name, route.path, route.target, route.methods) == ("published-b", "/claims/{id}", "b", ("GET", "POST"))
    assert (route.authentication, route.scopes, [limit.count for limit in route.limits]) == ("required", ("claims:read",), [1000, 10])


@pytest.mark.parametrize(
    "path",
    ["/patients/{id}", "/patients/{other}", "/patients/me", "/{x}/{y}", "/patients/{id:int}", "/{rest:path}", "/files/", "/files/a/b"],
)
def test_a_path_that_a_route_of_the_file_could_match_is_that_route_s(path: str) -> None:
    """D10: neither shadowed nor narrowed nor widened, whatever the methods and hosts."""
    refused = published_by(path=path, methods=("DELETE",))
    assert refused.routes == ()
    (conflict,) = refused.conflicts
    assert (conflict.service, conflict.path, conflict.applied) == ("b", path, False)
    assert "matches some of its paths" in conflict.reason


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"path": "claims"}, "slash"),
        ({"path": "/claims/../admin"}, "segment"),
        ({"path": "/claims/{id:regex}"}, "unknown parameter type"),
        ({"path": "/claims\r\nX: y"}, "claims"),
        ({"methods": ("get",)}, "not upper case"),
        ({"methods": ("CONNECT",)}, "never routed"),
        ({"scopes": ('a"b',)}, "scope"),
        ({"limits": ("unheard",)}, "unheard"),
        ({"limits": ("0/second",)}, "0/second"),
        ({"limits": ("daily", "daily")}, "twice"),
    ],
)
def test_what_the_file_could_not_say_is_refused_with_the_reason_on_one_line(words: dict[str, object], reason: str) -> None:
    """D10: the words come from elsewhere."""
    refused = published_by(**words)  # type: ignore[arg-type]
    assert refused.routes == ()
    assert reason in refused.conflicts[0].reason
    assert refused.conflicts[0].reason.isprintable()


def test_among_services_the_name_decides() -> None:
    """D10."""
    same = {name: Reading(Publication("/shared/{id}")) for name in ("b", "a")}
    both = table(same, SETTINGS)
    assert [route.target for route in both.routes] == ["a"]
    assert [conflict.service for conflict in both.conflicts] == ["b"]


@pytest.mark.parametrize("service", ["fixed", "unknown"])
def test_only_services_that_the_file_finds_in_consul_publish(service: str) -> None:
    """D10."""
    assert published_by(service) == Table()


def test_a_name_that_is_taken_is_refused() -> None:
    """D10: names tell routes apart in records."""
    taken = replace(SETTINGS, routes=(replace(SETTINGS.routes[0], name="published-b"),))
    assert "the name 'published-b'" in published_by(settings=taken).conflicts[0].reason


def test_what_is_not_read_is_told_beside_a_route_that_is_served() -> None:
    """D10: a service that asks to be public gets a route that is not."""
    served = published_by(strange=("gateway-authentication",))
    assert [route.authentication for route in served.routes] == ["required"]
    assert served.conflicts == (Conflict("b", "/claims/{id}", "gateway-authentication is not read", applied=True),)


def instances(path: str) -> tuple[Instance, ...]:
    return (Instance(id="n/b", host="10.0.0.1", port=1, meta={"gateway-path": path}),)


def test_changes_are_served_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """D10, F-19: a service that flaps makes no storm of generations."""
    monkeypatch.setattr(published, "SETTLE_SECONDS", 0.0)
    served: list[tuple[Route, ...]] = []

    async def scenario() -> None:
        async def serve() -> None:
            served.append(publisher.fitting(SETTINGS))

        publisher = Publisher(serve)
        publisher.start()
        for number in range(300):
            publisher.heard("b", instances(f"/{number}"))
            await asyncio.sleep(0)
        await until(lambda: served)
        await publisher.close()

    asyncio.run(scenario())
    assert len(served) <= published.BURST


def test_a_service_without_instances_keeps_its_route() -> None:
    """D10: 503 says more than 404."""

    async def serve() -> None:
        """Nothing is served here."""

    publisher = Publisher(serve)
    publisher.heard("b", instances("/b"))
    publisher.heard("b", ())
    assert [route.path for route in publisher.fitting(SETTINGS)] == ["/b"]


def test_services_publish_only_where_they_may() -> None:
    """D10: `publish_routes`."""

    async def serve() -> None:
        """Nothing is served here."""

    publisher = Publisher(serve)
    publisher.heard("b", instances("/b"))
    assert publisher.fitting(replace(SETTINGS, consul=ConsulAgent())) == ()
    assert publisher.fitting(replace(SETTINGS, consul=None)) == ()
    assert SETTINGS.services["b"].consul == ConsulQuery("b")


def test_each_conflict_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """D10: reported in the log."""

    async def serve() -> None:
        """Nothing is served here."""

    publisher = Publisher(serve)
    publisher.heard("b", instances("/patients/{id}"))
    for _ in range(3):
        publisher.fitting(SETTINGS)
    assert caplog.text.count("service b publishes the route '/patients/{id}', not served:") == 1
