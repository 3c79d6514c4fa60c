"""From samples to statements: medians over the rounds, ratios of medians, and whether the targets are met. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.sidebyside.measure import Sample
from benchmarks.sidebyside.peer import Kind, Peer


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A peer's figures: medians over its samples, except for the extremes of the CPU time.

    Args:
        ratio_to_ours: its CPU time a request over the gateway's of the same kind; None when the gateway wasn't measured.
    """

    name: str
    title: str
    does: str
    kind: Kind
    ours: bool
    samples: int
    cpu_us: float
    cpu_us_least: float
    cpu_us_most: float
    redis_cpu_us: float
    requests_per_second: float
    p50_us: float
    p99_us: float
    added_p50_us: float
    batch: float | None
    ratio_to_ours: float | None


def summarise(peers: Sequence[Peer], samples: Sequence[Sample]) -> dict[str, Summary]:
    """By name, in the order of `peers`; peers without a sample are left out."""
    by_peer = {peer.name: [sample for sample in samples if sample.peer == peer.name] for peer in peers}
    ours = {peer.kind: _median_cpu(by_peer[peer.name]) for peer in peers if peer.ours and by_peer[peer.name]}
    return {peer.name: _summary(peer, by_peer[peer.name], ours.get(peer.kind)) for peer in peers if by_peer[peer.name]}


def _median_cpu(samples: Sequence[Sample]) -> float:
    return median(sample.cpu_us for sample in samples)


def _summary(peer: Peer, samples: Sequence[Sample], our_cpu_us: float | None) -> Summary:
    batches = [sample.batch for sample in samples if sample.batch is not None]
    cpu_us = _median_cpu(samples)
    return Summary(
        name=peer.name,
        title=peer.title,
        does=peer.does,
        kind=peer.kind,
        ours=peer.ours,
        samples=len(samples),
        cpu_us=cpu_us,
        cpu_us_least=min(sample.cpu_us for sample in samples),
        cpu_us_most=max(sample.cpu_us for sample in samples),
        redis_cpu_us=median(sample.redis_cpu_us for sample in samples),
        requests_per_second=median(sample.requests_per_second for sample in samples),
        p50_us=median(sample.p50_us for sample in samples),
        p99_us=median(sample.p99_us for sample in samples),
        added_p50_us=median(sample.added_p50_us for sample in samples),
        batch=median(batches) if batches else None,
        ratio_to_ours=None if our_cpu_us is None else cpu_us / our_cpu_us,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A promise about the gateway.

    Args:
        statement: what is promised, with the bound in it.
        value: finds the figure in the summaries; None when what it needs was not measured.
        met: whether a figure keeps the promise.
    """

    statement: str
    value: Callable[[Mapping[str, Summary]], float | None]
    met: Callable[[float], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a target. Both are None when it was not measured."""

    statement: str
    value: float | None
    met: bool | None


def judge(targets: Sequence[Target], summaries: Mapping[str, Summary]) -> list[Verdict]:
    """One verdict a target, in order."""
    verdicts = []
    for target in targets:
        value = target.value(summaries)
        verdicts.append(Verdict(statement=target.statement, value=value, met=None if value is None else target.met(value)))
    return verdicts


def cpu_ratio(ours: str, peer: str, bound: float) -> Target:
    """The gateway's CPU time a request is at most `bound` times the peer's."""

    def value(summaries: Mapping[str, Summary]) -> float | None:
        if ours in summaries and peer in summaries:
            return summaries[ours].cpu_us / summaries[peer].cpu_us
        return None

    return Target(statement=f"CPU a request: {ours} <= {bound} x {peer}", value=value, met=lambda ratio: ratio <= bound)


def _batch(summaries: Mapping[str, Summary]) -> float | None:
    return summaries["gateway-full"].batch if "gateway-full" in summaries else None


def _added_latency(summaries: Mapping[str, Summary]) -> float | None:
    return summaries["gateway-full"].added_p50_us / 1000 if "gateway-full" in summaries else None


TARGETS: tuple[Target, ...] = (
    cpu_ratio("gateway-plain", "envoy-plain", 0.7),
    cpu_ratio("gateway-full", "envoy-full", 0.7),
    cpu_ratio("gateway-full", "traefik-full", 0.45),
    cpu_ratio("gateway-full", "nginx-lua", 1.5),
    Target(statement="requests a Redis call at 64 connections: gateway-full > 4", value=_batch, met=lambda size: size > 4),
    Target(statement="added median latency at 1 connection, ms: gateway-full <= 0.6", value=_added_latency, met=lambda ms: ms <= 0.6),
)
