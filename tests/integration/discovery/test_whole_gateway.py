"""Discovery seen through a whole gateway: a cold start from disk, and routes that services publish."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.consul_agent import Agent, consul_agent
from tests.support.identity_provider import identity_provider
from tests.support.redis_server import wait_until
from tests.support.whole_gateway import Json, Login, ProcessGateway, Upstream, base_document, process_gateway, running, upstream


@pytest.fixture(scope="module")
def login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    with identity_provider() as provider:
        yield Login.at(provider, tmp_path_factory.mktemp("login"))


@pytest.fixture(scope="module")
def service() -> Iterator[Upstream]:
    with upstream("patients-1") as started:
        yield started


@pytest.fixture
def agent() -> Iterator[Agent]:
    with consul_agent() as running_agent:
        yield running_agent


def document(directory: Path, login: Login, agent: Agent, **discovery: object) -> Json:
    return base_document(
        directory,
        authentication={"issuers": login.authentication["issuers"]},
        discovery={"consul": {"url": agent.url, "publish_routes": True}, **discovery},
        services={"patients": {"consul": "patients"}, "claims": {"consul": "claims"}},
        routes=[{"name": "patient", "path": "/patients/{id}", "methods": ["GET"], "service": "patients"}],
    )


def routes(gateway: ProcessGateway) -> Json:
    table = gateway.admin("GET", "/v1/routes").json()
    assert isinstance(table, dict)
    return table


def paths(gateway: ProcessGateway) -> list[str]:
    return sorted(route["path"] for route in routes(gateway)["routes"])


def test_a_cold_start_without_consul_serves_and_says_so(tmp_path: Path, login: Login, service: Upstream, agent: Agent) -> None:
    """D6, F-19, D10: instances and published routes come from the snapshot on disk."""
    agent.register("patients", service.port, Meta={"gateway-path": "/published/{id}"})
    agent.register("claims", service.port, ID="claims")
    settings = document(tmp_path, login, agent, cache_dir=str(tmp_path / "cache"))
    headers = login.bearer("somebody")
    with running(tmp_path, settings) as gateway:
        wait_until(lambda: "/published/{id}" in paths(gateway), "the route to be published")
        assert gateway.request("GET", "/published/1", headers=headers).status_code == 200
    agent.kill()
    gateway = process_gateway(tmp_path, settings)
    try:
        gateway.wait_until_listening()
        assert gateway.admin("GET", "/readyz").status_code == 200
        for path in ("/patients/1", "/published/1"):
            assert gateway.request("GET", path, headers=headers).status_code == 200
        (patients,) = [each for each in gateway.admin("GET", "/v1/services").json()["services"] if each["name"] == "patients"]
        assert patients["stale"]
        assert patients["restored_seconds_ago"] >= 0
        assert 'gateway_discovery_restored{service="patients"} 1.0' in gateway.admin("GET", "/metrics").text
        assert "come from the snapshot on disk" in gateway.said
        assert gateway.stop() == 0
    finally:
        gateway.kill()


def test_services_publish_routes_that_never_shadow_and_are_never_public(
    tmp_path: Path, login: Login, service: Upstream, agent: Agent
) -> None:
    """D10: served within seconds with their scopes and limits, withdrawn with their metadata; conflicts are shown, not applied."""
    wanted = {"gateway-path": "/claims/{id}", "gateway-methods": "GET,DELETE", "gateway-scopes": "claims:read", "gateway-limits": "2/day"}
    reader, other = login.bearer("reader", "claims:read"), login.bearer("other")

    def publish(**meta: str) -> None:
        agent.register("claims", service.port, ID="claims", Meta=meta)

    with running(tmp_path, document(tmp_path, login, agent)) as gateway:
        agent.register("patients", service.port)
        publish()
        assert gateway.request("GET", "/claims/1", headers=reader).status_code == 404
        publish(**wanted, **{"gateway-authentication": "none"})
        wait_until(lambda: "/claims/{id}" in paths(gateway), "the route to be published")
        assert gateway.request("GET", "/claims/1").status_code == 401
        assert gateway.request("GET", "/claims/1", headers=other).status_code == 403
        assert gateway.request("POST", "/claims/1", headers=reader).status_code == 405
        assert [gateway.request("GET", "/claims/1", headers=reader).status_code for _ in range(3)] == [200, 200, 429]
        (remark,) = routes(gateway)["conflicts"]
        assert (remark["service"], remark["applied"]) == ("claims", True)

        publish(**{**wanted, "gateway-path": "/patients/me"})
        wait_until(lambda: paths(gateway) == ["/patients/{id}"], "the route to be withdrawn")
        (conflict,) = routes(gateway)["conflicts"]
        assert (conflict["path"], conflict["applied"]) == ("/patients/me", False)
        assert "'patient'" in conflict["reason"]
        assert 'gateway_published_conflicts{service="claims"} 1.0' in gateway.admin("GET", "/metrics").text
        assert gateway.request("GET", "/patients/me", headers=other).status_code == 200, "the file's route, without scopes"
        assert "publishes the route '/patients/me', not served" in gateway.said

        publish()
        wait_until(lambda: routes(gateway)["conflicts"] == [], "the conflict to end", 30)
        assert routes(gateway)["generation"] == 3
        record = gateway.wait_for_record(lambda each: each["event"] == "config")
        assert record["detail"] == {"generation": 2, "published": ["published-claims /claims/{id}"]}


def test_a_reload_fits_published_routes_anew(tmp_path: Path, login: Login, service: Upstream, agent: Agent) -> None:
    """D10, G3: the file has the first word, also later; a published route never makes a reload fail."""
    agent.register("claims", service.port, ID="claims", Meta={"gateway-path": "/claims/{id}"})
    agent.register("patients", service.port)
    first = document(tmp_path, login, agent)
    headers = login.bearer("reader")

    def reload(content: Json) -> None:
        fresh = tmp_path / "fresh"
        fresh.write_text(json.dumps(content))
        fresh.rename(tmp_path / "gateway.yaml")
        reply = gateway.admin("POST", "/v1/reload")
        assert reply.status_code == 200, reply.text

    def status() -> int:
        return gateway.request("GET", "/claims/1", headers=headers).status_code

    with running(tmp_path, first) as gateway:
        wait_until(lambda: "/claims/{id}" in paths(gateway), "the route to be published")
        assert status() == 200
        taken = {"name": "taken", "path": "/claims/{rest:path}", "service": "claims", "roles": ["auditor"]}
        reload({**first, "routes": [*first["routes"], taken]})
        assert status() == 403, "the file's route, with its rule"
        assert [conflict["path"] for conflict in routes(gateway)["conflicts"]] == ["/claims/{id}"]
        reload(first)
        assert (status(), routes(gateway)["conflicts"]) == (200, [])
        reload({**first, "discovery": {"consul": {"url": agent.url}}})
        assert (status(), paths(gateway)) == (404, ["/patients/{id}"])
        reload(first)
        wait_until(lambda: status() == 200, "the route to be published again")
        assert "Traceback" not in gateway.said
