"""Who is at the other end of a connection, and whether its forwarding fields are believed."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gateway.certificates import ClientCertificate
from gateway.headers import PSEUDONYM, RequestFields
from gateway.paths import is_authority

#: Longest chain of X-Forwarded-For that is read; the rest is a forgery or a loop.
MAX_HOPS = 32
VIA = b"via: 1.1 %b\r\n" % PSEUDONYM

if TYPE_CHECKING:
    from gateway.head import Head

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TrustedProxies:
    """Networks whose X-Forwarded-* fields are believed (SPEC H3). Trust is by the socket's address, never by a header."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks: tuple[Network, ...] = tuple(ipaddress.ip_network(network) for network in networks)

    def trusts(self, address: str) -> bool:
        """Whether an address is a proxy of ours; text that is no address is not."""
        if not self._networks:
            return False
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        return any(ip in network for network in self._networks)


class Peer:
    """The remote end of one connection; made once a connection.

    Args:
        ip, port: of the socket; "" and 0 on a Unix socket.
        scheme: `http` or `https`, as the client spoke to us.
        server_port: the port it came to.
        trusted: its forwarding fields are believed.
        certificate: what it has shown, where the port speaks TLS and asks for one; set by whoever has read it.
    """

    __slots__ = ("_fixed_lines", "certificate", "head", "ip", "port", "proxies", "scheme", "server_port", "trusted")

    def __init__(self, ip: str, port: int, scheme: str, server_port: int, proxies: TrustedProxies) -> None:
        self.ip = ip
        self.port = port
        self.scheme = scheme
        self.server_port = server_port
        self.proxies = proxies
        self.certificate: ClientCertificate | None = None
        #: What the last request's fields said; only the pipeline writes here.
        self.head: Head | None = None
        self.trusted = proxies.trusts(ip)
        self._fixed_lines = _lines(ip, scheme, server_port)

    def believe(self, proxies: TrustedProxies) -> None:
        """From now on these are the proxies whose forwarding fields are believed."""
        self.proxies = proxies
        self.trusted = proxies.trusts(self.ip)

    def client_ip(self, fields: RequestFields) -> str:
        """The client's address: the socket's, or the last untrusted hop that trusted proxies report."""
        if not self.trusted:
            return self.ip
        hops = _forwarded_for(fields)
        for hop in reversed(hops):
            if not self.proxies.trusts(hop):
                return hop
        return hops[0] if hops else self.ip

    def forwarding_lines(self, fields: RequestFields, version: bytes = b"1.1") -> bytes:
        """Wire lines of Via and X-Forwarded-For, -Proto, -Port and -Host for the upstream.

        Args:
            version: of HTTP, as the request came with it (RFC 9110 section 7.6.3).
        """
        host = fields.found.get(b"host", b"")
        via = VIA if version == b"1.1" else b"via: %b %b\r\n" % (version, PSEUDONYM)
        if not self.trusted:
            return b"%b%bx-forwarded-host: %b\r\n" % (via, self._fixed_lines, host)
        return via + self._trusted_lines(fields, host)

    def _trusted_lines(self, fields: RequestFields, host: bytes) -> bytes:
        """What a proxy of ours said is kept where it is well-formed, and the chain grows by the proxy itself."""
        chain = ", ".join([*_forwarded_for(fields), self.ip])
        proto = _only(fields, b"x-forwarded-proto").lower()
        scheme = proto.decode() if proto in (b"http", b"https") else self.scheme
        port_text = _only(fields, b"x-forwarded-port")
        port = int(port_text) if port_text.isdigit() and len(port_text) <= 5 else 0
        forwarded_host = _only(fields, b"x-forwarded-host")
        host = forwarded_host if is_authority(forwarded_host) else host
        return _lines(chain, scheme, port if 0 < port < 1 << 16 else self.server_port) + b"x-forwarded-host: %b\r\n" % host


def _only(fields: RequestFields, name: bytes) -> bytes:
    """The value of a field that stands once. Of two, one may be the client's, which the proxy has let through."""
    values = fields.all(name)
    return values[0] if len(values) == 1 else b""


def _lines(chain: str, scheme: str, port: int) -> bytes:
    text = f"x-forwarded-for: {chain}\r\nx-forwarded-proto: {scheme}\r\nx-forwarded-port: {port}\r\n"
    return text.encode("ascii")


def _forwarded_for(fields: RequestFields) -> list[str]:
    """The addresses of all X-Forwarded-For lines, oldest first; what is no address ends the chain towards the client."""
    hops: list[str] = []
    text = b",".join(fields.all(b"x-forwarded-for")).decode("latin-1")
    for part in reversed(text.split(",")[-MAX_HOPS:]):
        try:
            address = ipaddress.ip_address(part.strip())
        except ValueError:
            break
        if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
            # A zone has a meaning on one machine only (RFC 4007 section 11), and may be any text.
            break
        hops.append(str(address))
    return hops[::-1]
