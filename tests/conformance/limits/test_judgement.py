"""The suite finds a limiter that is wrong, and can be pointed at any."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conformance.limits.judgement import admitted, decided_within, least, starved, steady, strangers, worst_span
from tests.conformance.limits.subject import HEADERS, PATHS, URLS, Subject, document, named_subject
from tests.support.load import Reply
from tests.support.plain_service import service_process
from tests.support.whole_gateway import ROOT, running

#: Nine gateways start first.
pytestmark = pytest.mark.timeout(240)


def reply(sent_at: float, status: int = 200, seconds: float = 0.001) -> Reply:
    return Reply(sent_at, seconds, status, "", "http://replica", "/l")


def test_only_what_was_surely_decided_in_time_counts() -> None:
    replies = [reply(0.0), reply(0.9, seconds=0.05), reply(0.9, seconds=0.2), reply(1.1)]
    assert len(decided_within(replies, 1.0)) == 2


def test_a_generator_that_paused_lets_a_limiter_admit_less() -> None:
    steady = [reply(number / 10) for number in range(100)]
    paused = [reply(number / 10) for number in range(100) if not 20 < number < 80]
    assert least(steady, 5, 5) == pytest.approx(0.9 * 54, abs=1)
    assert least(paused, 5, 5) == pytest.approx(0.9 * 29, abs=1)


def test_load_with_a_pause_or_a_late_answer_is_not_steady() -> None:
    even = [reply(number / 10) for number in range(10)]
    assert steady(even, 0.2)
    assert not steady([*even, reply(1.5)], 0.2)
    assert not steady([*even, reply(0.5, seconds=0.3)], 0.2)


def test_worst_span_is_the_fullest_one_anywhere() -> None:
    replies = [reply(at / 10) for at in (0, 18, 19, 20, 21, 40)] + [reply(2.0, 429)]
    assert worst_span(replies, 1.0) == 4
    assert worst_span([reply(0.0, 429)], 1.0) == 0


def test_a_pause_counts_only_where_requests_were_refused() -> None:
    silent = [reply(0.0), reply(1.0)]
    refused = [reply(0.1 + number / 100, 429) for number in range(30)]
    assert starved(silent, 0.3, 20) == []
    assert starved([*silent, *refused], 0.3, 20) == [pytest.approx(0.999)]
    assert starved([*silent, *refused[:10]], 0.3, 20) == []


def test_strangers_are_neither_admitted_nor_refused() -> None:
    replies = [reply(0.0), reply(0.0, 429), reply(0.0, 503), reply(0.0, 0)]
    assert len(admitted(replies)) == 1
    assert [each.status for each in strangers(replies)] == [503, 0]


def test_environment_names_a_limiter() -> None:
    environ = {URLS: "http://a http://b", PATHS: '{"L5": "/five"}', HEADERS: '{"Authorization": "Bearer x", "X-Who": "{client}"}'}
    named = named_subject(environ)
    assert named is not None
    assert (named.urls, named.paths) == (("http://a", "http://b"), {"L5": "/five"})
    assert named.fields("c1") == {"Authorization": "Bearer x", "X-Who": "c1"}
    assert named.constellations == {"2 replicas:": ("http://a", "http://b")}
    assert named_subject({}) is None
    assert named_subject({URLS: "http://a"}) is not None


def judged(urls: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """The suite on one case of a limiter that the environment names."""
    environ = {key: value for key, value in os.environ.items() if key != "GATEWAY_FAULTS"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/conformance/limits"]
    named = {URLS: " ".join(urls), PATHS: json.dumps({"L5": "/l5"}), HEADERS: json.dumps({"X-Client": "{client}"})}
    return subprocess.run(command, cwd=ROOT, env={**environ, **named}, capture_output=True, text=True, check=False, timeout=120)


def test_suite_passes_a_limiter_that_counts_for_all_replicas(subject: Subject) -> None:
    """L5: pointed at two replicas by the environment."""
    done = judged(subject.urls)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_suite_finds_replicas_that_count_alone(tmp_path: Path) -> None:
    """L5: two gateways without a common store admit twice as many."""
    with service_process("backend") as service, contextlib.ExitStack() as stack:
        homes = [tmp_path / "a", tmp_path / "b"]
        gateways = [stack.enter_context(running(home, document(home, "embedded://", service.url))) for home in homes]
        done = judged([gateway.url for gateway in gateways])
        assert done.returncode == 1, done.stdout
        assert "assert 10 == 5" in done.stdout
