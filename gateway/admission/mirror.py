"""The mirror: a copy of all revocations in this process, which decides while the store can't be asked (SPEC V3). Pure."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import orjson

from gateway.admission.keys import DIGEST_BYTES, NOTHING, identity
from gateway.auth.principal import Principal

#: Entries of each shard by which a server shows that it still has what this process knows: the last ones that were written to it.
_REMEMBERED = 32
#: Where a principal keeps what it is looked up by.
_IDENTITIES = "mirror.identities"


class Sharding(Protocol):
    """How keys are spread: the store."""

    @property
    def shards(self) -> int: ...

    def shard_of(self, key: bytes | str) -> int: ...


class Entry:
    """One revocation as the store has it, or the mark that one was removed.

    Attributes:
        name: identity, issuer and subject, 16 bytes each, as in `revocations.lua`.
        document: the JSON text.
        version: of two documents of a name, the one with the greater version holds.
        kind: what is revoked; empty for a mark.
        issued_before: only tokens with an `iat` at or before this; None for all.
        expires_at_us: when it ends by itself.
        subject: whose tokens alone; None when that is not known.
    """

    __slots__ = ("document", "expires_at_us", "issued_before", "kind", "name", "subject", "version")

    def __init__(self, name: bytes, document: bytes) -> None:
        members = orjson.loads(document)
        self.name = name
        self.document = document
        self.version = int(members.get("version", 0))
        self.expires_at_us = int(members["expires_at_us"])
        self.issued_before: float | None = members.get("issued_before")
        self.kind: str = "" if members.get("removed") else members["kind"]
        self.subject: str | None = members.get("value") if self.kind == "subject" else members.get("subject")

    def __repr__(self) -> str:
        return f"<Entry {self.kind or 'removed'} {self.name.hex()[:8]} version={self.version}>"

    def concerns(self, issuer: bytes, subject: bytes, issued_at: float) -> bool:
        """Whether a token with this identity is meant, by its issuer, its subject and its age."""
        mine = self.name[DIGEST_BYTES : 2 * DIGEST_BYTES], self.name[2 * DIGEST_BYTES :]
        return (
            mine[0] in (NOTHING, issuer)
            and mine[1] in (NOTHING, subject)
            and (self.issued_before is None or issued_at <= self.issued_before)
        )


class Mirror:
    """What is revoked, as far as this process knows. One for a process; only the event loop's thread uses it.

    Args:
        sharding: which shard an entry lives on.
        clock: seconds since the epoch.
        steady: seconds of a clock that is never set.
    """

    def __init__(self, sharding: Sharding, clock: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._sharding = sharding
        self._clock = clock
        self._steady = steady
        self._entries: dict[bytes, Entry] = {}
        self._live: dict[bytes, list[Entry]] = {}
        self._by_expiry: list[tuple[int, bytes]] = []
        self._recent: list[deque[bytes]] = [deque(maxlen=_REMEMBERED) for _ in range(sharding.shards)]
        self._confirmed_at: float | None = None
        self._on_change: Callable[[], None] = _nothing

    def __repr__(self) -> str:
        age = f"{self.age_seconds:.1f}s" if self.loaded else "never"
        return f"<Mirror entries={len(self._entries)} confirmed={age}>"

    def __len__(self) -> int:
        return len(self._entries)

    # Feeding

    def on_change(self, told: Callable[[], None]) -> None:
        """Has `told` called after each change that revokes something."""
        self._on_change = told

    def merge(self, documents: Iterable[tuple[bytes, bytes]]) -> int:
        """Takes (name, document) pairs in; older ones than what is known change nothing.

        Returns:
            How many were news.
        """
        self._forget_expired()
        news = [entry for entry in (Entry(*pair) for pair in documents) if self._take(entry)]
        if any(entry.kind for entry in news):
            self._on_change()
        return len(news)

    def confirm(self) -> None:
        """The store has just said that there is nothing more."""
        self._confirmed_at = self._steady()

    def _take(self, entry: Entry) -> bool:
        known = self._entries.get(entry.name)
        if (known is not None and known.version >= entry.version) or entry.expires_at_us <= self._clock() * 1e6:
            return False
        if known is not None:
            self._hide(known)
        self._entries[entry.name] = entry
        heapq.heappush(self._by_expiry, (entry.expires_at_us, entry.name))
        if entry.kind:
            self._live.setdefault(entry.name[:DIGEST_BYTES], []).append(entry)
        for shard in self.shards_of(entry):
            self._recent[shard].append(entry.name)
        return True

    def _hide(self, entry: Entry) -> None:
        identified = entry.name[:DIGEST_BYTES]
        live = [other for other in self._live.get(identified, ()) if other is not entry]
        if live:
            self._live[identified] = live
        else:
            self._live.pop(identified, None)

    def _forget_expired(self) -> None:
        now_us = self._clock() * 1e6
        while self._by_expiry and self._by_expiry[0][0] <= now_us:
            _, name = heapq.heappop(self._by_expiry)
            entry = self._entries.get(name)
            if entry is not None and entry.expires_at_us <= now_us:
                self._hide(entry)
                del self._entries[name]

    # Reading

    @property
    def loaded(self) -> bool:
        """Whether it ever held all that the store knew."""
        return self._confirmed_at is not None

    @property
    def age_seconds(self) -> float:
        """How long ago it was last known to be complete; infinite before it ever was."""
        return float("inf") if self._confirmed_at is None else self._steady() - self._confirmed_at

    def revoked(self, principal: Principal) -> str:
        """What of a principal is revoked, by the rules of `admit.lua`: jti, subject, session, client or issuer; empty when nothing is."""
        if not self._live:
            return ""
        now_us = self._clock() * 1e6
        identities = _identities(principal)
        for identified in identities:
            for entry in self._live.get(identified, ()):
                if entry.expires_at_us > now_us and entry.concerns(identities[4], identities[1], principal.issued_at):
                    return entry.kind
        return ""

    def entries(self, shard: int) -> Iterator[Entry]:
        """Everything that has not expired and lives on a shard, marks included."""
        self._forget_expired()
        return (entry for entry in list(self._entries.values()) if shard in self.shards_of(entry))

    def latest(self, shard: int) -> list[tuple[bytes, int, int]]:
        """Name, version and expiry of the entries of a shard that came last. A server that has them has everything before them, too."""
        found = (self._entries.get(name) for name in self._recent[shard])
        return [(entry.name, entry.version, entry.expires_at_us) for entry in found if entry is not None]

    def shards_of(self, entry: Entry) -> Sequence[int]:
        """Where an entry is looked for: on the shard of its subject, or, when that is not known, everywhere."""
        return range(self._sharding.shards) if entry.subject is None else (self._sharding.shard_of(entry.subject),)


def _identities(principal: Principal) -> tuple[bytes, ...]:
    kept: tuple[bytes, ...] | None = principal.memo.get(_IDENTITIES)
    if kept is None:
        kept = (
            identity("jti", principal.token_id),
            identity("subject", principal.subject),
            identity("session", principal.session),
            identity("client", principal.client),
            identity("issuer", principal.issuer),
        )
        principal.memo[_IDENTITIES] = kept
    return kept


def _nothing() -> None:
    """Nobody wants to be told."""
