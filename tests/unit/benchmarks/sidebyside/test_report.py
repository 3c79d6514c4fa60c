"""What a run prints and keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.sidebyside import chart, report
from benchmarks.sidebyside.machine import Machine, processor
from benchmarks.sidebyside.measure import Sample
from benchmarks.sidebyside.peers import PEERS
from benchmarks.sidebyside.summary import TARGETS, judge, summarise
from benchmarks.sidebyside.wrk import LoadResult

CPU_US = {"gateway-plain": 30.0, "envoy-plain": 45.0, "gateway-full": 60.0, "envoy-full": 80.0}


@pytest.fixture
def run() -> report.Run:
    samples = [
        Sample(
            peer=name,
            cpu_us=cpu_us,
            redis_cpu_us=0.1,
            requests_per_second=10_000.0,
            p50_us=1000.0,
            p99_us=2000.0,
            alone_p50_us=300.0,
            direct_alone_p50_us=50.0,
        )
        for name, cpu_us in CPU_US.items()
    ]
    summaries = summarise(PEERS, samples)
    return report.Run(
        started="2026-01-02T03:04:05+00:00",
        rounds=1,
        seconds=1,
        machine=Machine(
            processor="A Processor", cores=2, kernel="Linux 6", python="3.11.7", load=0.1, commit="abc", versions={"Envoy": "1.40.0"}
        ),
        direct=[LoadResult(requests=70_000, duration_us=1_000_000, p50_us=1, p99_us=2, max_us=3, refused=0, socket_errors=0)],
        samples=samples,
        summaries=summaries,
        verdicts=judge(TARGETS, summaries),
    )


def test_table_shows_each_peer_once_cheapest_first_within_its_kind(run: report.Run) -> None:
    rows = [line.removeprefix("* ").split()[0] for line in report.text(run).splitlines() if line.strip("* ").startswith(tuple(CPU_US))]
    assert rows == ["gateway-plain", "envoy-plain", "gateway-full", "envoy-full"]


def test_targets_are_marked_met_missed_or_not_measured(run: report.Run) -> None:
    marks = [line.split("  ")[0] for line in report.text(run).splitlines()[-len(TARGETS) :]]
    assert marks == ["met", "MISSED", "not measured", "not measured", "not measured", "met"]


def test_document_is_json_and_holds_every_sample(run: report.Run) -> None:
    kept = json.loads(json.dumps(report.document(run)))
    assert [sample["peer"] for sample in kept["samples"]] == list(CPU_US)
    assert kept["machine"]["versions"] == {"Envoy": "1.40.0"}


def test_same_figures_draw_the_same_chart(run: report.Run, tmp_path: Path) -> None:
    chart.draw(run, tmp_path / "one.svg", tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert "HMS Gateway" in (tmp_path / "one.svg").read_text()


def test_processor_is_read_from_cpuinfo() -> None:
    assert processor("processor\t: 0\nmodel name\t: A  Model 9\nflags\t: x\n") == "A  Model 9"
