"""What replies prove. A decision was made between a request's leaving and its answer's coming: only what holds wherever in between it was
made is held against a limiter, so that a busy machine never makes a good one look bad.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from tests.support.load import Reply


def admitted(replies: Sequence[Reply]) -> list[Reply]:
    """Those that were let through."""
    return [reply for reply in replies if reply.status == 200]


def least(replies: Sequence[Reply], rate: float, burst: int) -> float:
    """What a limiter must admit of these at the rate a second, given when they came. A generator that fell behind, on a machine that was
    busy, lets tokens go unused: that is not the limiter's fault. A tenth is left for decisions that fell elsewhere within their requests.
    """
    return 0.9 * min(
        _modelled(sorted(times), rate, burst) for times in zip(*((each.sent_at, each.ended_at) for each in replies), strict=True)
    )


def _modelled(times: Sequence[float], rate: float, burst: int) -> int:
    """How many of requests at these times a bucket admits."""
    tokens, before, count = float(burst), times[0], 0
    for at in times:
        tokens, before = min(burst, tokens + (at - before) * rate), at
        if tokens >= 1:
            tokens, count = tokens - 1, count + 1
    return count


def strangers(replies: Sequence[Reply]) -> list[Reply]:
    """Those that are neither admissions nor refusals."""
    return [reply for reply in replies if reply.status not in (200, 429)]


def decided_within(replies: Sequence[Reply], seconds: float) -> list[Reply]:
    """Those that were surely decided so soon after the first one left."""
    first = min(reply.sent_at for reply in replies)
    return [reply for reply in replies if reply.ended_at <= first + seconds]


def worst_span(replies: Sequence[Reply], seconds: float) -> int:
    """The most admissions that were surely made within any span of that length."""
    let = admitted(replies)
    return max(
        (sum(first.sent_at <= reply.sent_at and reply.ended_at <= first.sent_at + seconds for reply in let) for first in let),
        default=0,
    )


def steady(replies: Sequence[Reply], seconds: float) -> bool:
    """Whether the load was steady: no pause as long as that between requests, nor before an answer."""
    sent = sorted(reply.sent_at for reply in replies)
    return all(later - earlier < seconds for earlier, later in pairwise(sent)) and all(reply.seconds < seconds for reply in replies)


def starved(replies: Sequence[Reply], seconds: float, refusals: int) -> list[float]:
    """Gaps between admissions that lasted longer and in which so many requests were refused."""
    let = sorted(admitted(replies), key=lambda reply: reply.ended_at)
    gaps = []
    for before, after in pairwise(let):
        gap = after.sent_at - before.ended_at
        within = [reply for reply in replies if before.ended_at < reply.sent_at and reply.ended_at < after.sent_at]
        if gap > seconds and len(within) >= refusals:
            gaps.append(gap)
    return gaps
