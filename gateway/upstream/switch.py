"""Routes that may become tunnels: which offer is taken, and what a WebSocket handshake must be (RFC 6455 section 4.2.1).

This is looked at after authentication, authorization and admission, so a handshake that is refused here has counted as the request that it
is. An offer that isn't taken is ignored, as HTTP has it (RFC 9110 section 7.8): the request is answered as if it had not been made.
"""

from __future__ import annotations

from typing import Protocol

from gateway.errors import BadRequest, OriginRefused, UpgradeRequired
from gateway.exchange import Exchange
from gateway.headers import RequestFields, connection_options
from gateway.origins import names_host, normal
from gateway.route import WebSocket
from gateway.upstream.forward import Forwarder, Owner, RequestShape
from gateway.upstream.tunnel import Switch
from gateway.websocket import NAME, VERSION, is_key, proof

#: Fields of the handshake that have to reach the service.
_HANDSHAKE = frozenset((b"sec-websocket-extensions", b"sec-websocket-key", b"sec-websocket-protocol", b"sec-websocket-version"))


class Offering(Protocol):
    """An exchange whose connection can become a tunnel."""

    def expect(self, switch: Switch) -> None:
        """The request asks for this; an upstream may agree."""


class SwitchingForwarder:
    """The upstream side of a route with `websocket`.

    Args:
        forwarder: of its service.
        rules: of the route.
        most_message_bytes: of a client's WebSocket message.
    """

    def __init__(self, forwarder: Forwarder, rules: WebSocket, most_message_bytes: int) -> None:
        self._forwarder = forwarder
        self._rules = rules
        self._protocols = frozenset(name.encode("ascii") for name in rules.protocols)
        self._origins = None if "*" in rules.origins else frozenset(normal(origin) for origin in rules.origins)
        self._most_message_bytes = most_message_bytes

    def dispatch(self, exchange: Exchange, shape: RequestShape, owner: Owner) -> bool:
        """`Forwarder.dispatch`, for requests that don't ask for another protocol."""
        return exchange.offering is None and self._forwarder.dispatch(exchange, shape, owner)

    async def forward(self, exchange: Exchange, shape: RequestShape) -> None:
        """`Forwarder.forward`, for a request that may ask for another protocol.

        Raises:
            BadRequest, UpgradeRequired: the handshake isn't one.
            OriginRefused: a page of this origin may not open a WebSocket here.
        """
        offering = exchange.offering
        if offering is not None:
            switch = self._wanted(exchange)
            if switch is not None:
                offering.expect(switch)
                exchange.block += switch.lines
        await self._forwarder.forward(exchange, shape)

    def _wanted(self, exchange: Exchange) -> Switch | None:
        """The first protocol of the offer that the route lets through; None when there is none, or the request has a body."""
        fields = exchange.fields
        offered = [name.strip(b" \t").lower() for value in fields.all(b"upgrade") for name in value.split(b",")]
        name = next((name for name in offered if name in self._protocols), None)
        if name is None or (exchange.body_length != 0 and name != NAME):
            return None
        self._check_origin(fields)
        accept = _accept(exchange) if name == NAME else b""
        return Switch(name, accept, self._rules, self._most_message_bytes, self._forwarder.tunnels)

    def _check_origin(self, fields: RequestFields) -> None:
        """A browser lets any page open a WebSocket anywhere, and says where the page is from (RFC 6455 section 10.2)."""
        origins = fields.all(b"origin")
        if not origins or self._origins is None:
            return
        if len(origins) > 1:
            raise BadRequest("The request has more than one Origin field.", reason="origin_repeated")
        text = origins[0].decode("latin-1")
        if normal(text) in self._origins:
            return
        if self._origins or not names_host(text, fields.found.get(b"host", b"").decode("latin-1")):
            raise OriginRefused()


def _accept(exchange: Exchange) -> bytes:
    """What the service has to answer to a sound handshake."""
    fields = exchange.fields
    if exchange.method != "GET" or exchange.body_length != 0:
        raise BadRequest("A WebSocket handshake is a GET without a body.", reason="websocket_method")
    if connection_options(fields.all(b"connection")) & _HANDSHAKE:
        raise BadRequest("Connection names a field of the handshake.", reason="websocket_connection")
    found = {name: [value.strip(b" \t") for other, value in exchange.headers if other == name] for name in _HANDSHAKE}
    keys, versions = found[b"sec-websocket-key"], found[b"sec-websocket-version"]
    if len(keys) != 1 or not is_key(keys[0]) or len(versions) != 1:
        raise BadRequest("The WebSocket handshake is malformed.", reason="websocket_handshake")
    if versions[0] != VERSION:
        raise UpgradeRequired(NAME, [(b"sec-websocket-version", VERSION)])
    return proof(keys[0])
