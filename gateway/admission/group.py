"""Group commit: requests that arrive while the store is busy with others share the next call.

An idle gateway sends at once (at the end of the loop's turn, with whatever else that turn brought). While a call is on its way, requests
wait for its reply and go together; they go earlier when there are many of them or when the reply takes long. Calls are pipelined on one
connection, so a second one only saves waiting when the first is slow: below that it would only make groups smaller.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from gateway.admission.plan import Ticket
from gateway.admission.verdict import Verdict
from gateway.errors import Unavailable
from gateway.store.error import StoreError
from gateway.store.lines import Line
from gateway.store.script import Script, bulk

MAXIMUM_REQUESTS = 128
MAXIMUM_CALLS = 4
#: So many waiting requests are worth a call of their own while another is on its way.
_WORTH_A_CALL = 32
#: A call that takes longer than this is not waited for.
_PATIENCE_SECONDS = 0.001
#: A connection is given up when its oldest call is so many budgets old: what comes then is answered at once, not after its budget.
_BUDGETS_UNTIL_ABORT = 2
#: A timer that fires later than this says that our own loop stood still, not the store: replies may lie in the socket unread.
_LATE_SECONDS = 0.005
_GRACE_SECONDS = 0.002

#: For a process that knows nothing that a store could have lost.
NO_HISTORY = bulk(b"")
#: Errors after which the same server is not worth another call on the same connection.
_GIVE_UP = frozenset({"read_only", "authentication", "emptied"})


class AdmissionObserver(Protocol):
    """Who is told how admission goes. Both are called on the loop and must be quick."""

    def batch(self, size: int, duration_seconds: float) -> None:
        """A call to the store has been answered: how many requests it carried and how long it took."""

    def mode(self, mode: str) -> None:
        """Admission is `shared` from now on, or `unavailable`."""


#: One waiting request: who waits, what it asks, the name of its lease, when it asked.
_Request = tuple[asyncio.Future[Verdict], Ticket, bytes, float]


class _Call:
    """Requests that went together."""

    __slots__ = ("requests", "sent_at", "with_text")

    def __init__(self, requests: list[_Request], sent_at: float) -> None:
        self.requests = requests
        self.sent_at = sent_at
        self.with_text = False


class Group:
    """The requests of one shard.

    Args:
        line: where calls go.
        script: the admission script.
        fixed_keys: the keys that begin every call.
        budget_seconds: the longest that a request waits.
        observer: is told about calls.
        granted: called with a verdict that holds leases; False as the second argument when nobody waits for it any more.
        history: the name of the store's history that this process has compared its own knowledge with, as an argument on the wire.
    """

    def __init__(
        self,
        line: Line,
        script: Script,
        fixed_keys: Sequence[bytes],
        budget_seconds: float,
        observer: AdmissionObserver,
        granted: Callable[[Verdict, bool], None],
        history: Callable[[], bytes] = lambda: NO_HISTORY,
    ) -> None:
        # What never changes
        self._line = line
        self._script = script
        self._fixed_keys = b"".join(map(bulk, fixed_keys))
        self._fixed_key_count = len(fixed_keys)
        self._budget_seconds = budget_seconds
        self._observer = observer
        self._granted = granted
        self._history = history
        self._loop = asyncio.get_running_loop()

        # Requests on their way
        self._waiting: deque[_Request] = deque()
        self._calls: list[_Call] = []
        self._last_sent = 0.0
        self._down_since: float | None = self._loop.time()
        self._closed = False

        # What the loop will do for us
        self._flush_planned = False
        self._straggler_timer: asyncio.TimerHandle | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Group waiting={len(self._waiting)} calls={len(self._calls)}>"

    def submit(self, ticket: Ticket, lease: bytes, asked: float = 0.0) -> asyncio.Future[Verdict]:
        """Asks for a verdict. The future ends within the budget, with `Unavailable` when the store has not answered by then.

        Args:
            lease: name for the leases of its concurrency limits, as it goes over the wire.
            asked: loop time from which the budget counts, when that is not now.
        """
        loop = self._loop
        future: asyncio.Future[Verdict] = loop.create_future()
        now = loop.time()
        if self._down_since is not None and now - self._down_since > self._budget_seconds:
            # It has been away for longer than anybody would wait: nobody does.
            future.set_exception(_unavailable("store_down"))
            return future
        self._waiting.append((future, ticket, lease, asked or now))
        if not self._flush_planned:
            if self._may_send(now):
                self._flush_planned = True
                loop.call_soon(self._flush)
            elif self._straggler_timer is None and self._calls:
                self._straggler_timer = loop.call_later(_PATIENCE_SECONDS, self._send_stragglers)
        if self._deadline_timer is None:
            self._arm_deadline((asked or now) + self._budget_seconds)
        return future

    def line_changed(self, why: StoreError | None) -> None:
        """The connection came (None) or went."""
        if why is not None:
            self._down_since = self._loop.time()
            return
        self._down_since = None
        self._send_waiting()

    def close(self) -> None:
        """Refuses everything that still waits."""
        self._closed = True
        # For good: whoever asks from now on is refused at once.
        self._down_since = -math.inf
        for timer in (self._straggler_timer, self._deadline_timer):
            if timer is not None:
                timer.cancel()
        while self._waiting:
            _fail(self._waiting.popleft()[0], "store_closed")

    # Sending

    def _may_send(self, now: float) -> bool:
        calls = len(self._calls)
        if not self._line.up or calls >= MAXIMUM_CALLS:
            return False
        return calls == 0 or len(self._waiting) >= _WORTH_A_CALL or now - self._last_sent >= _PATIENCE_SECONDS

    def _flush(self) -> None:
        self._flush_planned = False
        self._send_waiting()

    def _send_stragglers(self) -> None:
        self._straggler_timer = None
        self._send_waiting()
        if self._waiting and self._calls and len(self._calls) < MAXIMUM_CALLS:
            self._straggler_timer = self._loop.call_later(_PATIENCE_SECONDS, self._send_stragglers)

    def _send_waiting(self) -> None:
        now = self._loop.time()
        while self._waiting and self._may_send(now):
            requests = self._next_requests()
            if requests:
                self._send(_Call(requests, now))

    def _next_requests(self) -> list[_Request]:
        """Takes the next ones from the queue, without those that nobody waits for any more."""
        waiting = self._waiting
        requests: list[_Request] = []
        while waiting and len(requests) < MAXIMUM_REQUESTS:
            request = waiting.popleft()
            if not request[0].done():
                requests.append(request)
        return requests

    def _send(self, call: _Call) -> None:
        self._calls.append(call)
        self._last_sent = call.sent_at
        self._line.send(self._payload(call), lambda reply: self._answered(call, reply))

    def _payload(self, call: _Call) -> bytes:
        """The whole command. Its parts were built when the tickets were."""
        parts = [b"", self._fixed_keys]
        key_count, argument_count = self._fixed_key_count, 1
        for _, ticket, _, _ in call.requests:
            parts.append(ticket.keys)
            key_count += ticket.key_count
        parts.append(self._history())
        for _, ticket, lease, _ in call.requests:
            parts.append(ticket.arguments)
            argument_count += ticket.argument_count
            if lease:
                parts.append(lease)
        verb = self._script.by_text if call.with_text else self._script.by_sha
        number = b"%d" % key_count
        parts[0] = b"*%d\r\n%b$%d\r\n%b\r\n" % (3 + key_count + argument_count, verb, len(number), number)
        return b"".join(parts)

    # Answers

    def _answered(self, call: _Call, reply: Any) -> None:
        if isinstance(reply, StoreError) and reply.kind == "no_script" and not call.with_text and self._line.up:
            # Nothing was done: the same again, with the text, which loads the script as well (SPEC L8).
            call.with_text = True
            self._line.send(self._payload(call), lambda again: self._answered(call, again))
            return
        self._calls.remove(call)
        if isinstance(reply, StoreError) and reply.kind == "redirected":
            self._send_again(call)
            return
        now = self._loop.time()
        self._observer.batch(len(call.requests), now - call.sent_at)
        if isinstance(reply, StoreError):
            self._refuse(call, reply)
        else:
            self._distribute(call, reply, now)
        if self._waiting:
            self._send_waiting()

    def _send_again(self, call: _Call) -> None:
        """Before all others: nothing was done, and their budgets go on."""
        self._waiting.extendleft(reversed(call.requests))
        if self._closed:
            self.close()
        self._send_waiting()

    def _distribute(self, call: _Call, reply: Any, now: float) -> None:
        try:
            verdicts = self._verdicts(call, reply, now)
        except (IndexError, KeyError, TypeError, ValueError):
            self._refuse(call, StoreError("script", "the reply is not what the admission script answers"))
            return
        for request, verdict in zip(call.requests, verdicts, strict=True):
            future = request[0]
            awaited = not future.done()
            if verdict.leases:
                self._granted(verdict, awaited)
            if awaited:
                future.set_result(verdict)

    def _verdicts(self, call: _Call, reply: Any, now: float) -> list[Verdict]:
        verdicts: list[Verdict] = []
        at = 0
        for _, ticket, lease, _ in call.requests:
            share = ticket.share
            verdict = share.verdict(reply, at)
            if lease and verdict.allowed:
                verdict.leases = ticket.leases(reply, at, lease, now)
            verdicts.append(verdict)
            at += 1 if reply[at] > 0 else share.width
        # The clock of the server follows.
        if at != len(reply) - 1:
            raise ValueError(at)
        return verdicts

    def _refuse(self, call: _Call, why: StoreError) -> None:
        if why.kind == "emptied":
            # Nothing was done. They ask again on the next connection, which comes when the store has back what was revoked (SPEC V4).
            self._waiting.extendleft(reversed(call.requests))
        else:
            for request in call.requests:
                _fail(request[0], f"store_{why.kind}")
        if why.kind in _GIVE_UP:
            self._line.abort(why)

    # Deadlines: one timer for all, at the earliest deadline that was known when it was set

    def _arm_deadline(self, when: float) -> None:
        self._deadline_timer = self._loop.call_at(when, self._check_deadlines, when)

    def _check_deadlines(self, due: float) -> None:
        now = self._loop.time()
        self._deadline_timer = None
        if now - due > _LATE_SECONDS and self._calls:
            # Timers may run before the sockets are read. Read them first, then judge.
            self._arm_deadline(now + _GRACE_SECONDS)
            return
        oldest_allowed = now - self._budget_seconds
        for call in self._calls:
            for request in call.requests:
                if request[3] > oldest_allowed:
                    break
                _fail(request[0], "store_timeout")
        while self._waiting and (self._waiting[0][3] <= oldest_allowed or self._waiting[0][0].done()):
            _fail(self._waiting.popleft()[0], "store_timeout")
        if self._calls and now - self._calls[0].sent_at > _BUDGETS_UNTIL_ABORT * self._budget_seconds:
            self._line.abort(StoreError("timeout", f"no answer within {_BUDGETS_UNTIL_ABORT} budgets"))
        self._arm_next_deadline(now)

    def _arm_next_deadline(self, now: float) -> None:
        asked = next((request[3] for call in self._calls for request in call.requests if not request[0].done()), None)
        if asked is None and self._waiting:
            asked = self._waiting[0][3]
        if asked is not None:
            # A little in the future, whatever rounding says, or the loop would spin.
            self._arm_deadline(max(asked + self._budget_seconds, now + 0.0005))
        elif self._calls:
            # Nobody waits, but the connection still owes an answer.
            self._arm_deadline(now + self._budget_seconds)


def _unavailable(reason: str) -> Unavailable:
    return Unavailable("store_unavailable", reason=reason)


def _fail(future: asyncio.Future[Verdict], reason: str) -> None:
    if not future.done():
        future.set_exception(_unavailable(reason))
