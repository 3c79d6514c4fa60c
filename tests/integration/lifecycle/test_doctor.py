"""`gateway doctor`, and the part of it that a start makes: on real servers, set up well and badly."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.settings import StateSettings
from gateway.store.examination import examine
from gateway.store.redis import Store
from tests.support.consul_agent import shared_agent
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, any_server, redis_server, run, wait_until
from tests.support.whole_gateway import ROOT, Json, base_document, running


@pytest.fixture(scope="module", params=["redis", "valkey"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with any_server(request.param) as started:
        yield started


def document(directory: Path, url: str, **sections: Any) -> Json:
    return base_document(
        directory,
        **{
            "state": {"url": url},
            "services": {"patients": {"instances": ["http://127.0.0.1:1"]}},
            "routes": [{"name": "public", "path": "/public", "service": "patients", "authentication": "none"}],
            **sections,
        },
    )


def examined(directory: Path, content: Json | str) -> tuple[int, dict[str, str]]:
    """The exit code, and what was said of each thing: its level and the rest of the line."""
    file = directory / "doctor.yaml"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    command = [sys.executable, "-m", "gateway", "doctor", "-c", str(file)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GATEWAY_")} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    told: dict[str, str] = {}
    for line in done.stdout.splitlines():
        level, what, rest = line.split(maxsplit=2)
        told[what] = f"{told[what]}\n{level} {rest}" if what in told else f"{level} {rest}"
    return done.returncode, told


def test_good_store_and_its_other_replica(server: RedisServer, tmp_path: Path) -> None:
    """SPEC section 3: shared and writable, a nonce read back by a peer, scripts, clock, eviction; exit 0."""
    with running(tmp_path, document(tmp_path, server.url)) as gateway:
        wait_until(lambda: gateway.admin("GET", "/readyz").status_code == 200, "the gateway to be ready")
        code, told = examined(tmp_path, document(tmp_path, server.url))
    assert code == 0, told
    assert told["store"].startswith("ok written by one connection and read by another")
    assert told["clock"].startswith("ok scripts run")
    assert told["eviction"].startswith("ok noeviction")
    assert "read what was written here" in told["peers"]
    assert told["port"].count("is free") == 2
    with server.client() as client:
        assert list(client.scan_iter("*doctor*")) == []


def test_store_that_is_away(tmp_path: Path) -> None:
    """CONTRACT section 3: one line, exit 1, and no password in it."""
    code, told = examined(tmp_path, document(tmp_path, "redis://:hidden@127.0.0.1:1/0"))
    assert code == 1
    assert told["store"].startswith("PROBLEM it can't be used: ")
    assert "hidden" not in told["store"]


def test_store_that_forgets(tmp_path: Path) -> None:
    """SPEC section 3: eviction is a problem, a store without persistence a warning."""
    with redis_server("redis", "--maxmemory-policy", "allkeys-lru", "--save", "", "--appendonly", "no") as forgetful:
        code, told = examined(tmp_path, document(tmp_path, forgetful.url))
        assert code == 1
        assert told["eviction"].startswith("PROBLEM maxmemory-policy is allkeys-lru")
        assert told["persistence"].startswith("warning the store keeps nothing over a restart")
        with forgetful.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("appendonly", "yes")
        code, told = examined(tmp_path, document(tmp_path, forgetful.url))
        assert code == 0
        assert told["persistence"] == "ok the store keeps its data over a restart"


def test_user_that_may_not_do_enough(tmp_path: Path) -> None:
    """SPEC section 3: scripts refused are a problem; a server that doesn't say how it is set up is a warning."""
    with redis_server("redis") as strict:
        with strict.client() as client:
            client.acl_setuser("dumb", enabled=True, passwords=["+secret"], keys=["gw:*"], commands=["+@all", "-@scripting", "+info"])
            client.acl_setuser("quiet", enabled=True, passwords=["+secret"], keys=["gw:*"], commands=["+@all", "-info", "-config"])
        address = f"127.0.0.1:{strict.port}/0"
        code, told = examined(tmp_path, document(tmp_path, f"redis://dumb:secret@{address}"))
        assert (code, told["scripts"].partition(":")[0]) == (1, "PROBLEM the store refuses scripts, which every decision is made by")
        code, told = examined(tmp_path, document(tmp_path, f"redis://quiet:secret@{address}"))
        assert (code, told["server"].partition(":")[0]) == (0, "warning it does not say how it is set up")


