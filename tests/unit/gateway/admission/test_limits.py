"""Rates as text, limits as values, contradictions, policies in responses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.admission.limits import ceil_seconds, contradictions, parse_rate, policy_line, rate_limit, validated, window_bound
from gateway.errors import ConfigError
from gateway.route import Limit
from tests.support.admission import SECOND_US, concurrency, gcra, quota, sliding

WHERE = "gateway.yaml:7: limits.x"


@pytest.mark.parametrize(
    ("text", "count", "seconds"),
    [
        ("10/second", 10, 1),
        ("100/minute", 100, 60),
        ("7/hour", 7, 3600),
        ("1000/day", 1000, 86_400),
        ("5/s", 5, 1),
        ("100/15m", 100, 900),
        ("100/15 minutes", 100, 900),
        ("2/2h", 2, 7200),
        (" 3 / 7d ", 3, 604_800),
        ("5/250ms", 5, 0.25),
    ],
)
def test_a_rate_is_a_count_and_a_period(text: str, count: int, seconds: float) -> None:
    assert parse_rate(text) == (count, int(seconds * SECOND_US))


@pytest.mark.parametrize(
    "text", ["", "10", "10/", "/second", "0/second", "10/0s", "10/fortnight", "-1/second", "1.5/second", "10 per second"]
)
def test_anything_else_is_named_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_rate(text)
    assert repr(text) in str(caught.value)
    assert "COUNT/UNIT" in str(caught.value)


def test_a_rate_of_a_decorator_is_a_bucket_for_each_subject_on_its_route() -> None:
    limit = rate_limit("1000/day")
    assert limit == Limit(name="1000-per-day", kind="gcra", count=1000, period_us=86_400 * SECOND_US, burst=1000, key=("route", "subject"))
    assert rate_limit("100/15 m").name == "100-per-15m"


def test_a_burst_that_is_not_said_is_the_count() -> None:
    assert validated(gcra(100, 60), WHERE).burst == 100
    assert validated(gcra(100, 60, burst=20), WHERE).burst == 20
    assert validated(quota(100), WHERE) == quota(100)


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (gcra(1, 1, name=""), "name ''"),
        (gcra(1, 1, name="two words"), "name 'two words'"),
        (gcra(1, 1, name="a{b}"), "name 'a{b}'"),
        (gcra(1, 1, name="x" * 65), "name 'xxx"),
        (gcra(0, 1), "count 0 must be from 1"),
        (gcra(10**13, 1), "count 10000000000000 must be"),
        (gcra(1, 0), "period of 0 us"),
        (gcra(1, 400 * 86_400), "must be from 1 us to 366 days"),
        (quota(1, 7), "a quota counts a calendar minute, hour or day, not 7 s"),
        (replace(quota(1), burst=5), "burst belongs to a rate"),
        (gcra(1, 1, burst=-1), "burst -1"),
        (gcra(1, 1, key=()), "key is empty"),
        (gcra(1, 1, key=("user",)), "key 'user' is unknown; subject, client, session"),
        (gcra(1, 1, key=("header:",)), "key 'header:' is unknown"),
        (gcra(1, 1, key=("subject:x",)), "key 'subject:x' is unknown"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused_at_its_place(limit: Limit, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validated(limit, WHERE)
    assert str(caught.value).startswith(WHERE)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (gcra(10, 1, name="short"), gcra(5, 60, name="long")),
        (gcra(1000, 60, name="short"), quota(500, name="long")),
        (sliding(100, 60, name="short"), sliding(99, 3600, name="long")),
        (gcra(50, 60, name="short"), gcra(100, 3600, burst=10, name="long")),
    ],
)
def test_a_longer_window_that_allows_less_is_a_contradiction(first: Limit, second: Limit) -> None:
    """L13: in either order; the sentence names both."""
    for limits in ([first, second], [second, first]):
        (sentence,) = contradictions(limits)
        assert sentence.startswith("'long' allows")
        assert "'short'" in sentence


@pytest.mark.parametrize(
    "limits",
    [
        [gcra(5, 1, name="a"), gcra(100, 60, name="b")],
        [gcra(100, 60, burst=20, name="a"), quota(10_000, name="b")],
        [gcra(10, 1, name="a"), gcra(5, 60, name="b", key=("client_ip",))],
        [gcra(10, 1, name="a"), concurrency(1, 60, name="b")],
        [gcra(10, 1, name="a"), gcra(10, 60, name="b")],
        [quota(10, name="a")],
        [],
    ],
)
def test_limits_that_go_together_are_no_contradiction(limits: list[Limit]) -> None:
    """L13."""
    assert contradictions(limits) == []


def test_the_bound_of_a_window() -> None:
    """L7: what a limit admits in a span of a minute that begins unused."""
    minute_us = 60 * SECOND_US
    assert window_bound(gcra(60, 60, burst=5), minute_us) == 65
    assert window_bound(quota(60, 60), minute_us) == 60
    assert window_bound(concurrency(3), minute_us) == float("inf")


def test_the_policy_line_lists_every_limit_in_order() -> None:
    """Headers: RateLimit-Policy, structured form."""
    limits = [
        gcra(100, 60, burst=20, name="per-client"),
        quota(10_000, name="daily"),
        concurrency(20, name="parallel"),
        gcra(1, 0.1, name="x"),
    ]
    assert policy_line(limits) == (
        b'ratelimit-policy: "per-client";q=100;w=60, "daily";q=10000;w=86400, "parallel";q=20;qu="concurrent-requests", "x";q=1;w=1\r\n'
    )
    assert policy_line([]) == b""


def test_seconds_are_rounded_up() -> None:
    assert [ceil_seconds(us) for us in (0, 1, SECOND_US, SECOND_US + 1)] == [0, 1, 1, 2]
