"""What a trusted proxy says of its client, and what becomes of it (SPEC H3; REQUIREMENTS S-12).

A row is a name, the fields, and what the upstream has to get as X-Forwarded-For, -Proto, -Port and -Host.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.conformance.http.case import HOST

FOR, PROTO, PORT, HOSTS = b"X-Forwarded-For: ", b"X-Forwarded-Proto: ", b"X-Forwarded-Port: ", b"X-Forwarded-Host: "


@dataclass(frozen=True, slots=True)
class Proxied:
    """A row. `chain` is what stands before the proxy's own address; `port` None is the gateway's own."""

    name: str
    fields: tuple[bytes, ...]
    chain: bytes = b""
    proto: bytes = b"http"
    port: bytes | None = None
    host: bytes = HOST


CASES: tuple[Proxied, ...] = (
    Proxied("nothing", ()),
    Proxied("an address", (FOR + b"192.0.2.7",), b"192.0.2.7, "),
    Proxied("a chain", (FOR + b"192.0.2.7, 198.51.100.9",), b"192.0.2.7, 198.51.100.9, "),
    Proxied("a chain on two lines", (FOR + b"192.0.2.7", FOR + b"198.51.100.9"), b"192.0.2.7, 198.51.100.9, "),
    Proxied("an IPv6 address", (FOR + b"2001:db8::1",), b"2001:db8::1, "),
    Proxied("a word before an address", (FOR + b"unknown, 192.0.2.7",), b"192.0.2.7, "),
    Proxied("a word behind an address", (FOR + b"192.0.2.7, unknown",)),
    Proxied("an empty member", (FOR + b"192.0.2.6,, 192.0.2.7",), b"192.0.2.7, "),
    Proxied("an address with a port", (FOR + b"192.0.2.7:80",)),
    Proxied("an address with leading zeros", (FOR + b"192.0.2.007",)),
    Proxied("an address in one number", (FOR + b"3221225991",)),
    Proxied("a script", (FOR + b"<script>, 192.0.2.7",), b"192.0.2.7, "),
    Proxied("octets outside ASCII", (FOR + b"\xff, 192.0.2.7",), b"192.0.2.7, "),
    Proxied("forty addresses", (FOR + b", ".join([b"192.0.2.7"] * 40),), b"192.0.2.7, " * 32),
    Proxied("https", (PROTO + b"https",), proto=b"https"),
    Proxied("HTTPS", (PROTO + b"HTTPS",), proto=b"https"),
    Proxied("another scheme", (PROTO + b"ftp",)),
    Proxied("two schemes", (PROTO + b"https, http",)),
    Proxied("two lines of schemes", (PROTO + b"https", PROTO + b"http")),
    Proxied("a port", (PORT + b"443",), port=b"443"),
    Proxied("a port that is none", (PORT + b"99999",)),
    Proxied("port zero", (PORT + b"0",)),
    Proxied("a port with a sign", (PORT + b"+443",)),
    Proxied("two lines of ports", (PORT + b"443", PORT + b"80")),
    Proxied("a host", (HOSTS + b"www.example.gov:8443",), host=b"www.example.gov:8443"),
    Proxied("a host that is none", (HOSTS + b"a/b",)),
    Proxied("two hosts", (HOSTS + b"a.example, b.example",)),
    Proxied("two lines of hosts", (HOSTS + b"a.example", HOSTS + b"b.example")),
    Proxied("Forwarded", (b"Forwarded: for=192.0.2.7;proto=https;host=a.example",)),
    Proxied("X-Real-IP", (b"X-Real-IP: 192.0.2.7",)),
    Proxied("a chain with underscores", (b"X_Forwarded_For: 192.0.2.7",)),
    Proxied("a chain that Connection names", (FOR + b"192.0.2.7", b"Connection: X-Forwarded-For"), b"192.0.2.7, "),
    Proxied("an identity", (b"X-Auth-Subject: root", b"X-Auth-Scopes: admin", b"X-Client-Cert-Subject: root")),
)
