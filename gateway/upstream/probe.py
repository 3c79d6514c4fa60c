"""One active check of an instance, on a connection of its own so that connecting is checked too."""

from __future__ import annotations

import asyncio
import ssl

from discovery.instance import Instance
from gateway.headers import FieldList
from gateway.route import Timeouts
from gateway.upstream.pool import Pool

_REQUEST = b"GET %b HTTP/1.1\r\nhost: %b\r\nuser-agent: gateway-health-check\r\naccept: */*\r\nconnection: close\r\n\r\n"


class _Nowhere:
    """Takes what a check does not look at."""

    def relay_data(self, data: bytes) -> None:
        """A piece of the body."""

    def relay_pause(self, paused: bool) -> None:
        """There is no request body to pause."""

    def relay_interim(self, status: int, headers: FieldList) -> None:
        """A 1xx response."""


async def is_well(instance: Instance, path: str, seconds: float, tls: ssl.SSLContext | None, server_name: str) -> bool:
    """Whether the instance answers GET with a status of 200 to 399, the whole response within the time.

    Args:
        path: with its query, if any.
        seconds: for all of it.
        tls, server_name: for an `https` instance; no context for a plain one.

    Raises:
        BadGateway, GatewayTimeout: there was no answer, or none that is one.
    """
    pool = Pool(instance.host, instance.port, tls=tls, server_name=server_name)
    request = _REQUEST % (path.encode("ascii"), instance.address.encode("ascii"))
    try:
        async with asyncio.timeout(seconds):
            return await _ask(pool, request, seconds)
    except TimeoutError:
        return False


async def _ask(pool: Pool, request: bytes, seconds: float) -> bool:
    connection = await pool.connect(seconds)
    try:
        response = connection.begin(request, _Nowhere(), Timeouts(response=seconds, idle=seconds), 0.0, head_request=False)
        connection.request_sent = True
        await response
        await connection.wait_finished()
        return connection.head is not None and 200 <= connection.head.status <= 399
    finally:
        connection.end_exchange()
        connection.abort()
