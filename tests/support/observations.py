"""Observations as the pipeline would leave them, for tests of whoever reads them."""

from __future__ import annotations

from typing import Any

from gateway.auth.principal import Principal
from gateway.route import Route
from gateway.telemetry.observation import Observation, Try
from gateway.telemetry.trace_context import Inherited, Trace

TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C
SPAN_ID = 0xB7AD6B7169203331
TRY_SPAN_ID = 77
#: 2026-11-23T00:58:45.123456Z
ENDED_NS = 1_795_395_525_123_456_789
ROUTE = Route(name="get-patient", path="/patients/{id}", target="patients", audit_path_params=("id",))


def trace(*, sampled: bool = True, **others: Any) -> Trace:
    return Trace(b"%032x" % TRACE_ID, span_id(SPAN_ID), span_id(TRY_SPAN_ID), sampled, 1 if sampled else 0, Inherited(**others))


def span_id(number: int) -> bytes:
    """A span's id as it travels."""
    return b"%016x" % number


def principal() -> Principal:
    return Principal("alice", "https://login.example.gov", "jwt", frozenset({"b:write", "a:read"}), token_id="t-1", client="portal")


def attempt(status: int = 200, *, error: str = "", span: int = TRY_SPAN_ID) -> Try:
    made = Try("patients-1", "10.0.0.9:9001", span_id(span), ENDED_NS - 1_000_000)
    made.ended_ns, made.status, made.error = ENDED_NS - 100_000, status, error
    return made


def observation(**fields: Any) -> Observation:
    """A request for a patient's record, answered by the service within 1.5 ms; `fields` say what was different."""
    seen = Observation(ENDED_NS - 1_500_000, trace())
    seen.ended_ns = ENDED_NS
    seen.method, seen.host, seen.route, seen.service, seen.status = "GET", "api.example.gov", ROUTE, "patients", 200
    seen.client_ip, seen.client_port, seen.peer_ip, seen.user_agent = "192.0.2.7", 50123, "10.0.0.1", "curl/8.5"
    seen.principal, seen.request_id, seen.generation = principal(), "req-1", 3
    seen.request_bytes, seen.response_bytes = 0, 512
    seen.limits, seen.path_params, seen.tries = (("per-client", 37),), {"id": "17"}, [attempt()]
    for name, value in fields.items():
        setattr(seen, name, value)
    return seen
