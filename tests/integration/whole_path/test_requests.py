"""What one request meets from end to end, whatever the store, the face and the adapter."""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.integration.whole_path.conftest import AnyGateway, Laboratory
from tests.support.redis_server import wait_until
from tests.support.whole_gateway import ProcessGateway, values_of

PROBLEM = "application/problem+json"
HEX_32 = re.compile(r"[0-9a-f]{32}")


@pytest.fixture
def subject() -> str:
    """Somebody whom no other test has heard of, with limits of their own."""
    return f"subject-{secrets.token_hex(6)}"


def problem(reply: httpx.Response, status: int, code: str) -> dict[str, object]:
    """The problem document of a refusal, once its common members are what they must be (CONTRACT section 5)."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == PROBLEM
    assert reply.headers["x-request-id"]
    document: dict[str, object] = reply.json()
    assert set(document) - {"violated-policies"} == {"type", "title", "status", "detail", "code", "trace_id"}
    assert (document["status"], document["code"]) == (status, code)
    assert HEX_32.fullmatch(str(document["trace_id"]))
    return document


def test_patient_is_read_through_the_whole_path(gateway: AnyGateway, laboratory: Laboratory, subject: str) -> None:
    """H2, H3, O1: the service gets the rewritten path, forwarding and identity fields, our rules, and one traceparent."""
    trace_id = secrets.token_hex(16)
    sent = {
        **laboratory.login.bearer(subject, "patients:read", "claims:read"),
        "traceparent": f"00-{trace_id}-{'b' * 16}-01",
        "X-Auth-Subject": "admin",
        "X_Auth_Scopes": "everything",
        "X-Forwarded-For": "6.6.6.6",
        "X-Debug": "1",
    }
    reply = gateway.request("GET", "/patients/a%20b?q=1&q=%41", headers=sent)
    assert reply.status_code == 200, reply.text
    told = reply.json()
    assert told["target"] == "/v1/patients/a%20b?q=1&q=%41"
    fields = told["fields"]
    assert values_of(fields, "x-auth-subject") == [subject]
    assert values_of(fields, "x-auth-scopes") == ["claims:read patients:read"]
    assert values_of(fields, "x-auth-issuer") == [laboratory.login.provider.url]
    assert values_of(fields, "x-forwarded-for")[0].startswith("127.0.0.")
    assert values_of(fields, "x-forwarded-proto") == ["http"]
    assert values_of(fields, "x-gateway") == ["hms"]
    assert not any("_" in name or name in ("x-debug", "connection") for name, _ in fields)
    (traceparent,) = values_of(fields, "traceparent")
    assert traceparent.split("-")[1] == trace_id
    assert traceparent.split("-")[2] != "b" * 16
    assert values_of(fields, "x-request-id") == [reply.headers["x-request-id"]]


def test_answer_carries_limits_and_follows_the_response_rules(gateway: AnyGateway, laboratory: Laboratory, subject: str) -> None:
    """CONTRACT section 5: RateLimit, RateLimit-Policy and X-Request-Id on admitted answers; rules of the route."""
    reply = gateway.request("GET", "/patients/7", headers=laboratory.login.bearer(subject, "patients:read"))
    assert reply.headers["ratelimit-policy"] == '"wide";q=1000;w=3600'
    assert re.fullmatch(r'"wide";r=999;t=\d+', reply.headers["ratelimit"])
    assert reply.headers["x-frame-options"] == "DENY"
    assert "x-internal" not in reply.headers
    assert reply.headers["x-served-by"] in ("patients-1", "patients-2")
    assert "server" not in reply.headers or reply.headers["server"] == "uvicorn"


def test_claim_is_submitted_with_an_elliptic_key_token(gateway: AnyGateway, laboratory: Laboratory, subject: str) -> None:
    """A1: both algorithms of the issuer are accepted; a body goes through as it is, of known length and chunked."""
    headers = laboratory.login.bearer(subject, "claims:write", algorithm="ES256")
    reply = gateway.request("POST", "/claims", headers=headers, json={"patient": "1"})
    assert reply.status_code == 201
    assert json.loads(reply.json()["body"]) == {"patient": "1"}

    assert gateway.request("POST", "/claims", headers=headers, content=in_pieces(gateway, b"one ", b"two")).json()["body"] == "one two"


def in_pieces(gateway: AnyGateway, *pieces: bytes) -> Any:
    """A body of unknown length, as httpx's client for this gateway wants it."""

    async def asynchronous() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return iter(pieces) if isinstance(gateway, ProcessGateway) else asynchronous()


