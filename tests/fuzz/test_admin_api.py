"""The admin port of a running gateway, held against its own OpenAPI document by schemathesis.

It sends what the document allows and what it forbids, with and without the token, and judges every answer: no 5xx, no status, media type,
header or body that the document doesn't promise, nothing accepted that it forbids, nothing done without the token.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.redis_server import redis_server
from tests.support.whole_gateway import ADMIN_TOKEN, ProcessGateway, base_document, running, upstream

LONG = os.environ.get("GATEWAY_FUZZ") == "long"
#: Of each operation, beside the systematic ones.
EXAMPLES = 100 if LONG else 8
CONFIG = Path(__file__).parent / "schemathesis.toml"
#: It ends the gateway; `tests/integration/lifecycle/` has what it promises.
ENDS = "/v1/drain"
_CASES = re.compile(r"(\d+) generated")


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two workers"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessGateway]:
    """A gateway with everything that the admin API tells about."""
    directory = tmp_path_factory.mktemp("admin-api")
    with upstream("patients-1") as service, redis_server("valkey") as store:
        document = base_document(
            directory,
            server={"workers": request.param},
            state={"url": f"redis://127.0.0.1:{store.port}/0"},
            authentication={"api_keys": {"header": "X-API-Key", "store": "state"}},
            services={"patients": {"instances": [service.url]}},
            limits={"burst": {"rate": "100/minute", "key": "subject"}},
            routes=[{"name": "get-patient", "path": "/patients/{id}", "methods": ["GET"], "service": "patients", "limits": ["burst"]}],
        )
        with running(directory, document) as started:
            yield started


def schemathesis(gateway: ProcessGateway, directory: Path, *options: str) -> str:
    """What a run says; it fails with all of that when there is a finding."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run", f"{gateway.admin_url}/v1/openapi.json"),
        *("--header", f"Authorization: Bearer {ADMIN_TOKEN}", "--exclude-path", ENDS, "--checks", "all"),
        *("--max-examples", str(EXAMPLES), "--generation-database", "none", "--no-color", *options),
    ]
    ended = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.timeout(900)
def test_the_answers_are_those_of_the_document(gateway: ProcessGateway, tmp_path: Path) -> None:
    """CONTRACT section 6, S-41: and after it the gateway still does its job."""
    options = () if LONG else ("--seed", "1")
    said = schemathesis(gateway, tmp_path, "--phases", "examples,coverage,fuzzing,stateful", *options)
    assert int(_CASES.findall(said.replace(",", ""))[-1]) > 100, said
    assert httpx.get(f"{gateway.admin_url}/readyz").json() == {"ready": True}


def test_the_document_needs_the_token(gateway: ProcessGateway) -> None:
    """CONTRACT section 6: whoever has no token learns nothing of the API."""
    assert gateway.admin("GET", "/v1/openapi.json", token="").status_code == 401
    assert gateway.admin("GET", "/v1/openapi.json").json()["openapi"] == "3.1.0"
