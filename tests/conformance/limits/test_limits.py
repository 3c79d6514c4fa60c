"""What a limiter admits, asked over HTTP."""

from __future__ import annotations

import pytest

from tests.conformance.limits.judgement import admitted, decided_within, least, starved, steady, strangers, worst_span
from tests.conformance.limits.subject import Subject
from tests.conformance.limits.trial import L1_SECONDS, L2_IDLE_SECONDS, OFFERED, Trial
from tests.support.faults import Measured, fault

pytestmark = pytest.mark.timeout(240)


@pytest.mark.case("L1")
@fault(
    "limits-replicas",
    "L1: 2 and 4 replicas whose clocks differ, 100/s with burst 100, offered 400/s for 5 s",
    "at most 600 (+1) admitted, whatever the clocks say",
)
def test_replicas_whose_clocks_differ_admit_as_one(measured: Measured, answered: Trial) -> None:
    """L1, F-9."""
    measured.under("clocks of the replicas by libfaketime, requests in turn; admissions that were surely decided within the 5 s")
    counts = {name: len(admitted(decided_within(replies, L1_SECONDS))) for name, replies in answered.l1.items()}
    for name, count in counts.items():
        measured(name, count)
    assert counts
    assert not [reply for replies in answered.l1.values() for reply in strangers(replies)]
    assert max(counts.values()) <= 601, counts
    assert all(len(admitted(replies)) >= least(replies, 100, 100) for replies in answered.l1.values()), counts


@pytest.mark.case("L2")
@fault("limits-idle", "L2: 10/s with burst 1000, drained, idle for 2.2 s", "at most 23 admitted")
def test_a_drained_bucket_fills_at_its_rate(measured: Measured, answered: Trial) -> None:
    """L2."""
    measured.under("2 replicas, 60 requests at once after the pause; admissions within 2.3 s of a refusal")
    refused = answered.refused
    assert refused is not None
    within = [reply for reply in answered.cases["L2"] if reply.ended_at <= refused.sent_at + L2_IDLE_SECONDS + 0.1]
    measured("admitted", len(admitted(within)))
    assert not strangers(answered.cases["L2"])
    assert len(admitted(within)) <= 23
    assert len(admitted(answered.cases["L2"])) >= 20


@pytest.mark.case("L3")
@fault(
    "limits-two", "L3: 5/s and 100/min on one path, offered 50/s for 20 s", "95 to 105 admitted: what one refuses the other does not count"
)
def test_two_limits_count_only_what_both_admit(measured: Measured, answered: Trial) -> None:
    """L3."""
    measured.under("2 replicas")
    found = decided_within(answered.cases["L3"], OFFERED["L3"][1])
    measured("admitted", len(admitted(found)))
    assert not strangers(found)
    assert len(admitted(found)) <= 105
    assert len(admitted(answered.cases["L3"])) >= min(95, least(answered.cases["L3"], 5, 5))


@pytest.mark.case("L4")
@fault("limits-free-refusal", "L4: 5/s, offered 10/s for 10 s", "49 to 55 admitted: a refusal is free")
def test_a_refusal_is_free(measured: Measured, answered: Trial) -> None:
    """L4."""
    measured.under("2 replicas")
    found = decided_within(answered.cases["L4"], OFFERED["L4"][1])
    measured("admitted", len(admitted(found)))
    assert not strangers(found)
    assert len(admitted(found)) <= 55
    assert len(admitted(answered.cases["L4"])) >= min(49, least(answered.cases["L4"], 5, 5))


@pytest.mark.case("L5")
@fault("limits-instant", "L5: 100 requests in the same instant, limit 5", "5 admitted")
def test_one_instant_gets_exactly_the_limit(measured: Measured, answered: Trial) -> None:
    """L5."""
    measured.under("2 replicas, 100 connections")
    measured("admitted", len(admitted(answered.cases["L5"])))
    assert not strangers(answered.cases["L5"])
    assert len(admitted(answered.cases["L5"])) == 5


@pytest.mark.case("L6")
@fault("limits-starvation", "L6: 10/s, offered 100/s for 10 s", "after the burst never 300 ms without an admission")
def test_overload_starves_nobody(measured: Measured, answered: Trial) -> None:
    """L6: a pause counts when requests were refused in it, at least two thirds of those that 300 ms offer."""
    measured.under("2 replicas")
    found = answered.cases["L6"]
    gaps = starved(found, 0.3, 20)
    measured("admitted", len(admitted(found)))
    measured("pauses", len(gaps))
    assert not strangers(found)
    assert not gaps
    assert len(admitted(found)) >= least(found, 10, 10)


@pytest.mark.case("L6")
@fault("limits-span-gcra", "L7: the worst second of 10/s with burst 10, offered 100/s", "at most burst + rate x 1 s = 20")
def test_worst_span_of_a_rate(measured: Measured, answered: Trial) -> None:
    """L7."""
    measured.under("2 replicas, 10 s")
    measured("worst second", worst_span(answered.cases["L6"], 1.0))
    assert worst_span(answered.cases["L6"], 1.0) <= 20


@pytest.mark.case("L7-sliding")
@fault(
    "limits-span-sliding",
    "L7: the worst window of 40 in 2 s, sliding, offered 80/s",
    "at most the limit = 40, from the start; at least 39 a window in the long run",
)
def test_worst_span_of_a_sliding_window(measured: Measured, answered: Trial) -> None:
    """L7: `worst_span` is of what was surely decided within the span."""
    measured.under("2 replicas, 10 s of steady load")
    found = answered.cases["L7-sliding"]
    measured("worst 2 s", worst_span(found, 2.0))
    measured("a window", round(len(admitted(found)) / 5, 1))
    assert not strangers(found)
    assert worst_span(found, 2.0) <= 40
    assert len(admitted(found)) >= (5 * 39 if steady(found, 0.1) else 40)


@pytest.mark.case("L7-fixed")
@fault("limits-span-fixed", "L7: the worst minute of 20 a calendar minute, offered 5/s", "at most 2 x limit = 40, around an edge")
def test_worst_span_of_a_calendar_window(measured: Measured, answered: Trial) -> None:
    """L7: the short form sees at most one edge."""
    found = answered.cases["L7-fixed"]
    measured.under(f"2 replicas, {found[-1].sent_at - found[0].sent_at:.0f} s of steady load")
    measured("worst minute", worst_span(found, 60.0))
    assert not strangers(found)
    assert 20 <= worst_span(found, 60.0) <= 40


def test_every_case_was_asked(subject: Subject, answered: Trial) -> None:
    """No case passes because nothing was asked."""
    assert set(answered.cases) == set(subject.paths) - {"L1"}
    assert all(answered.cases.values())
    assert set(answered.l1) == (set(subject.constellations) if "L1" in subject.paths else set())
