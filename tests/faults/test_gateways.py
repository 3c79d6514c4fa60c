"""Processes of the gateway: a replica that shares a limit, and a worker, killed."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.workers.test_workers import workers_of
from tests.support.fault_scene import asks, assert_quiet, scene_document, store_url
from tests.support.faults import Form, Measured, fault
from tests.support.load import Load, statuses
from tests.support.plain_service import ServiceProcess, service_process
from tests.support.redis_server import RedisServer, redis_server, wait_until
from tests.support.whole_gateway import Login, ProcessGateway, process_gateway, running

RATE = 200


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server("redis") as started:
        yield started


@pytest.fixture
def service() -> Iterator[ServiceProcess]:
    with service_process("patients-1") as started:
        yield started


@pytest.fixture
def replicas(tmp_path: Path, login: Login, server: RedisServer, service: ServiceProcess) -> Iterator[list[ProcessGateway]]:
    with contextlib.ExitStack() as stack:
        started = []
        for name in ("first", "second"):
            document = scene_document(tmp_path / name, login, store_url(server), [service.url])
            started.append(process_gateway(tmp_path / name, document))
            stack.callback(started[-1].kill)
        yield [each.wait_until_listening() for each in started]


@fault(
    "replica-killed-limit",
    "one of two replicas that admit from the same limit is killed (`kill -9`)",
    "the limit holds: at most burst + rate x time by both; no request fails at the other",
)
def test_limit_holds_when_a_replica_is_killed(measured: Measured, form: Form, login: Login, replicas: list[ProcessGateway]) -> None:
    """G4, L1."""
    measured.under(f"2 replicas on one Redis, {RATE} requests/s to both on a limit of 10/s with burst 20")
    dead, alive = replicas
    with (
        Load(asks(replicas, login.bearer("alice"), "/scarce"), RATE) as load,
        Load(asks([alive], login.bearer("carol"), "/limited"), RATE / 2) as untouched,
    ):
        wait_until(lambda: len(load.replies) > RATE, "load")
        dead.process.kill()
        killed_at = time.monotonic()
        wait_until(lambda: bool(load.since(killed_at + form.seconds(1.5, 10))), "load without it", 20)
    scarce = [reply for reply in load.replies if reply.url == alive.url]
    took = max(reply.ended_at for reply in load.replies) - load.replies[0].sent_at
    measured("failed at the other", sum(reply.status != 200 for reply in untouched.replies), "requests")
    measured("of", len(untouched.replies), "requests")
    measured("admitted by the limit", statuses(load.replies)[200], "requests")
    measured("allowed", 20 + 10 * took + 1, "requests")
    assert statuses(untouched.replies) == {200: len(untouched.replies)}
    assert set(statuses(scarce)) <= {200, 429}
    assert statuses(load.replies)[200] <= 20 + 10 * took + 1
    assert_quiet(alive)


@fault(
    "worker-killed",
    "one of three workers is killed (`kill -9`)",
    "only requests in flight in it are lost; connections of the others go on; it is replaced, and `/readyz` says when",
)
def test_worker_killed(measured: Measured, form: Form, tmp_path: Path, login: Login, server: RedisServer, service: ServiceProcess) -> None:
    """F-54, G4."""
    kills = int(form.seconds(1, 5))
    measured.under(f"1 gateway with 3 workers, {RATE} requests/s on kept connections, {kills} kills")
    document = scene_document(tmp_path, login, store_url(server), [service.url])
    document["server"]["workers"] = 3
    with running(tmp_path, document) as gateway:
        replaced = []
        with Load(asks([gateway], login.bearer("alice"), "/limited", "/public"), RATE) as load:
            for _ in range(kills):
                so_far = len(load.replies)
                wait_until(lambda count=so_far: len(load.replies) > count + RATE, "load")  # type: ignore[misc]
                victim = workers_of(gateway)[0]
                killed_at = time.monotonic()
                os.kill(victim, signal.SIGKILL)
                wait_until(
                    lambda pid=victim: len(workers_of(gateway)) == 3 and pid not in workers_of(gateway),  # type: ignore[misc]
                    "the worker to be replaced",
                    20,
                )
                wait_until(lambda: gateway.admin("GET", "/readyz").status_code == 200, "all to be ready", 20)
                replaced.append(time.monotonic() - killed_at)
        failed = [reply for reply in load.replies if reply.status != 200]
        measured("lost", len(failed), "requests")
        measured("of", len(load.replies), "requests")
        measured("ready again after at most", max(replaced), "s")
        assert set(statuses(load.replies)) <= {200, 0}
        assert len(failed) <= 5 * kills, failed
        assert "Traceback" not in gateway.said
