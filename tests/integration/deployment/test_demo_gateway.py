"""The demonstration as a whole: `gateway run` with the demo's configuration before the demo's services."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx
import pytest

from gateway.demo.stack import DemoStack

TOKEN = re.compile(r"^ey[\w-]+\.[\w-]+\.[\w-]+$", re.MULTILINE)
LISTENING = re.compile(r"Gateway listening on (http://\S+), admin on (http://\S+)")


@dataclass(frozen=True, slots=True)
class Demo:
    client: httpx.Client
    admin: str
    records: Path


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    records = tmp_path_factory.mktemp("demo") / "records"
    with DemoStack() as stack, records.open("wb") as output:
        ports = {"GATEWAY_DEMO_PORT": "0", "GATEWAY_DEMO_ADMIN_PORT": "0"}
        with gateway(stack.config_file, {**os.environ, **stack.environment, **ports}, output) as said:
            listening, token = LISTENING.search(said), TOKEN.search(said)
            assert listening is not None, said
            assert token is not None, said
            headers = {"Authorization": f"Bearer {token.group()}"}
            with httpx.Client(base_url=listening.group(1), headers=headers, trust_env=False) as client:
                yield Demo(client, listening.group(2), records)


@contextlib.contextmanager
def gateway(config: Path, environment: dict[str, str], output: IO[bytes]) -> Iterator[str]:
    """A running gateway; what it said until it listened."""
    command = [sys.executable, "-m", "gateway", "run", "-c", str(config)]
    process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = ""
        for line in process.stderr:
            said += line
            if LISTENING.search(line):
                break
        yield said
        process.terminate()
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_public_route_needs_no_token(demo: Demo) -> None:
    reply = httpx.get(demo.client.base_url.join("/plans"), trust_env=False)
    assert reply.status_code == 200
    assert len(reply.json()["entry"]) == 4


def test_protected_route_needs_a_token(demo: Demo) -> None:
    assert httpx.get(demo.client.base_url.join("/patients/123"), trust_env=False).status_code == 401


def test_loop_of_requests_is_balanced_and_then_limited(demo: Demo) -> None:
    replies = [demo.client.get("/patients/123") for _ in range(15)]
    assert {reply.headers["x-served-by"] for reply in replies if reply.status_code == 200} == {"patients-1", "patients-2"}
    counts = Counter(reply.status_code for reply in replies)
    assert set(counts) == {200, 429}
    assert counts[200] >= 5, "the burst"
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in replies if reply.status_code == 429)


def test_claim_goes_through_the_gateway_to_its_service(demo: Demo) -> None:
    claim = {"patient": "123", "insurance": "POL20023", "item": [{"productOrService": "imaging", "net": 310.5}]}
    reply = demo.client.post("/claims", json=claim)
    assert reply.status_code == 201
    assert reply.request.url.join(reply.headers["location"]).path == f"/claims/{reply.json()['id']}"
    assert demo.client.post("/claims", json={"patient": "123"}).status_code == 422
    assert demo.client.post("/claims", content=b"x" * 65 * 1024).status_code == 413


def test_audit_shows_the_path_parameter_that_the_route_allows(demo: Demo) -> None:
    """O4: the identity of the record is in the audit because the route says so; tokens never are."""
    demo.client.get("/policies/POL20077")
    records = [json.loads(line) for line in wait_for(demo.records, b"POL20077").splitlines()]
    (record,) = [each for each in records if each["event"] == "request" and each["request"]["path_params"] == {"id": "POL20077"}]
    assert record["principal"]["subject"] == "developer"
    assert demo.client.headers["Authorization"].removeprefix("Bearer ") not in demo.records.read_text()


def wait_for(file: Path, text: bytes, seconds: float = 10.0) -> bytes:
    """The whole lines of a file, once one of them has the text."""
    deadline = time.monotonic() + seconds
    while text not in (whole := file.read_bytes().rpartition(b"\n")[0]):
        assert time.monotonic() < deadline, f"{text!r} was never written"
        time.sleep(0.02)
    return whole


def test_probes_answer_on_the_admin_port(demo: Demo) -> None:
    for path in ("/livez", "/readyz"):
        assert httpx.get(f"{demo.admin}{path}", trust_env=False).status_code == 200
        assert httpx.get(demo.client.base_url.join(path), trust_env=False).status_code == 404
