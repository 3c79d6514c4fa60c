"""A request that offers another protocol, and the tunnel that it becomes when its route, its principal and its service agree."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.deadlines import Deadlines
from gateway.errors import BadGateway, GatewayError
from gateway.exchange import Exchange
from gateway.headers import merge_limits, response_fields
from gateway.server.http1 import RequestHead
from gateway.server.wire import WireExchange
from gateway.upstream.http1 import HIGH_WATER_BYTES, ClientGone, ResponseHead, UpstreamConnection
from gateway.upstream.tunnel import Side, Switch, Tunnel
from gateway.websocket import GOING_AWAY, POLICY_VIOLATION

if TYPE_CHECKING:
    from gateway.server.protocol import GatewayProtocol


#: Why a client is asked to go: the gateway ends, or what the connection rests on has ended.
GOING_AWAY_REASON = "going_away"


class Agreement:
    """What an exchange has asked of an upstream, and what came of it.

    `switch` is the protocol, `side` the upstream's end of the tunnel once it has agreed. `tunnel` is the open one, and `ended` what a
    revocation, or the token's expiry, has ended it with.
    """

    __slots__ = ("ended", "going_away", "side", "switch", "tunnel")

    def __init__(self) -> None:
        self.switch: Switch | None = None
        self.side: Side | None = None
        self.tunnel: Tunnel | None = None
        self.ended: GatewayError | None = None
        #: The connection has to end soon.
        self.going_away = False

    def take(self, connection: UpstreamConnection, rest: bytes) -> None:
        """`Switching.relay_switch`."""
        head = connection.head
        assert head is not None
        if self.switch is None:
            raise BadGateway(reason="upstream_upgrade_unsolicited")
        if not self.switch.agrees(head.headers):
            raise BadGateway(reason="upstream_upgrade_mismatch")
        side = self.side = Side(connection.transport, connection.connection_lost)
        if rest:
            side.early.append(rest)
        connection.transport.set_protocol(side)

    def end(self, error: GatewayError) -> bool:
        """End an open tunnel for a reason of the principal's. Returns whether there is one."""
        if self.tunnel is not None and self.ended is None:
            self.ended = error
            self.tunnel.close(error.reason, POLICY_VIOLATION)
        return self.tunnel is not None

    async def carry(self, exchange: Exchange, client: Side, deadlines: Deadlines) -> int:
        """Carry bytes until the tunnel is over, and note in the exchange's records what there was.

        Returns:
            Bytes that came from the client.

        Raises:
            GatewayError: a revocation, or the token's expiry, has ended it.
        """
        switch, upstream, plan = self.switch, self.side, exchange.plan
        assert switch is not None
        assert upstream is not None
        assert plan is not None
        figures, observation = switch.figures, exchange.observation
        tunnel = self.tunnel = switch.tunnel(client, upstream)
        figures.open += 1
        figures.opened += 1
        deadlines.add(tunnel)
        plan.streams.add(exchange)
        try:
            tunnel.begin()
            if self.going_away:
                tunnel.part(GOING_AWAY_REASON)
            await tunnel.finished
        finally:
            plan.streams.discard(exchange)
            deadlines.discard(tunnel)
            figures.open -= 1
            figures.from_clients += client.received_bytes
            figures.to_clients += upstream.received_bytes
            observation.request_bytes = client.received_bytes
            observation.response_bytes = upstream.received_bytes
            observation.reason = tunnel.reason
            tunnel.abort()
        if self.ended is not None:
            raise self.ended
        return client.received_bytes


class UpgradeExchange(WireExchange):
    """An exchange whose connection can become a tunnel. It is the last one of its connection in any case.

    What the client sends after its request waits here: it goes into the tunnel, or nowhere. It is never read as another request.
    """

    __slots__ = ("_agreement", "_early", "_early_bytes")

    def __init__(self, protocol: GatewayProtocol, head: RequestHead, *, body_done: bool) -> None:
        super().__init__(protocol, head, head.target, body_done=body_done)
        self._early: list[bytes] = []
        self._early_bytes = 0
        self._agreement = Agreement()

    @property
    def offering(self) -> UpgradeExchange:
        return self

    def early(self, data: bytes) -> None:
        """Bytes that came behind the request."""
        if self.plan is not None and self.plan.route.websocket is None:
            return
        self._early.append(data)
        self._early_bytes += len(data)
        if self._early_bytes > HIGH_WATER_BYTES:
            self.protocol.pause_reading("buffer")

    # What ends it

    def gone(self) -> None:
        # A tunnel hears of it by itself, and gives the upstream what was on its way.
        if self._agreement.tunnel is None:
            super().gone()

    def fail(self, error: GatewayError) -> None:
        if self._agreement.tunnel is not None:
            self._agreement.tunnel.close(error.reason, GOING_AWAY)
        else:
            super().fail(error)

    def end(self, error: GatewayError) -> None:
        if not self._agreement.end(error):
            super().end(error)

    def end_keep_alive(self) -> None:
        self._agreement.going_away = True
        if self._agreement.tunnel is not None:
            self._agreement.tunnel.part(GOING_AWAY_REASON)
        else:
            super().end_keep_alive()

    # What the upstream says

    def expect(self, switch: Switch) -> None:
        """`Offering.expect`."""
        self._agreement.switch = switch

    def relay_switch(self, connection: UpstreamConnection, rest: bytes) -> None:
        """`Switching.relay_switch`."""
        self._agreement.take(connection, rest)

    def relay(self, connection: UpstreamConnection) -> Awaitable[None] | None:
        head = connection.head
        if head is None or head.status != 101:
            # An answer like any other; what came behind the request is nobody's.
            self._early.clear()
            return super().relay(connection)
        return self._carry(head)

    async def _carry(self, head: ResponseHead) -> None:
        protocol = self.protocol
        if protocol.transport.is_closing():
            raise ClientGone
        self.observation.status = 101
        self._started = True
        protocol.write(self._switching_head(head))
        client = protocol.hand_over()
        client.early, self._early = self._early, []
        self.received_bytes = await self._agreement.carry(self, client, protocol.front.deadlines)
        self._finish()

    def _switching_head(self, head: ResponseHead) -> bytes:
        plan, switch = self.plan, self._agreement.switch
        assert plan is not None
        assert switch is not None
        fields, limits = response_fields(head.headers, plan.response_dropped), self.limit_lines
        if limits and head.limited:
            limits, fields = merge_limits(limits, fields)
        own = b"%b%b%b%b%b\r\n" % (switch.lines, self.id_line, limits, self.cors_lines, plan.response_lines)
        return STATUS_LINE[101] + b"".join([b"%b: %b\r\n" % field for field in fields]) + own
