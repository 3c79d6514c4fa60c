"""Records and traces: the collector away or slow, the audit's disk full."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fault_scene import asks, assert_audit_holds, assert_quiet, scene_document
from tests.support.faults import Form, Measured, fault
from tests.support.load import Load, percentile, statuses
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.plain_service import ServiceProcess, service_process
from tests.support.ports import free_port
from tests.support.redis_server import wait_until
from tests.support.whole_gateway import Json, Login, ProcessGateway, running

RATE = 200


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    with service_process("patients-1") as started:
        yield started


def traced(directory: Path, login: Login, service: ServiceProcess, endpoint: str) -> Json:
    traces = {"traces": {"endpoint": endpoint, "sample_ratio": 1.0}}
    return scene_document(directory, login, "embedded://", [service.url], telemetry=traces)


def under_load(gateway: ProcessGateway, login: Login, seconds: float) -> Load:
    with Load(asks([gateway], login.bearer("alice"), "/limited", "/public"), RATE) as load:
        moment = time.monotonic() + seconds
        wait_until(lambda: bool(load.since(moment)), "load", seconds + 10)
    return load


def dropped(gateway: ProcessGateway) -> float:
    lines = gateway.admin("GET", "/metrics").text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("gateway_spans_dropped_total "))


def judge(measured: Measured, gateway: ProcessGateway, login: Login, seconds: float) -> None:
    """O5, F-60: requests go on as ever, and what was lost is known after the end."""
    measured.under(f"1 gateway, {RATE} requests/s, every request traced")
    found = under_load(gateway, login, seconds)
    measured("failed", sum(reply.status != 200 for reply in found.replies), "requests")
    measured("of", len(found.replies), "requests")
    measured("p99", percentile([reply.seconds for reply in found.replies], 0.99) * 1000, "ms")
    assert statuses(found.replies) == {200: len(found.replies)}
    assert percentile([reply.seconds for reply in found.replies], 0.5) < 0.25
    started = time.monotonic()
    assert gateway.stop() == 0, gateway.said
    measured("end of the process", time.monotonic() - started, "s")
    assert time.monotonic() - started < 20.0
    assert_ended_quietly(gateway)


def assert_ended_quietly(gateway: ProcessGateway) -> None:
    assert "Traceback" not in gateway.said, gateway.said


@fault(
    "collector-down",
    "nothing listens where the trace collector should be",
    "requests notice nothing; spans wait in a bounded queue; the end of the process takes no longer than its bound",
)
def test_collector_down(measured: Measured, form: Form, tmp_path: Path, login: Login, service: ServiceProcess) -> None:
    """O5, F-60."""
    with running(tmp_path, traced(tmp_path, login, service, f"http://127.0.0.1:{free_port()}")) as gateway:
        judge(measured, gateway, login, form.seconds(1, 20))


@fault(
    "collector-slow",
    "the trace collector takes 5 s for each answer",
    "requests notice nothing; spans wait in a bounded queue; the end of the process takes no longer than its bound",
)
def test_collector_slow(measured: Measured, form: Form, tmp_path: Path, login: Login, service: ServiceProcess) -> None:
    """O5, F-60."""
    with OtlpReceiver() as receiver:
        receiver.behave(delay_seconds=5.0)
        with running(tmp_path, traced(tmp_path, login, service, receiver.endpoint)) as gateway:
            judge(measured, gateway, login, form.seconds(1, 20))


@fault(
    "audit-full",
    "the disk of the audit is full (file size limit), and later has room again",
    "once 4 MiB of records wait, 503 `overloaded`: nothing happens unrecorded; with room again every record is written, without a gap",
)
def test_audit_disk_full(measured: Measured, tmp_path: Path, login: Login, service: ServiceProcess) -> None:
    """O6, S-36, F-60."""
    rate = 1000
    measured.under(f"1 gateway, up to {rate} requests/s, records of 0.9 KB")
    headers = {**login.bearer("alice"), "User-Agent": "x" * 256}
    # Who is refused for the load alone has no record, and a busy machine would refuse some.
    document = scene_document(tmp_path, login, "embedded://", [service.url], server={"overload": {"lag": 0}})
    with running(tmp_path, document) as gateway:
        with Load(asks([gateway], headers, "/limited"), rate) as load:
            wait_until(lambda: len(load.replies) > 100, "load")
            pid = gateway.process.pid
            before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (gateway.file.stat().st_size, before[1]))
            full_at = time.monotonic()
            wait_until(lambda: any(reply.status == 503 for reply in load.replies[-20:]), "refusals", 60)
            refused_at = time.monotonic()
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
            room_at = time.monotonic()
            wait_until(lambda: any(reply.status == 200 for reply in load.since(room_at)), "admissions again", 20)
            again_at = time.monotonic()
        found = statuses(load.replies)
        measured("answered while full", sum(reply.status == 200 and full_at < reply.sent_at < refused_at for reply in load.replies))
        measured("refused", found[503], "requests")
        measured("admitting again after", (again_at - room_at) * 1000, "ms")
        assert set(found) <= {200, 503}
        assert {reply.code for reply in load.replies if reply.status == 503} == {"overloaded"}
        assert_quiet(gateway)
    records = [record for record in gateway.records() if record["event"] == "request"]
    assert [record["seq"] for record in records] == list(range(records[0]["seq"], records[0]["seq"] + len(records)))
    assert len(records) == len(load.replies)
    measured("records missing", len(load.replies) - len(records))
    assert_audit_holds(gateway)
