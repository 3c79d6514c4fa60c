"""A new configuration for a running process: by signal, by file, by the admin API; accepted whole or refused with the reason."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.processes import descendants
from tests.support.redis_server import wait_until
from tests.support.whole_gateway import ADMIN_TOKEN, Json, ProcessGateway, Upstream, base_document, process_gateway, upstream


@pytest.fixture(scope="module")
def service() -> Iterator[Upstream]:
    with upstream("patients-1") as started:
        yield started


def document(directory: Path, service: Upstream, *paths: str, **sections: Any) -> Json:
    """Public routes at these paths."""
    return base_document(
        directory,
        services={"patients": {"instances": [service.url]}},
        routes=[
            {"name": f"route-{number}", "path": path, "service": "patients", "authentication": "none"} for number, path in enumerate(paths)
        ],
        **sections,
    )


def write(directory: Path, content: Json | str) -> None:
    """Replace the configuration in one step, as editors and tools do."""
    fresh = directory / "fresh"
    fresh.write_text(content if isinstance(content, str) else json.dumps(content))
    fresh.rename(directory / "gateway.yaml")


@contextlib.contextmanager
def serving(directory: Path, content: Json) -> Iterator[ProcessGateway]:
    gateway = process_gateway(directory, content)
    try:
        yield gateway.wait_until_listening()
        assert gateway.stop() == 0, gateway.said
        assert "Traceback" not in gateway.said, gateway.said
    finally:
        gateway.kill()


def status(gateway: ProcessGateway, path: str) -> int:
    """On a connection of its own, so that every worker is asked sooner or later."""
    return httpx.get(gateway.url + path, trust_env=False, timeout=20).status_code


def config_record(gateway: ProcessGateway) -> Json:
    """The detail of the first record of a reload, once it is there."""
    detail: Json = gateway.wait_for_record(lambda each: each["event"] == "config")["detail"]
    return detail


def generations(gateway: ProcessGateway) -> float:
    (line,) = [each for each in gateway.admin("GET", "/metrics").text.splitlines() if each.startswith("gateway_config_generation ")]
    return float(line.split()[1])


def test_admin_call_puts_a_new_configuration_to_work(tmp_path: Path, service: Upstream) -> None:
    """G3, F-54: the answer says which generation is at work; so do the metric, /v1/config, the log, the audit, and what requests meet."""
    with serving(tmp_path, document(tmp_path, service, "/a")) as gateway:
        assert (status(gateway, "/a"), status(gateway, "/b")) == (200, 404)
        assert gateway.admin("POST", "/v1/reload", token="").status_code == 401
        assert gateway.admin("POST", "/v1/reload").json() == {"generation": 1, "changed": False}
        write(tmp_path, document(tmp_path, service, "/b"))
        reply = gateway.admin("POST", "/v1/reload")
        assert (reply.status_code, reply.json()["generation"]) == (200, 2)
        assert (status(gateway, "/a"), status(gateway, "/b")) == (404, 200)
        assert generations(gateway) == 2
        assert gateway.admin("GET", "/v1/config").json()["generation"] == 2
        assert [route["path"] for route in gateway.admin("GET", "/v1/routes").json()["routes"]] == ["/b"]
        assert "generation 2 is at work" in gateway.said
        record = config_record(gateway)
        assert {key: record[key] for key in ("action", "result", "generation")} == {
            "action": "reload",
            "result": "accepted",
            "generation": 2,
        }
        found = gateway.wait_for_record(lambda each: each["event"] == "request" and each["generation"] == 2)
        assert found["request"]["route"] in (None, "route-0")


def test_signal_has_the_configuration_loaded_again(tmp_path: Path, service: Upstream) -> None:
    """G3: SIGHUP, also when nothing has changed."""
    with serving(tmp_path, document(tmp_path, service, "/a")) as gateway:
        gateway.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "nothing has changed" in gateway.said, "the reload")
        write(tmp_path, document(tmp_path, service, "/a", "/b"))
        gateway.process.send_signal(signal.SIGHUP)
        wait_until(lambda: status(gateway, "/b") == 200, "the new route")
        assert gateway.process.poll() is None


def test_file_that_changes_is_loaded_by_itself(tmp_path: Path, service: Upstream) -> None:
    """G3: replaced, written in place, or named by a link to a directory that is swapped, as in a mounted ConfigMap of Kubernetes."""
    volume = tmp_path / "etc"
    content = document(tmp_path, service, "/a")
    (volume / "..1").mkdir(parents=True)
    (volume / "..1" / "gateway.yaml").write_text(json.dumps(content))
    (volume / "..data").symlink_to("..1")
    (volume / "gateway.yaml").symlink_to("..data/gateway.yaml")
    command = [sys.executable, "-m", "gateway", "run", "-c", str(volume / "gateway.yaml")]
    gateway = ProcessGateway(command, tmp_path, tmp_path / "audit.jsonl", {})
    try:
        gateway.wait_until_listening()
        (volume / "..2").mkdir()
        (volume / "..2" / "gateway.yaml").write_text(json.dumps(document(tmp_path, service, "/b")))
        (volume / "..fresh").symlink_to("..2")
        (volume / "..fresh").rename(volume / "..data")
        wait_until(lambda: status(gateway, "/b") == 200, "the swapped directory to be noticed")
        (volume / "..2" / "gateway.yaml").write_text(json.dumps(document(tmp_path, service, "/c")))
        wait_until(lambda: status(gateway, "/c") == 200, "what was written in place to be noticed")
        before = gateway.said
        (volume / "..2" / "gateway.yaml").touch()
        wait_until(lambda: generations(gateway) == 3, "three generations")
        assert gateway.stop() == 0
        assert gateway.said.count("configuration loaded again (file)") == before.count("configuration loaded again (file)") == 2
    finally:
        gateway.kill()


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory, service: Upstream) -> Iterator[ProcessGateway]:
    """One that is given nothing that it can use."""
    directory = tmp_path_factory.mktemp("steady")
    with serving(directory, document(directory, service, "/a")) as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("version: 1\nroutes: [", "gateway.yaml"),
        ("version: 1\nservers: {}", "servers"),
        ("version: 1\nserver: {port: 1, host: 0.0.0.0}", "server.port"),
        ("version: 1\nadmin: {port: 9}", "admin.port"),
        ("version: 1\nstate: {url: 'redis://:secret@127.0.0.1:1'}", "state.url"),
        ("version: 1\naudit: {sink: [stderr]}", "audit.sink"),
        ("version: 1\ntelemetry: {traces: {sample_ratio: 0.5}}", "telemetry.traces.sample_ratio"),
    ],
)
def test_configuration_that_can_not_be_used_changes_nothing(content: str, key: str, steady: ProcessGateway) -> None:
    """F-54: refused whole, with the reason in the answer and the log, the keys in the audit; also what only a restart can change."""
    before = len(steady.said)
    write(steady.file.parent, content)
    reply = steady.admin("POST", "/v1/reload")
    assert (reply.status_code, reply.headers["content-type"]) == (422, "application/problem+json")
    assert reply.json()["code"] == "config_refused"
    assert any(key in problem for problem in reply.json()["problems"]), reply.json()
    assert "secret" not in reply.text
    assert (status(steady, "/a"), generations(steady)) == (200, 1)
    assert "configuration refused (admin), generation 1 stays at work" in steady.said[before:]

    def tells_the_key(record: Json) -> bool:
        return record["event"] == "config" and any(key in told for told in record["detail"]["keys"])

    assert steady.wait_for_record(tells_the_key)["detail"]["result"] == "refused"
    assert "secret" not in steady.said


def test_refused_file_is_told_of_once_and_the_next_one_is_taken(tmp_path: Path, service: Upstream) -> None:
    """F-54: a mistake does not have to be undone by hand."""
    with serving(tmp_path, document(tmp_path, service, "/a")) as gateway:
        write(tmp_path, "version: 2\n")
        wait_until(lambda: "configuration refused (file)" in gateway.said, "the refusal")
        write(tmp_path, document(tmp_path, service, "/b"))
        wait_until(lambda: status(gateway, "/b") == 200, "the next configuration")
        assert gateway.said.count("configuration refused") == 1


def test_secrets_are_read_again(tmp_path: Path, service: Upstream) -> None:
    """G3: a file with a secret is watched like the configuration itself."""
    (tmp_path / "token").write_text("first-token-of-the-administrator\n")
    content = document(tmp_path, service, "/a", admin={"host": "127.0.0.1", "port": 0, "token_file": str(tmp_path / "token")})
    with serving(tmp_path, content) as gateway:
        assert gateway.admin("GET", "/v1/config", token="first-token-of-the-administrator").status_code == 200
        (tmp_path / "token").write_text("second-token-of-the-administrator\n")
        wait_until(
            lambda: gateway.admin("GET", "/v1/config", token="second-token-of-the-administrator").status_code == 200, "the new token"
        )
        assert gateway.admin("GET", "/v1/config", token="first-token-of-the-administrator").status_code == 401


def test_all_workers_reload_and_the_next_ones_begin_with_the_new_configuration(tmp_path: Path, service: Upstream) -> None:
    """G3, F-54: by one call, by the signal, and after a crash; also while the file is broken."""
    with serving(tmp_path, document(tmp_path, service, "/a", server={"workers": 2})) as gateway:
        write(tmp_path, document(tmp_path, service, "/b", server={"workers": 2}))
        reply = gateway.admin("POST", "/v1/reload")
        assert reply.json()["workers"] == 2
        assert {status(gateway, "/b") for _ in range(12)} == {200}
        write(tmp_path, document(tmp_path, service, "/c", server={"workers": 2}))
        gateway.process.send_signal(signal.SIGHUP)
        wait_until(lambda: {status(gateway, "/c") for _ in range(12)} == {200}, "both workers")
        write(tmp_path, "version: 2\n")
        reply = gateway.admin("POST", "/v1/reload")
        assert (reply.status_code, reply.json()["code"]) == (422, "config_refused")
        for worker in workers(gateway):
            os.kill(worker, signal.SIGKILL)
        wait_until(lambda: gateway.said.count("it is replaced") == 2, "the supervisor to notice")
        wait_until(lambda: gateway.admin("GET", "/readyz").status_code == 200, "the workers to be replaced")
        assert {status(gateway, "/c") for _ in range(12)} == {200}


def workers(gateway: ProcessGateway) -> set[int]:
    """Those that have written a start record: their names have their process ids."""
    alive = set(descendants(gateway.process.pid))
    return {int(record["replica"].split("-")[-2]) for record in gateway.records(lambda each: each["event"] == "start")} & alive


def test_python_routes_stay_beside_those_of_the_file(tmp_path: Path, service: Upstream) -> None:
    """G3, CONTRACT section 2: `start()` of an application with a configuration file."""
    file = tmp_path / "gateway.yaml"
    file.write_text(json.dumps(document(tmp_path, service, "/a")))
    script = tmp_path / "application.py"
    script.write_text(
        "from gateway import BackendAPIGateway\n"
        f"gateway = BackendAPIGateway(config={str(file)!r})\n"
        "@gateway.route('/ours', authentication='none')\n"
        "def ours(request):\n"
        "    return {'data': 'ours'}\n"
        "gateway.start()\n"
    )
    command = [sys.executable, str(script)]
    gateway = ProcessGateway(command, tmp_path, tmp_path / "audit.jsonl", {"GATEWAY_ADMIN_TOKEN": ADMIN_TOKEN})
    try:
        gateway.wait_until_listening()
        assert (status(gateway, "/a"), status(gateway, "/ours")) == (200, 200)
        write(tmp_path, document(tmp_path, service, "/b"))
        assert gateway.admin("POST", "/v1/reload").json()["generation"] == 2
        assert (status(gateway, "/a"), status(gateway, "/b"), status(gateway, "/ours")) == (404, 200, 200)
        assert gateway.stop() == 0
    finally:
        gateway.kill()


def test_nothing_is_loaded_while_the_gateway_ends(tmp_path: Path, service: Upstream) -> None:
    """G1, F-54: what is at work finishes what it has begun."""
    content = document(tmp_path, service, "/a", server={"drain": {"delay": "20s", "quiet": "1s"}})
    with serving(tmp_path, content) as gateway:
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: gateway.admin("GET", "/readyz").status_code == 503, "the gateway to drain")
        write(tmp_path, document(tmp_path, service, "/b"))
        reply = gateway.admin("POST", "/v1/reload")
        assert (reply.status_code, reply.json()["problems"]) == (422, ["the gateway is ending"])


@pytest.mark.parametrize("count", [1, 2])
def test_hangup_ends_a_gateway_that_has_no_file(count: int, tmp_path: Path) -> None:
    """G1: there is nothing to load again, and who closes a terminal expects what ran in it to end."""
    script = tmp_path / "application.py"
    settings = {**base_document(tmp_path, server={"workers": count}), "state": {"url": "redis://127.0.0.1:1"}}
    script.write_text(f"from gateway import BackendAPIGateway\nBackendAPIGateway(**{settings!r}).start()\n")
    gateway = ProcessGateway([sys.executable, str(script)], tmp_path, tmp_path / "audit.jsonl", {})
    try:
        gateway.wait_until_listening()
        gateway.process.send_signal(signal.SIGHUP)
        assert gateway.wait() == 0, gateway.said
    finally:
        gateway.kill()
    assert len(gateway.records(lambda each: each["event"] == "stop")) == count
