"""Access lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest

from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.lines import LineWriter
from gateway.telemetry.observation import Observation
from gateway.telemetry.record import TimeText
from tests.support.observations import TRACE_ID, observation

HOSTILE = 'x" 200\r\nfaked\x85'


def written(path: Path, format_: Literal["json", "text"], *seen: Observation) -> list[bytes]:
    writer = LineWriter(f"file:{path / 'access.log'}")
    log = AccessLog(writer, format=format_, time=TimeText())
    for one in seen:
        log.observe(one)
    assert writer.close(10.0) == 0
    return (path / "access.log").read_bytes().splitlines()


def test_a_json_line(tmp_path: Path) -> None:
    """O3: the trace id is in the access line."""
    (line,) = written(tmp_path, "json", observation())
    assert json.loads(line) == {
        "time": "2026-11-23T00:58:45.123456Z",
        "method": "GET",
        "route": "/patients/{id}",
        "status": 200,
        "duration_ms": 1.5,
        "bytes": 512,
        "client_ip": "192.0.2.7",
        "subject": "alice",
        "service": "patients",
        "instance": "patients-1",
        "trace_id": f"{TRACE_ID:032x}",
        "request_id": "req-1",
    }


def test_a_text_line(tmp_path: Path) -> None:
    """O3: likewise."""
    (line,) = written(tmp_path, "text", observation())
    expected = f'2026-11-23T00:58:45.123456Z 192.0.2.7 alice "GET /patients/{{id}}" 200 512 1.500 patients/patients-1 {TRACE_ID:032x} req-1'
    assert line.decode() == expected


def test_an_unmatched_anonymous_request(tmp_path: Path) -> None:
    """O4: no route, so no path either."""
    seen = observation(route=None, principal=None, service="", tries=[], status=404)
    text, json_ = written(tmp_path / ".", "text", seen)[0], written(tmp_path / ".", "json", seen)[1]
    assert text.decode().split(" ")[2:6] == ["-", '"GET', '-"', "404"]
    record = json.loads(json_)
    assert [record[name] for name in ("route", "subject", "service", "instance")] == [None] * 4


@pytest.mark.parametrize("format_", ["json", "text"])
def test_no_value_breaks_out_of_its_line(tmp_path: Path, format_: Literal["json", "text"]) -> None:
    """S-37: no log injection."""
    (line,) = written(tmp_path, format_, observation(method=HOSTILE, request_id=HOSTILE, client_ip=HOSTILE, service=HOSTILE))
    assert line.isascii()
    assert line.decode().isprintable()
    assert len(line.split(b" ")) == 11 or format_ == "json"
