"""The gateway itself: replicas restarted, reloaded, killed."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import httpx
import pytest

from tests.support.fault_scene import SLACK_SECONDS, assert_audit_holds, assert_quiet, scene_document, store_url
from tests.support.faults import Form, Measured, fault
from tests.support.load import Ask, Load, percentile, statuses
from tests.support.plain_service import ServiceProcess, service_process
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, redis_server, wait_until
from tests.support.whole_gateway import Json, Login, ProcessGateway, process_gateway

LEASE_SECONDS = 5.0


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    with service_process("patients-1") as started:
        yield started


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server("redis") as started:
        yield started


class Replica:
    """A gateway that is started again and again at the same place.

    Args:
        content: its configuration, but for the ports.
    """

    def __init__(self, directory: Path, content: Json) -> None:
        self.directory = directory
        self.ready = False
        ports = {"server": free_port(), "admin": free_port()}
        self.content = {**content, **{name: {"host": "127.0.0.1", **content.get(name, {}), "port": port} for name, port in ports.items()}}
        self.url, self.admin_url = (f"http://127.0.0.1:{ports[name]}" for name in ("server", "admin"))
        self.gateway: ProcessGateway | None = None

    def start(self) -> None:
        self.gateway = process_gateway(self.directory, self.content).wait_until_listening()

    def kill(self) -> None:
        if self.gateway is not None:
            self.gateway.kill()

    def look(self) -> None:
        """As a load balancer does."""
        try:
            self.ready = httpx.get(f"{self.admin_url}/readyz", trust_env=False, timeout=2).status_code == 200
        except httpx.HTTPError:
            self.ready = False


class Balancer(Sequence[Ask]):
    """Requests for replicas that were ready when last looked at, in turn: what a load balancer with a probe every 0.1 s does.

    A client of it keeps connections, and uses one no more that was told to close.
    """

    def __init__(self, replicas: Sequence[Replica], path: str, headers: dict[str, str]) -> None:
        self._replicas = replicas
        self._path = path
        self._headers = headers
        self._turn = 0
        self._ended = threading.Event()
        self._prober = threading.Thread(target=self._probe)

    def __enter__(self) -> Balancer:
        self._prober.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._prober.join()

    def __len__(self) -> int:
        return 1

    @overload
    def __getitem__(self, index: int) -> Ask: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Ask]: ...
    def __getitem__(self, index: int | slice) -> Any:
        ready = [replica for replica in self._replicas if replica.ready]
        assert ready, "no replica is ready"
        self._turn += 1
        return Ask(ready[self._turn % len(ready)].url, self._path, self._headers)

    def _probe(self) -> None:
        while not self._ended.wait(0.1):
            for replica in self._replicas:
                replica.look()


@contextlib.contextmanager
def replicas(directory: Path, content: Json, number: int = 2) -> Iterator[list[Replica]]:
    """So many replicas that serve."""
    started = [Replica(directory / f"replica-{index}", audited(directory / f"replica-{index}", content)) for index in range(number)]
    try:
        for replica in started:
            replica.start()
            wait_until(lambda replica=replica: (replica.look(), replica.ready)[1], "a replica to be ready")  # type: ignore[misc]
        yield started
    finally:
        for replica in started:
            replica.kill()


def scene(directory: Path, login: Login, store: RedisServer, service: ServiceProcess, **sections: object) -> Json:
    """With a generous budget: that a busy machine keeps the store from answering in time is another test's subject."""
    state = {"url": store_url(store), "budget": "2s"}
    return scene_document(directory, login, store_url(store), [service.url], **{"state": state, **sections})


def audited(directory: Path, content: Json) -> Json:
    return {**content, "audit": {"sink": [f"file:{directory / 'audit.jsonl'}"]}}


@fault(
    "rolling-restarts",
    "replicas are restarted one after the other (SIGTERM, wait for the end, start, wait for `/readyz`)",
    "no client sees an error: every request is answered 200",
)
def test_rolling_restarts(
    measured: Measured, form: Form, tmp_path: Path, login: Login, server: RedisServer, service: ServiceProcess
) -> None:
    """G2, F-51: keep-alive clients behind a load balancer that watches /readyz; each process ends with 0."""
    restarts, rate = int(form.seconds(2, 10)), form.seconds(200, 500)
    measured.under(f"2 replicas, {rate:.0f} requests/s with keep-alive, half of them at each, probes every 0.1 s, {restarts} restarts")
    content = scene(tmp_path, login, server, service, server={"drain": {"delay": "10s", "quiet": "1s"}})
    ends = []
    with replicas(tmp_path, content) as both, Balancer(both, "/limited", login.bearer("alice")) as balancer:
        with Load(balancer, rate) as load:
            wait_until(lambda: len(load.replies) > rate, "load")
            for number in range(restarts):
                replica = both[number % 2]
                assert replica.gateway is not None
                told_at = time.monotonic()
                replica.gateway.process.send_signal(signal.SIGTERM)
                assert replica.gateway.wait() == 0, replica.gateway.said
                ends.append(time.monotonic() - told_at)
                assert_said_nothing(replica.gateway)
                replica.start()
                wait_until(lambda replica=replica: replica.ready, "the replica to be ready", 30)  # type: ignore[misc]
                wait_until(lambda: bool(load.since(time.monotonic() - 0.5)), "load goes on")
    bad = [reply for reply in load.replies if reply.status != 200]
    assert not bad, bad[:5]
    measured("answered 200", len(load.replies), "requests")
    measured("errors", len(bad), "requests")
    measured("p99", percentile([reply.seconds for reply in load.replies], 0.99) * 1000, "ms")
    measured("an end took at most", max(ends), "s")


