"""What replicas tell each other through the store: that they live, and what is revoked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from gateway.admission.heartbeat import Heartbeat
from gateway.admission.journal import Journal
from gateway.admission.mirror import Mirror
from gateway.admission.reconcile import Reconciler
from gateway.store.script import Script


class TogetherStore(Protocol):
    """What is needed of the store."""

    @property
    def shards(self) -> int: ...

    def shard_of(self, key: bytes | str) -> int: ...

    def tag(self, shard: int) -> bytes: ...

    async def run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | int]) -> Any: ...

    async def command(self, *words: bytes | str | int) -> Any: ...


class Together:
    """This process among the replicas. Belongs to the loop that started it.

    Args:
        store: the shared store.
        name: this process's, which no other one has.
        about: facts about it for `GET /v1/replicas`.
        propagated: told how many seconds after it was written a revocation arrived here.
    """

    def __init__(
        self, store: TogetherStore, name: str, about: Callable[[], Mapping[str, object]], propagated: Callable[[float], None]
    ) -> None:
        self.mirror = Mirror(store)
        self.heartbeat = Heartbeat(store, name, about)
        self.reconciler = Reconciler(store, self.mirror, lambda _: self.journal.look_again())
        self.journal = Journal(store, self.mirror, self.reconciler, self.heartbeat.store_time, propagated)

    def __repr__(self) -> str:
        return f"<Together {self.heartbeat} {self.mirror}>"

    @property
    def ready(self) -> bool:
        """Whether the mirror ever held everything (SPEC V3)."""
        return self.mirror.loaded

    async def start(self) -> None:
        """Beats, and reads what is revoked. When the store is away this returns all the same, and goes on by itself.

        Raises:
            ConfigError: other replicas keep what is shared elsewhere, see `Heartbeat.start`.
        """
        await self.heartbeat.start()
        await self.journal.start()

    async def close(self) -> None:
        """Leaves."""
        await self.journal.close()
        await self.heartbeat.close()