def test_missing_and_bad_credentials_are_401(gateway: AnyGateway, laboratory: Laboratory, subject: str) -> None:
    """A2: RFC 6750: no error= without credentials; invalid, expired, for somebody else."""
    bare = gateway.request("GET", "/patients/1")
    problem(bare, 401, "unauthorized")
    assert bare.headers["www-authenticate"] == 'Bearer realm="gateway"'
    login = laboratory.login
    now = int(time.time())
    cases = {
        "not.a.token": "token_invalid",
        login.token(subject, exp=now - 60, iat=now - 120): "token_expired",
        login.token(subject, aud="another"): "token_invalid",
        login.token(subject, iss="https://evil.example"): "token_invalid",
        login.token(subject)[:-4] + "AAAA": "token_invalid",
    }
    for token, code in cases.items():
        reply = gateway.request("GET", "/patients/1", headers={"Authorization": f"Bearer {token}"})
        problem(reply, 401, code)
        assert reply.headers["www-authenticate"] == 'Bearer realm="gateway", error="invalid_token"'
        assert token not in reply.text


def test_missing_scope_is_403_and_says_which(gateway: AnyGateway, laboratory: Laboratory, subject: str) -> None:
    """CONTRACT section 5: insufficient_scope with the scope that would do."""
    reply = gateway.request("GET", "/patients/1", headers=laboratory.login.bearer(subject, "claims:read"))
    problem(reply, 403, "forbidden")
    assert reply.headers["www-authenticate"] == 'Bearer realm="gateway", error="insufficient_scope", scope="patients:read"'


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [
        ("/any-scope", {"scope": "x patients:admin"}, {"scope": "x"}),
        ("/by-role", {"realm_access": {"roles": ["nurse"]}, "roles": ["nurse"]}, {"roles": ["clerk"]}),
        ("/by-claim", {"dept": "er"}, {"dept": "billing"}),
    ],
)
def test_scopes_roles_and_claims_decide(
    path: str, good: dict[str, object], bad: dict[str, object], gateway: AnyGateway, laboratory: Laboratory, subject: str
) -> None:
    """S-21: what the route asks for is needed."""
    assert gateway.request("GET", path, headers=laboratory.login.bearer(subject, **good)).status_code == 200
    problem(gateway.request("GET", path, headers=laboratory.login.bearer(subject, **bad)), 403, "forbidden")


def test_public_and_optional_routes(gateway: AnyGateway, laboratory: Laboratory, subject: str) -> None:
    """S-12a: a public route passes nobody's identity on, whatever was sent; an optional one that of a token, and it refuses a bad one."""
    spoofed = {"X-Auth-Subject": "admin"}
    public = gateway.request("GET", "/public/v1/news", headers=spoofed).json()
    assert public["target"] == "/v1/news"
    assert not values_of(public["fields"], "x-auth-subject")
    assert not values_of(gateway.request("GET", "/greeting", headers=spoofed).json()["fields"], "x-auth-subject")
    known = gateway.request("GET", "/greeting", headers=laboratory.login.bearer(subject)).json()
    assert values_of(known["fields"], "x-auth-subject") == [subject]
    problem(gateway.request("GET", "/greeting", headers={"Authorization": "Bearer x.y.z"}), 401, "token_invalid")


