"""The watch of one service in Consul: what is asked next, what is believed, and what goes on when nothing can be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Protocol

from discovery.catalog import Reading, Rules, Unusable, check_host, read
from discovery.guard import Guard, absent, gone, unexplained
from discovery.instance import ConsulQuery, Instance
from discovery.pacing import Backoff, TokenBucket
from discovery.reply import Consistency, ConsulError, Reply
from discovery.snapshots import Snapshots
from discovery.source import Failed, Found, Publish

logger = logging.getLogger("discovery.consul")

#: A service that changes all the time is read four times a second at most, after a burst of two.
BURST = 2
INTERVAL_SECONDS = 0.25
#: A start waits so long for Consul before it takes what is on disk. The directory waits longer.
RESTORE_SECONDS = 1.0
#: What a server knows that has not heard from its leader for so long is treated as if it had none. Followers hear every 0.1 s.
MAXIMUM_CONTACT_SECONDS = 10.0
#: How long a disappearance that nothing explains is not believed. Services that Consul forgot register again at their next heartbeat.
CONFIRM_SECONDS = 10.0
#: Meanwhile it is looked at so often.
HOLD_SECONDS = 1.0


class Reader(Protocol):
    """What a watch needs of Consul."""

    rules: Rules
    guard: Guard
    snapshots: Snapshots
    #: By watch, what was believed last. A watch that takes another's place, after a reload or a fault, judges by it.
    memory: dict[str, tuple[Instance, ...]]

    @property
    def answering(self) -> bool:
        """Whether any query was answered in the last second."""

    async def health(self, query: ConsulQuery, index: int, consistency: Consistency = "stale", *, every_state: bool = False) -> Reply:
        """The instances of a service: at once when `index` is 0, else when they have changed or the wait is over.

        Raises:
            ConsulError: there is no answer that can be trusted.
        """

    async def check_rights(self, query: ConsulQuery, nodes: Iterable[str]) -> None:
        """See that nothing is missing from an answer because it may not be read.

        Raises:
            ConsulError: the token may not read the service or one of the nodes.
        """


@dataclass(frozen=True, slots=True)
class ConsulSource:
    """Watches one service with blocking queries.

    Whatever is no trustworthy answer is published as `Failed`, so the directory keeps what it has (SPEC D3).
    """

    consul: Reader
    query: ConsulQuery

    def __str__(self) -> str:
        tags = f" tags {', '.join(self.query.tags)}" if self.query.tags else ""
        datacenter = f" in {self.query.datacenter}" if self.query.datacenter else ""
        return f"consul {self.query.service}{tags}{datacenter}"

    async def watch(self, publish: Publish) -> None:
        """Publish every answer and every failure until cancelled."""
        await _Watch(self.consul, self.query, str(self), publish).run()


class _Watch:
    def __init__(self, consul: Reader, query: ConsulQuery, watching: str, publish: Publish) -> None:
        self._consul = consul
        self._query = query
        self._watching = watching
        self._publish = publish
        self._bucket = TokenBucket(BURST, INTERVAL_SECONDS)
        self._backoff = Backoff()
        self._told = _Told(watching)
        # State
        self._index = 0
        self._consistency: Consistency = "stale"
        #: What is used now, as far as this watch or the one before it knows; None before the first answer.
        remembered = consul.memory.get(watching)
        self._known = None if remembered is None else Found(remembered)
        self._answered = False
        #: Whether the index has only grown, and no query failed, since `_known`.
        self._unbroken = remembered is None
        #: Since when a disappearance is not believed, monotonic seconds; 0 when there is none.
        self._held_since = 0.0

    async def run(self) -> None:
        self._restore_later()
        try:
            while True:
                await asyncio.sleep(self._bucket.take(monotonic()))
                try:
                    await self._step()
                except ConsulError as error:
                    self._fail(error)
                    await asyncio.sleep(self._backoff.failed())
                if self._held_since:
                    await asyncio.sleep(HOLD_SECONDS)
        finally:
            self._restoring.cancel()

    async def _step(self) -> None:
        reply = await self._consul.health(self._query, self._index, self._consistency)
        self._check_age(reply)
        if reply.index < self._index:
            self._unbroken = False
        reading = read(reply.entries, self._query, self._consul.rules)
        known = self._known.instances if self._known is not None else ()
        held: tuple[Instance, ...] = ()
        if self._consul.guard.suspects(known, reading.instances):
            reading, held = await self._looked_into(known)
        else:
            self._held_since = 0.0
            await self._check_emptiness(reply, known)
        self._believe(reading, held, reply)

    def _check_age(self, reply: Reply) -> None:
        """Without a leader the answer is what one server remembers. That is good for a start, and worse than what we know already."""
        if not reply.known_leader and (self._answered or not reply.entries):
            raise ConsulError("Consul has no leader")
        if reply.last_contact_seconds > MAXIMUM_CONTACT_SECONDS and self._answered:
            # The leader may be well and only this server cut off.
            self._consistency = "default"
            raise ConsulError(f"the answering server has not heard from its leader for {reply.last_contact_seconds:.0f} s")
        self._consistency = "stale"

    async def _check_emptiness(self, reply: Reply, known: tuple[Instance, ...]) -> None:
        """What may not be read looks like what is not there: an anonymous token gets `200 []`."""
        if not reply.entries and (known or not self._answered):
            await self._consul.check_rights(self._query, _nodes(known))

    async def _looked_into(self, known: tuple[Instance, ...]) -> tuple[Reading, tuple[Instance, ...]]:
        """A second, complete reading after so much has disappeared (SPEC D4), and which instances to keep in spite of it."""
        guard = self._consul.guard
        try:
            reply = await self._consul.health(self._query, 0, "consistent", every_state=True)
            reading = read(reply.entries, self._query, self._consul.rules)
            missing = guard.suspects(known, reading.instances)
            if lost := absent(missing, reply.entries):
                await self._consul.check_rights(self._query, _nodes(lost))
        except ConsulError as error:
            raise ConsulError(f"most instances are gone, which can't be confirmed: {error}") from error
        self._unbroken = self._unbroken and reply.index >= self._index
        kept = unexplained(missing, reply.entries, self._unbroken)
        remaining = tuple(instance for instance in known if instance not in missing or instance in kept)
        if not (kept and guard.suspects(remaining, reading.instances) and guard.collapsed(remaining, reading.instances)):
            self._held_since = 0.0
            return reading, ()
        return reading, self._hold(kept, reading)

    def _hold(self, kept: tuple[Instance, ...], reading: Reading) -> tuple[Instance, ...]:
        now = monotonic()
        if not self._held_since:
            self._held_since = now
            logger.error(
                "%s: %d instances are gone at once and %d are left; they are kept for %.0f s in case Consul is wrong",
                self._watching,
                len(kept),
                len(reading.instances),
                CONFIRM_SECONDS,
            )
        if now - self._held_since < CONFIRM_SECONDS:
            return kept
        logger.error("%s: %d instances are gone for good", self._watching, len(kept))
        self._held_since = 0.0
        return ()

    def _believe(self, reading: Reading, held: tuple[Instance, ...], reply: Reply) -> None:
        instances = tuple(sorted((*reading.instances, *gone(held, reading.instances)), key=lambda instance: instance.id))
        found = Found(instances, reading.rejected, reply.last_contact_seconds, reply.known_leader, held=len(held))
        self._known, self._answered = found, True
        self._consul.memory[self._watching] = instances
        self._publish(found)
        self._told.success(found)
        self._backoff.succeeded()
        self._index = next_index(self._index, reply.index)
        if held:
            self._index = 0
            return
        self._unbroken = True
        if reply.known_leader:
            self._consul.snapshots.save(self._watching, instances)

    def _fail(self, error: ConsulError) -> None:
        self._restore()
        self._told.failure(error)
        self._publish(Failed(str(error)))
        # An agent that comes back may count from anew: a query with the old index would wait for long (SPEC D2).
        self._index, self._unbroken = 0, False

    def _restore_later(self) -> None:
        self._restoring = asyncio.get_running_loop().call_later(RESTORE_SECONDS, self._restore_unless_next)

    def _restore_unless_next(self) -> None:
        # With many services the first answers take longer; as long as others get theirs, ours will come.
        if self._consul.answering and self._known is None:
            self._restore_later()
        else:
            self._restore()

    def _restore(self) -> None:
        """Begin with what is on disk, when Consul has not answered yet."""
        if self._known is not None:
            return
        stored = self._consul.snapshots.load(self._watching)
        if stored is None:
            return
        instances = tuple(instance for instance in stored.instances if _permitted(instance, self._consul.rules))
        logger.warning(
            "%s: Consul does not answer; %d instances come from the snapshot on disk, which Consul confirmed last at %s",
            self._watching,
            len(instances),
            _moment(stored.confirmed_at),
        )
        self._known, self._unbroken = Found(instances, restored_at=stored.confirmed_at), False
        self._publish(self._known)


@dataclass(slots=True)
class _Told:
    """What a watch has been told, so that each thing is logged once."""

    watching: str
    failing: bool = False
    rejected: frozenset[str] = field(default_factory=frozenset)

    def failure(self, error: ConsulError) -> None:
        if not self.failing:
            logger.warning("%s: %s; the last known instances stay", self.watching, error)
        self.failing = True

    def success(self, found: Found) -> None:
        if self.failing:
            logger.info("%s: answered again", self.watching)
        for reason in found.rejected:
            if reason not in self.rejected:
                logger.warning("%s: left out %s", self.watching, reason)
        self.failing, self.rejected = False, frozenset(found.rejected)


def next_index(last: int, reported: int) -> int:
    """The index for the next query (SPEC D2): one that went backwards starts anew, and one below 1 would not block."""
    if reported < last:
        return 0
    return max(reported, 1)


def in_turn(query: ConsulQuery, datacenter: str, failover: tuple[str, ...]) -> list[ConsulQuery]:
    """The query for each datacenter that it is to be asked in, first choice first.

    Args:
        datacenter, failover: for a query that names none.
    """
    first, then = (query.datacenter, query.failover) if query.datacenter else (datacenter, failover)
    return [replace(query, datacenter=name, failover=()) for name in (first, *then)]


def _nodes(instances: tuple[Instance, ...]) -> set[str]:
    """The names of their nodes, with which their identities begin."""
    return {instance.id.partition("/")[0] for instance in instances}


def _permitted(instance: Instance, rules: Rules) -> bool:
    try:
        check_host(instance.host, rules)
    except Unusable as reason:
        logger.warning("a snapshot's instance %s is left out: %s", instance.id, reason)
        return False
    return True


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
