"""Limits that live apart: on several shards, and, while Redis is gone, in each replica."""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.limits.judgement import admitted, strangers
from tests.conformance.limits.subject import document, server_url
from tests.support.faults import Measured, fault
from tests.support.load import Ask, Load, Reply, at_once, statuses
from tests.support.plain_service import ServiceProcess, service_process
from tests.support.redis_server import RedisServer, redis_server, wait_until
from tests.support.whole_gateway import Json, ProcessGateway, process_gateway

pytestmark = pytest.mark.timeout(240)
REPLICAS = 4
RATE = 40
STEADY_SECONDS = 4.0
QUOTA = 1000


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server("redis") as started:
        yield started


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    with service_process("backend") as started:
        yield started


def apart(directory: Path, server: RedisServer, service: ServiceProcess) -> Json:
    """16 shards: what a client may is counted on its shard, what all of them may on the route's."""
    route = {"service": "backend", "authentication": "none"}
    return document(
        directory,
        server_url(server),
        service.url,
        state={"url": server_url(server), "budget": "1s", "shards": 16},
        limits={
            "own": {"quota": f"{QUOTA}/day", "key": "header:X-Client"},
            "all": {"rate": "5/hour", "key": "route"},
            "share": {"rate": f"{RATE}/second", "key": "header:X-Client"},
        },
        routes=[
            {**route, "name": "both", "path": "/both", "limits": ["own", "all"]},
            {**route, "name": "own", "path": "/own", "limits": ["own"]},
            {**route, "name": "share", "path": "/share", "limits": ["share"], "when_unavailable": "fair_share"},
        ],
    )


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory, server: RedisServer, service: ServiceProcess) -> Iterator[list[ProcessGateway]]:
    with contextlib.ExitStack() as stack:
        started = []
        for _ in range(REPLICAS):
            directory = tmp_path_factory.mktemp("replica")
            started.append(process_gateway(directory, apart(directory, server, service)))
            stack.callback(started[-1].kill)
        yield [gateway.wait_until_listening() for gateway in started]


@fault(
    "limits-refund",
    "L12: a quota of each client and a limit of all of them, on different shards; the second refuses",
    "the first is refunded: clients have counted exactly what was admitted",
)
def test_what_the_second_shard_refuses_the_first_gets_back(measured: Measured, replicas: list[ProcessGateway]) -> None:
    """L12."""
    clients = [secrets.token_hex(8) for _ in range(12)]
    measured.under(f"{REPLICAS} replicas, 16 shards, {len(clients)} clients, 10 requests each in the same instant, 5 allowed for all")
    found = at_once([Ask(replicas[turn % REPLICAS].url, "/both", {"X-Client": client}) for turn in range(10) for client in clients])
    assert statuses(found) == {200: 5, 429: 115}
    counted = sum(QUOTA - left(reply) - 1 for reply in at_once([Ask(replicas[0].url, "/own", {"X-Client": each}) for each in clients]))
    measured("admitted", 5)
    measured("counted by the clients' quotas", counted)
    assert counted == 5


def left(reply: Reply) -> int:
    """What the client's quota has left."""
    found = re.search(r'"own";r=(\d+)', reply.headers["ratelimit"])
    assert found is not None, reply
    return int(found[1])


@fault(
    "limits-fair-share",
    "L11: Redis is killed (`kill -9`) under four replicas, `fair_share`",
    "all together admit at most limit x (1 + 1/N), and each of them something",
)
def test_shares_add_up_to_the_limit(measured: Measured, server: RedisServer, replicas: list[ProcessGateway]) -> None:
    """L11: in steady state, under even load."""
    measured.under(
        f"{REPLICAS} replicas, limit {RATE}/s, offered {4 * RATE}/s evenly, counted from 2 s after the loss for {STEADY_SECONDS:.0f} s"
    )
    wait_until(lambda: all(gateway.live_replicas == REPLICAS for gateway in replicas), "replicas to know each other")
    fields = {"X-Client": secrets.token_hex(8)}
    with Load([Ask(gateway.url, "/share", fields) for gateway in replicas], 4 * RATE) as load:
        wait_until(lambda: len(load.replies) > RATE, "load")
        server.kill()
        steady_at = time.monotonic() + 2.0
        wait_until(lambda: bool(load.since(steady_at + STEADY_SECONDS)), "the outage to last", 30)
        server.start_again()
        back_at = time.monotonic()
        wait_until(lambda: bool(load.since(back_at + 1.5)), "some more load")
    steady = [reply for reply in load.replies if steady_at <= reply.sent_at and reply.ended_at <= steady_at + STEADY_SECONDS]
    by_replica = Counter(reply.url for reply in admitted(steady))
    allowed = RATE * STEADY_SECONDS * (1 + 1 / REPLICAS)
    measured("admitted", len(admitted(steady)))
    measured("limit x (1 + 1/N)", allowed)
    measured("least by one replica", min(by_replica.values()))
    assert not strangers(load.replies), statuses(load.replies)
    assert len(admitted(steady)) <= allowed
    assert len(by_replica) == REPLICAS