def test_unknown_path_and_method(gateway: AnyGateway) -> None:
    """CONTRACT section 5: 404, 405 with Allow, OPTIONS from the route table."""
    problem(gateway.request("GET", "/nowhere"), 404, "not_found")
    reply = gateway.request("DELETE", "/patients/1")
    problem(reply, 405, "method_not_allowed")
    assert set(reply.headers["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"} or set(reply.headers["allow"].split(", ")) == {
        "GET",
        "HEAD",
    }
    options = gateway.request("OPTIONS", "/patients/1")
    assert (options.status_code, options.content) == (204, b"")
    assert "GET" in options.headers["allow"]


def test_head_is_answered_without_a_body(gateway: AnyGateway, laboratory: Laboratory, subject: str) -> None:
    """H5: GET implies HEAD."""
    reply = gateway.request("HEAD", "/patients/1", headers=laboratory.login.bearer(subject, "patients:read"))
    assert (reply.status_code, reply.content) == (200, b"")


def test_cors_preflight_and_simple_request(gateway: AnyGateway, laboratory: Laboratory, subject: str) -> None:
    """S-21: a preflight is answered without credentials, because the route has CORS rules."""
    origin = {"Origin": "https://app.example.gov"}
    asked = {**origin, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
    preflight = gateway.request("OPTIONS", "/patients/1", headers=asked)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "https://app.example.gov"
    assert preflight.headers["access-control-max-age"] == "3600"
    assert "GET" in preflight.headers["access-control-allow-methods"]
    simple = gateway.request("GET", "/patients/1", headers={**origin, **laboratory.login.bearer(subject, "patients:read")})
    assert simple.headers["access-control-allow-origin"] == "https://app.example.gov"
    assert simple.headers["access-control-expose-headers"].lower() == "x-request-id"
    refused = gateway.request("GET", "/patients/1", headers=origin)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://app.example.gov", "a script may read the refusal"
    stranger = gateway.request("GET", "/patients/1", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in stranger.headers


def _statuses(gateway: AnyGateway, path: str, headers: dict[str, str], count: int) -> list[httpx.Response]:
    return [gateway.request("GET", path, headers=headers) for _ in range(count)]


@pytest.mark.parametrize(
    ("path", "admitted", "policies"),
    [
        ("/burst", 3, ["burst"]),
        ("/daily", 4, ["daily"]),
        ("/window", 3, ["window"]),
        ("/costly", 1, ["burst"]),
        ("/several", 3, ["burst"]),
    ],
)
def test_limits_of_every_kind_refuse_what_is_too_much(
    path: str, admitted: int, policies: list[str], gateway: AnyGateway, laboratory: Laboratory, subject: str
) -> None:
    """L8, CONTRACT section 5: 429 with Retry-After, both RateLimit fields, and every violated policy."""
    replies = _statuses(gateway, path, laboratory.login.bearer(subject), admitted + 1)
    assert [reply.status_code for reply in replies] == [200] * admitted + [429]
    document = problem(replies[-1], 429, "rate_limited")
    assert document["violated-policies"] == policies
    assert int(replies[-1].headers["retry-after"]) >= 1
    assert f'"{policies[0]}";r=' in replies[-1].headers["ratelimit"]
    assert f'"{policies[0]}";q=' in replies[-1].headers["ratelimit-policy"]
    assert gateway.request("GET", path, headers=laboratory.login.bearer(subject + "-other")).status_code == 200


def test_refused_request_costs_nothing(gateway: AnyGateway, laboratory: Laboratory, subject: str) -> None:
    """L3: all or nothing: three refusals by one limit take nothing from the other."""
    headers = laboratory.login.bearer(subject)
    assert [reply.status_code for reply in _statuses(gateway, "/several", headers, 6)] == [200] * 3 + [429] * 3
    assert [reply.status_code for reply in _statuses(gateway, "/daily", headers, 2)] == [200, 429], "4 a day, 3 of them used"


def test_parallel_requests_are_capped_and_free_again(gateway: AnyGateway, laboratory: Laboratory, subject: str) -> None:
    """SPEC section 1: concurrency leases are given back at the end of a request."""
    headers = laboratory.login.bearer(subject)
    gate = f"gate-{subject}"
    with ThreadPoolExecutor(4) as pool:
        gates = [threading.Event(), threading.Event()]
        for each, event in zip(laboratory.patients, gates, strict=True):
            each.gates[gate] = event
        try:
            waiting = [pool.submit(gateway.request, "GET", "/parallel", headers={**headers, "X-Gate": gate}) for _ in range(2)]
            wait_until(lambda: sum(gate in each.waiting for each in laboratory.patients) == 2, "two requests to be under way")
            assert problem(gateway.request("GET", "/parallel", headers=headers), 429, "rate_limited")["violated-policies"] == ["parallel"]
        finally:
            for event in gates:
                event.set()
        assert [each.result().status_code for each in waiting] == [200, 200]
    wait_until(lambda: gateway.request("GET", "/parallel", headers=headers).status_code == 200, "the leases to be given back")


def test_shadow_limit_counts_and_never_refuses(gateway: AnyGateway, laboratory: Laboratory, subject: str) -> None:
    """CONTRACT section 4, `shadow_limits`: reported in the audit only."""
    replies = _statuses(gateway, "/shadowed", laboratory.login.bearer(subject), 4)
    assert [reply.status_code for reply in replies] == [200] * 4
    request_id = replies[-1].headers["x-request-id"]
    record = gateway.wait_for_record(lambda each: each.get("request_id") == request_id)
    assert record["shadow_limited"] == ["burst"]
    assert record["decision"] == "allow"


def test_too_large_body_is_413_and_never_reaches_the_service(gateway: AnyGateway, laboratory: Laboratory, subject: str) -> None:
    """F-40: the bound holds for a declared length before anything is read."""
    before = len(laboratory.claims.seen)
    headers = laboratory.login.bearer(subject, "claims:write")
    problem(gateway.request("POST", "/claims", headers=headers, content=b"x" * 1025), 413, "body_too_large")
    assert len(laboratory.claims.seen) == before


def test_body_of_unknown_length_is_bounded_as_it_comes(gateway: AnyGateway, laboratory: Laboratory, subject: str) -> None:
    """F-40: 413, and the service never gets a complete request."""
    before = len(laboratory.claims.seen)
    headers = laboratory.login.bearer(subject, "claims:write")
    content = in_pieces(gateway, *[b"x" * 400] * 3)
    problem(gateway.request("POST", "/claims", headers=headers, content=content), 413, "body_too_large")
    assert len(laboratory.claims.seen) == before


def test_opaque_token_is_introspected(gateway: AnyGateway, laboratory: Laboratory, subject: str) -> None:
    """A7: RFC 7662 decides, and the client secret is sent there only."""
    good = gateway.request("GET", "/patients/1", headers={"Authorization": f"Bearer opaque.{subject}"})
    assert values_of(good.json()["fields"], "x-auth-subject") == [subject]
    problem(gateway.request("GET", "/patients/1", headers={"Authorization": "Bearer unknown"}), 401, "token_invalid")


def test_both_registered_instances_are_used(gateway: AnyGateway, laboratory: Laboratory, subject: str) -> None:
    """B2: round robin over what Consul knows."""
    replies = _statuses(gateway, "/patients/1", laboratory.login.bearer(subject, "patients:read"), 8)
    served = [reply.headers["x-served-by"] for reply in replies]
    assert served.count("patients-1") == served.count("patients-2") == 4


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [("/gone", 502, "bad_gateway"), ("/hasty/slow-1", 504, "gateway_timeout"), ("/unregistered", 503, "no_instance")],
)
def test_service_that_cannot_answer(path: str, status: int, code: str, gateway: AnyGateway, laboratory: Laboratory, subject: str) -> None:
    """CONTRACT section 5: 502, 504 and 503 without a word about the upstream's address; the reason is in the audit."""
    reply = gateway.request("GET", path, headers=laboratory.login.bearer(subject))
    document = problem(reply, status, code)
    assert "127.0.0.1" not in str(document)
    assert ("retry-after" in reply.headers) == (status == 503)
    request_id = reply.headers["x-request-id"]
    record = gateway.wait_for_record(lambda each: each.get("request_id") == request_id)
    assert record["reason"].startswith("upstream_") == (status != 503)
    assert record["decision"] == ("deny" if status == 503 else "allow")


def test_errors_of_the_service_pass_unchanged(gateway: AnyGateway, laboratory: Laboratory, subject: str) -> None:
    """S-17: every status of the upstream is the client's, with its body."""
    for status in (404, 422, 429, 500, 503):
        reply = gateway.request("GET", f"/says/status-{status}", headers=laboratory.login.bearer(subject))
        assert (reply.status_code, reply.json()["target"]) == (status, f"/v1/says/status-{status}")


def test_audit_record_is_complete_and_holds_no_secret(gateway: AnyGateway, laboratory: Laboratory, subject: str) -> None:
    """S-35, O3, O4: who, what, from where, the decision and its limits; never a token, a query, a body or a raw path."""
    token = laboratory.login.token(subject, "patients:read", azp="portal")
    sent = {"Authorization": f"Bearer {token}", "User-Agent": "test/1.0", "Cookie": "canary-cookie", "X-Note": "canary-field"}
    reply = gateway.request("GET", "/patients/42?canary=query", headers=sent)
    request_id = reply.headers["x-request-id"]
    record = gateway.wait_for_record(lambda each: each.get("request_id") == request_id)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", record["time"])
    assert record["event"] == "request"
    assert record["source"]["ip"].startswith("127.0.0.")
    assert record["source"]["user_agent"] == "test/1.0"
    assert (record["principal"]["subject"], record["principal"]["client"]) == (subject, "portal")
    assert record["principal"]["scopes"] == ["patients:read"]
    assert record["request"]["method"] == "GET"
    assert record["request"]["route"] == "get-patient"
    assert record["request"]["path_template"] == "/patients/{id}"
    assert record["request"]["path_params"] == {"id": "42"}
    assert (record["decision"], record["reason"]) == ("allow", None)
    assert record["limits"] == [{"name": "wide", "remaining": 999}]
    assert record["response"] == {"status": 200, "bytes": len(reply.content)}
    assert record["upstream"]["service"] == "patients"
    assert record["upstream"]["attempts"] == 1
    assert "patients-" in record["upstream"]["instance"]
    assert record["duration_ms"] > 0
    sequence = [each["seq"] for each in gateway.records()]
    assert sequence == list(range(1, len(sequence) + 1)), "O6: without gaps"
    text = gateway.file.read_text()
    for canary in (token, token.rpartition(".")[2], "canary", "/patients/42"):
        assert canary not in text


def test_spans_reach_the_receiver_with_their_parents(gateway: AnyGateway, laboratory: Laboratory, subject: str) -> None:
    """O2, O3: one SERVER span whose parent is the caller, one CLIENT span below it whose id the service got."""
    trace_id = secrets.token_hex(16)
    sent = {**laboratory.login.bearer(subject, "patients:read"), "traceparent": f"00-{trace_id}-{'c' * 16}-01"}
    reply = gateway.request("GET", "/patients/9?canary=query", headers=sent)
    found = laboratory.traces.wait_for(lambda spans: sum(span["trace_id"] == trace_id for span in spans) == 2)
    server, client = sorted((span for span in found if span["trace_id"] == trace_id), key=lambda span: span["kind"], reverse=True)
    assert (server["kind"], server["name"], server["parent_span_id"]) == ("SERVER", "GET /patients/{id}", "c" * 16)
    assert (client["kind"], client["parent_span_id"]) == ("CLIENT", server["span_id"])
    (traceparent,) = values_of(reply.json()["fields"], "traceparent")
    assert traceparent.split("-")[1:3] == [trace_id, client["span_id"]]
    assert server["attributes"]["http.response.status_code"] == 200
    assert server["attributes"]["http.route"] == "/patients/{id}"
    assert server["resource"]["service.name"].startswith("gateway-")
    assert server["status"] == "UNSET"
    assert "canary" not in json.dumps([server, client])


@pytest.mark.parametrize("sent", ["", "00-" + "a" * 32 + "-" + "b" * 16 + "-00", "nonsense", "00-" + "A" * 32 + "-" + "b" * 16 + "-01"])
def test_service_gets_exactly_one_traceparent(sent: str, gateway: AnyGateway) -> None:
    """O1: whatever came."""
    headers = [("traceparent", sent), ("Traceparent", sent)] if sent == "nonsense" else [("traceparent", sent)] if sent else []
    fields = gateway.request("GET", "/public/x", headers=headers).json()["fields"]
    (traceparent,) = values_of(fields, "traceparent")
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", traceparent)
    assert traceparent != sent
