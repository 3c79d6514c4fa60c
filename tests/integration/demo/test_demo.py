"""`gateway demo` as people use it: started, its lines pasted into a shell, ended by Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.consul_agent import Agent, consul_agent
from tests.support.ports import free_port
from tests.support.processes import alive, descendants
from tests.support.redis_server import wait_until
from tests.support.whole_gateway import ProcessGateway

TITLE = re.compile(r"^# (.*)$")


class Demo(ProcessGateway):
    """A running demonstration.

    Attributes:
        temporary: where its processes make their files.
    """

    def __init__(self, directory: Path, temporary: Path, environ: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "gateway", "demo", "--port", str(free_port()), "--admin-port", str(free_port())]
        self.temporary = temporary
        super().__init__(command, directory, directory / "stdout", {"TMPDIR": str(temporary), **environ})
        self.wait_until_listening()

    @property
    def lines(self) -> dict[str, list[str]]:
        """What it offers to paste: commands by the title above them; what comes first has the title ''."""
        guide = self.output.partition("Paste into another terminal:")[2].strip().partition("\n\n")[0].splitlines()
        steps: dict[str, list[str]] = {}
        title = ""
        for line in guide:
            if found := TITLE.match(line):
                title = found.group(1)
            else:
                steps.setdefault(title, []).append(line)
        return steps

    def paste(self, title: str) -> list[str]:
        """Run the lines below a title exactly as they were printed; the output of each."""
        steps = self.lines
        (found,) = [name for name in steps if name.startswith(title)]
        outputs = []
        for line in steps[found]:
            script = "\n".join([*steps[""], line])
            environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
            done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, timeout=30, check=False)
            assert done.returncode == 0, done.stderr
            outputs.append(done.stdout)
        return outputs


@pytest.fixture
def temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="d-") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with consul_agent() as started:
        yield started


@pytest.fixture(params=["static", "consul"])
def demo(request: pytest.FixtureRequest, agent: Agent, tmp_path: Path, temporary: Path) -> Iterator[Demo]:
    """Without Consul, and with a real one. (An address where nobody listens stands for a machine without Consul.)"""
    consul = agent.url if request.param == "consul" else f"http://127.0.0.1:{free_port()}"
    started = Demo(tmp_path, temporary, {"CONSUL_HTTP_ADDR": consul})
    try:
        yield started
    finally:
        family = descendants(started.process.pid)
        started.kill()
        wait_until(lambda: not any(map(alive, family)), "everything to end with the demonstration")


def statuses(text: str) -> list[int]:
    return [int(word) for word in re.findall(r"^HTTP/1\.1 (\d{3})", text, re.MULTILINE)]


def test_printed_lines_do_what_they_say_and_ctrl_c_ends_everything(demo: Demo, agent: Agent, request: pytest.FixtureRequest) -> None:
    """CONTRACT section 1: ready-to-paste lines with valid tokens; everything stops on Ctrl-C."""
    with_consul = "consul" in request.node.name
    assert ("Services are found in Consul" in demo.output) == with_consul
    wait_until(lambda: demo.admin("GET", "/readyz", token="").status_code == 200, "the gateway to be ready")
    assert statuses(demo.paste("a public route")[0]) == [200]
    patient = demo.paste("a patient")[0]
    assert statuses(patient) == [200]
    assert re.search(r"x-served-by: patients-[12]", patient, re.IGNORECASE)
    claim = demo.paste("submit a claim")[0]
    assert statuses(claim) == [201]
    assert json.loads(claim.splitlines()[-1])["id"]
    assert statuses(demo.paste("no token: 401")[0]) == [401]
    forbidden = demo.paste("a token without the scope: 403")[0]
    assert statuses(forbidden) == [403]
    assert json.loads(forbidden.splitlines()[-1])["code"] == "forbidden"
    loop = demo.paste("the limit")[0].split()
    assert set(loop) == {"200", "429"}
    assert len(loop) == 12
    revoked, refused = demo.paste("revoke the reader's token")
    assert json.loads(revoked)["kind"] == "jti"
    assert statuses(refused) == [401]
    assert json.loads(refused.splitlines()[-1])["code"] == "token_revoked"
    known = demo.paste("what the admin site knows")[0]
    services = {service["name"]: service for service in json.loads(known.partition("}# HELP")[0] + "}")["services"]}
    assert set(services) == {"patients", "claims", "policies"}
    assert all(("consul" in service["source"]) == with_consul for service in services.values())
    assert len(services["patients"]["instances"]) == 2
    assert_ends_with_nothing_left(demo, agent if with_consul else None)


def assert_ends_with_nothing_left(demo: Demo, agent: Agent | None) -> None:
    """Ctrl-C, as a terminal sends it: to the whole foreground group."""
    family = descendants(demo.process.pid)
    assert len(family) == 5, "four services and the store"
    os.killpg(demo.process.pid, signal.SIGINT)
    assert demo.wait() == 0, demo.said
    assert not any(map(alive, family))
    assert list(demo.temporary.iterdir()) == []
    assert not any(word in demo.said for word in ("Traceback", "ERROR", "WARNING")), demo.said
    if agent is not None:
        assert set(agent.get("/v1/agent/services")) == set()


def test_killed_demonstration_leaves_no_process(tmp_path: Path, temporary: Path) -> None:
    """CONTRACT section 1: the services and the store end with it, however it ends."""
    demo = Demo(tmp_path, temporary, {"CONSUL_HTTP_ADDR": f"http://127.0.0.1:{free_port()}"})
    family = descendants(demo.process.pid)
    demo.kill()
    wait_until(lambda: not any(map(alive, family)), "its processes to end")


def test_taken_port_is_one_line_and_no_service_is_left(tmp_path: Path, temporary: Path) -> None:
    """CONTRACT section 3: exit 3."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "gateway", "demo", "--port", str(taken.getsockname()[1]), "--admin-port", str(free_port())]
        environ = {"CONSUL_HTTP_ADDR": f"http://127.0.0.1:{free_port()}", "TMPDIR": str(temporary)}
        demo = ProcessGateway(command, tmp_path, tmp_path / "stdout", environ)
        assert demo.wait() == 3
    (line,) = demo.said.splitlines()
    assert "is taken by another process" in line
    assert list(temporary.iterdir()) == []
