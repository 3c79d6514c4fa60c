"""Functions as targets, on the wire and under other servers."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.integration.whole_path.conftest import AnyGateway, Laboratory
from tests.support.whole_gateway import in_process, running, under_uvicorn, values_of


@pytest.fixture(scope="module", params=["wire", "uvicorn", "in process"])
def gateway(request: pytest.FixtureRequest, laboratory: Laboratory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnyGateway]:
    directory = tmp_path_factory.mktemp("handlers")
    document = laboratory.document(directory, "redis")
    if request.param == "in process":
        with in_process(directory, document, "decorators") as started:
            yield started
    else:
        start = running if request.param == "wire" else under_uvicorn
        with start(directory, document, "decorators") as process:
            yield process


def test_function_answers_with_what_it_returns(gateway: AnyGateway, laboratory: Laboratory) -> None:
    """CONTRACT section 2: status, headers, data; path parameters are converted, the principal is known."""
    reply = gateway.request("GET", "/local/42", headers=laboratory.login.bearer("somebody", "patients:read"))
    assert (reply.status_code, reply.headers["x-local"]) == (203, "yes")
    assert reply.json()["number"] == 42
    assert reply.json()["subject"] == "somebody"
    assert reply.headers["x-request-id"]
    record = gateway.wait_for_record(lambda each: each.get("trace_id") == reply.json()["trace_id"])
    assert record["request"]["route"] == "local"
    assert record["upstream"] is None


def test_function_is_behind_the_same_checks(gateway: AnyGateway, laboratory: Laboratory) -> None:
    """S-21: authentication and scopes come first."""
    assert gateway.request("GET", "/local/1").json()["code"] == "unauthorized"
    assert gateway.request("GET", "/local/1", headers=laboratory.login.bearer("somebody")).json()["code"] == "forbidden"
    assert gateway.request("GET", "/local/x", headers=laboratory.login.bearer("somebody")).status_code == 404


def test_call_of_a_service_belongs_to_the_request(gateway: AnyGateway, laboratory: Laboratory) -> None:
    """O2: the CLIENT span below the request's, its service in metrics and records; and nothing of the caller's credentials goes along."""
    trace_id = secrets.token_hex(16)
    headers = {**laboratory.login.bearer("somebody"), "traceparent": f"00-{trace_id}-{'d' * 16}-01"}
    reply = gateway.request("GET", "/calls/5", headers=headers)
    told = reply.json()
    assert told["target"] == "/v1/patients/5"
    assert not values_of(told["fields"], "authorization")
    found = laboratory.traces.wait_for(lambda spans: sum(span["trace_id"] == trace_id for span in spans) == 2)
    server, client = sorted((span for span in found if span["trace_id"] == trace_id), key=lambda span: span["kind"], reverse=True)
    assert client["parent_span_id"] == server["span_id"]
    (traceparent,) = values_of(told["fields"], "traceparent")
    assert traceparent.split("-")[1:3] == [trace_id, client["span_id"]]
    record = gateway.wait_for_record(lambda each: each.get("trace_id") == trace_id)
    assert record["upstream"]["service"] == "patients"


def test_function_that_fails_is_a_500_without_its_reason(gateway: AnyGateway) -> None:
    """S-41: the client learns nothing of the exception; the audit has its type."""
    reply = gateway.request("GET", "/broken")
    assert (reply.status_code, reply.json()["code"]) == (500, "internal")
    assert "secret" not in reply.text
    record = gateway.wait_for_record(lambda each: each.get("trace_id") == reply.json()["trace_id"])
    assert record["detail"] == "exception_RuntimeError"
    assert "secret" not in gateway.file.read_text()
