"""Keys and tokens of one run: made at its start, worth nothing after it."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from benchmarks.sidebyside.peer import Token

ISSUER = "https://login.bench.example"
AUDIENCE = "bench"
SCOPE = "patients:read"
_KEY_ID = "bench-1"
_LIFETIME_SECONDS = 2 * 3600


@dataclass(frozen=True, slots=True)
class Credentials:
    """A signing key of each kind, and the tokens that they make."""

    rsa_key: rsa.RSAPrivateKey
    hs256_secret: str
    admin_token: str

    @classmethod
    def create(cls) -> Self:
        return cls(rsa.generate_private_key(public_exponent=65537, key_size=2048), secrets.token_hex(32), secrets.token_urlsafe(32))

    def write_jwks(self, path: Path) -> None:
        """The public key as a key set (RFC 7517)."""
        key: dict[str, Any] = RSAAlgorithm.to_jwk(self.rsa_key.public_key(), as_dict=True)
        path.write_text(json.dumps({"keys": [{**key, "kid": _KEY_ID, "use": "sig", "alg": "RS256"}]}))

    def token(self, kind: Token, *, expired: bool = False) -> str:
        """A token with its own `jti`, issued now; or one that expired an hour ago."""
        issued = int(time.time()) - (_LIFETIME_SECONDS + 3600 if expired else 0)
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "clinician-17",
            "scope": SCOPE,
            "iat": issued,
            "exp": issued + _LIFETIME_SECONDS,
            "jti": secrets.token_hex(16),
        }
        key = self.rsa_key if kind == "RS256" else self.hs256_secret
        return jwt.encode(claims, key, algorithm=kind, headers={"kid": _KEY_ID})


def tampered(token: str) -> str:
    """The same token with one character of its signature changed; never the last one, whose low bits may mean nothing."""
    head, _, signature = token.rpartition(".")
    return f"{head}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"
