"""Exchanges that last, by who asked for them: what a revocation has to end (SPEC V7).

Only what lasts comes here: a response that goes on after its first piece, and later any tunnel. A short request never does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from gateway.auth.principal import Principal
from gateway.errors import GatewayError, Unauthorized


class Stream(Protocol):
    """An exchange that lasts."""

    @property
    def principal(self) -> Principal | None:
        """Who asked."""

    def end(self, error: GatewayError) -> None:
        """End it, so that the client notices and the record says why."""


class Streams(Protocol):
    """Where such exchanges are known while they last."""

    def add(self, stream: Stream) -> None:
        """It lasts. Ended at once when its principal has been revoked meanwhile."""

    def discard(self, stream: Stream) -> None:
        """It is over. A second time does nothing."""


class OpenStreams:
    """All that last in this process; only the event loop's thread uses it.

    Args:
        revoked: what of a principal is revoked, empty when nothing is.
    """

    def __init__(self, revoked: Callable[[Principal], str]) -> None:
        self._revoked = revoked
        self._open: dict[Principal, set[Stream]] = {}
        self._look_planned = False

    def __repr__(self) -> str:
        return f"<OpenStreams {len(self)}>"

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def add(self, stream: Stream) -> None:
        principal = stream.principal
        if principal is None:
            return
        self._open.setdefault(principal, set()).add(stream)
        # It was admitted before the response came: a revocation may have arrived in between.
        kind = self._revoked(principal)
        if kind:
            stream.end(_revoked(kind))

    def discard(self, stream: Stream) -> None:
        principal = stream.principal
        if principal is None:
            return
        same = self._open.get(principal)
        if same is not None:
            same.discard(stream)
            if not same:
                del self._open[principal]

    def look(self) -> None:
        """Something was revoked: end what it concerns, soon. Many changes of one turn of the loop are one look."""
        if self._open and not self._look_planned:
            self._look_planned = True
            asyncio.get_running_loop().call_soon(self._end_revoked)

    def _end_revoked(self) -> None:
        self._look_planned = False
        for principal, streams in list(self._open.items()):
            kind = self._revoked(principal)
            if kind:
                for stream in list(streams):
                    stream.end(_revoked(kind))


class _NoStreams:
    def add(self, stream: Stream) -> None:
        """Nobody is asked for who he is."""

    def discard(self, stream: Stream) -> None:
        """Nothing was kept."""


#: For public routes.
NO_STREAMS: Streams = _NoStreams()


def _revoked(kind: str) -> Unauthorized:
    return Unauthorized("The token has been revoked.", code="token_revoked", reason=f"revoked_{kind}")
