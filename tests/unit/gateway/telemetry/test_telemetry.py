"""All of it together."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.errors import ConfigError
from gateway.settings import AccessLogSettings, AuditSettings, TelemetrySettings, TraceSettings
from gateway.telemetry.metrics import endpoints_source
from gateway.telemetry.telemetry import Telemetry
from tests.support.observations import TRACE_ID, observation, trace


class Setup:
    """A telemetry whose every output can be read."""

    def __init__(self, path: Path, *, audit: bool = True, access_log: bool = True, metrics: bool = True, **traces: Any) -> None:
        self.path = path
        self.exporter = InMemorySpanExporter()
        self.telemetry = Telemetry(
            TelemetrySettings(
                traces=TraceSettings(**traces),
                prometheus=metrics,
                access_log=AccessLogSettings(format="json" if access_log else "off", sink=f"file:{path / 'access'}"),
            ),
            AuditSettings(sink=(f"file:{path / 'audit'}",) if audit else ()),
            version="1.2.3",
            replica="gw-1",
            sources=[endpoints_source(lambda: [(("patients", "healthy"), 2.0)])],
            exporter=self.exporter,
        )

    def close(self) -> None:
        asyncio.run(self.telemetry.close(10.0))

    def read(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.path / name).read_bytes().splitlines()]


def test_one_observation_reaches_every_output(tmp_path: Path) -> None:
    """O3: the trace id is in the audit record, the access line and the spans."""
    setup = Setup(tmp_path)
    setup.telemetry.observe(observation())
    setup.close()
    trace_id = f"{TRACE_ID:032x}"
    assert [record["trace_id"] for record in setup.read("audit")] == [trace_id]
    assert [record["trace_id"] for record in setup.read("access")] == [trace_id]
    assert [span.context and span.context.trace_id for span in setup.exporter.get_finished_spans()] == [TRACE_ID, TRACE_ID]
    text = setup.telemetry.render()
    assert b'gateway_requests_total{method="GET",route="get-patient",status="200"} 1.0' in text
    assert b'gateway_endpoints{service="patients",state="healthy"} 2.0' in text


def test_an_unsampled_request_has_its_trace_id_in_the_records(tmp_path: Path) -> None:
    """O3: sampled or not."""
    setup = Setup(tmp_path, sample_ratio=0.0)
    setup.telemetry.observe(observation(trace=trace(sampled=False)))
    setup.close()
    assert setup.read("audit")[0]["trace_id"] == setup.read("access")[0]["trace_id"] == f"{TRACE_ID:032x}"
    assert setup.exporter.get_finished_spans() == ()


def test_what_is_off_writes_nothing(tmp_path: Path) -> None:
    """`audit: {sink: []}`, `access_log: {format: off}`, `prometheus: false`."""
    setup = Setup(tmp_path, audit=False, access_log=False, metrics=False)
    setup.telemetry.observe(observation())
    setup.telemetry.event("start")
    assert setup.telemetry.accepts()
    assert b"get-patient" not in setup.telemetry.render()
    setup.close()
    assert list(tmp_path.iterdir()) == []


def test_a_failing_part_is_counted_reported_once_and_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`observe` is called in a `finally`: it never raises."""
    setup = Setup(tmp_path)
    broken = observation(user_agent=None)
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            setup.telemetry.observe(broken)
        setup.telemetry.observe(observation())
    text = setup.telemetry.render().decode()
    assert 'gateway_telemetry_failures_total{part="audit"} 5.0' in text
    assert "gateway_audit_dropped_total 5.0" in text
    told = [
        record.message for record in caplog.records if record.message.startswith("audit failed on a request; further failures are only")
    ]
    assert len(told) == 1
    assert told[0].endswith("\nTypeError"), "where and what, not with which values"
    setup.close()
    assert len(setup.read("audit")) == 1


def test_events_are_audited(tmp_path: Path) -> None:
    """S-34: start, stop, configuration and admin calls."""
    setup = Setup(tmp_path)
    for kind in ("start", "config", "admin", "stop"):
        setup.telemetry.event(kind, {"by": "operator"})
    setup.close()
    assert [(record["seq"], record["event"]) for record in setup.read("audit")] == [(1, "start"), (2, "config"), (3, "admin"), (4, "stop")]


def test_requests_are_refused_while_the_audit_is_full() -> None:
    """S-36, O6: answer 503 rather than lose a record (AU-5)."""
    telemetry = Telemetry(TelemetrySettings(), AuditSettings(sink=("file:/dev/full",)), version="1", replica="gw-1")
    seen = observation(user_agent="u" * 256)
    for _ in range(20_000):
        if not telemetry.accepts():
            break
        telemetry.observe(seen)
    assert not telemetry.accepts()
    assert b"gateway_audit_dropped_total 0.0" in telemetry.render()
    asyncio.run(telemetry.close(0.0))


def test_audit_and_access_log_share_a_sink_line_by_line(tmp_path: Path) -> None:
    """S-37: both to standard output is the default in a container; lines are never mixed."""
    sink = f"file:{tmp_path / 'both'}"
    settings = TelemetrySettings(access_log=AccessLogSettings(sink=sink))
    telemetry = Telemetry(settings, AuditSettings(sink=(sink, sink)), version="1", replica="gw-1")
    for _ in range(2000):
        telemetry.observe(observation())
    asyncio.run(telemetry.close(10.0))
    records = [json.loads(line) for line in (tmp_path / "both").read_bytes().splitlines()]
    assert len(records) == 4000
    assert [record["seq"] for record in records if "seq" in record] == list(range(1, 2001))


def test_a_sink_that_can_not_be_opened_stops_the_start() -> None:
    """CONTRACT section 3: one clear line."""
    with pytest.raises(ConfigError, match="/nonexistent/x"):
        Telemetry(TelemetrySettings(), AuditSettings(sink=("file:/nonexistent/x",)), version="1", replica="gw-1")


def test_the_loops_lag_is_sampled_while_it_runs(tmp_path: Path) -> None:
    """F-45: gateway_event_loop_lag_seconds."""
    setup = Setup(tmp_path)

    async def scenario() -> bytes:
        setup.telemetry.start()
        text = setup.telemetry.render()
        await setup.telemetry.close(10.0)
        return text

    assert b"gateway_event_loop_lag_seconds 0.0" in asyncio.run(scenario())


def test_no_secret_reaches_any_output(tmp_path: Path) -> None:
    """O4: a canary in everything that an observation knows and nothing may show."""
    canary = "CANARY-7f3a"
    setup = Setup(tmp_path)
    seen = observation(path_params={"id": "17", "ssn": canary})
    assert seen.principal is not None
    object.__setattr__(seen.principal, "claims", {"email": canary})
    object.__setattr__(seen.principal, "session", canary)
    setup.telemetry.observe(seen)
    text = setup.telemetry.render()
    setup.close()
    spans = "".join(span.to_json() for span in setup.exporter.get_finished_spans())
    outputs = (tmp_path / "audit").read_text() + (tmp_path / "access").read_text() + text.decode() + spans
    assert "alice" in outputs
    assert canary not in outputs
