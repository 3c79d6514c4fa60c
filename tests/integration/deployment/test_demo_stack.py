"""The demonstration's processes: they start, answer, name themselves, and always end."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from gateway.demo.stack import INSTANCES, DemoError, DemoInstance, DemoStack

PARENT = """
import sys, time
from gateway.demo.stack import DemoStack
stack = DemoStack()
stack.start()
print(*(each.port for each in stack.instances), flush=True)
time.sleep(60)
"""


def fetch(port: int, path: str, method: str = "GET", body: Any = None) -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        reply = connection.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, json.loads(reply.read())
    finally:
        connection.close()


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def eventually(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def by_name(stack: DemoStack) -> dict[str, DemoInstance]:
    return {instance.name: instance for instance in stack.instances}


def test_stack_serves_and_then_leaves_nothing_behind() -> None:
    with DemoStack() as stack:
        instances = by_name(stack)
        assert list(instances) == list(INSTANCES)
        for instance in stack.instances:
            status, headers, body = fetch(instance.port, "/healthz")
            assert (status, headers["x-served-by"], body) == (200, instance.name, {"status": "pass"})
            assert "server" not in headers
        assert fetch(instances["patients-2"].port, "/v1/patients/123")[2]["id"] == "123"
        assert stack.environment["DEMO_CLAIMS_1_PORT"] == str(instances["claims-1"].port)
    assert [instance.process.returncode for instance in instances.values()] == [0] * len(INSTANCES)
    assert all(refuses(instance.port) for instance in instances.values())


def test_port_that_is_taken_is_one_clear_error_and_nothing_keeps_running() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        stack = DemoStack(ports={"claims-1": port})
        with pytest.raises(DemoError, match=rf"demo service claims-1 cannot listen on 127\.0\.0\.1:{port}: .*in use"):
            stack.start()
    assert stack.instances == ()


def test_service_that_cannot_start_is_named() -> None:
    stack = DemoStack(environment={**os.environ, "PYTHONHOME": "/nonexistent"})
    with pytest.raises(DemoError, match=r"demo service patients-1 on http://127\.0\.0\.1:\d+ ended with exit code 1 before it answered"):
        stack.start()


def test_services_end_when_their_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        ports = [int(port) for port in parent.stdout.readline().split()]
        assert len(ports) == len(INSTANCES)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.communicate()
    eventually(lambda: all(refuses(port) for port in ports))


def test_service_alone_listens_where_it_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "gateway.demo.services", "claims", f"--port={taken.getsockname()[1]}"]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert refused.returncode == 3
    assert refused.stderr.strip() == f"claims: cannot listen on 127.0.0.1:{command[-1].removeprefix('--port=')}: Address already in use"
