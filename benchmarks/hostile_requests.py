"""Requests that a gateway refuses, one of each kind, and the configuration that they are refused by.

Public keys of 8192 bits are made up: nobody has their private keys, and nobody needs them to find a signature wrong, which is what costs.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

HOST = "api.example.gov"
LOGIN, LARGEST = "https://login.example.gov", "https://largest.example.gov"
ALGORITHMS = ("RS256", "PS512", "ES256", "ES384", "ES512", "EdDSA")
#: Which routes the gateway has beside those that the requests name.
MANY_ROUTES = 300
#: Stands for a number of eight digits.
SERIAL = b"~~~~~~~~"
#: The name of the kind that `authentication.failures` refuses.
BEYOND = "anything to verify once `authentication.failures` is reached"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request.

    Attributes:
        name: what is wrong with it.
        octets: the request. Where `SERIAL` stands in it, each has a number of its own.
        status, code: of the answer; the code is empty where the answer is no problem document.
        before: how many of the first are answered with another status, until a limit is reached.
    """

    name: str
    octets: bytes
    status: int
    code: str
    before: int = 0

    def nth(self, number: int) -> bytes:
        """The octets of one of them."""
        return self.octets.replace(SERIAL, b"%08d" % number)


class Keys:
    """The keys of two issuers: one of each algorithm, and of the largest size that is allowed one and, for tokens without a `kid`, four."""

    def __init__(self) -> None:
        self._private: dict[str, Any] = {
            "RS256": rsa.generate_private_key(65537, 2048),
            "PS512": rsa.generate_private_key(65537, 2048),
            "ES256": ec.generate_private_key(ec.SECP256R1()),
            "ES384": ec.generate_private_key(ec.SECP384R1()),
            "ES512": ec.generate_private_key(ec.SECP521R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate(),
        }

    def login(self) -> bytes:
        """The key set with one key of each algorithm, and one of 8192 bits."""
        return _key_set(*(self._public(algorithm) for algorithm in ALGORITHMS), _large_key("large"))

    def largest(self) -> bytes:
        """The key set with four keys of 8192 bits."""
        return _key_set(*(_large_key(f"m{number}") for number in range(4)))

    def _public(self, algorithm: str) -> Mapping[str, Any]:
        members = jwt.get_algorithm_by_name(algorithm).to_jwk(self._private[algorithm].public_key(), as_dict=True)
        return {**members, "kid": algorithm, "alg": algorithm}

    def signed(self, algorithm: str = "RS256", kid: str | None = "", **changes: Any) -> bytes:
        """A token of the login issuer with these claims changed; `kid` None leaves it out."""
        now = int(time.time())
        good = {"iss": LOGIN, "aud": "hms", "sub": "alice", "iat": now - 60, "exp": now + 3600, "jti": "t-1", "scope": "patients:read"}
        headers = {} if kid is None else {"kid": kid or algorithm}
        return jwt.encode({**good, **changes}, self._private[algorithm], algorithm, headers=headers).encode()

    def forged(self, algorithm: str = "RS256", kid: str | None = "", **changes: Any) -> bytes:
        """The same with a signature over something else: it looks right until the very end."""
        return self.signed(algorithm, kid, **changes).rpartition(b".")[0] + b"." + self.signed(algorithm, "other").rpartition(b".")[2]

    def forged_large(self, kid: str | None, **changes: Any) -> bytes:
        """A token with a wrong signature of 8192 bits."""
        return self.signed("RS256", kid, **changes).rpartition(b".")[0] + b"." + _encoded(b"\0" + secrets.token_bytes(1023))


def _encoded(octets: bytes) -> bytes:
    return base64.urlsafe_b64encode(octets).rstrip(b"=")


def _large_key(kid: str) -> Mapping[str, Any]:
    modulus = int.from_bytes(secrets.token_bytes(1024)) | 1 << 8191 | 1
    return {"kty": "RSA", "alg": "RS256", "kid": kid, "e": "AQAB", "n": _encoded(modulus.to_bytes(1024)).decode()}


def _key_set(*keys: Mapping[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def document(service: str, directory: str, failures: str | Mapping[str, str]) -> dict[str, Any]:
    """The configuration. `service` is the URL of the instance, which also has the key sets and the introspection endpoint;
    `directory` has our secret there, and gets the audit."""
    issuers = [
        {"name": "login", "issuer": LOGIN, "audience": ["hms"], "algorithms": ALGORITHMS, "jwks_url": f"{service}/login"},
        {"name": "largest", "issuer": LARGEST, "audience": ["hms"], "algorithms": ["RS256"], "jwks_url": f"{service}/largest"},
    ]
    route = {"service": "patients", "methods": ["GET", "POST"]}
    return {
        "version": 1,
        "server": {"host": "127.0.0.1", "port": 0, "drain": {"delay": 0}},
        "admin": {"port": 0},
        "audit": {"sink": [f"file:{directory}/audit.jsonl"]},
        "authentication": {
            "issuers": issuers,
            "introspection": {
                "url": f"{service}/introspect",
                "client_id": "gateway",
                "client_secret_file": f"{directory}/client-secret",
            },
            "failures": failures,
        },
        "services": {"patients": {"instances": [service]}},
        "routes": [
            {**route, "path": "/patients/{id}", "hosts": [HOST], "scopes": ["patients:read"]},
            {**route, "path": "/claims/{id}", "scopes": ["claims:write"]},
            {**route, "path": "/limited", "limits": ["1/day"]},
            {**route, "path": "/public", "authentication": "none", "max": {"body_bytes": "1KiB"}},
            {**route, "path": "/crossing", "cors": {"origins": ["https://app.example.gov"]}},
            {"service": "patients", "path": "/talk", "methods": ["GET"], "authentication": "none", "websocket": True},
            *({**route, "path": f"/area{number}/{{kind}}/{{id:int}}"} for number in range(MANY_ROUTES)),
        ],
    }


def request(target: str, *fields: bytes, method: str = "GET", host: str = HOST, body: bytes = b"") -> bytes:
    """A request with these field lines."""
    lines = [f"{method} {target} HTTP/1.1\r\nHost: {host}".encode(), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def bearing(token: bytes, target: str = "/patients/17") -> bytes:
    """A request with a bearer token."""
    return request(target, b"Authorization: Bearer " + token)


def good(keys: Keys) -> Kind:
    """What every refusal is held against: a token that was verified before, a scope, revocation, one GET forwarded."""
    return Kind("a good request that is forwarded", bearing(keys.signed()), 200, "")


def kinds(keys: Keys, revoked: bytes) -> Iterator[Kind]:
    """Every kind that is refused by a gateway without `authentication.failures`; the administrator has revoked one token."""
    yield from _tokens(keys)
    yield Kind("no token", request("/patients/17"), 401, "unauthorized")
    yield Kind("a scope is missing", bearing(keys.signed(), "/claims/17"), 403, "forbidden")
    yield Kind("a revoked token", bearing(revoked), 401, "token_revoked")
    yield Kind("a limit is reached", bearing(keys.signed(sub="bob"), "/limited"), 429, "rate_limited", before=1)
    yield from _routing()
    yield from _framing()


def _tokens(keys: Keys) -> Iterator[Kind]:
    def refused(name: str, token: bytes, code: str = "token_invalid") -> Kind:
        return Kind(name, bearing(token), 401, code)

    for algorithm in ALGORITHMS:
        yield refused(f"{algorithm}, wrong signature", keys.forged(algorithm))
    yield refused("RS256, a key of 8192 bits, wrong signature", keys.forged_large("large"))
    yield refused("RS256 without a `kid`, four keys of 8192 bits tried, wrong signature", keys.forged_large(None, iss=LARGEST))
    yield refused("expired", keys.signed(iat=1_700_000_000, exp=1_700_000_600), "token_expired")
    yield refused("unknown `kid`", keys.signed("RS256", "unknown"))
    yield refused("unknown issuer", keys.signed(iss="https://other.example.gov"))
    fillings: dict[str, Any] = {"numbers": [1.5] * 1350, "empty objects": [{}] * 1800, "members": {f"n{each}": 1 for each in range(600)}}
    for name, filling in fillings.items():
        yield refused(f"RS256, 8 KiB of {name}, signed, wrong audience", keys.signed(aud="other", x=filling))
        yield refused(f"RS256, 8 KiB of {name}, wrong signature", keys.forged(x=filling))
    brackets = b".".join((_encoded(b'{"alg":"RS256"}'), _encoded(b"[" * 6000), b"eHh4"))
    yield refused("8 KiB of brackets", brackets)
    yield refused("8 KiB that are no token, unknown to introspection", b"A" * 8184 + SERIAL)
    yield refused("more than 8 KiB", b"A" * 9000)
    yield refused("a short opaque token, unknown to introspection", b"opaque." + SERIAL)


def _routing() -> Iterator[Kind]:
    yield Kind(f"no route among {MANY_ROUTES} routes", request(f"/area{MANY_ROUTES - 1}/lab/none"), 404, "not_found")
    yield Kind("no route for a path of 8 KiB", request("/area1" + "/a" * 4000), 404, "not_found")
    yield Kind("a method that the route does not have", request("/patients/17", method="DELETE"), 405, "method_not_allowed")
    asked = (b"Origin: https://other.example.gov", b"Access-Control-Request-Method: GET")
    yield Kind("a preflight that grants a foreign origin nothing", request("/crossing", *asked, method="OPTIONS"), 204, "")
    yield Kind("a path with two readings", request("/patients/%2e%2e/17"), 400, "bad_request")
    upgrade = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
    yield Kind("WebSocket of a foreign origin", request("/talk", *upgrade, b"Origin: https://other.example.gov"), 403, "forbidden")


def _framing() -> Iterator[Kind]:
    both = (b"Content-Length: 4", b"Transfer-Encoding: chunked")
    yield Kind("Content-Length beside Transfer-Encoding", request("/public", *both, method="POST", body=b"0\r\n\r\n"), 400, "bad_request")
    yield Kind(
        "too large a body, by Content-Length",
        request("/public", b"Content-Length: 2000", method="POST", body=b"a" * 2000),
        413,
        "body_too_large",
    )
    chunks = b"3e8\r\n" + b"a" * 1000 + b"\r\n3e8\r\n" + b"a" * 1000 + b"\r\n0\r\n\r\n"
    yield Kind(
        "too large a body, by chunks", request("/public", b"Transfer-Encoding: chunked", method="POST", body=chunks), 413, "body_too_large"
    )
    yield Kind("a target of 9,000 bytes", request("/" + "a" * 9000), 414, "uri_too_long")
    yield Kind(
        "more than 32 KiB of fields",
        request("/public", *(b"X-%d: %s" % (each, b"a" * 400) for each in range(90))),
        431,
        "headers_too_large",
    )
    yield Kind("more than 100 fields", request("/public", *(b"X-%d: a" % each for each in range(110))), 431, "headers_too_large")
    yield Kind(
        "no token, 30 KiB of fields",
        request("/patients/17", *(b"X-%d: %s" % (each, b"a" * 320) for each in range(90))),
        401,
        "unauthorized",
    )
    yield Kind("a Host that is none", request("/public", host="a b"), 400, "bad_request")


def beyond_the_limit(keys: Keys) -> Iterator[Kind]:
    """What a gateway refuses that lets nobody fail more than once."""
    yield Kind(BEYOND, bearing(keys.forged_large(None, iss=LARGEST)), 429, "rate_limited", before=1)
