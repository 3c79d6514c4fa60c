"""docs/operations.md knows every metric, endpoint and field, and no other."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, cast

import httpx
from starlette.applications import Starlette
from starlette.routing import Route

from gateway.admin.api import AdminSite
from gateway.assembly import Runtime
from gateway.published import Table, published_sources
from gateway.server.controls import Controls
from gateway.settings import AuditSettings, TelemetrySettings
from gateway.telemetry.discovery import discovery_sources
from gateway.telemetry.metrics import endpoints_source, together_sources
from gateway.telemetry.process import ProcessLoad, load_sources
from gateway.telemetry.services import service_sources, tunnel_sources
from gateway.telemetry.telemetry import Telemetry
from gateway.telemetry.tls import tls_sources
from tests.support.documents import DOCS, code_words, part, snippets

PAGE = DOCS / "operations.md"
CALL = re.compile(r"(GET|POST|DELETE) (/\S*)")


def rendered() -> set[str]:
    """Families of a live exposition."""
    sources = [endpoints_source(lambda: []), *discovery_sources(lambda: []), *published_sources(Table)]
    sources += [
        *together_sources(lambda: (0.0, 0.0, 1.0, 0.0)),
        *service_sources(lambda fact: []),
        *tunnel_sources(lambda: []),
        *tls_sources(lambda: [], dict),
        *load_sources(lambda: ProcessLoad(0, 0, 0, 0, 0)),
    ]
    telemetry = Telemetry(TelemetrySettings(), AuditSettings(sink=()), version="1", replica="r", sources=sources)
    asyncio.run(telemetry.close(1.0))
    return set(re.findall(r"^# TYPE (\S+)", telemetry.render().decode(), re.MULTILINE))


def first_cells(text: str) -> set[str]:
    return {word for line in text.splitlines() if line.startswith("| `") for word in code_words(line.split("|")[1])}


def test_metrics_are_those_of_a_live_exposition() -> None:
    assert first_cells(part(PAGE, "## Metrics")) == rendered()


def test_other_documents_name_only_metrics_that_exist() -> None:
    for document in DOCS.glob("*.md"):
        for word in re.findall(r"\bgateway_[a-z_]+(?:_total|_seconds|_bytes|_state|_size)\b", document.read_text(encoding="utf-8")):
            assert word in rendered(), f"{document.name}: {word}"


def calls_of(app: Starlette) -> set[str]:
    """Method and path of everything that the admin site has, asked by a method that nothing has."""

    async def ask() -> set[str]:
        found = set()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://admin.test") as client:
            for route in app.routes:
                assert isinstance(route, Route)
                path = route.path.replace("{value:path}", "{value}")
                answer = await client.patch(path.replace("{", "").replace("}", ""))
                assert answer.status_code == 405, path
                found |= {f"{method} {path}" for method in answer.headers["allow"].split(", ") if method not in ("HEAD", "OPTIONS")}
        return found

    return asyncio.run(ask())


def test_admin_calls_are_those_of_the_site() -> None:
    """CONTRACT section 6."""
    documented = {word for word in first_cells(part(PAGE, "## Admin API")) if CALL.fullmatch(word)}
    assert documented == calls_of(AdminSite(cast(Runtime, None), cast(Controls, None)).app())


def test_each_admin_call_is_shown_with_curl() -> None:
    [_, shown] = snippets(PAGE, "sh")[:2]
    for call in first_cells(part(PAGE, "## Admin API")):
        found = CALL.fullmatch(call)
        if found and found[2] != "/livez":
            assert "$ADMIN" + re.sub(r"\{.*", "", found[2]).rstrip("/") in shown, call


def test_the_audit_example_has_the_fields_of_the_table() -> None:
    """S-35: what a record says is described."""
    [text] = snippets(PAGE, "json")
    record: dict[str, Any] = json.loads(text)
    assert set(record) <= first_cells(part(PAGE, "## Audit records"))
