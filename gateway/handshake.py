"""Connections with TLS, on both sides, whose reads from the network are bounded (SPEC H6).

uvloop's TLS reads up to 256 KiB at once into a buffer of its own for each connection, and OpenSSL's memory grows with it; neither gives
anything back. So we stand between the socket and that class, and hand out less of its buffer. On another event loop connections are made as
that loop makes them.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from gateway.pieces import WAITING_BYTES

try:
    import uvloop.loop as uvloop
except ImportError:  # There is none for this system.
    uvloop = None  # type: ignore[assignment]

Made = TypeVar("Made", bound=asyncio.Protocol)

#: The most that is read at once from a connection with TLS: two records of TLS 1.3 as senders of long bodies make them, 16 KiB with header,
#: type and tag, so that no part of a third one is left waiting.
CIPHERTEXT_BYTES = 2 * (16 * 1024 + 22)


class Ciphertext(asyncio.BufferedProtocol):
    """What comes from the network, on its way to the event loop's TLS.

    Args:
        tls: the loop's, with the protocol of the connection behind it.
    """

    __slots__ = ("_tls", "_view")

    def __init__(self, tls: Any) -> None:
        self._tls = tls
        self._view: memoryview = tls.get_buffer(CIPHERTEXT_BYTES)[:CIPHERTEXT_BYTES]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # What waits here is ciphertext; the plain text behind it waits in the TLS.
        transport.set_write_buffer_limits(high=WAITING_BYTES)  # type: ignore[attr-defined]
        self._tls.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        self._tls.buffer_updated(nbytes)

    def eof_received(self) -> None:
        self._tls.eof_received()

    def pause_writing(self) -> None:
        self._tls.pause_writing()

    def resume_writing(self) -> None:
        self._tls.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._tls.connection_lost(exc)


async def accept(
    protocol: asyncio.Protocol, sock: socket.socket, context: ssl.SSLContext, handshake_seconds: float, shutdown_seconds: float
) -> None:
    """Lead the handshake of an accepted connection. The protocol is told of the connection when it is over.

    Raises:
        OSError, ssl.SSLError: it came to nothing.
    """
    loop = asyncio.get_running_loop()
    seconds = {"ssl_handshake_timeout": handshake_seconds, "ssl_shutdown_timeout": shutdown_seconds}
    make_tls = tls_of(loop)
    if make_tls is None:
        await loop.connect_accepted_socket(lambda: protocol, sock, ssl=context, **seconds)
        return
    over = loop.create_future()
    tls = make_tls(loop, protocol, context, over, server_side=True, **seconds)
    transport, _ = await loop.connect_accepted_socket(lambda: Ciphertext(tls), sock)
    await _finish(transport, over)


async def connect(make: Callable[[], Made], host: str, port: int, context: ssl.SSLContext, server_name: str) -> Made:
    """A connection to a server whose handshake is over; returns its protocol.

    Args:
        server_name: expected in the certificate.

    Raises:
        OSError, ssl.SSLError: there is no connection, or the handshake came to nothing.
    """
    loop = asyncio.get_running_loop()
    make_tls = tls_of(loop)
    if make_tls is None:
        _, protocol = await loop.create_connection(make, host, port, ssl=context, server_hostname=server_name)
        return protocol
    over = loop.create_future()
    protocol = make()
    tls = make_tls(loop, protocol, context, over, server_side=False, server_hostname=server_name)
    transport, _ = await loop.create_connection(lambda: Ciphertext(tls), host, port)
    await _finish(transport, over)
    return protocol


def tls_of(loop: asyncio.AbstractEventLoop) -> Callable[..., Any] | None:
    """The class of uvloop's TLS, which has the arguments and methods of asyncio's; None on another event loop."""
    return getattr(uvloop, "SSLProtocol", None) if uvloop is not None and isinstance(loop, uvloop.Loop) else None


async def _finish(transport: asyncio.Transport, over: asyncio.Future[None]) -> None:
    try:
        await over
    except BaseException:
        transport.abort()
        raise
