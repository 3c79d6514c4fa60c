"""How many connections each client has, so that one of them can't have them all.

Addresses of trusted proxies stand for many clients, so they are not counted. An IPv6 client is its /64, as it is for limits.
"""

from __future__ import annotations

from gateway.admission.keys import network
from gateway.peer import TrustedProxies


class Clients:
    """Open connections by client address."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: dict[bytes, int] = {}

    def __repr__(self) -> str:
        return f"<Clients {len(self._open)}>"

    def enter(self, address: str, most: int, proxies: TrustedProxies) -> bool:
        """A connection has come; `leave` has to follow, whatever the answer.

        Args:
            address: of its socket; "" on a Unix socket.
            most: connections of one client; 0 for any number.
            proxies: who is not counted.

        Returns:
            whether it is one of those that the client may have.
        """
        if not address:
            return True
        client = network(address)
        count = self._open[client] = self._open.get(client, 0) + 1
        return not most or count <= most or proxies.trusts(address)

    def leave(self, address: str) -> None:
        """A connection that had come is gone."""
        if not address:
            return
        client = network(address)
        count = self._open[client]
        if count > 1:
            self._open[client] = count - 1
        else:
            del self._open[client]
