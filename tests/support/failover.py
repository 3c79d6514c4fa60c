"""Requests that go on and on while servers fail, and what became of each."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gateway.admission.admission import Admission, AdmissionPlan, Verdict
from gateway.auth.principal import Principal
from tests.support.admission import FixedFacts, outcome
from tests.support.redis_server import until


@dataclass
class Offered:
    """What became of the requests.

    Attributes:
        admitted, refused: (subject, when each was answered) by the monotonic clock.
        failures: reasons of those that got no verdict.
        slowest_seconds: the longest that one waited.
    """

    admitted: list[tuple[str, float]] = field(default_factory=list)
    refused: list[tuple[str, float]] = field(default_factory=list)
    revoked: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0.0

    def admitted_since(self, when: float, subjects: Sequence[str] = ()) -> bool:
        """Whether somebody, or each of some subjects, was admitted after a moment."""
        found = {subject for subject, at in self.admitted if at > when}
        return found.issuperset(subjects) if subjects else bool(found)

    def first_after(self, when: float, subject: str = "") -> float:
        """When the first request after a moment was admitted."""
        return min(at for who, at in self.admitted if at > when and subject in ("", who))


@asynccontextmanager
async def offering(
    admission: Admission, plan: AdmissionPlan, principals: Sequence[Principal], pause_seconds: float = 0.004
) -> AsyncIterator[Offered]:
    """Each principal asks again and again, with a pause between, until the block ends."""
    offered = Offered()
    going = True

    async def ask(who: Principal) -> None:
        while going:
            started = time.monotonic()
            found = await outcome(admission, plan, who, FixedFacts())
            ended = time.monotonic()
            offered.slowest_seconds = max(offered.slowest_seconds, ended - started)
            _note(offered, who.subject, found, ended)
            await asyncio.sleep(pause_seconds)

    asking = [asyncio.ensure_future(ask(who)) for who in principals]
    try:
        yield offered
    finally:
        going = False
        await asyncio.gather(*asking)


def _note(offered: Offered, subject: str, found: Verdict | str, when: float) -> None:
    if isinstance(found, str):
        offered.failures[found] += 1
    elif found.revoked:
        offered.revoked[subject] += 1
    else:
        (offered.admitted if found.allowed else offered.refused).append((subject, when))


async def noticed(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> float:
    """When a condition that asks servers came to hold, by the monotonic clock."""
    task = asyncio.ensure_future(asyncio.to_thread(_poll, condition, seconds))
    await until(task.done, what, seconds + 5)
    return task.result()


def _poll(condition: Callable[[], bool], seconds: float) -> float:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return time.monotonic()
