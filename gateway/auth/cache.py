"""Verified credentials, kept by digest: the hottest look-up of the gateway (SPEC A5). Facts only; verdicts are made per request."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from functools import partial
from hashlib import sha256

from gateway.auth.principal import Principal


class PrincipalCache:
    """Least recently used principals by the SHA-256 of their credential. The credential itself is not kept.

    Args:
        capacity: entries; the one not used for longest makes room.
        clock: the time that `until` is measured in, seconds.
    """

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        self._capacity = capacity
        self._clock = clock
        # Only this class writes here. Digest -> (until, principal, what proved it).
        self._entries: OrderedDict[bytes, tuple[float, Principal, bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<PrincipalCache {len(self._entries)}/{self._capacity}>"

    def get(self, credential: bytes) -> Principal | None:
        """The principal of a credential that was put and still holds."""
        return self.find(sha256(credential).digest())

    def find(self, digest: bytes) -> Principal | None:
        """`get` by the digest of the credential."""
        entries = self._entries
        entry = entries.get(digest)
        if entry is None:
            return None
        if self._clock() >= entry[0]:
            del entries[digest]
            return None
        entries.move_to_end(digest)
        return entry[1]

    def recall(self, credential: bytes) -> Callable[[], Principal | None]:
        """`get` for the same credential again and again: it is hashed once."""
        return partial(self.find, sha256(credential).digest())

    def put(self, credential: bytes, principal: Principal, until: float, proof: bytes = b"") -> None:
        """Keep a principal until a time; `proof` names the key that vouched for it, see `drop`. A time already past keeps nothing."""
        if self._clock() >= until:
            return
        self._entries[sha256(credential).digest()] = (until, principal, proof)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def drop(self, proofs: Collection[bytes]) -> None:
        """Forget what these keys vouched for: they have left their key set."""
        gone = [digest for digest, entry in self._entries.items() if entry[2] in proofs]
        for digest in gone:
            del self._entries[digest]

    def take_over(self, other: PrincipalCache, matches: Callable[[Principal], bool]) -> None:
        """Keep what another cache keeps, where `matches`. It must not hold more than this one may."""
        self._entries.update((digest, entry) for digest, entry in other._entries.items() if matches(entry[1]))

    def forget_memos(self) -> None:
        """Principals stay; what plans have worked out about them goes."""
        for _, principal, _ in self._entries.values():
            principal.memo.clear()

    def discard(self, matches: Callable[[Principal], bool]) -> None:
        """Forget every principal that `matches`."""
        gone = [digest for digest, entry in self._entries.items() if matches(entry[1])]
        for digest in gone:
            del self._entries[digest]
