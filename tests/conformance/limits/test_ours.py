"""What only our own gateways can be asked: their clocks, their store, and what becomes of limits when these fail."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from gateway import admission
from gateway.store.script import Script
from tests.conformance.limits.judgement import admitted, decided_within
from tests.conformance.limits.subject import document, server_url
from tests.conformance.limits.trial import L1_SECONDS
from tests.support.fault_scene import SLACK_SECONDS, assert_only_store_refusals
from tests.support.faults import Measured, fault
from tests.support.load import Ask, Load, at_once, percentile, statuses
from tests.support.plain_service import ServiceProcess, service_process
from tests.support.redis_server import RedisServer, any_server, redis_server, wait_until
from tests.support.skewed_clock import skewed_clock
from tests.support.whole_gateway import Json, Login, ProcessGateway, process_gateway, running

BUDGET_SECONDS = 0.1


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A Redis that tests may stop, kill and configure."""
    with redis_server("redis") as started:
        yield started


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    with service_process("backend") as started:
        yield started


def with_principal(directory: Path, login: Login, server: RedisServer, service: ServiceProcess) -> Json:
    """As in the other cases, and a path that also checks revocation and has several limits."""
    found = document(
        directory,
        server_url(server),
        service.url,
        state={"url": server_url(server), "budget": f"{BUDGET_SECONDS * 1000:.0f}ms"},
        authentication={"issuers": login.authentication["issuers"]},
    )
    every: Json = {
        "rate": {"rate": "1000/second"},
        "window": {"rate": "1000/hour", "algorithm": "sliding_window"},
        "daily": {"quota": "100000/day"},
    }
    found["limits"] |= {f"every-{name}": {**limit, "key": "subject"} for name, limit in every.items()}
    found["limits"]["daily"] = {"quota": "100000/day", "key": "header:X-Client"}
    found["routes"].append({"name": "every", "path": "/every", "service": "backend", "limits": [f"every-{name}" for name in every]})
    found["routes"].append(
        {"name": "counted", "path": "/counted", "service": "backend", "authentication": "none", "limits": ["L3-0", "daily"]}
    )
    return found


@pytest.fixture(scope="module")
def replicas(
    tmp_path_factory: pytest.TempPathFactory, login: Login, server: RedisServer, service: ServiceProcess
) -> Iterator[list[ProcessGateway]]:
    """Two gateways whose clocks are 200 ms apart."""
    with contextlib.ExitStack() as stack:
        started = []
        for offset_ms in (0, 200):
            directory = tmp_path_factory.mktemp("replica")
            gateway = process_gateway(
                directory, with_principal(directory, login, server, service), "file", **skewed_clock(offset_ms / 1000)
            )
            stack.callback(gateway.kill)
            started.append(gateway)
        yield [gateway.wait_until_listening() for gateway in started]


def one_client(gateways: list[ProcessGateway], path: str, count: int) -> list[Ask]:
    """Requests of a client that nobody has seen before, to the gateways in turn."""
    fields = {"X-Client": secrets.token_hex(8)}
    return [Ask(gateways[number % len(gateways)].url, path, fields) for number in range(count)]


def in_turn(gateway: ProcessGateway, path: str, count: int, headers: dict[str, str]) -> list[int]:
    return [gateway.request("GET", path, headers=headers).status_code for _ in range(count)]


def test_clocks_of_the_replicas_are_what_the_cases_say(clocked: list[tuple[int, ProcessGateway]]) -> None:
    """L1: the times in the audit show that libfaketime does what the figures claim."""
    for offset_ms, gateway in clocked:
        before = time.time()
        reply = gateway.request("GET", "/l4", headers={"X-Client": secrets.token_hex(8)})
        after = time.time()
        assert reply.status_code == 200
        record = gateway.wait_for_record(lambda each, sent=reply: each.get("request_id") == sent.headers["x-request-id"])
        # `time` is when the request ended, which may be noted later than the client has its answer; its start lies in between.
        began = datetime.fromisoformat(record["time"]).timestamp() - record["duration_ms"] / 1000
        assert before - 0.001 <= began - offset_ms / 1000 <= after + 0.001, offset_ms


