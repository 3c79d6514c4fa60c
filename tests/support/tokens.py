"""Keys and tokens for tests: an issuer of our own that can also sign what no honest issuer would."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from gateway.settings import Issuer

ISSUER = "https://login.example.gov"
AUDIENCE = "hms"
NOW = 1_800_000_000
SECRET = b"0123456789abcdef0123456789abcdef"


class FakeClock:
    """Time that moves when told."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@functools.cache
def rsa_key(bits: int = 2048, which: int = 0) -> rsa.RSAPrivateKey:
    """An RSA key; `which` tells keys of one size apart."""
    return rsa.generate_private_key(65537, bits)


@functools.cache
def ec_key(curve: str = "P-256", which: int = 0) -> ec.EllipticCurvePrivateKey:
    curves: dict[str, ec.EllipticCurve] = {
        "P-256": ec.SECP256R1(),
        "P-384": ec.SECP384R1(),
        "P-521": ec.SECP521R1(),
        "secp256k1": ec.SECP256K1(),
    }
    return ec.generate_private_key(curves[curve])


@functools.cache
def ed_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def private_key_for(algorithm: str) -> Any:
    """A key that fits an algorithm."""
    if algorithm.startswith("HS"):
        return SECRET * 2
    if algorithm == "EdDSA":
        return ed_key()
    if algorithm.startswith("ES"):
        return ec_key({"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[algorithm])
    return rsa_key()


def jwk(key: Any, algorithm: str = "RS256", **members: Any) -> dict[str, Any]:
    """The public JWK of a private key, with members added or replaced; a None takes a member away."""
    public = dict(jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True))
    return {name: value for name, value in {**public, **members}.items() if value is not None}


def jwks(*keys: Mapping[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims at NOW, changed; a claim set to `...` is taken away."""
    good: dict[str, Any] = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": NOW, "exp": NOW + 600, "jti": "t-1"}
    return {name: value for name, value in {**good, **changes}.items() if value is not ...}


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def signature(signing_input: bytes, key: Any = None) -> bytes:
    """An RS256 signature made without a JWT library, so that it can be over anything."""
    private = rsa_key() if key is None else key
    return bytes(private.sign(signing_input, padding.PKCS1v15(), hashes.SHA256()))


def raw_token(header: bytes, payload: bytes, key: Any = None) -> bytes:
    """A token whose parts are these octets, properly signed with RS256."""
    signing_input = b64(header) + b"." + b64(payload)
    return signing_input + b"." + b64(signature(signing_input, key))


def token(payload: Mapping[str, Any] | None = None, key: Any = None, **header: Any) -> bytes:
    """An RS256 token with `kid` k1; header members are added or replaced, `...` takes one away."""
    members = {"alg": "RS256", "kid": "k1", "typ": "JWT", **header}
    members = {name: value for name, value in members.items() if value is not ...}
    body = claims() if payload is None else payload
    return raw_token(json.dumps(members).encode(), json.dumps(body).encode(), key)


def secret_file(directory: Path, secret: str) -> str:
    """A file with a shared secret, in a directory that is made for it."""
    directory.mkdir(exist_ok=True)
    file = directory / "secret"
    file.write_text(secret)
    return str(file)


def issuer(**changes: Any) -> Issuer:
    """A trusted issuer with the key k1 of `token`."""
    settings: dict[str, Any] = {
        "name": "login",
        "issuer": ISSUER,
        "audience": (AUDIENCE,),
        "algorithms": ("RS256",),
        "jwks": jwks(jwk(rsa_key(), kid="k1", alg="RS256")),
        **changes,
    }
    return Issuer(**settings)
