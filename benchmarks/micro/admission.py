"""What one admission costs: CPU of this process and of the server, by how many requests share a call.

    PYTHONPATH=. python benchmarks/micro/admission.py [--server redis|valkey]

Each row is a limited request (one GCRA limit, one principal a request, revocation checked) in groups of so many at once. `plain` is the
same script, called once a request through redis-py's own `evalsha`. `busy` simulates 64 connections that each compute for 30 us a turn,
and shows how large the groups become by themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import uvloop

import gateway.admission.admission as admission_module
from gateway.admission.admission import Admission
from gateway.admission.mirror import Mirror
from gateway.admission.plan import AdmissionPlan
from gateway.admission.reconcile import Reconciler
from gateway.admission.revocation import Revocation, Revocations
from gateway.auth.principal import Principal
from gateway.route import Limit, Route
from gateway.settings import StateSettings
from gateway.store.redis import Store
from gateway.store.script import Script
from tests.support.redis_server import KINDS, redis_server

REQUESTS = 8000
PRINCIPALS = 256
LIMITED = Route(name="limited", path="/x", target="s", limits=(Limit(name="rate", kind="gcra", count=10**6, period_us=10**6),))
UNLIMITED = Route(name="unlimited", path="/x", target="s")


class Somebody:
    """Facts of a request."""

    client_ip = "192.0.2.1"
    path_params: Mapping[str, object] = {}

    def header(self, name: bytes) -> bytes | None:
        return None


class Calls:
    """Counts what admission reports."""

    def __init__(self) -> None:
        self.calls = 0
        self.requests = 0

    def batch(self, size: int, duration_seconds: float) -> None:
        self.calls += 1
        self.requests += size

    def mode(self, mode: str) -> None:
        """Not of interest."""


Work = Callable[[int], Awaitable[None]]


async def measure(store: Store, name: str, group: int, work: Work) -> None:
    await work(REQUESTS // 10)
    await store.client.execute_command("CONFIG", "RESETSTAT")  # type: ignore[no-untyped-call]
    started, wall = time.process_time_ns(), time.perf_counter_ns()
    await work(REQUESTS)
    cpu, wall = time.process_time_ns() - started, time.perf_counter_ns() - wall
    stats: dict[str, Any] = await store.client.info("commandstats")
    server_us = stats["cmdstat_evalsha"]["usec"] / REQUESTS
    print(f"{name:<24} {group:>5} {cpu / REQUESTS / 1000:>10.1f} {server_us:>10.1f} {wall / REQUESTS / 1000:>10.1f}")


def in_groups(admission: Admission, plan: AdmissionPlan, principals: list[Principal], group: int) -> Work:
    facts = Somebody()

    async def work(count: int) -> None:
        for first in range(0, count, group):
            futures = [admission.admit(plan, principals[i % PRINCIPALS], facts) for i in range(first, first + group)]
            for future in futures:
                await future

    return work


def plain(store: Store, plan: AdmissionPlan, principals: list[Principal]) -> Work:
    script = Script.read(Path(admission_module.__file__).parent / "lua" / "admit.lua")
    facts = Somebody()
    calls = [_words(plan.ticket(principal, facts).keys + plan.ticket(principal, facts).arguments) for principal in principals]

    async def work(count: int) -> None:
        await store.client.script_load(script.text)
        for i in range(count):
            key, *arguments = calls[i % PRINCIPALS]
            await store.client.evalsha(script.sha, 3, b"gw:{s00}:revoked", b"gw:{s00}:revocations", key, b"", *arguments)

    return work


def _words(payload: bytes) -> list[bytes]:
    """The bulk strings of a piece of a command."""
    words = []
    while payload:
        length, _, rest = payload[1:].partition(b"\r\n")
        words.append(rest[: int(length)])
        payload = rest[int(length) + 2 :]
    return words


async def busy(
    admission: Admission, plan: AdmissionPlan, principals: list[Principal], calls: Calls, connections: int, work_us: float
) -> None:
    facts = Somebody()
    calls.calls = calls.requests = 0
    waits: list[float] = []

    def compute() -> None:
        end = time.perf_counter() + work_us / 2e6
        while time.perf_counter() < end:
            pass

    async def connection(number: int) -> None:
        for _ in range(REQUESTS // connections):
            compute()
            started = time.perf_counter()
            await admission.admit(plan, principals[number], facts)
            waits.append(time.perf_counter() - started)
            compute()
            await asyncio.sleep(0)

    await asyncio.gather(*(connection(number) for number in range(connections)))
    waits.sort()
    print(
        f"busy, {connections:>3} connections, {work_us:.0f} us: {calls.requests / calls.calls:.1f} requests a call, "
        f"wait p50 {waits[len(waits) // 2] * 1e6:.0f} us, p99 {waits[len(waits) * 99 // 100] * 1e6:.0f} us"
    )


async def main(url: str) -> None:
    store = Store.open(StateSettings(url=url))
    calls = Calls()
    mirror = Mirror(store)
    admission = Admission(store, budget_seconds=1.0, observer=calls, reconciliation=Reconciler(store, mirror, lambda _: None))
    await admission.start()
    principals = [Principal(f"user-{i}", "https://issuer", "jwt", token_id=f"token-{i}", issued_at=1) for i in range(PRINCIPALS)]
    limited, unlimited = admission.plan(LIMITED), admission.plan(UNLIMITED)
    print(f"{'':<24} {'group':>5} {'client us':>10} {'server us':>10} {'wall us':>10}")
    await measure(store, "plain evalsha", 1, plain(store, limited, principals))
    for group in (1, 4, 16, 64):
        await measure(store, "limited", group, in_groups(admission, limited, principals, group))
    for group in (1, 64):
        await measure(store, "without limits", group, in_groups(admission, unlimited, principals, group))
    await Revocations(store).revoke(Revocation(kind="jti", value="somebody else's"))
    for group in (1, 64):
        await measure(store, "with revocations", group, in_groups(admission, limited, principals, group))
    for connections in (1, 8, 64):
        await busy(admission, limited, principals, calls, connections, 30)
    await admission.close()
    await store.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", choices=KINDS, default="valkey")
    arguments = parser.parse_args()
    with redis_server(arguments.server) as server:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main(server.url))
