"""O6, G4: the audit of running gateways under load, killed, restarted, rotated, on full disks; verified by the command."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.audit_chains import whole_chain
from tests.support.load import Ask, Load
from tests.support.plain_service import ServiceProcess, service_process
from tests.support.processes import descendants
from tests.support.redis_server import any_server, wait_until
from tests.support.whole_gateway import Json, ProcessGateway, base_document, process_gateway, running

LONG_AGENT = {"User-Agent": "x" * 256}


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    """One that answers at once."""
    with service_process("patients-1") as started:
        yield started


def document(directory: Path, service: ServiceProcess, *, workers: int = 1, state: str = "embedded://", **audit: object) -> Json:
    content = base_document(
        directory,
        # Who is refused for the load alone has no record, and a busy machine would refuse some.
        server={"workers": workers, "overload": {"lag": 0}},
        state={"url": state},
        services={"patients": {"instances": [service.url]}},
        routes=[{"name": "public", "path": "/public", "service": "patients", "authentication": "none"}],
    )
    content["audit"] |= {"checkpoint": "1s", **audit}
    return content


def verify(*arguments: object) -> tuple[int, str]:
    """Exit code and output of `gateway audit verify`."""
    command = [sys.executable, "-m", "gateway", "audit", "verify", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def events(gateway: ProcessGateway, kind: str) -> list[Json]:
    return gateway.records(lambda record: record["event"] == kind)


def test_killed_restarted_and_rotated_it_can_be_verified(tmp_path: Path, service: ServiceProcess) -> None:
    """O6, G4: two workers under load, one killed with -9 and replaced, the file rotated meanwhile, all killed, and started again. Every
    chain holds up to its cut and agrees with the store and standard output; without its last record it does not."""
    with any_server("redis") as store:
        url = f"redis://127.0.0.1:{store.port}/0"
        content = document(tmp_path, service, workers=2, state=url)
        rotated, kept = tmp_path / "audit.jsonl.1", tmp_path / "kept"
        first = process_gateway(tmp_path, content)
        try:
            first.wait_until_listening()
            with Load([Ask(first.url, "/public")], 300) as load:
                wait_until(lambda: len(events(first, "checkpoint")) >= 2, "checkpoints of the workers", 30)
                first.file.rename(rotated)
                victim = events_of(rotated, "request")[0]["replica"]
                os.kill(int(victim.split("-")[-2]), signal.SIGKILL)
                wait_until(lambda: bool(events(first, "start")), "another worker", 30)
                seen = len(load.replies)
                wait_until(lambda: len(load.replies) > seen + 300, "load", 30)
                for pid in (*descendants(first.process.pid), first.process.pid):
                    os.kill(pid, signal.SIGKILL)
        finally:
            first.kill()
        kept.write_text(first.output)
        with running(tmp_path, content) as second:
            assert second.request("GET", "/public").status_code == 200
            started = events(second, "start")[-1]
        assert {head["replica"] for head in started["detail"]["previous"]}, "it names the chains that were cut"
        code, said = verify(second.file, rotated, "--checkpoint", kept, "--checkpoint", tmp_path / "stdout", "--store", url)
        assert code == 0, said
        assert "5 chains: good" in said, said
        assert said.count("ended in order") == 2, said
        lines = second.file.read_bytes().splitlines(keepends=True)
        second.file.write_bytes(b"".join(lines[:-1]))
        code, said = verify(second.file, rotated, "--store", url)
        assert code == 1, said
        assert "its end was cut off" in said


def events_of(path: Path, kind: str) -> list[Json]:
    return [record for line in path.read_bytes().splitlines() if (record := json.loads(line))["event"] == kind]


def test_the_store_is_away_and_nobody_waits(tmp_path: Path, service: ServiceProcess) -> None:
    """O6: checkpoints are made all the same, requests go on, and the store has the newest when it is back; S-34: both are recorded."""
    with any_server("redis") as own:
        url = f"redis://127.0.0.1:{own.port}/0"
        with running(tmp_path, document(tmp_path, service, state=url)) as gateway:
            wait_until(lambda: bool(events(gateway, "checkpoint")), "a checkpoint", 20)
            own.kill()
            gateway.wait_for_record(lambda record: record.get("detail") == {"dependency": "store", "state": "away"})
            before = len(events(gateway, "checkpoint"))
            wait_until(lambda: len(events(gateway, "checkpoint")) > before + 1, "checkpoints without the store", 20)
            assert gateway.request("GET", "/public").status_code == 200
            own.start_again()
            gateway.wait_for_record(lambda record: record.get("detail") == {"dependency": "store", "state": "back"})
        code, said = verify(gateway.file, "--store", url)
        assert code == 0, said
        assert "agrees with 1 checkpoint kept elsewhere" in said, said


def fill_the_disk(gateway: ProcessGateway) -> None:
    """No file that the gateway writes may grow any more."""
    before = resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (gateway.file.stat().st_size, before[1]))


def test_a_full_disk_is_503_and_afterwards_nothing_is_missing(tmp_path: Path, service: ServiceProcess) -> None:
    """O6, S-36: `when_full: block` with the chain; AU-5: the metric says so."""
    with running(tmp_path, document(tmp_path, service)) as gateway:
        assert gateway.request("GET", "/public").status_code == 200
        with Load([Ask(gateway.url, "/public", LONG_AGENT)], 1500) as load:
            fill_the_disk(gateway)
            wait_until(lambda: any(reply.code == "overloaded" for reply in load.replies[-50:]), "refusals", 60)
            assert "gateway_sink_errors_total" in gateway.admin("GET", "/metrics").text
            resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            refused = len(load.replies)
            wait_until(lambda: any(reply.status == 200 for reply in load.replies[refused:]), "admissions again", 30)
        answered = len(load.replies)
    code, said = verify(gateway.file)
    assert code == 0, said
    assert "note" not in said, said
    assert len(events(gateway, "request")) == answered + 1


def test_a_full_disk_costs_records_where_that_is_allowed_and_a_record_says_which(tmp_path: Path, service: ServiceProcess) -> None:
    """O6, S-36: `when_full: drop`: every request is answered, what was lost is counted and declared, and nothing else is missing."""
    with running(tmp_path, document(tmp_path, service, when_full="drop")) as gateway:
        assert gateway.request("GET", "/public").status_code == 200

        def dropped() -> int:
            lines = gateway.admin("GET", "/metrics").text.splitlines()
            return sum(int(float(line.split()[1])) for line in lines if line.startswith("gateway_audit_dropped_total "))

        with Load([Ask(gateway.url, "/public", LONG_AGENT)], 1500) as load:
            fill_the_disk(gateway)
            wait_until(lambda: dropped() > 100, "records to be lost", 60)
            resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            wait_until(lambda: bool(events(gateway, "gap")), "the gap to be declared", 30)
            lost = dropped()
        assert {reply.status for reply in load.replies} == {200}
    [gap] = events(gateway, "gap")
    assert gap["detail"]["records"] == gap["detail"]["last_seq"] - gap["detail"]["first_seq"] + 1 == lost
    code, said = verify(gateway.file)
    assert code == 0, said
    assert f"records {gap['detail']['first_seq']} to {gap['detail']['last_seq']} of " in said, said
    code, said = verify(without_line(gateway.file, b'"event":"gap"'))
    assert code == 1, said


def without_line(path: Path, part: bytes) -> Path:
    changed = path.with_name("changed")
    changed.write_bytes(b"".join(line for line in path.read_bytes().splitlines(keepends=True) if part not in line))
    return changed


def test_a_pipe_without_a_reader_is_a_full_sink(tmp_path: Path, service: ServiceProcess) -> None:
    """S-36: standard output was closed at its other end: an error that is counted, and no record is given up meanwhile."""
    content = document(tmp_path, service, sink=["stdout"])
    path = tmp_path / "gateway.yaml"
    path.write_text(json.dumps(content))
    reader, writer = os.pipe()
    errors = (tmp_path / "stderr").open("wb")
    command = [sys.executable, "-m", "gateway", "run", "-c", str(path)]
    process = subprocess.Popen(command, stdout=writer, stderr=errors, stdin=subprocess.DEVNULL)
    os.close(writer)
    os.close(reader)
    try:
        wait_until(lambda: "sink stdout can't be written, trying again: Broken pipe" in (tmp_path / "stderr").read_text(), "the error", 30)
        assert process.poll() is None
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        errors.close()
    assert "sink stdout lost" in (tmp_path / "stderr").read_text(), "what was lost at the end is said"


@pytest.mark.parametrize("arguments", [[], ["--checkpoint", "FILE"], ["--store", "redis://127.0.0.1:1"], ["--store", "nonsense://"]])
def test_bad_usage_is_2(tmp_path: Path, arguments: list[str]) -> None:
    """CONTRACT section 3: no file, a file without a checkpoint, a store that can't be asked."""
    path = tmp_path / "audit"
    path.write_bytes(whole_chain("gw-1", 1).lines[0])
    files = [path] if arguments else []
    code, said = verify(*files, *(path if argument == "FILE" else argument for argument in arguments))
    assert code == 2, said
    assert "Error: " in said
    assert "Traceback" not in said


def test_nothing_to_verify_is_a_problem(tmp_path: Path) -> None:
    """A file without a chain proves nothing."""
    path = tmp_path / "audit"
    path.write_text("hello\n")
    assert verify(path) == (1, f"{path}: note: 1 line of another kind passed over\nno sealed record was found: nothing is proved\n")
