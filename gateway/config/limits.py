"""Limits: from their sections, and from rates such as `10/second` that a route writes down itself."""

from __future__ import annotations

from collections.abc import Mapping

import gateway.config.models as models
from gateway.admission.limits import CALENDAR_US, rate_limit, validated
from gateway.config.problems import KeyPath, Report, render
from gateway.config.values import rate
from gateway.errors import ConfigError
from gateway.route import Limit

#: Life of a concurrency lease that nobody renews: what a replica that died takes with it is free again after this.
LEASE_SECONDS = 60.0


def limit(name: str, section: models.LimitSection, path: KeyPath, report: Report) -> Limit | None:
    """A limit from its section, or None after its problems were reported."""
    before = len(report.problems)
    _check(section, path, report)
    if len(report.problems) > before:
        return None
    try:
        return validated(_limit(name, section), render(path))
    except ConfigError as error:
        report.add(path, str(error).removeprefix(f"{render(path)}: "))
        return None


def _limit(name: str, section: models.LimitSection) -> Limit:
    if section.concurrency is not None:
        period_us = round((section.lease or LEASE_SECONDS) * 1_000_000)
        return Limit(name=name, kind="concurrency", count=section.concurrency, period_us=period_us, key=section.key)
    if section.quota is not None:
        return Limit(name=name, kind="quota", count=section.quota[0], period_us=section.quota[1], key=section.key)
    assert section.rate is not None
    count, period_us = section.rate
    if section.algorithm == "sliding_window":
        return Limit(name=name, kind="sliding_window", count=count, period_us=period_us, key=section.key)
    return Limit(name=name, kind="gcra", count=count, period_us=period_us, burst=section.burst or 0, key=section.key)


def reference(text: str, limits: Mapping[str, Limit]) -> Limit | None:
    """What an entry of a route's list means: a limit's name, or a rate; None for a name that none has.

    Raises:
        Wrong: it is meant as a rate and is none.
    """
    if "/" not in text:
        return limits.get(text)
    rate(text)
    return rate_limit(text)


def _check(section: models.LimitSection, path: KeyPath, report: Report) -> None:
    kinds = [kind for kind in ("rate", "quota", "concurrency") if getattr(section, kind) is not None]
    if len(kinds) != 1:
        report.add(path, f"the limit has {' and '.join(kinds) or 'none of rate, quota and concurrency'}", "exactly one of them")
        return
    if section.quota is not None and section.quota[1] not in CALENDAR_US:
        report.add((*path, "quota"), "a quota has a calendar window", "COUNT/minute, COUNT/hour or COUNT/day")
    for key, owners in (("algorithm", ("rate",)), ("burst", ("rate",)), ("lease", ("concurrency",))):
        if key in section.model_fields_set and kinds[0] not in owners:
            report.add((*path, key), f"{key} does not apply to a {kinds[0]}", f"only with {' or '.join(owners)}", key=True)
    if section.rate is not None and section.algorithm == "sliding_window" and section.burst is not None:
        report.add((*path, "burst"), "burst does not apply to a sliding window", "only with algorithm gcra", key=True)
