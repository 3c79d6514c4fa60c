"""Instances of a service: killed, stopped, out of reach, all gone."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fault_scene import SLACK_SECONDS, asks, assert_quiet, scene_document
from tests.support.faults import Form, Measured, fault
from tests.support.load import Load, percentile, statuses
from tests.support.plain_service import ServiceProcess, service_process
from tests.support.redis_server import wait_until
from tests.support.whole_gateway import Json, Login, ProcessGateway, running

RATE = 200
RESPONSE_SECONDS = 1.0
CONNECT_SECONDS = 0.3
SERVICE = {"timeouts": {"connect": "300ms", "response": "1s"}, "outlier": {"base_ejection": "1s"}}
CONDITIONS = f"1 gateway, 2 instances, {RATE} requests/s, 300 ms to connect, 1 s to answer, `base_ejection: 1s`"


@pytest.fixture
def instances() -> Iterator[list[ServiceProcess]]:
    with service_process("one") as first, service_process("two") as second:
        yield [first, second]


@pytest.fixture
def gateway(tmp_path: Path, login: Login, instances: list[ServiceProcess]) -> Iterator[ProcessGateway]:
    with running(tmp_path, document(tmp_path, login, *(each.url for each in instances))) as started:
        yield started


def document(directory: Path, login: Login, *urls: str) -> Json:
    return scene_document(directory, login, "embedded://", urls, services={"patients": {"instances": list(urls), **SERVICE}})


def loaded(load: Load, seconds: float = 0.5) -> None:
    """Wait for some load from now on."""
    moment = time.monotonic() + seconds
    wait_until(lambda: bool(load.since(moment)), "load", seconds + 10)


@fault(
    "upstream-killed",
    "one of two instances is killed (`kill -9`) and started again",
    "it is ejected, and used again once it is back; few fail, with 502: requests in flight in it, and those beyond the retry budget",
)
def test_instance_killed(measured: Measured, form: Form, login: Login, instances: list[ServiceProcess], gateway: ProcessGateway) -> None:
    """R1, R2, F-31: requests of a kept connection that was closed are repeated where that is safe."""
    measured.under(CONDITIONS)
    with Load(asks([gateway], login.bearer("alice"), "/limited", "/public"), RATE) as load:
        loaded(load)
        instances[0].kill()
        killed_at = time.monotonic()
        loaded(load, form.seconds(1, 10))
        instances[0].start_again()
        loaded(load)
        back_at = time.monotonic()
        wait_until(
            lambda: any(reply.headers.get("x-served-by") == "one" for reply in load.since(back_at)), "the instance to be used again", 60
        )
    failed = [reply for reply in load.replies if reply.status != 200]
    measured("failed", len(failed), "requests")
    measured("of", len(load.replies), "requests")
    meanwhile = [reply.seconds for reply in load.since(killed_at) if reply.sent_at < back_at]
    measured("p99 meanwhile", percentile(meanwhile, 0.99) * 1000, "ms")
    assert set(statuses(load.replies)) <= {200, 502}
    assert len(failed) <= 0.02 * len(load.replies) + 10, failed
    assert_quiet(gateway)


@fault(
    "upstream-stopped",
    "one of two instances stops answering (SIGSTOP) and goes on (SIGCONT)",
    "requests in it get 504 after `timeouts.response`; it is ejected; the others are answered",
)
def test_instance_stopped(measured: Measured, form: Form, login: Login, instances: list[ServiceProcess], gateway: ProcessGateway) -> None:
    """B1, F-36."""
    measured.under(CONDITIONS)
    with Load(asks([gateway], login.bearer("alice"), "/limited", "/public"), RATE) as load:
        loaded(load)
        instances[0].pause()
        loaded(load, form.seconds(2, 10))
        instances[0].resume()
        resumed_at = time.monotonic()
        loaded(load, RESPONSE_SECONDS + SLACK_SECONDS)
        wait_until(lambda: any(reply.headers.get("x-served-by") == "one" for reply in load.since(resumed_at)), "both to serve", 60)
    found = statuses(load.replies)
    late = [reply for reply in load.replies if reply.status == 504]
    measured("504", found[504], "requests")
    measured("of", len(load.replies), "requests")
    measured("longest wait", max(reply.seconds for reply in load.replies), "s")
    assert set(found) <= {200, 504}
    assert found[504] <= 0.1 * len(load.replies)
    assert all(reply.seconds < RESPONSE_SECONDS + 1.0 for reply in late)
    assert not [reply for reply in late if reply.sent_at > resumed_at + SLACK_SECONDS]
    assert_quiet(gateway)


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """An address that answers nothing: a listener whose queue is full drops what comes."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@fault(
    "upstream-black-hole",
    "packets to one of two instances are dropped",
    "it is ejected; who is sent there waits `timeouts.connect` and gets the other's answer; few fail, with 504, beyond the retry budget",
)
def test_instance_out_of_reach(measured: Measured, form: Form, tmp_path: Path, login: Login) -> None:
    """R1, R2, F-36: a connection that was never made is no try at the service."""
    measured.under(CONDITIONS)
    with service_process("one") as instance, black_hole() as nowhere:
        with running(tmp_path, document(tmp_path, login, instance.url, nowhere)) as gateway:
            with Load(asks([gateway], login.bearer("alice"), "/limited", "/public"), RATE) as load:
                loaded(load, form.seconds(2, 10))
            longest = max(reply.seconds for reply in load.replies)
            delayed = sum(reply.seconds > CONNECT_SECONDS for reply in load.replies)
            measured("failed", sum(reply.status != 200 for reply in load.replies), "requests")
            measured("delayed", delayed, "requests")
            measured("of", len(load.replies), "requests")
            measured("longest", longest * 1000, "ms")
            assert set(statuses(load.replies)) <= {200, 504}
            assert statuses(load.replies)[504] <= 0.02 * len(load.replies) + 10
            assert longest < CONNECT_SECONDS + 2 * SLACK_SECONDS
            assert_quiet(gateway)


@fault(
    "upstream-all-gone",
    "all instances are killed (`kill -9`) and started again",
    "502 or 503 with a problem document, without delay; requests are answered within `base_ejection` once an instance is back",
)
def test_all_instances_killed(
    measured: Measured, form: Form, login: Login, instances: list[ServiceProcess], gateway: ProcessGateway
) -> None:
    """F-36: nothing hangs, nothing has to be restarted."""
    measured.under(CONDITIONS)
    with Load(asks([gateway], login.bearer("alice"), "/limited", "/public"), RATE) as load:
        loaded(load)
        for instance in instances:
            instance.kill()
        killed_at = time.monotonic()
        loaded(load, form.seconds(1, 10))
        back_at = time.monotonic()
        for instance in instances:
            instance.start_again()
        up_at = time.monotonic()
        wait_until(lambda: any(reply.status == 200 for reply in load.since(up_at)), "answers again", 60)
        answered_at = min(reply.ended_at for reply in load.since(back_at) if reply.status == 200)
        loaded(load)
    refused = [reply for reply in load.replies if killed_at < reply.sent_at < back_at]
    measured("refused", len(refused), "requests")
    measured("their wait, p99", percentile([reply.seconds for reply in refused], 0.99) * 1000, "ms")
    measured("answered again after", max(0.0, answered_at - up_at) * 1000, "ms")
    assert set(statuses(load.replies)) <= {200, 502, 503}
    assert all(reply.code in ("bad_gateway", "no_instance", "overloaded") for reply in refused), statuses(refused)
    assert percentile([reply.seconds for reply in refused], 0.5) < SLACK_SECONDS
    assert answered_at - up_at < 5.0
    assert_quiet(gateway)