def assert_said_nothing(gateway: ProcessGateway) -> None:
    assert "Traceback" not in gateway.said, gateway.said
    assert "cut off" not in gateway.said, gateway.said


@fault(
    "reload-under-load",
    "the configuration is loaded again, each time with other routes",
    "no request fails; the next one is the new configuration's",
)
def test_reload_under_load(
    measured: Measured, form: Form, tmp_path: Path, login: Login, server: RedisServer, service: ServiceProcess
) -> None:
    """G3: routes, limits and services change many times under load, and not one request is lost."""
    reloads, rate = int(form.seconds(10, 50)), form.seconds(200, 500)
    measured.under(f"1 gateway, {rate:.0f} requests/s, {reloads} reloads by `POST /v1/reload`")
    content = scene(tmp_path, login, server, service)
    with replicas(tmp_path, content, 1) as (replica,):
        gateway = replica.gateway
        assert gateway is not None
        asks = [Ask(gateway.url, path, login.bearer("alice")) for path in ("/limited", "/public", "/parallel/slow-0.3")]
        took = []
        with Load([*asks[:2] * 20, asks[2]], rate) as load:
            wait_until(lambda: len(load.replies) > rate, "load")
            for number in range(reloads):
                route = {"name": f"extra-{number}", "path": f"/extra/{number}", "service": "patients", "authentication": "none"}
                (replica.directory / "fresh").write_text(json.dumps({**replica.content, "routes": [*content["routes"], route]}))
                (replica.directory / "fresh").rename(replica.directory / "gateway.yaml")
                asked_at = time.monotonic()
                reply = gateway.admin("POST", "/v1/reload")
                took.append(time.monotonic() - asked_at)
                assert reply.status_code == 200, reply.text
                assert gateway.request("GET", f"/extra/{number}").status_code == 200
        assert_quiet(gateway)
        # A file that was found by itself before it was asked for is no second generation.
        assert gateway.admin("GET", "/v1/config").json()["generation"] == reloads + 1
        assert gateway.admin("GET", "/v1/routes").json()["routes"][-1]["name"]
        bad = [reply for reply in load.replies if reply.status != 200 and not (reply.path == asks[2].path and reply.status == 429)]
        assert not bad, bad[:5]
        (endpoints,) = gateway.admin("GET", "/v1/services").json()["services"]
        assert endpoints["instances"][0]["requests"] >= statuses(load.replies)[200], "counters survive"
    measured("answered 200", statuses(load.replies)[200], "requests")
    measured("errors", len(bad), "requests")
    measured("p99", percentile([reply.seconds for reply in load.replies if reply.path != asks[2].path], 0.99) * 1000, "ms")
    measured("a reload took, median", percentile(took, 0.5) * 1000, "ms")


@fault(
    "replica-killed",
    "one of two replicas is killed (`kill -9`) with requests under way",
    "the other one notices nothing; leases of the dead one are free after their life; its audit is whole up to the cut",
)
def test_replica_killed(measured: Measured, form: Form, tmp_path: Path, login: Login, server: RedisServer, service: ServiceProcess) -> None:
    """G4, F-54: what is lost is what was in flight in it."""
    rate = 200
    measured.under(f"2 replicas, {rate} requests/s, half of them at each; leases live {LEASE_SECONDS:g} s")
    content = scene(tmp_path, login, server, service)
    content["limits"]["parallel"]["lease"] = f"{LEASE_SECONDS:g}s"
    headers = login.bearer("bob")
    with replicas(tmp_path, content) as (victim, other):
        assert victim.gateway is not None
        assert other.gateway is not None
        asks = [Ask(replica.url, "/limited", login.bearer("alice")) for replica in (victim, other)]
        holders = [Ask(victim.url, "/parallel/slow-60", headers)]
        with Load(asks, rate) as load, Load(holders, 10, 0.2) as held:
            wait_until(lambda: len(load.replies) > rate, "load")
            free = other.gateway.request
            wait_until(lambda: free("GET", "/parallel/x", headers=headers).status_code == 429, "the leases to be taken")
            victim.gateway.process.kill()
            killed_at = time.monotonic()
            wait_until(lambda: free("GET", "/parallel/x", headers=headers).status_code == 200, "the leases to heal", LEASE_SECONDS + 5)
            healed_seconds = time.monotonic() - killed_at
            wait_until(lambda: bool(load.since(killed_at + form.seconds(2, 10))), "load after the kill", 30)
        assert_quiet(other.gateway)
        mine = [reply for reply in load.replies if reply.url == other.url]
        assert statuses(mine) == {200: len(mine)}
        lost = [reply for reply in load.replies if reply.url == victim.url and reply.sent_at < killed_at and reply.status != 200]
        assert [reply.status for reply in held.replies] == [0, 0]
        assert healed_seconds < LEASE_SECONDS + 1 + SLACK_SECONDS
        records = victim.gateway.records()
        assert_audit_holds(victim.gateway)
    answered = [reply for reply in load.replies if reply.url == victim.url and reply.status == 200]
    sequence = [record["seq"] for record in records]
    assert sequence == list(range(1, len(sequence) + 1)), "no gap up to the cut"
    missing = len(answered) - sum(1 for record in records if record["event"] == "request" and record["response"]["status"] == 200)
    assert missing <= rate * 0.5
    measured("lost in the other replica", 0, "requests")
    measured("lost in flight", len(lost), "requests besides 2 that were meant to hang")
    measured("records that were not written yet", missing, "of answered requests")
    measured("leases free after", healed_seconds, "s")
