"""Limits as values: what is valid, how they are written, what contradicts itself, and how they look in a response. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from gateway.errors import ConfigError
from gateway.route import Limit

SECOND_US = 1_000_000
UNITS_US = {"second": SECOND_US, "minute": 60 * SECOND_US, "hour": 3600 * SECOND_US, "day": 86_400 * SECOND_US}
_SUFFIXES_US = {"ms": 1000, "s": SECOND_US, "m": 60 * SECOND_US, "h": 3600 * SECOND_US, "d": 86_400 * SECOND_US}
#: What a quota's period may be.
CALENDAR_US = (UNITS_US["minute"], UNITS_US["hour"], UNITS_US["day"])
#: Above this a double no longer holds every count (the script's numbers are doubles).
MAXIMUM_COUNT = 10**12
#: Into how many parts a sliding window's count is divided. The events of a part stop to count together, so a window admits at least 63/64
#: of its count, and a key holds at most twice as many entries (docs/decisions/0027-sliding-windows-that-hold.md).
SLIDING_WINDOW_PARTS = 64
MAXIMUM_PERIOD_US = 366 * UNITS_US["day"]

#: token of RFC 9110 section 5.6.2: safe in a header, in a key, and without the braces of a hash tag.
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")
_RATE = re.compile(r"\s*([0-9]{1,18})\s*/\s*(?:([0-9]{1,18})\s*)?([a-z]+)\s*")
_PLAIN_KEYS = ("subject", "client", "session", "client_ip", "client_certificate", "route", "global")
_NAMED_KEYS = ("header", "claim", "path")
_KEYS_ALLOWED = "subject, client, session, client_ip, client_certificate, route, global, header:NAME, claim:NAME and path:NAME"


def parse_rate(text: str) -> tuple[int, int]:
    """Reads a rate: `100/minute`, `10/second`, `1000/day`, `100/15m`, `5/250ms`.

    Returns:
        (count, period in microseconds).

    Raises:
        ConfigError: the text is no rate.
    """
    match = _RATE.fullmatch(text)
    count, number, unit = match.groups() if match else ("0", None, "")
    unit_us = _SUFFIXES_US.get(unit) if number else (UNITS_US.get(unit) or _SUFFIXES_US.get(unit))
    if number and unit_us is None:
        unit_us = UNITS_US.get(unit.removesuffix("s"))
    period_us = int(number or 1) * (unit_us or 0)
    if not int(count) or not period_us:
        raise ConfigError(
            f"rate {text[:60]!r}: must be COUNT/UNIT with a unit of second, minute, hour, day, or COUNT/DURATION such as 100/15m"
        )
    return int(count), period_us


def rate_limit(text: str) -> Limit:
    """The limit that a decorator's `limits=["10/second"]` means: a GCRA rate for each subject (or, for requests without one, each client
    address) on that route alone. It is named after the text: `10-per-second`.

    Raises:
        ConfigError: the text is no rate.
    """
    count, period_us = parse_rate(text)
    unit = re.sub(r"\s", "", text.partition("/")[2])
    limit = Limit(name=f"{count}-per-{unit}", kind="gcra", count=count, period_us=period_us, key=("route", "subject"))
    return validated(limit, f"limits: {text!r}")


def validated(limit: Limit, where: str) -> Limit:
    """The limit with its defaults filled in (`burst`), once it is known to make sense.

    Args:
        where: what messages begin with: `limits.per-client`, or a file and line.

    Raises:
        ConfigError: naming the value and what is allowed.
    """
    if not _TOKEN.fullmatch(limit.name):
        raise ConfigError(f"{where}: name {limit.name!r} must be 1 to 64 letters, digits or !#$%&'*+-.^_`|~")
    if not 1 <= limit.count <= MAXIMUM_COUNT:
        raise ConfigError(f"{where}: count {limit.count} must be from 1 to {MAXIMUM_COUNT}")
    if not 1 <= limit.period_us <= MAXIMUM_PERIOD_US:
        raise ConfigError(f"{where}: period of {limit.period_us} us must be from 1 us to 366 days")
    if limit.kind == "quota" and limit.period_us not in CALENDAR_US:
        raise ConfigError(f"{where}: a quota counts a calendar minute, hour or day, not {limit.period_us / SECOND_US:g} s")
    if limit.burst and limit.kind != "gcra":
        raise ConfigError(f"{where}: burst belongs to a rate (gcra), not to {limit.kind}")
    if not 0 <= limit.burst <= MAXIMUM_COUNT:
        raise ConfigError(f"{where}: burst {limit.burst} must be from 1 to {MAXIMUM_COUNT}")
    if not limit.key:
        raise ConfigError(f"{where}: key is empty; {_KEYS_ALLOWED} are allowed")
    for part in limit.key:
        _check_key_part(part, where)
    return replace(limit, burst=limit.burst or limit.count) if limit.kind == "gcra" else limit


def _check_key_part(part: str, where: str) -> None:
    kind, colon, name = part.partition(":")
    if (colon and kind in _NAMED_KEYS and name) or (not colon and part in _PLAIN_KEYS):
        return
    raise ConfigError(f"{where}: key {part!r} is unknown; {_KEYS_ALLOWED} are allowed")


def capacity(limit: Limit) -> int:
    """How many events a limit that was not used accepts at once."""
    return (limit.burst or limit.count) if limit.kind == "gcra" else limit.count


def counted_together(count: int, parts: int = SLIDING_WINDOW_PARTS) -> int:
    """How many events of a sliding window that allows so many may stop to count at the same time, that of the last one of them."""
    return -(-count // parts)


def window_bound(limit: Limit, window_us: int) -> float:
    """The most events that a limit accepts in any span of so many microseconds that begins with the limit unused (SPEC L7)."""
    if limit.kind == "concurrency":
        return float("inf")
    if limit.kind == "gcra":
        return capacity(limit) + limit.count * window_us / limit.period_us
    return limit.count * max(1.0, window_us / limit.period_us)


def contradictions(limits: Iterable[Limit]) -> list[str]:
    """Where a longer window allows less than a shorter one that counts the same thing (SPEC L13).

    Returns:
        One sentence a pair; empty when there is none.
    """
    counting = [limit for limit in limits if limit.kind != "concurrency"]
    return [
        f"{longer.name!r} allows {longer.count} each {_seconds(longer.period_us)} ({capacity(longer)} at once), which is less than "
        f"{shorter.name!r} with its {shorter.count} each {_seconds(shorter.period_us)}: the shorter window can't be used up"
        for shorter in counting
        for longer in counting
        if set(shorter.key) == set(longer.key) and shorter.period_us < longer.period_us and _allows_less(longer, shorter)
    ]


def _allows_less(longer: Limit, shorter: Limit) -> bool:
    return longer.count < shorter.count or window_bound(longer, shorter.period_us) < shorter.count


def _seconds(period_us: int) -> str:
    return f"{period_us / SECOND_US:g} s"


def policy_item(limit: Limit) -> bytes:
    """One member of `RateLimit-Policy` [draft-ietf-httpapi-ratelimit-headers]: `"per-client";q=100;w=60`."""
    name = limit.name.encode("ascii")
    if limit.kind == "concurrency":
        return b'"%b";q=%d;qu="concurrent-requests"' % (name, limit.count)
    return b'"%b";q=%d;w=%d' % (name, limit.count, ceil_seconds(limit.period_us))


def policy_line(limits: Sequence[Limit]) -> bytes:
    """The whole `ratelimit-policy` line with its CRLF; empty without limits."""
    return b"ratelimit-policy: " + b", ".join(map(policy_item, limits)) + b"\r\n" if limits else b""


def ceil_seconds(duration_us: int) -> int:
    """Whole seconds, rounded up."""
    return -(-duration_us // SECOND_US)
