"""Several places to find a service in, in order of preference (SPEC D8)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic

from discovery.source import Failed, Found, Publish, Source, Update

#: How long instances of a place that can't be asked any more are preferred to others that are known to be well.
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class FailoverSource:
    """The instances of the first source that has any.

    All are watched all the time: the next place is known before it is needed, and an idle blocking query costs next to nothing.
    """

    sources: tuple[Source, ...]

    def __str__(self) -> str:
        return ", then ".join(map(str, self.sources))

    async def watch(self, publish: Publish) -> None:
        """Watch every source until cancelled."""
        choice = Choice(len(self.sources), publish)
        async with asyncio.TaskGroup() as group:
            for rank, source in enumerate(self.sources):
                group.create_task(source.watch(choice.listener(rank)))


@dataclass(slots=True)
class _Place:
    found: Found | None = None
    #: Monotonic seconds; None while it answers.
    failing_since: float | None = None


class Choice:
    """Passes on what the best of several places says."""

    def __init__(self, count: int, publish: Publish, clock: Callable[[], float] = monotonic) -> None:
        self._places = [_Place() for _ in range(count)]
        self._publish = publish
        self._clock = clock
        self._rank = 0

    def listener(self, rank: int) -> Publish:
        """What the place of this rank publishes to."""
        return lambda update: self._hear(rank, update)

    def _hear(self, rank: int, update: Update) -> None:
        place = self._places[rank]
        if isinstance(update, Found):
            place.found, place.failing_since = update, None
        elif place.failing_since is None:
            place.failing_since = self._clock()
        before, self._rank = self._rank, self._best()
        if self._rank not in (before, rank):
            self._publish_found(self._rank)
        elif self._rank == rank and isinstance(update, Found):
            self._publish_found(rank)
        if isinstance(update, Failed) and self._rank == rank:
            self._publish(update)

    def _publish_found(self, rank: int) -> None:
        found = self._places[rank].found
        assert found is not None
        self._publish(replace(found, fallback=rank))

    def _best(self) -> int:
        with suppress(StopIteration):
            return next(rank for rank, place in enumerate(self._places) if self._serves(place))
        with suppress(StopIteration):
            return next(rank for rank, place in enumerate(self._places) if place.found is not None and place.found.instances)
        return next((rank for rank, place in enumerate(self._places) if place.found is not None), 0)

    def _serves(self, place: _Place) -> bool:
        if place.found is None or not place.found.instances:
            return False
        return place.failing_since is None or self._clock() - place.failing_since < PATIENCE_SECONDS
