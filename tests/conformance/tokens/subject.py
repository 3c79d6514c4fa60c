"""The gateway that hostile tokens are sent to."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from tests.conformance.tokens.forge import ALGORITHMS, BATCH, BATCH_SECRET, ISSUER, JWKS, PARTNER, PARTNER_JWKS
from tests.support.tokens import AUDIENCE
from tests.support.whole_gateway import ProcessGateway, Upstream


def configuration(directory: Path, service: Upstream, store: str) -> dict[str, Any]:
    """It trusts loopback about the client's address, and limits failed authentications as it does when nothing is said."""
    (directory / "login.json").write_bytes(JWKS)
    (directory / "partner.json").write_bytes(PARTNER_JWKS)
    (directory / "secret").write_bytes(BATCH_SECRET)
    audience = [AUDIENCE]
    issuers = [
        {
            "name": "login",
            "issuer": ISSUER,
            "audience": audience,
            "algorithms": list(ALGORITHMS),
            "jwks_file": str(directory / "login.json"),
        },
        {"name": "partner", "issuer": PARTNER, "audience": audience, "algorithms": ["RS256"], "jwks_file": str(directory / "partner.json")},
        {"name": "batch", "issuer": BATCH, "audience": audience, "algorithms": ["HS256"], "secret_file": str(directory / "secret")},
    ]
    return {
        "version": 1,
        "server": {"port": 0, "trusted_proxies": ["127.0.0.0/8"], "max": {"header_bytes": "64KiB"}},
        "admin": {"port": 0},
        "state": {"url": store, "budget": "2s"},
        "authentication": {"issuers": issuers},
        "services": {"patients": {"instances": [service.url]}},
        "routes": [{"name": "any", "path": "/{rest:path}", "service": "patients"}],
        "audit": {"sink": [f"file:{directory / 'audit.jsonl'}"]},
    }


def ask(gateway: ProcessGateway, token: bytes, number: int = 0) -> tuple[int, bytes]:
    """Status and whole answer to a request with a token, from a client address of its own."""
    return send(gateway, b"Authorization: Bearer " + token + b"\r\n", number)


def send(gateway: ProcessGateway, fields: bytes, number: int = 0, target: bytes = b"/patients/7") -> tuple[int, bytes]:
    """The same with any field lines."""
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    address = b"198.18.%d.%d" % (number // 250, 1 + number % 250)
    head = b"GET %b HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\nX-Forwarded-For: %b\r\n%b\r\n" % (target, address, fields)
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return int(answer[9:12]), answer
