"""Heartbeats: which replicas are alive, as the store knows it; and what time it is there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import orjson

from discovery.ending import end
from gateway.errors import ConfigError
from gateway.store.error import StoreError
from gateway.store.script import Script

logger = logging.getLogger(__name__)

_SCRIPT = Script.read(Path(__file__).parent / "lua" / "heartbeat.lua")
INTERVAL_SECONDS = 1.0
#: A replica that was silent for so long is gone.
LIFE_SECONDS = 5.0
#: So many beats long a replica that is not seen any more still counts: after an outage they come back one after the other.
_BEATS_REMEMBERED = int(LIFE_SECONDS / INTERVAL_SECONDS)
_LEAVE_SECONDS = 0.5
#: How much worse a comparison of clocks counts with each beat: after a minute ten times.
_FORGET_COMPARISON = 1.04


class HeartbeatStore(Protocol):
    """What heartbeats need of the store."""

    @property
    def shards(self) -> int: ...

    def tag(self, shard: int) -> bytes: ...

    async def run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | int]) -> Any: ...

    async def command(self, *words: bytes | str | int) -> Any: ...


class Heartbeat:
    """Beats for this process. Belongs to the loop that started it.

    Args:
        store: the shared store.
        name: this process's, which no other one has.
        about: facts about it that others may want to see.
        interval_seconds: time from beat to beat.
    """

    def __init__(
        self, store: HeartbeatStore, name: str, about: Callable[[], Mapping[str, object]], interval_seconds: float = INTERVAL_SECONDS
    ) -> None:
        self._store = store
        self._name = name
        self._about = about
        self._interval_seconds = interval_seconds
        tag = store.tag(0)
        # The tag of the first shard is the same whatever their number, so all replicas meet there.
        self._keys = [b"gw:%b:%b" % (tag, what) for what in (b"replicas", b"replicas-about", b"replicas-shards")]
        self._seen: deque[frozenset[str]] = deque(maxlen=_BEATS_REMEMBERED)
        self._offset_seconds: float | None = None
        self._compared_within_seconds = float("inf")
        self._beating: asyncio.Task[None] | None = None
        #: Names of the replicas that count now, in order; only ever replaced as a whole.
        self.live: tuple[str, ...] = (name,)
        #: Replicas that spread keys over another number of shards than this one, with that number; replaced as a whole.
        self.disagreeing: Mapping[str, int] = {}

    def __repr__(self) -> str:
        return f"<Heartbeat {self._name} of {len(self.live)}>"

    @property
    def place(self) -> tuple[int, int]:
        """How many replicas there are, and which of them this is, from 0: as last known."""
        return len(self.live), self.live.index(self._name)

    def store_time(self) -> float | None:
        """The store's clock, seconds since the epoch; None before the first beat."""
        return None if self._offset_seconds is None else time.time() + self._offset_seconds

    async def start(self) -> None:
        """Looks who lives, beats once, and from then on by itself.

        Raises:
            ConfigError: replicas that live spread keys over another number of shards. None of them has heard of this one then.
        """
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(self._interval_seconds):
                # Not a beat, also because it opens a connection: that would say little about the server's clock.
                _, _, shards = await self._say(b"")
                if others := self._with_other_shards(shards):
                    raise ConfigError(f"state.shards: {self._disagreement(others)}; stop them first, or set the same number here")
                await self._beat()
        self._beating = asyncio.get_running_loop().create_task(self._go_on())

    async def close(self) -> None:
        """Stops, and says that this replica has left, if the store can be reached."""
        if self._beating is None:
            return
        await end((self._beating,))
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_LEAVE_SECONDS):
                await self._say(b"")

    async def describe(self) -> list[dict[str, object]]:
        """Every live replica: its name, how long ago it was heard, and what it said about itself. Raises StoreError."""
        reply = await self._say(self._said())
        about: dict[bytes, bytes] = dict(zip(*[iter(await self._hash())] * 2, strict=True))
        now_us, beats = reply[0], dict(zip(*[iter(reply[1])] * 2, strict=True))
        return [
            {
                "name": name.decode(),
                "heard_seconds_ago": round((now_us - float(beats[name])) / 1e6, 3),
                **orjson.loads(about.get(name, b"{}")),
            }
            for name in sorted(beats)
        ]

    async def _hash(self) -> list[bytes]:
        reply = await self._store.command("HGETALL", self._keys[1])
        return [part for pair in reply.items() for part in pair] if isinstance(reply, dict) else list(reply)

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(self._interval_seconds * random.uniform(0.8, 1.0))
            with contextlib.suppress(StoreError):
                await self._beat()

    async def _beat(self) -> None:
        asked = time.time()
        now_us, beats, shards = await self._say(self._said())
        answered = time.time()
        self._compare_clocks(now_us / 1e6, asked, answered)
        self._seen.append(frozenset(name.decode() for name in beats[::2]) | {self._name})
        self.live = tuple(sorted(frozenset().union(*self._seen)))
        others = self._with_other_shards(shards)
        if others.keys() - self.disagreeing.keys():
            logger.error("state.shards: %s", self._disagreement(others))
        self.disagreeing = others

    def _with_other_shards(self, shards: Sequence[bytes]) -> dict[str, int]:
        said = zip(*[iter(shards)] * 2, strict=True)
        return {name.decode(): int(number) for name, number in said if int(number) != self._store.shards}

    def _disagreement(self, others: Mapping[str, int]) -> str:
        told = ", ".join(f"{name} over {number}" for name, number in sorted(others.items()))
        return (
            f"this replica spreads keys over {self._store.shards} shards, others that live do not ({told}): they count limits apart, and a "
            "token that was revoked at the one is good at the other"
        )

    def _compare_clocks(self, theirs: float, asked: float, answered: float) -> None:
        """The quicker the answer, the nearer the server read its clock to the middle of the wait. An old comparison gives way in time."""
        took = answered - asked
        if took <= self._compared_within_seconds:
            self._compared_within_seconds = took
            self._offset_seconds = theirs - (asked + answered) / 2
        else:
            self._compared_within_seconds *= _FORGET_COMPARISON

    def _said(self) -> bytes:
        return orjson.dumps(self._about())

    async def _say(self, about: bytes) -> list[Any]:
        arguments: list[bytes | int] = [self._name.encode(), about, int(LIFE_SECONDS * 1e6), self._store.shards]
        reply: list[Any] = await self._store.run(_SCRIPT, self._keys, arguments)
        return reply
