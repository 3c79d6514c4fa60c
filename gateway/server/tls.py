"""TLS on the data port: the context for handshakes, and the listener that leads them.

uvicorn's own listener tells nobody of a handshake that failed, counts no connection before its handshake is over, and keeps one context for
ever. So connections are accepted here: a handshake counts as a connection, has a deadline, says why it came to nothing, and uses the newest
certificate. Without `server.tls` none of this runs.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from discovery.tls import CIPHERS, UNPROVED, UNREADABLE, TlsFailures, handshake_failure, no_password
from gateway import handshake
from gateway.certificates import ClientCertificate, client_certificate
from gateway.errors import ConfigError, GatewayError
from gateway.pieces import SECURE_SLICE_BYTES, slices
from gateway.server.cycle import ApplicationCycle
from gateway.server.protocol import FIRST_HEAD_SECONDS, Front, GatewayProtocol
from gateway.server.wire import WireExchange
from gateway.settings import ServerTls

logger = logging.getLogger("gateway.tls")

#: How long a client is listened to that still sends when its answer is over. Nothing tells it that the answer is over but the answer's own
#: length, so it is shorter than on a plain connection.
LINGER_SECONDS = 0.5
#: What a client gets to answer our close_notify; nobody waits for it longer.
SHUTDOWN_SECONDS = 2.0
#: Handshakes that may be under way although the port is full, to tell those clients so; more are closed at once.
SPARE_HANDSHAKES = 64
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_VERIFICATION = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL}
#: Connections that are accepted in a row before others get their turn, and the pause when there is no room for one, as in asyncio.
ACCEPTED_AT_ONCE = 64
ACCEPT_PAUSE_SECONDS = 1.0
#: The longest that a timer is set for: loops count in milliseconds of a bounded number.
_LONGEST_TIMER_SECONDS = 30 * 86_400.0


def server_context(settings: ServerTls) -> ssl.SSLContext:
    """The context for handshakes with clients: TLS 1.2 with forward secrecy, or 1.3; ALPN `http/1.1`.

    Raises:
        ConfigError: a file can't be read, or OpenSSL refuses what is in it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[settings.minimum_version]
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.certificate_file, settings.key_file, password=no_password)
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"server.tls.certificate_file: {settings.certificate_file!r} with key_file {settings.key_file!r} can't be used: {exc}"
        ) from exc
    if settings.client_ca_file:
        try:
            context.load_verify_locations(cafile=settings.client_ca_file)
        except (OSError, ValueError) as exc:
            raise ConfigError(f"server.tls.client_ca_file: {settings.client_ca_file!r} can't be used: {exc}") from exc
        context.verify_mode = _VERIFICATION[settings.client_certificate]
        # What is in the file is trusted, whether or not it is a root: intermediate authorities, or the certificates of single clients.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


class SecureProtocol(GatewayProtocol):
    """A client connection whose handshake is over."""

    handshake: Handshake

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._expiry: asyncio.TimerHandle | None = None
        #: The last answer was given before the request had arrived whole.
        self._half_read = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.handshake.over()
        super().connection_made(transport)
        try:
            certificate = self.peer.certificate = _shown(transport)
        except Refused as why:
            self.handshake.refused(why)
            self.transport.abort()
            return
        if certificate is not None:
            self._set_expiry(certificate)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        super().connection_lost(exc)

    def write(self, data: bytes) -> None:
        if len(data) <= SECURE_SLICE_BYTES:
            super().write(data)
        else:
            for piece in slices(data):
                super().write(piece)

    def exchange_done(self, exchange: WireExchange | ApplicationCycle, *, keep_alive: bool) -> None:
        self._half_read = not exchange.body_done
        super().exchange_done(exchange, keep_alive=keep_alive)

    def _http_scope(self, exchange: WireExchange) -> Any:
        """With ASGI's TLS extension, for our own face and for applications of this process."""
        connection = self.transport.get_extra_info("ssl_object")
        der = connection.getpeercert(binary_form=True)
        tls = {
            "server_cert": None,
            "client_cert_chain": [ssl.DER_cert_to_PEM_cert(der)] if der else [],
            "client_cert_name": self.peer.certificate.subject if self.peer.certificate is not None else None,
            "client_cert_error": None,
            "tls_version": ssl.TLSVersion[connection.version().replace(".", "_")].value,
            "cipher_suite": None,
        }
        return {**super()._http_scope(exchange), "extensions": {"tls": tls}}

    def _set_expiry(self, certificate: ClientCertificate) -> None:
        left = certificate.not_after - time.time()
        self._expiry = self.loop.call_later(min(max(left, 0.0), _LONGEST_TIMER_SECONDS), self._expired, certificate)

    def _expired(self, certificate: ClientCertificate) -> None:
        """The client isn't anymore who it was: what it has asked is answered, and the connection ends."""
        if certificate.not_after > time.time():
            self._set_expiry(certificate)
        else:
            self.shutdown()

    def expire(self) -> None:
        if self._linger_until and not self.transport.is_closing():
            self.deadline = 0.0
            self.transport.close()
        else:
            super().expire()

    def _close(self, *, lingering: bool) -> None:
        """TLS has no half-closed connection. A client that still sends would get a reset, which can take the answer with it, so it is
        listened to for a while first; every other answer is over when it is sent."""
        if lingering and self._half_read and not self.transport.is_closing():
            self.closing = True
            self._queue.clear()
            self.stop_reading_requests()
            self._linger(LINGER_SECONDS)
        else:
            super()._close(lingering=False)


