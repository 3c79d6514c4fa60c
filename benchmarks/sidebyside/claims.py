"""Proof that a peer does what its row says: one real request of each kind before the load, and the traces that the load must have left."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx

from benchmarks.sidebyside.credentials import tampered
from benchmarks.sidebyside.errors import BenchmarkError
from benchmarks.sidebyside.lab import ANSWER, Lab, Running
from benchmarks.sidebyside.peer import Peer

#: Upstream connections that 64 clients may open in all: some for each of the loads, and a margin for races at their start.
_MOST_CONNECTIONS = 512
_ROUTED_SECONDS = 5.0


def prove_before(lab: Lab, running: Running) -> None:
    """Raises BenchmarkError unless the peer forwards, refuses bad tokens where it checks them, and counts in Redis where it does."""
    peer = running.peer
    _wait_until_routed(lab, running)
    calls = lab.redis_calls(peer.redis_command) if peer.redis_command else 0
    answer = _expect(lab, running, running.headers, 200, "a good request")
    if answer.text != ANSWER:
        raise BenchmarkError(f"{peer.name}: the backend's answer did not come through: {answer.text[:200]!r}")
    if peer.limits_shown and "ratelimit" not in answer.headers:
        raise BenchmarkError(f"{peer.name}: the answer shows no rate limit")
    if peer.redis_command and lab.redis_calls(peer.redis_command) <= calls:
        raise BenchmarkError(f"{peer.name}: a request sent no {peer.redis_command} to Redis")
    if peer.token != "none":
        _prove_refusals(lab, running)
    if peer.revokes:
        _prove_revocation(lab, running)


def _wait_until_routed(lab: Lab, running: Running) -> None:
    """Some programs listen before they know their routes (404), or before their upstream is usable (503)."""
    deadline = time.monotonic() + _ROUTED_SECONDS
    while lab.http.get(running.url, headers=dict(running.headers)).status_code in (404, 503) and time.monotonic() < deadline:
        time.sleep(0.02)


def _prove_refusals(lab: Lab, running: Running) -> None:
    kind = running.peer.token
    good = lab.credentials.token(kind)
    _expect(lab, running, {}, 401, "a request without a token")
    _expect(lab, running, lab.headers(kind, text=tampered(good)), 401, "a token with a wrong signature")
    _expect(lab, running, lab.headers(kind, text=lab.credentials.token(kind, expired=True)), 401, "an expired token")


def _prove_revocation(lab: Lab, running: Running) -> None:
    token = lab.credentials.token(running.peer.token)
    headers = lab.headers(running.peer.token, text=token)
    _expect(lab, running, headers, 200, "a token before its revocation")
    done = lab.http.post(
        f"http://{running.admin}/v1/revocations",
        headers={"authorization": f"Bearer {lab.credentials.admin_token}"},
        json={"kind": "token", "value": token, "reason": "benchmark"},
    )
    if done.status_code != 201:
        raise BenchmarkError(f"{running.peer.name}: revoking a token gave {done.status_code}: {done.text[:200]}")
    _expect(lab, running, headers, 401, "a revoked token")


def _expect(lab: Lab, running: Running, headers: Mapping[str, str], status: int, what: str) -> httpx.Response:
    answer = lab.http.get(running.url, headers=dict(headers))
    if answer.status_code != status:
        raise BenchmarkError(
            f"{running.peer.name}: {what} gave {answer.status_code}, not {status}: {answer.text[:200]} {running.child.tail()}"
        )
    return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """Counters that a load moves, read before and after it."""

    redis_calls: int
    growth: float
    backend_connections: int
    span_batches: int
    batch_sum: float
    batch_count: float

    @classmethod
    def read(cls, lab: Lab, running: Running) -> Self:
        peer = running.peer
        metrics = _page(lab, running, "/metrics") if peer.batch else ""
        return cls(
            redis_calls=lab.redis_calls(peer.redis_command) if peer.redis_command else 0,
            growth=number(_page(lab, running, peer.growth.path), peer.growth.pattern) if peer.growth else 0.0,
            backend_connections=lab.backend_connections(),
            span_batches=lab.collected_batches(),
            batch_sum=metric(metrics, f"{peer.batch}_sum") if peer.batch else 0.0,
            batch_count=metric(metrics, f"{peer.batch}_count") if peer.batch else 0.0,
        )


def average_batch(before: Traces, after: Traces) -> float | None:
    """Requests a Redis call between two readings; None when there was no call, or the peer doesn't tell."""
    calls = after.batch_count - before.batch_count
    return (after.batch_sum - before.batch_sum) / calls if calls else None


def prove_after_load(peer: Peer, before: Traces, after: Traces, requests: int) -> None:
    """Raises BenchmarkError unless every request of the load went the way that the row says."""
    opened = after.backend_connections - before.backend_connections
    if opened > _MOST_CONNECTIONS:
        raise BenchmarkError(f"{peer.name}: {opened} connections to the backend for {requests} requests: they are not kept")
    wanted = 1 if peer.batched else requests
    if peer.redis_command and after.redis_calls - before.redis_calls < wanted:
        raise BenchmarkError(f"{peer.name}: {after.redis_calls - before.redis_calls} {peer.redis_command} calls for {requests} requests")
    if peer.growth and after.growth - before.growth < requests:
        raise BenchmarkError(f"{peer.name}: {peer.growth.path} counted {after.growth - before.growth:.0f} of {requests} requests")


def prove_after_stop(lab: Lab, running: Running, before: Traces, requests: int) -> None:
    """What is buffered until the end: a line a request in every log, and spans at the collector."""
    for name in running.peer.logs:
        lines = count_lines(running.directory / name)
        if lines < requests:
            raise BenchmarkError(f"{running.peer.name}: {lines} lines in {name} for {requests} requests")
    if running.peer.traced and lab.collected_batches() <= before.span_batches:
        raise BenchmarkError(f"{running.peer.name}: no spans arrived")


def number(text: str, pattern: str) -> float:
    """Sum of the numbers that `pattern` finds as group 1; raises BenchmarkError when there is none."""
    found = [float(match[1]) for match in re.finditer(pattern, text)]
    if not found:
        raise BenchmarkError(f"no counter matches {pattern!r} in {text[:500]!r}")
    return sum(found)


def metric(text: str, name: str) -> float:
    """A metric of a page in Prometheus' text format, summed over its labels."""
    return number(text, rf"(?m)^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)")


def count_lines(path: Path) -> int:
    """Lines of a file that may be large; 0 when it isn't there."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def _page(lab: Lab, running: Running, path: str) -> str:
    return lab.http.get(f"http://{running.admin}{path}").raise_for_status().text
