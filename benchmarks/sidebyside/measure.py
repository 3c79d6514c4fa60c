"""One measurement: start a peer, prove it, warm it, load it, prove it again, stop it."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.sidebyside import claims, cpu, wrk
from benchmarks.sidebyside.errors import BenchmarkError
from benchmarks.sidebyside.lab import LOAD_CORE, Lab, Running
from benchmarks.sidebyside.peer import Peer

CONNECTIONS = 64
_WARM_UP_SECONDS = 1
#: Latency at one connection needs fewer seconds: every request is a sample and none waits for another.
_ALONE_SECONDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one measurement of a peer gave.

    Args:
        peer: its name.
        cpu_us: CPU time of the peer's whole process tree for a request, microseconds.
        redis_cpu_us: CPU time of Redis for a request.
        requests_per_second, p50_us, p99_us: as the 64 connections saw it.
        alone_p50_us: median latency of a single connection through the peer.
        direct_alone_p50_us: the same straight to the backend, measured right before.
        batch: requests a Redis call; None where that isn't told.
    """

    peer: str
    cpu_us: float
    redis_cpu_us: float
    requests_per_second: float
    p50_us: float
    p99_us: float
    alone_p50_us: float
    direct_alone_p50_us: float
    batch: float | None = None

    @property
    def added_p50_us(self) -> float:
        """What the peer adds to the median latency of a single connection."""
        return self.alone_p50_us - self.direct_alone_p50_us


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A load together with the CPU time that it took, nanoseconds."""

    result: wrk.LoadResult
    peer_ns: int
    redis_ns: int


def preflight(lab: Lab, peer: Peer) -> None:
    """Start a peer and prove its claims without load; raises BenchmarkError."""
    with lab.running(peer) as running:
        claims.prove_before(lab, running)


def measure(lab: Lab, peer: Peer, seconds: int) -> Sample:
    """Measure a peer once, in a fresh process. Raises BenchmarkError when the figure would not mean what it says."""
    with lab.running(peer) as running:
        claims.prove_before(lab, running)
        _load(running.url, running, CONNECTIONS, _WARM_UP_SECONDS)
        before = claims.Traces.read(lab, running)
        loaded = _load_counted(lab, running, seconds)
        after = claims.Traces.read(lab, running)
        claims.prove_after_load(peer, before, after, loaded.result.requests)
        alone_seconds = min(seconds, _ALONE_SECONDS)
        direct = _load(lab.direct_url, running, 1, alone_seconds)
        alone = _load(running.url, running, 1, alone_seconds)
    claims.prove_after_stop(lab, running, before, loaded.result.requests + alone.requests)
    return Sample(
        peer=peer.name,
        cpu_us=loaded.peer_ns / 1000 / loaded.result.requests,
        redis_cpu_us=loaded.redis_ns / 1000 / loaded.result.requests,
        requests_per_second=loaded.result.requests_per_second,
        p50_us=loaded.result.p50_us,
        p99_us=loaded.result.p99_us,
        alone_p50_us=alone.p50_us,
        direct_alone_p50_us=direct.p50_us,
        batch=claims.average_batch(before, after),
    )


def measure_direct(lab: Lab, seconds: int) -> wrk.LoadResult:
    """The load straight to the backend: what the load core can give at most."""
    return wrk.run(wrk.Load(url=lab.direct_url, headers={}, connections=CONNECTIONS, seconds=seconds), core=LOAD_CORE)


def _load(url: str, running: Running, connections: int, seconds: int) -> wrk.LoadResult:
    return wrk.run(wrk.Load(url=url, headers=running.headers, connections=connections, seconds=seconds), core=LOAD_CORE)


def _load_counted(lab: Lab, running: Running, seconds: int) -> Loaded:
    tree = cpu.process_tree(running.child.pid)
    peer_before, redis_before = cpu.cpu_ns(tree), cpu.cpu_ns([lab.redis_pid])
    result = _load(running.url, running, CONNECTIONS, seconds)
    peer_after, redis_after = cpu.cpu_ns(tree), cpu.cpu_ns([lab.redis_pid])
    if cpu.process_tree(running.child.pid) != tree:
        raise BenchmarkError(f"{running.peer.name}: processes came or went while it was measured")
    return Loaded(result=result, peer_ns=peer_after - peer_before, redis_ns=redis_after - redis_before)
