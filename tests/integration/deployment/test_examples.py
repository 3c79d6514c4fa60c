"""The examples in Python run, as ASGI applications in this process."""

import asyncio
import re
import runpy
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
TOKEN = re.compile(r"^ey[\w-]+\.[\w-]+\.[\w-]+$", re.MULTILINE)


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    """What an ASGI server does around the requests."""
    inbox: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    outbox: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
    task = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, inbox.get, outbox.put))
    for phase in ("startup", "shutdown"):
        inbox.put_nowait({"type": f"lifespan.{phase}"})
        answer = await asyncio.wait_for(outbox.get(), 20)
        assert answer["type"] == f"lifespan.{phase}.complete", answer
        if phase == "startup":
            yield
    await task


def run(name: str, capsys: pytest.CaptureFixture[str], *requests: tuple[str, str, Any]) -> list[httpx.Response]:
    """Load an example and send it requests with the token that it prints."""
    gateway = runpy.run_path(str(EXAMPLES / f"{name}.py"))["gateway"]

    async def talk() -> list[httpx.Response]:
        async with lifespan(gateway):
            token = TOKEN.search(capsys.readouterr().err)
            assert token is not None
            transport, headers = httpx.ASGITransport(gateway), {"Authorization": f"Bearer {token.group()}"}
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test", headers=headers) as client:
                return [await client.request(method, path, json=body) for method, path, body in requests]

    return asyncio.run(talk())


def test_smallest_example_answers_both_routes(capsys: pytest.CaptureFixture[str]) -> None:
    patient, claim = run("example_gateway", capsys, ("GET", "/patients/123", None), ("POST", "/claims", {"patient": "123"}))
    assert (patient.status_code, patient.json()) == (200, {"id": "123", "name": "Jane Doe"})
    assert (claim.status_code, claim.json()["claim_id"]) == (201, "CLM123")


def test_richer_example_answers_on_its_own_route(capsys: pytest.CaptureFixture[str]) -> None:
    status, missing = run("clinic_services", capsys, ("GET", "/status", None), ("GET", "/nowhere", None))
    assert (status.status_code, status.json()) == (200, {"status": "pass"})
    assert missing.status_code == 404
