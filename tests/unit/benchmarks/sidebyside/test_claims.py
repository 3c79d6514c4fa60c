"""Reading the counters that prove a claim."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.sidebyside.claims import Traces, average_batch, count_lines, metric, number, prove_after_load
from benchmarks.sidebyside.errors import BenchmarkError
from benchmarks.sidebyside.peer import Peer
from benchmarks.sidebyside.peers import ENVOY_FULL, GATEWAY_FULL, NGINX_LUA

METRICS = """# HELP batch requests a call
batch_bucket{le="1.0"} 3.0
batch_sum 120.0
batch_count{worker="1"} 10.0
batch_count{worker="2"} 5.0
"""
STATS = "local.http_local_rate_limit.enabled: 12\nlocal.http_local_rate_limit.ok: 11\n"


def traces(
    *, redis_calls: int = 0, growth: float = 0, backend_connections: int = 0, batch_sum: float = 0, batch_count: float = 0
) -> Traces:
    return Traces(
        redis_calls=redis_calls,
        growth=growth,
        backend_connections=backend_connections,
        span_batches=0,
        batch_sum=batch_sum,
        batch_count=batch_count,
    )


def test_metric_is_summed_over_its_labels() -> None:
    assert (metric(METRICS, "batch_sum"), metric(METRICS, "batch_count")) == (120.0, 15.0)


def test_missing_metric_is_an_error_that_names_it() -> None:
    with pytest.raises(BenchmarkError, match="other_sum"):
        metric(METRICS, "other_sum")


def test_envoys_counter_of_admitted_requests_is_found() -> None:
    assert ENVOY_FULL.growth is not None
    assert number(STATS, ENVOY_FULL.growth.pattern) == 11


def test_average_batch_is_of_the_load_alone() -> None:
    assert average_batch(traces(batch_sum=100, batch_count=100), traces(batch_sum=900, batch_count=200)) == 8.0


def test_no_call_gives_no_average() -> None:
    assert average_batch(traces(), traces()) is None


def test_lines_are_counted_and_a_missing_file_has_none(tmp_path: Path) -> None:
    (tmp_path / "access.log").write_bytes(b"{}\n" * 3)
    assert (count_lines(tmp_path / "access.log"), count_lines(tmp_path / "none.log")) == (3, 0)


@pytest.mark.parametrize(
    ("peer", "after", "message"),
    [
        (NGINX_LUA, traces(redis_calls=99), "99 incr calls for 100 requests"),
        (NGINX_LUA, traces(redis_calls=100, backend_connections=600), "not kept"),
        (ENVOY_FULL, traces(growth=99), "counted 99 of 100"),
        (GATEWAY_FULL, traces(growth=100), "0 evalsha calls"),
    ],
    ids=["calls", "connections", "growth", "batched"],
)
def test_load_that_left_too_few_traces_is_refused(peer: Peer, after: Traces, message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        prove_after_load(peer, traces(), after, 100)


@pytest.mark.parametrize(
    ("peer", "after"),
    [
        (NGINX_LUA, traces(redis_calls=100, backend_connections=64)),
        (ENVOY_FULL, traces(growth=100)),
        (GATEWAY_FULL, traces(growth=100, redis_calls=13)),
    ],
    ids=["calls", "growth", "batched"],
)
def test_load_that_went_the_claimed_way_is_accepted(peer: Peer, after: Traces) -> None:
    prove_after_load(peer, traces(), after, 100)
