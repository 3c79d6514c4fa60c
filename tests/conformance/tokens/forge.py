"""An honest issuer's keys, and what somebody makes of them who keeps to no rule: any octets signed, signatures of any shape.

The good tokens are good now: the same cases go to a verifier in this process and over HTTP to a gateway.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.support.tokens import AUDIENCE, b64, ec_key, ed_key, jwk, jwks, rsa_key

NOW = int(time.time())
ISSUER = "https://login.example.gov"
#: An issuer with a shared secret.
BATCH = "https://batch.example.gov"
BATCH_SECRET = b"a shared secret of more than 32 bytes for HS256"
#: A trusted issuer whose keys must not sign for the first one.
PARTNER = "https://partner.example.org"

PSS_KEY, PARTNER_KEY, MALLORY = rsa_key(which=2), rsa_key(which=3), rsa_key(which=4)
JWKS = jwks(
    jwk(rsa_key(), kid="rsa", alg="RS256"),
    jwk(PSS_KEY, "PS256", kid="pss", alg="PS256"),
    jwk(ec_key(), "ES256", kid="ec", alg="ES256"),
    jwk(ec_key("P-384"), "ES384", kid="ec384", alg="ES384"),
    jwk(ec_key("P-521"), "ES512", kid="ec521", alg="ES512"),
    jwk(ed_key(), "EdDSA", kid="ed", alg="EdDSA"),
)
ALGORITHMS = ("RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA")
PARTNER_JWKS = jwks(jwk(PARTNER_KEY, kid="partner", alg="RS256"), jwk(PARTNER_KEY, kid="rsa", alg="RS256"))

GOOD: dict[str, Any] = {
    "iss": ISSUER,
    "aud": AUDIENCE,
    "sub": "alice",
    "iat": NOW - 5,
    "exp": NOW + 3600,
    "jti": "token-1",
    "scope": "patients:read",
}
HEADER: dict[str, Any] = {"alg": "RS256", "kid": "rsa", "typ": "JWT"}


def octets(value: object) -> bytes:
    """JSON, as an issuer writes it; octets as they are."""
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def changed(members: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Members with some set, and those set to `...` taken away."""
    return {name: value for name, value in {**members, **changes}.items() if value is not ...}


def signing_input(header: object, payload: object) -> bytes:
    """The octets that a signature covers."""
    return b64(octets(header)) + b"." + b64(octets(payload))


def with_signature(covered: bytes, signature: bytes) -> bytes:
    """The token of them."""
    return covered + b"." + b64(signature)


def signed(header: object = HEADER, payload: object = GOOD, key: Any = None) -> bytes:
    """A token of any header and payload, signed by RS256 with the issuer's key, or another one."""
    covered = signing_input(header, payload)
    return with_signature(covered, rs256(covered, key))


def headed(**changes: Any) -> bytes:
    """A properly signed token whose header has changes."""
    return signed(changed(HEADER, changes))


def claiming(**changes: Any) -> bytes:
    """A properly signed token whose claims have changes."""
    return signed(HEADER, changed(GOOD, changes))


def rs256(covered: bytes, key: Any = None) -> bytes:
    private: rsa.RSAPrivateKey = key or rsa_key()
    return private.sign(covered, padding.PKCS1v15(), hashes.SHA256())


def ps256(covered: bytes, salt_bytes: int = 32, mgf: hashes.HashAlgorithm | None = None, key: Any = None) -> bytes:
    private: rsa.RSAPrivateKey = key or PSS_KEY
    return private.sign(covered, padding.PSS(padding.MGF1(mgf or hashes.SHA256()), salt_bytes), hashes.SHA256())


def es256(covered: bytes, key: ec.EllipticCurvePrivateKey | None = None) -> tuple[int, int]:
    """r and s."""
    return decode_dss_signature((key or ec_key()).sign(covered, ec.ECDSA(hashes.SHA256())))


def pair(r: int, s: int, size: int = 32) -> bytes:
    """r and s as JOSE writes them."""
    return r.to_bytes(size) + s.to_bytes(size)


def hs(covered: bytes, secret: bytes, algorithm: str = "HS256") -> bytes:
    return hmac.digest(secret, covered, {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}[algorithm])


def hmac_token(secret: bytes, algorithm: str = "HS256", payload: Mapping[str, Any] = GOOD, **header: Any) -> bytes:
    """A token that is signed by a MAC with some secret."""
    covered = signing_input({"alg": algorithm, "kid": "rsa", **header}, payload)
    return with_signature(covered, hs(covered, secret, algorithm))


# RSA by hand (RFC 8017)

#: DigestInfo of SHA-256, up to the digest.
SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")


def encoded_block(covered: bytes, info: bytes = SHA256_INFO, size: int = 256) -> bytes:
    """EMSA-PKCS1-v1_5: 00 01 FF.. 00 DigestInfo."""
    tail = info + hashlib.sha256(covered).digest()
    return b"\0\1" + b"\xff" * (size - 3 - len(tail)) + b"\0" + tail


def raw_rsa(block: bytes, key: rsa.RSAPrivateKey | None = None) -> bytes:
    """The private operation on a block that nobody has checked."""
    numbers = (key or rsa_key()).private_numbers()
    modulus = numbers.public_numbers.n
    return pow(int.from_bytes(block), numbers.d, modulus).to_bytes(256)
