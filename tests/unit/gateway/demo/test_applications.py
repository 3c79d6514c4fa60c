"""The demonstration services, called in this process."""

import asyncio
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from gateway.demo.applications import claims, patients, policies
from gateway.demo.services import ServedBy

CLAIM = {"patient": "123", "insurance": "POL20023", "item": [{"productOrService": "imaging", "net": 310.5}]}


def ask(app: Starlette | ServedBy, *requests: tuple[str, str, Any]) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service.test") as client:
            return [await client.request(method, path, json=body) for method, path, body in requests]

    return asyncio.run(run())


def get(app: Starlette | ServedBy, path: str) -> httpx.Response:
    return ask(app, ("GET", path, None))[0]


@pytest.mark.parametrize("make", [patients, claims, policies])
def test_every_service_tells_its_health(make: Any) -> None:
    reply = get(make(), "/healthz")
    assert (reply.status_code, reply.json()) == (200, {"status": "pass"})


def test_answers_name_the_instance() -> None:
    assert get(ServedBy(patients(), "patients-1"), "/v1/patients/404").headers["x-served-by"] == "patients-1"


def test_patient_is_read_by_id() -> None:
    assert get(patients(), "/v1/patients/123").json()["id"] == "123"
    missing = get(patients(), "/v1/patients/999999")
    assert missing.status_code == 404
    assert missing.headers["content-type"] == "application/problem+json"
    assert "999999" not in missing.text


def test_search_pages_and_counts() -> None:
    bundle = get(patients(), "/v1/patients?gender=female&_count=3&_offset=1").json()
    assert bundle["total"] > 3
    assert len(bundle["entry"]) == 3
    assert {patient["gender"] for patient in bundle["entry"]} == {"female"}


@pytest.mark.parametrize("query", ["name=x", "_count=-1", "_count=101", "_count=x", "_offset=241", "_count=%D9%A3"])
def test_search_refuses_what_it_does_not_know(query: str) -> None:
    assert get(patients(), f"/v1/patients?{query}").status_code == 400


def test_submitted_claim_is_stored_and_totalled() -> None:
    created, read = ask(claims(), ("POST", "/v1/claims", CLAIM), ("GET", "/v1/claims/CLM280", None))
    assert created.status_code == 201
    assert str(created.request.url.join(created.headers["location"])) == "http://service.test/v1/claims/CLM280"
    assert read.json() == created.json()
    assert read.json()["total"] == {"value": "310.5", "currency": "USD"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"insurance": "POL20024"}, "insurance"),
        ({"item": []}, "item"),
        ({"item": [{"productOrService": "imaging", "net": -1}]}, "item.0.net"),
        ({"item": [{"productOrService": "imaging", "net": 0.001}]}, "item.0.net"),
        ({"status": "active"}, "status"),
        ({"patient": 123}, "patient"),
    ],
)
def test_bad_claim_is_refused_and_the_field_named(change: dict[str, Any], field: str) -> None:
    (reply,) = ask(claims(), ("POST", "/v1/claims", {**CLAIM, **change}))
    assert reply.status_code == 422
    assert list(reply.json()["problems"]) == [field]


def test_policy_update_changes_only_what_was_sent() -> None:
    app = policies()
    before, update, after = ask(
        app,
        ("GET", "/v1/policies/POL20023", None),
        ("PATCH", "/v1/policies/POL20023", {"plan": "gold"}),
        ("GET", "/v1/policies/POL20023", None),
    )
    assert update.status_code == 200
    assert after.json() == {**before.json(), "plan": "gold"}


def test_policy_update_refuses_a_period_that_ends_before_it_starts() -> None:
    (reply,) = ask(policies(), ("PATCH", "/v1/policies/POL20023", {"period": {"start": "2025-02-01", "end": "2025-01-01"}}))
    assert reply.status_code == 422
    assert list(reply.json()["problems"]) == ["period"]


def test_plans_are_listed() -> None:
    assert [plan["id"] for plan in get(policies(), "/v1/plans").json()["entry"]] == ["bronze", "silver", "gold", "community"]
