"""The demonstration's services in a real Consul."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.demo.stack import DemoStack
from tests.support.consul_agent import Agent, consul_agent


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with consul_agent() as running:
        yield running


def eventually(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)
    return result


def passing(agent: Agent, service: str) -> list[dict[str, Any]]:
    return [entry["Service"] for entry in agent.get(f"/v1/health/service/{service}?passing=1")]


@contextlib.contextmanager
def service(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", "gateway.demo.services", *arguments])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_service_is_in_consul_while_it_runs(agent: Agent) -> None:
    """D9: registered when it serves, gone before it ends."""
    with service("policies", "--host=0.0.0.0", f"--consul={agent.url}", "--instance=policies-a") as process:
        (found,) = eventually(lambda: passing(agent, "policies"))
        assert found["Meta"]["instance"] == "policies-a"
        assert found["Address"].startswith("127."), "the address by which Consul is reached, not 0.0.0.0"
        with urllib.request.urlopen(f"http://{found['Address']}:{found['Port']}/v1/plans", timeout=5) as reply:
            assert reply.headers["X-Served-By"] == "policies-a"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    assert passing(agent, "policies") == []


def test_advertised_address_is_what_is_registered(agent: Agent) -> None:
    with service("claims", "--host=0.0.0.0", f"--consul={agent.url.removeprefix('http://')}", "--advertise=127.0.0.9"):
        (found,) = eventually(lambda: passing(agent, "claims"))
        assert found["Address"] == "127.0.0.9"


def test_stack_registers_every_instance_where_the_environment_names_consul(agent: Agent) -> None:
    with DemoStack(environment={**os.environ, "CONSUL_HTTP_ADDR": agent.url}) as stack:
        found = eventually(lambda: len(entries := passing(agent, "patients")) == 2 and entries)
        ports = {instance.port for instance in stack.instances if instance.service == "patients"}
        assert {entry["Port"] for entry in found} == ports
    assert passing(agent, "patients") == []


def test_service_serves_while_consul_is_away() -> None:
    with DemoStack(environment={**os.environ, "CONSUL_HTTP_ADDR": "http://127.0.0.1:1"}) as stack:
        with urllib.request.urlopen(f"{stack.instances[0].url}/v1/patients/123", timeout=5) as reply:
            assert reply.status == 200