def test_server_that_can_not_be_written(tmp_path: Path) -> None:
    """SPEC section 3: a replica in place of the primary."""
    with redis_server("redis") as primary, redis_server("redis") as replica:
        with replica.client() as client:
            client.replicaof("127.0.0.1", str(primary.port))
        code, told = examined(tmp_path, document(tmp_path, replica.url))
        assert code == 1
        assert told["store"].startswith("PROBLEM it can't be used")


def test_clock_that_is_off(server: RedisServer) -> None:
    """SPEC section 3: more than a second is told, with its direction."""

    async def main() -> None:
        store = Store.open(StateSettings(url=server.url))
        for offset, told in ((5.0, "behind"), (-5.0, "ahead of")):
            (finding,) = [each for each in await examine(store, lambda offset=offset: time.time() + offset) if each.what == "clock"]  # type: ignore[misc]
            assert finding.level == "warning"
            assert f"s {told} ours" in finding.told
        await store.close()

    run(main())


def test_port_that_is_taken_and_keys_that_can_not_be_used(tmp_path: Path, server: RedisServer) -> None:
    """CONTRACT section 3: everything is told at once."""
    (tmp_path / "keys.json").write_text('{"keys": []}')
    issuer = {"name": "login", "issuer": "https://login", "audience": ["hms"], "jwks_file": str(tmp_path / "keys.json")}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        content = document(tmp_path, server.url, authentication={"issuers": [issuer]})
        content["admin"]["port"] = taken.getsockname()[1]
        code, told = examined(tmp_path, content)
    assert code == 1
    assert "PROBLEM admin.host and admin.port" in told["port"]
    assert told["keys"].startswith("PROBLEM issuer 'login': jwks_file")


def test_configuration_with_problems_is_a_problem(tmp_path: Path) -> None:
    """CONTRACT section 3: exit 1, with each of them; no file at all is bad usage."""
    code, told = examined(tmp_path, "version: 1\nserver: {prot: 1}\nadmin: {token_file: missing}\n")
    assert code == 1
    assert "server.prot" in told["config"]
    assert "admin.token_file" in told["config"]
    command = [sys.executable, "-m", "gateway", "doctor", "-c", str(tmp_path / "nowhere.yaml")]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 2


def test_consul(tmp_path: Path, server: RedisServer) -> None:
    """CONTRACT section 3: reachable, and what it says of each service."""
    services = {"patients": {"consul": f"doctor-{free_port()}"}}
    with shared_agent() as agent:
        content = document(tmp_path, server.url, services=services, discovery={"consul": {"url": agent.url}})
        code, told = examined(tmp_path, content)
    assert code == 0
    assert told["consul"].startswith("warning service patients: no instance passes its checks")
    content["discovery"]["consul"]["url"] = "http://127.0.0.1:1"
    code, told = examined(tmp_path, content)
    assert code == 1
    assert told["consul"].startswith("PROBLEM service patients: ")


def test_start_says_what_is_wrong_with_the_store(tmp_path: Path) -> None:
    """SPEC section 3, F-52: in the log, once the store is met; the start neither waits for it nor fails."""
    port = free_port()
    with running(tmp_path, document(tmp_path, f"redis://127.0.0.1:{port}/0")) as gateway:
        assert gateway.admin("GET", "/readyz").status_code == 503
        with redis_server("redis", "--port", str(port), "--maxmemory-policy", "volatile-ttl"):
            wait_until(lambda: "self-test: eviction: maxmemory-policy is volatile-ttl" in gateway.said, "the self-test")
            wait_until(lambda: gateway.admin("GET", "/readyz").status_code == 200, "the gateway to be ready")
