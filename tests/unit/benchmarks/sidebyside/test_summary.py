"""Medians, ratios of medians, verdicts."""

from __future__ import annotations

import pytest

from benchmarks.sidebyside.measure import Sample
from benchmarks.sidebyside.peers import ENVOY_PLAIN, GATEWAY_FULL, GATEWAY_PLAIN, NGINX_LUA, PEERS
from benchmarks.sidebyside.summary import TARGETS, cpu_ratio, judge, summarise


def sample(peer: str, cpu_us: float, *, alone_p50_us: float = 300.0, batch: float | None = None) -> Sample:
    return Sample(
        peer=peer,
        cpu_us=cpu_us,
        redis_cpu_us=0.0,
        requests_per_second=1e6 / cpu_us,
        p50_us=1000.0,
        p99_us=2000.0,
        alone_p50_us=alone_p50_us,
        direct_alone_p50_us=50.0,
        batch=batch,
    )


def test_median_ignores_one_disturbed_round() -> None:
    found = summarise([ENVOY_PLAIN], [sample("envoy-plain", cpu) for cpu in (41.0, 400.0, 43.0)])["envoy-plain"]
    assert (found.cpu_us, found.cpu_us_least, found.cpu_us_most, found.samples) == (43.0, 41.0, 400.0, 3)


def test_ratio_is_of_medians_and_to_ours_of_the_same_kind() -> None:
    samples = [sample("gateway-plain", cpu) for cpu in (20.0, 30.0, 90.0)] + [sample("gateway-full", 60.0), sample("envoy-plain", 45.0)]
    found = summarise(PEERS, samples)
    assert found["envoy-plain"].ratio_to_ours == 1.5
    assert found["gateway-full"].ratio_to_ours == 1.0


def test_without_ours_there_is_no_ratio() -> None:
    assert summarise(PEERS, [sample("envoy-plain", 45.0)])["envoy-plain"].ratio_to_ours is None


def test_peers_without_samples_are_left_out_and_the_order_is_that_of_the_peers() -> None:
    samples = [sample("nginx-lua", 50.0), sample("gateway-full", 60.0)]
    assert list(summarise([GATEWAY_PLAIN, GATEWAY_FULL, NGINX_LUA], samples)) == ["gateway-full", "nginx-lua"]


def test_added_latency_is_taken_against_the_direct_call_of_the_same_measurement() -> None:
    assert sample("envoy-plain", 1.0, alone_p50_us=320.0).added_p50_us == 270.0


def test_batch_is_the_median_of_the_rounds_that_tell_one() -> None:
    samples = [sample("gateway-full", 60.0, batch=batch) for batch in (5.0, None, 9.0)]
    assert summarise(PEERS, samples)["gateway-full"].batch == 7.0


@pytest.mark.parametrize(("ours", "met"), [(69.0, True), (70.0, True), (71.0, False)])
def test_ratio_target_is_met_up_to_its_bound(ours: float, met: bool) -> None:
    summaries = summarise(PEERS, [sample("gateway-full", ours), sample("envoy-full", 100.0)])
    [verdict] = judge([cpu_ratio("gateway-full", "envoy-full", 0.7)], summaries)
    assert verdict.value == pytest.approx(ours / 100)
    assert verdict.met is met


def test_target_whose_peer_was_left_out_is_neither_met_nor_missed() -> None:
    verdicts = judge(TARGETS, summarise(PEERS, [sample("envoy-full", 100.0)]))
    assert {(verdict.value, verdict.met) for verdict in verdicts} == {(None, None)}


@pytest.mark.parametrize(("batch", "alone_p50_us", "met"), [(4.5, 649.0, [True, True]), (4.0, 651.0, [False, False])])
def test_batch_and_latency_targets_read_the_full_gateway(batch: float, alone_p50_us: float, met: list[bool]) -> None:
    summaries = summarise(PEERS, [sample("gateway-full", 60.0, alone_p50_us=alone_p50_us, batch=batch)])
    assert [verdict.met for verdict in judge(TARGETS, summaries) if verdict.met is not None] == met
