"""What is away when the gateway starts, or goes away later: it says so once, never admits silently, and comes back by itself."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.consul_agent import consul_agent
from tests.support.identity_provider import Answer, identity_provider
from tests.support.ports import free_port
from tests.support.processes import alive, command_line, descendants
from tests.support.redis_server import redis_server, wait_until
from tests.support.whole_gateway import (
    Json,
    Login,
    ProcessGateway,
    Upstream,
    base_document,
    process_gateway,
    running,
    upstream,
)


@pytest.fixture(scope="module")
def login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    with identity_provider() as provider:
        yield Login.at(provider, tmp_path_factory.mktemp("login"))


@pytest.fixture(scope="module")
def service() -> Iterator[Upstream]:
    with upstream("patients-1") as started:
        yield started


def document_for(directory: Path, login: Login, service: Upstream, **sections: object) -> Json:
    return base_document(
        directory,
        **{
            "authentication": {"issuers": login.authentication["issuers"]},
            "services": {"patients": {"instances": [service.url]}},
            "limits": {"burst": {"rate": "1/hour", "burst": 20, "key": "subject"}},
            "routes": [
                {"name": "limited", "path": "/limited", "service": "patients", "limits": ["burst"], "scopes": ["patients:read"]},
                {"name": "checked", "path": "/checked", "service": "patients"},
                {"name": "anonymous", "path": "/anonymous", "service": "patients", "authentication": "none", "limits": ["5/second"]},
                {"name": "public", "path": "/public", "service": "patients", "authentication": "none"},
            ],
            **sections,
        },
    )


def ready(gateway: ProcessGateway) -> tuple[int, Json]:
    reply = gateway.admin("GET", "/readyz", token="")
    return reply.status_code, reply.json()


def complaints(gateway: ProcessGateway) -> list[str]:
    return [line for line in gateway.said.splitlines() if "WARNING" in line or "ERROR" in line or "Traceback" in line]


def assert_closed(gateway: ProcessGateway, login: Login, service: Upstream) -> None:
    """Nothing that the store has to decide about is let through, and the refusal doesn't look like anything else (SPEC section 3)."""
    before = len(service.seen)
    headers = login.bearer(f"subject-{secrets.token_hex(4)}", "patients:read")
    for path in ("/limited", "/checked", "/anonymous"):
        reply = gateway.request("GET", path, headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (503, "store_unavailable"), reply.text
        assert int(reply.headers["retry-after"]) >= 1
        assert "ratelimit" not in reply.headers
    assert len(service.seen) == before
    assert gateway.request("GET", "/limited").status_code == 401, "who has no token is told so before the store is asked"
    assert gateway.request("GET", "/public").status_code == 200, "there is nothing to ask the store"


def test_store_that_is_away_at_the_start(tmp_path: Path, login: Login, service: Upstream) -> None:
    """L9, F-52: started, not ready, closed; ready by itself once the store is there; and a later outage does not make it unready."""
    port = free_port()
    with running(
        tmp_path, document_for(tmp_path, login, service, state={"url": f"redis://127.0.0.1:{port}/0", "budget": "200ms"})
    ) as gateway:
        (line,) = complaints(gateway)
        assert "the store is not usable" in line
        assert f"127.0.0.1:{port}" in line
        assert ready(gateway) == (503, {"ready": False, "waiting_for": ["store"]})
        assert gateway.admin("GET", "/livez").status_code == 200
        assert_closed(gateway, login, service)
        headers = login.bearer("late", "patients:read")
        with redis_server("redis", "--port", str(port)) as server:
            wait_until(lambda: ready(gateway) == (200, {"ready": True}), "the gateway to find the store")
            assert gateway.request("GET", "/limited", headers=headers).status_code == 200
            server.kill()
            wait_until(lambda: gateway.request("GET", "/limited", headers=headers).status_code == 503, "the outage to be noticed")
            assert_closed(gateway, login, service)
            assert ready(gateway) == (200, {"ready": True})
            assert 'gateway_store_state{mode="unavailable"} 1.0' in gateway.admin("GET", "/metrics").text
            server.start_again()
            wait_until(lambda: gateway.request("GET", "/limited", headers=headers).status_code == 200, "the store to be used again")
        assert gateway.said.count("the store is not usable") <= 3, "one line an outage"
        record = gateway.wait_for_record(lambda each: each.get("reason") == "store_unavailable")
        assert record["decision"] == "deny"


def test_store_with_another_password_is_not_used(tmp_path: Path, login: Login, service: Upstream) -> None:
    """L9: closed, one line, and no secret in it; right by itself once the server knows the password."""
    with redis_server("redis", "--requirepass", "right-password") as server:
        url = f"redis://:wrong-canary@127.0.0.1:{server.port}/0"
        with running(tmp_path, document_for(tmp_path, login, service, state={"url": url, "budget": "200ms"})) as gateway:
            (line,) = complaints(gateway)
            assert "authentication" in line
            assert ready(gateway)[0] == 503
            assert_closed(gateway, login, service)
            assert "canary" not in gateway.said + gateway.file.read_text() + gateway.admin("GET", "/v1/config").text
            import redis

            with redis.Redis(port=server.port, password="right-password") as client:
                client.config_set("requirepass", "wrong-canary")
            wait_until(lambda: ready(gateway)[0] == 200, "the gateway to be let in")


def test_admin_api_says_that_the_store_is_away(tmp_path: Path, login: Login, service: Upstream) -> None:
    """V2: a revocation that was not written is not acknowledged."""
    url = f"redis://127.0.0.1:{free_port()}/0"
    with running(tmp_path, document_for(tmp_path, login, service, state={"url": url})) as gateway:
        for method, path, body in (
            ("POST", "/v1/revocations", {"kind": "subject", "value": "x"}),
            ("GET", "/v1/revocations", None),
            ("DELETE", "/v1/revocations/subject/x", None),
        ):
            reply = gateway.admin(method, path, json=body)
            assert (reply.status_code, reply.json()["code"]) == (503, "store_unavailable")
            assert reply.headers["retry-after"]
        assert not gateway.records(lambda each: each["event"] == "admin")


def test_consul_that_is_away_at_the_start(tmp_path: Path, login: Login, service: Upstream) -> None:
    """D3, F-19: started, not ready, 503 no_instance, one line a service; right by itself when Consul comes."""
    with consul_agent() as agent:
        agent.kill()
        document = document_for(
            tmp_path,
            login,
            service,
            discovery={"consul": {"url": agent.url}},
            services={"patients": {"consul": "patients"}},
        )
        gateway = process_gateway(tmp_path, document)
        try:
            gateway.wait_until_listening()
            assert ready(gateway) == (503, {"ready": False, "waiting_for": ["discovery"]})
            reply = gateway.request("GET", "/public")
            assert (reply.status_code, reply.json()["code"]) == (503, "no_instance")
            assert reply.headers["retry-after"]
            assert len(complaints(gateway)) <= 2, complaints(gateway)
            assert agent.host in gateway.said
            agent.start()
            agent.register("patients", service.port)
            wait_until(lambda: gateway.request("GET", "/public").status_code == 200, "the service to be found", 40)
            assert ready(gateway)[0] == 200
            agent.kill()
            assert gateway.request("GET", "/public").status_code == 200, "what was known stays"
            assert gateway.stop() == 0
        finally:
            gateway.kill()


def test_keys_that_are_away_at_the_start(tmp_path: Path, login: Login, service: Upstream) -> None:
    """A4: not ready, tokens are 503 and never 401 or 200, public routes serve; right by itself."""
    keys = login.provider.answers["/jwks"]
    login.provider.answers["/jwks"] = Answer(b"down", 503)
    headers = login.bearer("somebody")
    try:
        gateway = process_gateway(tmp_path, document_for(tmp_path, login, service))
        gateway.wait_until_listening()
        wait_until(lambda: "keys can't be fetched" in gateway.said, "the gateway to say it")
        assert len(complaints(gateway)) == 1
        assert ready(gateway) == (503, {"ready": False, "waiting_for": ["keys"]})
        reply = gateway.request("GET", "/checked", headers=headers)
        assert (reply.status_code, reply.headers["content-type"]) == (503, "application/problem+json")
        assert int(reply.headers["retry-after"]) >= 1
        assert gateway.request("GET", "/public").status_code == 200
        login.provider.answers["/jwks"] = keys
        wait_until(lambda: ready(gateway)[0] == 200, "the keys to be fetched", 20)
        assert gateway.request("GET", "/checked", headers=headers).status_code == 200
        assert gateway.stop() == 0
    finally:
        login.provider.answers["/jwks"] = keys
        gateway.kill()


def test_signal_while_it_starts_ends_it_in_order(tmp_path: Path, login: Login, service: Upstream) -> None:
    """F-53: told to stop before it serves: exit 0, at once."""
    with consul_agent() as agent:
        agent.kill()
        document = document_for(
            tmp_path, login, service, discovery={"consul": {"url": agent.url}}, services={"patients": {"consul": "patients"}}
        )
        gateway = process_gateway(tmp_path, document)
        try:
            # It waits some seconds for discovery; by then it handles signals.
            wait_until(lambda: agent.host in gateway.said, "the gateway to ask Consul")
            assert gateway.stop() == 0, gateway.said
            assert "Gateway listening" not in gateway.said
        finally:
            gateway.kill()


def test_audit_begins_with_start_and_ends_with_stop(tmp_path: Path, login: Login, service: Upstream) -> None:
    """S-34: life-cycle events."""
    with running(tmp_path, document_for(tmp_path, login, service)) as gateway:
        gateway.request("GET", "/public")
    events = [json.loads(line)["event"] for line in gateway.file.read_text().splitlines()]
    assert events == ["start", "request", "admin", "stop"]


def embedded_document(directory: Path, login: Login, service: Upstream, workers: int) -> Json:
    return base_document(
        directory,
        server={"workers": workers},
        state={"url": "embedded://"},
        authentication={"issuers": login.authentication["issuers"]},
        services={"patients": {"instances": [service.url]}},
        limits={"few": {"rate": "5/hour", "key": "subject"}},
        routes=[{"name": "limited", "path": "/limited", "service": "patients", "limits": ["few"]}],
    )


def arrived(gateway: ProcessGateway) -> int:
    """How many mirrors revocations have arrived in, all together."""
    found = re.search(r"(?m)^gateway_revocation_propagation_seconds_count (\S+)", gateway.admin("GET", "/metrics").text)
    return int(float(found[1])) if found is not None else 0


def store_of(gateway: ProcessGateway) -> int:
    """The process id of its store; 0 while there is none."""
    return next((pid for pid in descendants(gateway.process.pid) if alive(pid) and "store.sock" in command_line(pid)), 0)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_store_that_was_killed_is_started_again(workers: int, tmp_path: Path, login: Login, service: Upstream) -> None:
    """V4, L9: 503 until it is back; then limits start full, and who was revoked still is, on every worker. Twice: also soon after."""
    revoked, other = login.bearer("revoked"), login.bearer("other")
    with running(tmp_path, embedded_document(tmp_path, login, service, workers)) as gateway:

        def answer(headers: dict[str, str]) -> int:
            status = gateway.request("GET", "/limited", headers=headers).status_code
            assert status in (200, 401, 429, 503)
            return status

        wait_until(lambda: gateway.admin("GET", "/readyz", token="").status_code == 200, "the gateway to be ready")
        entry = {"kind": "subject", "value": "revoked", "reason": "test"}
        assert gateway.admin("POST", "/v1/revocations", json=entry).status_code == 201
        wait_until(lambda: arrived(gateway) == workers, "every worker's mirror to have heard of it")
        for times in (1, 2):
            while answer(other) != 429:
                assert answer(revoked) == 401
            before = store_of(gateway)
            os.kill(before, signal.SIGKILL)
            seen = set[int]()

            def admitted(seen: set[int] = seen) -> bool:
                seen.add(answer(revoked))
                return answer(other) == 200

            wait_until(admitted, "the store to be back, with limits that start full", 30)
            assert seen <= {401, 503}
            assert [answer(revoked) for _ in range(10)] == [401] * 10
            assert store_of(gateway) not in (0, before)
            assert gateway.said.count("the embedded store has ended") == times
