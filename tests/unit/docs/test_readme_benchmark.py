"""`scripts/readme-benchmark` shows the newest result with its conditions."""

from __future__ import annotations

import importlib.util
import json
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.sidebyside.machine import Machine
from benchmarks.sidebyside.measure import Sample
from benchmarks.sidebyside.peers import PEERS
from benchmarks.sidebyside.report import Run, document
from benchmarks.sidebyside.summary import TARGETS, judge, summarise
from benchmarks.sidebyside.wrk import LoadResult
from tests.support.documents import README, ROOT


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = SourceFileLoader("readme_benchmark", str(ROOT / "scripts" / "readme-benchmark"))
    spec = importlib.util.spec_from_loader("readme_benchmark", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def result(started: str) -> dict[str, Any]:
    """What a run would keep: as written by the benchmark itself."""
    samples = [
        Sample(
            peer=peer.name,
            cpu_us=40.0 + number,
            redis_cpu_us=5.0 if peer.redis_command else 0.1,
            requests_per_second=10_000.0,
            p50_us=1000.0,
            p99_us=2000.0,
            alone_p50_us=300.0,
            direct_alone_p50_us=50.0,
        )
        for number, peer in enumerate(PEERS)
    ]
    summaries = summarise(PEERS, samples)
    machine = Machine(
        processor="A Processor", cores=2, kernel="Linux 6", python="3.11.7", load=0.1, commit="abc", versions={"Envoy": "1.40.0"}
    )
    direct = [LoadResult(requests=70_000, duration_us=1_000_000, p50_us=1, p99_us=2, max_us=3, refused=0, socket_errors=0)]
    verdicts = judge(TARGETS, summaries)
    run = Run(started=started, rounds=5, seconds=4, machine=machine, direct=direct, samples=samples, summaries=summaries, verdicts=verdicts)
    found: dict[str, Any] = json.loads(json.dumps(document(run)))
    return found


def test_the_newest_run_is_taken_whatever_its_name(script: ModuleType, tmp_path: Path) -> None:
    for name, started in (("a.json", "2026-01-03T00:00:00+00:00"), ("b.json", "2026-01-02T00:00:00+00:00")):
        (tmp_path / name).write_text(json.dumps(result(started)))
    assert script.newest(tmp_path).name == "a.json"


def test_no_result_is_said(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(script.NoResult, match="make bench"):
        script.newest(tmp_path)


def test_section_shows_every_peer_its_conditions_and_the_targets(script: ModuleType) -> None:
    text = script.section(result("2026-01-02T03:04:05+00:00"), "r.json")
    for said in ("2026-01-02T03:04:05", "A Processor", "5 alternating rounds of 4 s", "64 connections", "Envoy 1.40.0", "One run"):
        assert said in text
    for peer in PEERS:
        assert f"| {peer.name} |" in text or f"| **{peer.name}** |" in text
        assert peer.name in script.DOES
    assert all(target.statement.replace("<=", "≤") in text for target in TARGETS)


def test_only_the_space_between_the_markers_changes(script: ModuleType) -> None:
    text = README.read_text(encoding="utf-8")
    changed = script.written(text, "FIGURES")
    assert f"{script.BEGIN}\nFIGURES\n{script.END}" in changed
    assert changed.partition(script.BEGIN)[0] == text.partition(script.BEGIN)[0]
    assert changed.partition(script.END)[2] == text.partition(script.END)[2]
    with pytest.raises(script.NoResult, match="benchmark:begin"):
        script.written("no markers", "FIGURES")
