"""Whether a failed try is followed by another one, and when: the policy of one service and its budget."""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from random import random
from typing import Protocol

from discovery.endpoint import Endpoint
from gateway.errors import GatewayError
from gateway.headers import FieldList
from gateway.route import Retry, RetryOn, Timeouts

#: RFC 9110 section 9.2.2.
IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"))
#: Answers in which something on the way speaks, not the application (RFC 9110 section 15.6).
GATEWAY_ERRORS = frozenset((502, 503, 504))
#: Full jitter: the n-th retry waits between 0 and 25 ms x (2^n - 1), at most 250 ms (SPEC R3; Envoy's default).
BASE_SECONDS = 0.025
LONGEST_PAUSE_SECONDS = 0.25
#: How soon a slow try asks again for leave to be given up for another, which the budget has denied it.
ASK_AGAIN_SECONDS = 0.1


class Load(Protocol):
    """What a service has to do now. `retries` are the requests in flight that are tried again, or wait for it."""

    requests: int
    retries: int
    retries_denied: int


class Overdue(Exception):
    """A try took longer than `per_try`. It is not over: whoever waits may give it up or go on waiting."""


class Again(Exception):
    """A try has failed, or was given up, and another one follows.

    Args:
        endpoint: where.
        reason: what the records say about the failed try; empty when the instance answered.
        pause_seconds: to wait before.
        blame: whether the instance is to blame. It isn't when a reused connection ended as a request went out on it.
    """

    def __init__(self, endpoint: Endpoint, reason: str, pause_seconds: float, *, blame: bool) -> None:
        self.endpoint = endpoint
        self.reason = reason
        self.pause_seconds = pause_seconds
        self.blame = blame


@dataclass(frozen=True, slots=True, kw_only=True)
class PerTry(Timeouts):
    """Deadlines of a try that another one can follow: `response` is the shorter wait, at whose end `Overdue` is raised."""


def per_try(timeouts: Timeouts, retry: Retry) -> Timeouts:
    """The deadlines of every try but the last one."""
    if not retry.attempts or "gateway_error" not in retry.on or not 0 < retry.per_try < timeouts.response:
        return timeouts
    return PerTry(connect=timeouts.connect, response=retry.per_try, idle=timeouts.idle, total=timeouts.total)


class Retries:
    """The retries of one service.

    The budget bounds what retries add to the load of a service that fails: those in flight, pauses included, are at most `budget_ratio` of
    the first tries in flight, or `budget_minimum` (SPEC R4). Who got leave by `claim()` gives it back by `release()`.

    Args:
        policy: of the service.
        load: where the requests in flight are counted, and the retries among them.
    """

    __slots__ = ("_load", "_minimum", "_on", "_ratio", "attempts")

    def __init__(self, policy: Retry, load: Load) -> None:
        self.attempts = policy.attempts
        self._on = frozenset(policy.on)
        self._ratio = policy.budget_ratio
        self._minimum = policy.budget_minimum
        self._load = load

    def wants(self, kind: RetryOn, tries: int) -> bool:
        """Whether a failure of this kind may be followed by another try, after so many."""
        return tries <= self.attempts and kind in self._on

    def claim(self, *, stale: bool = False) -> bool:
        """Leave for one of the requests in flight to be tried again; never denied where a reused connection had ended."""
        load = self._load
        if not stale and load.retries >= self._minimum and load.retries >= self._ratio * (load.requests - load.retries):
            load.retries_denied += 1
            return False
        load.retries += 1
        return True

    def release(self) -> None:
        """The request is over."""
        self._load.retries -= 1


def pause_seconds(tries: int) -> float:
    """How long to wait after so many tries."""
    return random() * min(BASE_SECONDS * ((1 << tries) - 1), LONGEST_PAUSE_SECONDS)


def retry_after_seconds(headers: FieldList) -> float:
    """What the `Retry-After` field of a response asks for (RFC 9110 section 10.2.3); 0 without one, or when it makes no sense."""
    for name, value in headers:
        if name == b"retry-after":
            return _delay(value.strip().decode("latin-1"))
    return 0.0


def _delay(text: str) -> float:
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def never_began(error: GatewayError) -> bool:
    """Whether the connection ended before a byte of a response."""
    return error.reason == "upstream_reset"