@fault(
    "limits-through-faults",
    "L1 while scripts are flushed every 100 ms, a replica is killed (`kill -9`) and Redis is killed and comes back empty",
    "at most burst + rate x time = 600 (+1), and one burst more for the empty Redis; nothing but 200, 429, 503",
)
def test_limits_hold_through_faults(measured: Measured, login: Login, tmp_path: Path, service: ServiceProcess) -> None:
    """L1, L8, L9, G4."""
    measured.under("2 replicas whose clocks are 200 ms apart, 400/s for 5 s, replica killed after 1.5 s, Redis after 3 s")
    with redis_server("redis") as server, contextlib.ExitStack() as stack:
        gateways = []
        for number, environ in enumerate(({}, skewed_clock(0.2))):
            home = tmp_path / str(number)
            gateways.append(process_gateway(home, with_principal(home, login, server, service), "file", **environ))
            stack.callback(gateways[-1].kill)
        urls = [gateway.wait_until_listening().url for gateway in gateways]
        client = secrets.token_hex(8)
        with Load([Ask(url, "/l1", {"X-Client": client}) for url in urls], 400, L1_SECONDS) as load:
            wait_until(lambda: bool(load.replies), "load")
            started = load.replies[0].sent_at
            flush_until(load, server, started + 1.5)
            gateways[1].process.kill()
            flush_until(load, server, started + 3.0)
            server.kill()
            server.start_again()
            wait_until(lambda: not load.running, "the load to end", 20)
    replies = decided_within(load.replies, L1_SECONDS)
    survivor = [reply for reply in replies if reply.url == urls[0]]
    measured("admitted", len(admitted(replies)))
    measured("503", statuses(survivor)[503])
    measured("requests to the killed replica without an answer", statuses(replies)[0])
    assert set(statuses(survivor)) <= {200, 429, 503}
    assert 500 <= len(admitted(replies)) <= 701


def flush_until(load: Load, server: RedisServer, moment: float) -> None:
    """Make the server forget its scripts ten times a second."""
    with server.client() as client:
        while time.monotonic() < moment:
            client.script_flush()
            next_flush = time.monotonic() + 0.1
            wait_until(lambda since=next_flush: bool(load.since(since)), "load")  # type: ignore[misc]


@fault(
    "limits-one-command",
    "L8: revocation, a rate, a sliding window and a quota of one principal; then `SCRIPT FLUSH`",
    "one Redis command a request; after the flush one more, once",
)
def test_one_command_decides(measured: Measured, login: Login, server: RedisServer, replicas: list[ProcessGateway]) -> None:
    """L8: heartbeats and the mirror, which have scripts of their own, are not counted."""
    measured.under("1 replica, 20 requests in turn, the flush after 10; the slow log of Redis, which logs everything here")
    headers = login.bearer(f"subject-{secrets.token_hex(4)}")
    with server.client() as client:
        assert in_turn(replicas[0], "/every", 1, headers) == [200]
        client.config_set("slowlog-max-len", 10_000)
        client.config_set("slowlog-log-slower-than", 0)
        client.slowlog_reset()
        assert in_turn(replicas[0], "/every", 10, headers) == [200] * 10
        assert admissions(client) == (10, 0)
        client.script_flush()
        assert in_turn(replicas[0], "/every", 10, headers) == [200] * 10
        by_hash, with_text = admissions(client)
        client.config_set("slowlog-log-slower-than", 10_000)
        measured("calls by hash", by_hash)
        measured("calls with the text", with_text)
        assert (by_hash, with_text) == (20, 1)


def admissions(client: redis.Redis) -> tuple[int, int]:
    """How often the admission script was called by its hash, and with its text, since the slow log was reset."""
    script = Script.read(Path(str(admission.__file__)).parent / "lua" / "admit.lua")
    said = [bytes(entry["command"]) for entry in client.slowlog_get(10_000)]
    # The log cuts long arguments.
    by_text = b"EVAL " + script.text.encode()[:60]
    return sum(each.startswith(b"EVALSHA " + script.sha.encode()) for each in said), sum(each.startswith(by_text) for each in said)


@pytest.mark.parametrize("kind", ["valkey", "embedded"])
def test_one_instant_on_other_stores(kind: str, tmp_path: Path, service: ServiceProcess) -> None:
    """L5: on Valkey by two replicas, on the embedded store by one."""
    with contextlib.ExitStack() as stack:
        store = "embedded://" if kind == "embedded" else server_url(stack.enter_context(any_server("valkey")))
        homes = [tmp_path / str(number) for number in range(1 if kind == "embedded" else 2)]
        gateways = [stack.enter_context(running(home, document(home, store, service.url))) for home in homes]
        found = statuses(at_once(one_client(gateways, "/l5", 100)))
        assert found == {200: 5, 429: 95}


def test_a_longer_limit_counts_what_the_shorter_one_lets_through(replicas: list[ProcessGateway]) -> None:
    """L3: the daily quota that stands beside 5/s has counted exactly the admitted."""
    found = at_once(one_client(replicas, "/counted", 60))
    assert set(statuses(found)) == {200, 429}
    left = min(int(match[1]) for reply in found if (match := re.search(r'"daily";r=(\d+)', reply.headers["ratelimit"])))
    assert 100_000 - left == len(admitted(found))


