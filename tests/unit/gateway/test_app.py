"""Declaring a gateway in Python: what is kept, and what is refused where it is written down."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from gateway import BackendAPIGateway, ConfigError
from gateway.app import listening_at
from gateway.route import Limit, Local
from gateway.server.face import AsgiFace
from gateway.settings import Settings


def handler(request: Any) -> dict[str, Any]:
    return {"data": None}


def test_book_import_gives_the_same_class() -> None:
    """CONTRACT section 2: the import path of the HMS-ETL book."""
    from hms_etl.gateway import BackendAPIGateway as of_the_book

    assert of_the_book is BackendAPIGateway


def test_decorated_function_stays_what_it_is() -> None:
    """CONTRACT section 2: it can be called and tested by itself."""
    gateway = BackendAPIGateway()
    assert gateway.route("/a")(handler) is handler
    (route,) = gateway.settings.routes
    assert (route.path, route.methods, route.authentication) == ("/a", ("GET",), "required")
    assert isinstance(route.target, Local)
    assert repr(gateway) == "<BackendAPIGateway routes=1 services=0>"


def test_both_faces_declare_the_same_route(tmp_path: Path) -> None:
    """Decision 11: a file and its like in Python make equal routes, but for where they stand."""
    file = tmp_path / "gateway.yaml"
    file.write_text(
        """
version: 1
services: {patients: {instances: ["http://127.0.0.1:1"]}}
limits: {per-client: {rate: 10/second, burst: 5}}
routes: [{name: x, path: "/x/{id}", methods: [GET], service: patients, limits: [per-client, 1000/day], scopes: [a], cost: 2}]
"""
    )
    gateway = BackendAPIGateway()
    gateway.limit("per-client", "10/second", burst=5)
    gateway.service("patients", instances=["http://127.0.0.1:1"])
    gateway.proxy("/x/{id}", "patients", ["GET"], name="x", limits=["per-client", "1000/day"], scopes=["a"], cost=2)
    (declared,), (loaded,) = gateway.settings.routes, BackendAPIGateway(config=file).settings.routes
    assert {name: getattr(declared, name) for name in declared.__slots__ if name != "line"} == {
        name: getattr(loaded, name) for name in loaded.__slots__ if name != "line"
    }
    assert gateway.settings.services == BackendAPIGateway(config=file).settings.services
    assert declared.line.startswith("test_app.py:")


def test_routes_of_a_file_come_first_and_its_limits_can_be_referred_to(tmp_path: Path) -> None:
    """CONTRACT section 2: `config` and decorators together."""
    file = tmp_path / "gateway.yaml"
    file.write_text(
        """
version: 1
services: {patients: {instances: ["http://127.0.0.1:1"]}}
limits: {per-client: {rate: 10/second}}
routes: [{name: first, path: /first, service: patients}]
"""
    )
    gateway = BackendAPIGateway(config=file)
    gateway.proxy("/second", "patients", name="second", limits=["per-client"])
    gateway.route("/third", name="third", limits=["per-client"])(handler)
    assert [route.name for route in gateway.settings.routes] == ["first", "second", "third"]
    limit = gateway.settings.routes[2].limits[0]
    assert limit == Limit(name="per-client", kind="gcra", count=10, period_us=1_000_000, burst=10)


def test_file_and_keywords_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes either config or keyword settings, not both: state"):
        BackendAPIGateway(config=tmp_path / "x.yaml", state={"url": "embedded://"})


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda gateway: gateway.proxy("/x", "nobody"), "no service is named 'nobody'; declared so far: patients"),
        (lambda gateway: gateway.service("patients", instances=["http://127.0.0.1:2"]), "service 'patients' is declared already"),
        (lambda gateway: gateway.service("x"), "neither consul nor instances"),
        (lambda gateway: gateway.service("x", instances=["ftp://127.0.0.1"]), "http://"),
        (lambda gateway: gateway.route("no-slash")(handler), "path"),
        (lambda gateway: gateway.route("/x", scope="a")(handler), "scope"),
        (lambda gateway: gateway.route("/x", limits=["nobody"])(handler), "nobody"),
        (lambda gateway: gateway.route("/x", methods=["G ET"])(handler), "methods"),
        (lambda gateway: gateway.limit("x", "10/fortnight"), "rate"),
        (lambda gateway: gateway.limit("x"), "rate, quota and concurrency"),
        (lambda gateway: gateway.route("/x")(lambda: None), "a handler takes one argument, the request"),
        (lambda gateway: gateway.route("/x")(lambda a, b: None), "a handler takes one argument, the request"),
        (lambda gateway: gateway.route("/x")("text"), "a route needs a function, not a str"),
    ],
)
def test_what_cannot_be_used_is_refused_where_it_is_declared(declare: Any, message: str) -> None:
    """CONTRACT section 2: with the place in the application's code."""
    gateway = BackendAPIGateway()
    gateway.service("patients", instances=["http://127.0.0.1:1"])
    with pytest.raises(ConfigError) as caught:
        declare(gateway)
    assert message in str(caught.value)
    assert "test_app" in str(caught.value)


def test_client_and_runtime_need_a_running_gateway() -> None:
    gateway = BackendAPIGateway()
    with pytest.raises(RuntimeError, match="the gateway is not running"):
        gateway.client("patients")


@pytest.mark.parametrize(
    ("error", "message"),
    [(ConfigError("state.url: no"), "could not start: state.url: no"), (RuntimeError("canary"), "could not start: RuntimeError")],
)
def test_server_is_told_when_the_start_fails(error: Exception, message: str, caplog: pytest.LogCaptureFixture) -> None:
    """ASGI lifespan: an exception would be taken for an application without lifespan, which is then served."""
    sent: list[Any] = []

    async def opener() -> Any:
        raise error

    async def receive() -> dict[str, str]:
        return {"type": "lifespan.startup"}

    async def send(each: Any) -> None:
        sent.append(each)

    with caplog.at_level(logging.CRITICAL, "gateway.face"):
        asyncio.run(AsgiFace(opener)({"type": "lifespan"}, receive, send))
    assert sent == [{"type": "lifespan.startup.failed", "message": message}]


def test_mount_takes_everything_below_its_path() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        """Answers nothing."""

    gateway = BackendAPIGateway()
    gateway.mount("/docs", app, authentication="none")
    (route,) = gateway.settings.routes
    assert isinstance(route.target, Local)
    assert route.target.mounted


def test_address_of_the_command_line_wins() -> None:
    """CONTRACT section 3: `run --host --port --workers`."""
    settings = listening_at(Settings(), None, 0, 4)
    assert (settings.server.host, settings.server.port, settings.server.workers) == ("127.0.0.1", 0, 4)
    assert listening_at(Settings(), "0.0.0.0", None, None).server.host == "0.0.0.0"
