"""How single values are written: durations, sizes, rates, shares, moments, hosts, URLs, keys (CONTRACT section 4)."""

from __future__ import annotations

import re
from collections.abc import Callable

from gateway.admission.limits import MAXIMUM_COUNT, MAXIMUM_PERIOD_US, parse_rate, policy_line, rate_limit
from gateway.cli.when import parse_when
from gateway.config import syntax
from gateway.config.interpolation import interpolate
from gateway.config.problems import Wrong
from gateway.config.values import duration_seconds, duration_text, rate, ratio, size_bytes
from gateway.errors import ConfigError
from gateway.settings import StateSettings
from gateway.store.address import parse_address
from tests.fuzz.target import Target

_NOW = 1_795_395_525.0
#: Grammar functions give a normal form: what they give they take again, unchanged.
_NORMAL_FORMS: tuple[Callable[[str], str], ...] = (
    syntax.name,
    syntax.method,
    syntax.field_name,
    syntax.field_value,
    syntax.removable_field,
    syntax.settable_field,
    syntax.scope,
    syntax.claim,
    syntax.listen_host,
    syntax.route_host,
    syntax.cidr,
    syntax.http_url,
    syntax.check_path,
    syntax.consul_url,
    syntax.origin,
    syntax.sink,
    syntax.limit_key,
    syntax.hash_key,
    syntax.path_template,
)


def check(data: bytes) -> None:
    """One text. Every parser takes it or says on one line what is wrong; what it takes is within its bounds, and written down again it is
    the same."""
    text = data.decode("utf-8", "replace")
    for parse in _NORMAL_FORMS:
        normal = _taken(parse, text)
        assert normal is None or parse(normal) == normal, (parse, normal)
    check_numbers(text)
    check_rates(text)
    check_moment(text)
    check_addresses(text)
    _taken(lambda given: interpolate(given, {"A": "b"}), text)


def _taken(parse: Callable[[str], str], text: str) -> str | None:
    try:
        return parse(text)
    except Wrong as error:
        assert error.message.isprintable(), error.message
        assert len(error.message) < 2000, error.message
        return None


def check_numbers(text: str) -> None:
    """Durations, sizes, shares."""
    for parse in (duration_seconds, size_bytes, ratio):
        try:
            value = parse(text)
        except Wrong:
            continue
        assert text.isascii()
        assert value >= 0
        if parse is ratio:
            assert value <= 1
        elif parse is size_bytes:
            assert value >= 10**15 or size_bytes(str(value)) == value
        elif value == round(value) and value < 10**9:
            assert duration_seconds(duration_text(value)) == value


def check_rates(text: str) -> None:
    """A rate as the file has it, and as a decorator has it."""
    try:
        count, period_us = rate(text)
    except Wrong:
        pass
    else:
        assert text.isascii()
        assert 1 <= count <= period_us
        assert parse_rate(text) == (count, period_us)
    try:
        limit = rate_limit(text)
    except ConfigError as error:
        assert len(str(error)) < 1000
        return
    assert 1 <= limit.count <= MAXIMUM_COUNT
    assert 1 <= limit.period_us <= MAXIMUM_PERIOD_US
    assert re.fullmatch(rb"ratelimit-policy: [\x21-\x7e]+\r\n", policy_line([limit]))


def check_moment(text: str) -> None:
    """A moment as people type it."""
    try:
        seconds = parse_when(text, _NOW)
    except ValueError:
        return
    assert abs(seconds) < 1e18


def check_addresses(text: str) -> None:
    """What the file takes for the address of a store or an instance can be connected to."""
    try:
        url = syntax.state_url(text)
    except Wrong:
        pass
    else:
        if not url.startswith("embedded:"):
            parse_address(StateSettings(url=url))
    try:
        address = syntax.instance_url(text)
    except Wrong:
        return
    assert 1 <= address.port <= 65535
    assert address.host.isascii()
    assert not set(address.host) & set("/@?#\\ []")


TARGET = Target(
    "values",
    check,
    (
        "gateway.config.values",
        "gateway.config.syntax",
        "gateway.config.interpolation",
        "gateway.admission.limits",
        "gateway.cli.when",
        "gateway.hosts",
    ),
    (Wrong, ConfigError, ValueError),
    (
        b"10s",
        b"250ms",
        b"1h30m",
        b"32KiB",
        b"10MB",
        b"100/minute",
        b"5/250ms",
        b"10%",
        b"+1h",
        b"now",
        b"2026-01-31T12:00:00Z",
        b"redis://u:p@h:1/2",
        b"redis+sentinel://a,b/m",
        b"unix:///a",
        b"embedded://",
        b"https://h:443",
        b"[::1]",
        b"10.0.0.0/8",
        b"*.example.gov",
        b"header:X-A",
        b"file:/a",
        b"/a/{b:int}",
        b"${A:-b}",
        b"$$",
        b"\xc2\xb2",
        b"\xd9\xa1",
    ),
    256,
)
