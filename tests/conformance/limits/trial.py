"""Asks a limiter what the cases want to know: all that takes time side by side, so that the suite takes as long as its longest case."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.conformance.limits.subject import Subject
from tests.support.load import Ask, Reply, Sender, offer

L1_SECONDS = 5.0
#: Constellations that are asked at the same time: more would ask a machine with two cores for more than it can do.
L1_AT_ONCE = 3
L2_IDLE_SECONDS = 2.2
#: Case to requests a second and for how long.
OFFERED = {"L3": (50, 20.0), "L4": (10, 10.0), "L6": (100, 10.0), "L7-sliding": (80, 10.0)}


@dataclass(slots=True)
class Trial:
    """The replies of each case, by when they came.

    Attributes:
        l1: by constellation.
        refused: L2: the reply that said that the bucket was empty.
        cases: all others by their id.
    """

    l1: dict[str, list[Reply]] = field(default_factory=dict)
    refused: Reply | None = None
    cases: dict[str, list[Reply]] = field(default_factory=dict)


async def trial(subject: Subject, fixed_seconds: float) -> Trial:
    """Ask for every case that the subject has a path for. `fixed_seconds`: for how long L7 watches calendar windows."""
    found = Trial()
    offered = {**OFFERED, "L7-fixed": (5, fixed_seconds)}
    steady = [_steady(subject, case, found, *offered[case]) for case in offered if case in subject.paths]
    others = {"L1": _l1, "L2": _l2, "L5": _l5}
    await asyncio.gather(*steady, *(ask(subject, found) for case, ask in others.items() if case in subject.paths))
    return found


async def load(subject: Subject, case: str, urls: Sequence[str], rate: float, seconds: float) -> list[Reply]:
    """The replies to steady load of one client, spread over the replicas."""
    replies: list[Reply] = []
    turn = _asks(subject, case, urls)
    await offer(lambda number: turn[number % len(turn)], rate, seconds, replies)
    return sorted(replies, key=lambda reply: reply.ended_at)


def _asks(subject: Subject, case: str, urls: Sequence[str]) -> list[Ask]:
    fields = subject.fields(f"{case}-{secrets.token_hex(6)}")
    return [Ask(url, subject.paths[case], fields) for url in urls]


async def _steady(subject: Subject, case: str, found: Trial, rate: float, seconds: float) -> None:
    found.cases[case] = await load(subject, case, subject.urls, rate, seconds)


async def _l1(subject: Subject, found: Trial) -> None:
    left = list(subject.constellations.items())
    while left:
        now, left = left[:L1_AT_ONCE], left[L1_AT_ONCE:]
        replies = await asyncio.gather(*(load(subject, "L1", urls, 400, L1_SECONDS) for _, urls in now))
        found.l1.update(zip((name for name, _ in now), replies, strict=True))


async def _l2(subject: Subject, found: Trial) -> None:
    asks = _asks(subject, "L2", subject.urls)
    sender = Sender()
    while found.refused is None:
        replies = await asyncio.gather(*(sender.ask(asks[number % len(asks)]) for number in range(20)))
        found.refused = next((reply for reply in replies if reply.status == 429), None)
    await asyncio.sleep(L2_IDLE_SECONDS)
    found.cases["L2"] = await asyncio.gather(*(sender.ask(asks[number % len(asks)]) for number in range(60)))
    sender.close()


async def _l5(subject: Subject, found: Trial) -> None:
    asks = _asks(subject, "L5", subject.urls)
    sender = Sender()
    found.cases["L5"] = await asyncio.gather(*(sender.ask(asks[number % len(asks)]) for number in range(100)))
    sender.close()
