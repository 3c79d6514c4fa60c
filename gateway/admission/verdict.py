"""What admission decided about one request."""

from __future__ import annotations


class Verdict:
    """The outcome of one admission. Read-only for everybody; a plain class because one is made for each request.

    Attributes:
        allowed: whether the request may go on.
        revoked: empty, or what was revoked: `jti`, `subject`, `session`, `client`, `issuer`.
        violated: names of the limits that refused it.
        remaining: (name, events left) of each limit, in the order of the route.
        shadow_violated: names of the shadow limits that would have refused it.
        retry_after_seconds: when refused by limits, whole seconds until the same request would be accepted if nothing else came; at
            least 1. 0 otherwise.
        header_block: the lines `ratelimit: ...` and `ratelimit-policy: ...`, each with its CRLF; empty without limits.
        leases: (key, name) of the concurrency leases that the request holds until `Admission.release`.
    """

    __slots__ = (
        "__weakref__",
        "allowed",
        "header_block",
        "leases",
        "remaining",
        "retry_after_seconds",
        "revoked",
        "shadow_violated",
        "violated",
    )

    def __init__(
        self,
        allowed: bool,
        revoked: str = "",
        violated: tuple[str, ...] = (),
        remaining: tuple[tuple[str, int], ...] = (),
        shadow_violated: tuple[str, ...] = (),
        retry_after_seconds: int = 0,
        header_block: bytes = b"",
        leases: tuple[Lease, ...] = (),
    ) -> None:
        self.allowed = allowed
        self.revoked = revoked
        self.violated = violated
        self.remaining = remaining
        self.shadow_violated = shadow_violated
        self.retry_after_seconds = retry_after_seconds
        self.header_block = header_block
        self.leases = leases

    def __repr__(self) -> str:
        said = "allowed" if self.allowed else (f"revoked={self.revoked}" if self.revoked else f"violated={','.join(self.violated)}")
        return f"<Verdict {said} remaining={self.remaining}>"


class Lease:
    """One place of a concurrency limit, held by one request.

    Attributes:
        shard: where its key lives.
        key, name: where it is and what it is called, as arguments on the wire.
        life_us: how long it lasts when nobody renews it.
        renewed_at: loop time of the grant or the last renewal.
    """

    __slots__ = ("key", "life_us", "name", "renewed_at", "shard")

    def __init__(self, shard: int, key: bytes, name: bytes, life_us: int, renewed_at: float) -> None:
        self.shard = shard
        self.key = key
        self.name = name
        self.life_us = life_us
        self.renewed_at = renewed_at


#: Nothing was counted and nothing refuses.
ALLOWED = Verdict(True)
REVOKED_KINDS = ("jti", "subject", "session", "client", "issuer")
#: By what is revoked.
REVOKED_BY: dict[str, Verdict] = {kind: Verdict(False, kind) for kind in REVOKED_KINDS}
#: By the code of the script.
REVOKED: dict[int, Verdict] = {code: Verdict(False, kind) for code, kind in enumerate(REVOKED_KINDS, 1)}