def _shown(transport: asyncio.BaseTransport) -> ClientCertificate | None:
    """What the client has shown. Raises Refused."""
    der = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
    if not der:
        return None
    try:
        certificate = client_certificate(der)
    except ValueError as exc:
        raise Refused(*UNREADABLE) from exc
    if certificate.not_after <= time.time():
        # The session was taken up again, and OpenSSL looks at dates in whole handshakes only.
        raise Refused("expired", "its certificate has expired")
    return certificate


class Refused(Exception):
    """A client whose handshake was in order, and which is not let in all the same: reason and sentence."""


class Handshake:
    """A connection during its handshake: one of uvicorn's connections, which may be ended like the others."""

    def __init__(self, listener: SecureListener, sock: socket.socket, who: str) -> None:
        self._listener = listener
        self._sock = sock
        self._who = who
        self._over = False
        self._stopping = False
        self._made: SecureProtocol | None = None
        listener.connections.add(self)
        listener.under_way.add(self)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="handshake")

    def __repr__(self) -> str:
        return f"<Handshake of {self._who}>"

    def over(self) -> None:
        """It counts no longer."""
        self._listener.under_way.discard(self)
        self._listener.connections.discard(self)
        if not self._over:
            self._over = True
            self._listener.front.clients.leave(self._who)

    def shutdown(self) -> None:
        """The server stops: who is nearly through may ask a first request, as on a plain connection."""
        self._stopping = True
        asyncio.get_running_loop().call_later(FIRST_HEAD_SECONDS, self._task.cancel)

    def last_answer(self) -> None:
        """There is no answer yet."""

    def give_up(self, error: GatewayError) -> None:
        """The time is over."""
        self._stopping = True
        self._task.cancel()

    async def _run(self) -> None:
        listener = self._listener
        try:
            assert listener.front.context is not None
            await handshake.accept(self._protocol(), self._sock, listener.front.context, listener.front.timeouts.tls, SHUTDOWN_SECONDS)
        except Exception as error:
            listener.failed(self._who, handshake_failure(error))
        else:
            if self._stopping and self._made is not None:
                self._made.shutdown()
        finally:
            self.over()

    def _protocol(self) -> SecureProtocol:
        protocol = self._made = self._listener.make()
        protocol.handshake = self
        return protocol

    def refused(self, why: Refused) -> None:
        """The client may not come in."""
        self._listener.failed(self._who, why.args)


class SecureListener:
    """Accepts connections and leads their handshakes; in uvicorn's eyes one of its servers.

    Args:
        sock: listens already.
        front: what connections share, the newest context among it.
        connections: uvicorn's.
        make: a protocol for a connection.
        failures: is told of handshakes that came to nothing.
        record: takes the detail of an audit record of clients that have not proved who they are.
    """

    def __init__(
        self,
        sock: socket.socket,
        front: Front,
        connections: set[Any],
        make: Callable[[], SecureProtocol],
        failures: TlsFailures,
        record: Callable[[Mapping[str, object]], None],
    ) -> None:
        self._sock = sock
        self.front = front
        self.connections = connections
        self.make = make
        self._failures = failures
        self._record = record
        self.under_way: set[Handshake] = set()
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(sock, self._accept)

    def __repr__(self) -> str:
        return f"<SecureListener under way {len(self.under_way)}>"

    def failed(self, who: str, failure: tuple[str, str]) -> None:
        """A handshake came to nothing. A record goes with the line in the log, so there are no more of them than of those.

        Args:
            who: the client's address.
            failure: reason and sentence.
        """
        told = self._failures.note("server", who, failure)
        if told and failure[0] in UNPROVED:
            self._record({"reason": failure[0], "source": who, "failures": told})

    def close(self) -> None:
        """Accept nothing more."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()

    async def wait_closed(self) -> None:
        """It is closed at once."""

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                sock, address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # No descriptor, no memory: accepting again at once would only spin.
                logger.error("the data port can't accept connections for %g s: %s", ACCEPT_PAUSE_SECONDS, error.strerror)
                self._loop.remove_reader(self._sock)
                self._pause = self._loop.call_later(ACCEPT_PAUSE_SECONDS, self._loop.add_reader, self._sock, self._accept)
                return
            self._admit(sock, str(address[0]) if address else "a client")

    def _admit(self, sock: socket.socket, who: str) -> None:
        front = self.front
        if len(self.connections) >= front.maxima.connections and len(self.under_way) >= SPARE_HANDSHAKES:
            self.failed(who, ("overloaded", "there are too many connections and handshakes"))
            sock.close()
            return
        if not front.clients.enter(who, front.maxima.connections_per_client, front.proxies):
            # Nothing could be said to it before a handshake, which is what it may have no more of.
            front.clients.leave(who)
            self.failed(who, ("overloaded", "the client has too many connections"))
            sock.close()
            return
        sock.setblocking(False)
        Handshake(self, sock, who)


def secure_protocol(front: Front) -> type[SecureProtocol]:
    """The protocol class of a port that speaks TLS, bound to what its connections share."""
    return type("BoundSecureProtocol", (SecureProtocol,), {"shared": front})