DAMAGE: dict[str, tuple[list[Any], list[Any]]] = {
    "scripts are forbidden (NOPERM)": (["ACL", "SETUSER", "default", "-@scripting"], ["ACL", "SETUSER", "default", "+@scripting"]),
    "Redis is full (OOM)": (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]),
    "Redis becomes a replica (READONLY)": (["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]),
}


@fault(
    "limits-errors",
    "L9: scripts are forbidden (NOPERM), Redis is full (OOM), Redis becomes a replica (READONLY)",
    "503 `store_unavailable`, never an admission; admitting again when it is right again",
)
def test_an_error_never_admits(measured: Measured, server: RedisServer, replicas: list[ProcessGateway]) -> None:
    """L9, F-5, F-6."""
    measured.under("2 replicas, 40 requests in each state")
    for what, (break_it, mend_it) in DAMAGE.items():
        with server.client() as client:
            client.execute_command(*break_it)
            try:
                found = at_once(one_client(replicas, "/l1", 40))
            finally:
                client.execute_command(*mend_it)
        assert_only_store_refusals(found)
        measured(f"admitted while {what}", statuses(found)[200])
        assert statuses(found) == {503: 40}, what
        for gateway in replicas:
            wait_until(lambda each=gateway: at_once(one_client([each], "/l1", 1))[0].status == 200, "admissions again")  # type: ignore[misc]


@fault(
    "limits-silent-store",
    "L10: Redis stops answering (SIGSTOP) for 2 s",
    "a request waits at most the budget, later ones not at all; both replicas are back within 1 s",
)
def test_a_silent_store_costs_the_budget_once(measured: Measured, server: RedisServer, replicas: list[ProcessGateway]) -> None:
    """L10."""
    measured.under(f"2 replicas, 200 requests/s, budget {BUDGET_SECONDS * 1000:.0f} ms")
    asks = [Ask(gateway.url, "/l1", {"X-Client": secrets.token_hex(8)}) for gateway in replicas]
    with Load(asks, 200) as load:
        wait_until(lambda: statuses(load.replies)[200] > 100, "load")
        stopped_at = time.monotonic()
        server.pause()
        try:
            wait_until(lambda: bool(load.since(stopped_at + 2)), "the pause to last")
        finally:
            server.resume()
        back_at = time.monotonic()
        for gateway in replicas:
            wait_until(lambda url=gateway.url: _admitted_at(load, url, back_at) is not None, "admissions again")  # type: ignore[misc]
    assert_only_store_refusals([reply for reply in load.replies if reply.status != 429])
    refused = [reply for reply in load.replies if reply.status == 503]
    later = [reply.seconds for reply in refused if reply.sent_at > stopped_at + 1.0]
    again = max(_admitted_at(load, gateway.url, back_at) or 0.0 for gateway in replicas) - back_at
    waited = [reply.seconds for reply in refused if reply.sent_at < stopped_at + 2 * BUDGET_SECONDS]
    measured("wait in the first two budgets, median", percentile(waited, 0.5) * 1000, "ms")
    measured("p99", percentile(waited, 0.99) * 1000, "ms")
    measured("after 1 s, median", percentile(later, 0.5) * 1000, "ms")
    measured("both admitting again after", again * 1000, "ms")
    assert percentile([reply.seconds for reply in refused], 0.99) < BUDGET_SECONDS + SLACK_SECONDS
    assert percentile(later, 0.5) < BUDGET_SECONDS / 2
    assert again < 1.0 + SLACK_SECONDS


def _admitted_at(load: Load, url: str, moment: float) -> float | None:
    found = [reply.ended_at for reply in load.since(moment) if reply.url == url and reply.status in (200, 429)]
    return min(found, default=None)


def test_check_warns_of_a_longer_window_that_allows_less(tmp_path: Path, service: ServiceProcess) -> None:
    """L13: the program says it, and ends as usual: it is legal."""
    contradictory = document(
        tmp_path,
        "redis://127.0.0.1:6379",
        service.url,
        limits={"minute": {"rate": "100/minute"}, "hour": {"rate": "50/hour"}},
        routes=[{"name": "r", "path": "/r", "service": "backend", "authentication": "none", "limits": ["minute", "hour"]}],
    )
    file = tmp_path / "gateway.yaml"
    file.write_text(json.dumps(contradictory))
    done = subprocess.run([sys.executable, "-m", "gateway", "check", str(file)], capture_output=True, text=True, check=False)
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if "hour" in line]
    assert "minute" in line


def test_the_server_is_left_as_it_was(server: RedisServer) -> None:
    """No test above leaves its damage behind."""
    with redis.Redis(port=server.port) as client:
        assert client.config_get("maxmemory")["maxmemory"] == "0"
        assert client.info("replication")["role"] == "master"
