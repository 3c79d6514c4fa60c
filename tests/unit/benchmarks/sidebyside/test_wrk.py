"""Reading wrk's report."""

from __future__ import annotations

import pytest

from benchmarks.sidebyside.errors import BenchmarkError
from benchmarks.sidebyside.wrk import LoadResult, parse, sound

REPORT = '{"requests":1500,"duration_us":500000,"p50_us":650,"p99_us":843,"max_us":1321,"refused":0,"socket_errors":0}'
OUTPUT = f"Running 1s test @ http://127.0.0.1:1/\n  1 threads and 64 connections\nRequests/sec:  3000.00\n{REPORT}\n"
RESULT = LoadResult(requests=1500, duration_us=500_000, p50_us=650, p99_us=843, max_us=1321, refused=0, socket_errors=0)


def test_report_line_is_found_among_what_wrk_prints_for_people() -> None:
    assert parse(OUTPUT) == RESULT


def test_rate_comes_from_the_measured_duration() -> None:
    assert parse(OUTPUT).requests_per_second == 3000.0


@pytest.mark.parametrize("output", ["", "Requests/sec: 1\n", '{"requests":1}\n', "{requests}\n", REPORT.replace("requests", "unknown")])
def test_output_without_a_readable_report_is_refused(output: str) -> None:
    with pytest.raises(BenchmarkError, match="report line"):
        parse(output)


@pytest.mark.parametrize(("requests", "refused", "socket_errors"), [(0, 0, 0), (10, 1, 0), (10, 0, 1)])
def test_load_with_a_failed_request_gives_no_figure(requests: int, refused: int, socket_errors: int) -> None:
    result = LoadResult(requests=requests, duration_us=1, p50_us=1, p99_us=1, max_us=1, refused=refused, socket_errors=socket_errors)
    with pytest.raises(BenchmarkError, match="http://127"):
        sound(result, "http://127.0.0.1:1/")


def test_load_without_failures_is_given_back() -> None:
    assert sound(RESULT, "http://127.0.0.1:1/") is RESULT
