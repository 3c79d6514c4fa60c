"""Keys that a key set must not bring into use: too weak, for another purpose, malformed, or a secret (A9; S-22, S-32a, S-32b)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from gateway.auth.authenticator import Authenticator
from gateway.auth.jwk import read_key_set
from gateway.errors import ConfigError
from gateway.settings import AuthenticationSettings
from tests.conformance.tokens.forge import MALLORY
from tests.support.tokens import b64, ec_key, ed_key, issuer, jwk, jwks, rsa_key

RSA, EC, ED = jwk(rsa_key(), kid="k"), jwk(ec_key(), "ES256", kid="k"), jwk(ed_key(), "EdDSA", kid="k")
EVERY = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_X = ec_key().public_key().public_numbers().x


def rsa_of(modulus: int, exponent: int = 65537) -> dict[str, Any]:
    size = (modulus.bit_length() + 7) // 8
    return {**RSA, "n": b64(modulus.to_bytes(size)).decode(), "e": b64(exponent.to_bytes((exponent.bit_length() + 7) // 8 or 1)).decode()}


_N = rsa_key().public_key().public_numbers().n
UNUSABLE: dict[str, Any] = {
    "RSA of 512 bits": rsa_of(_N >> 1536 | 1),
    "RSA of 1,024 bits": jwk(rsa_key(1024), kid="k"),
    "RSA of 1,536 bits": jwk(rsa_key(1536), kid="k"),
    "RSA of 2,047 bits": rsa_of(_N >> 1 | 1),
    "RSA of 16,384 bits": rsa_of((1 << 16_383) | 1),
    "exponent 0": rsa_of(_N, 0),
    "exponent 1": rsa_of(_N, 1),
    "exponent 2": rsa_of(_N, 2),
    "an even exponent": rsa_of(_N, 65_536),
    "an exponent of 64 bits": rsa_of(_N, 2**63 + 1),
    "an exponent of 2,000 bits": rsa_of(_N, 2**1999 + 1),
    "no modulus": {**RSA, "n": ""},
    "a modulus of zeros": {**RSA, "n": "AAAA"},
    "a modulus that is a number": {**RSA, "n": 7},
    "a modulus with padding only": {**RSA, "n": "===="},
    "no exponent": {name: value for name, value in RSA.items() if name != "e"},
    "use enc": {**RSA, "use": "enc"},
    "use null": {**RSA, "use": None},
    "use of a list": {**RSA, "use": ["sig"]},
    "key_ops sign": {**RSA, "key_ops": ["sign"]},
    "key_ops encrypt": {**RSA, "key_ops": ["encrypt", "wrapKey"]},
    "key_ops empty": {**RSA, "key_ops": []},
    "key_ops of text": {**RSA, "key_ops": "verify"},
    "alg of encryption": {**RSA, "alg": "RSA-OAEP"},
    "alg none": {**RSA, "alg": "none"},
    "alg HS256 on an RSA key": {**RSA, "alg": "HS256"},
    "alg ES256 on an RSA key": {**RSA, "alg": "ES256"},
    "alg null": {**RSA, "alg": None},
    "alg of a list": {**RSA, "alg": ["RS256"]},
    "a secret": {"kty": "oct", "k": b64(b"k" * 64).decode(), "kid": "k"},
    "a secret for HS256": {"kty": "oct", "k": b64(b"k" * 64).decode(), "kid": "k", "alg": "HS256"},
    "a private RSA key": {**RSA, "d": "AQAB"},
    "primes": {**RSA, "p": "AQAB", "q": "AQAB"},
    "a private EC key": {**EC, "d": "AQAB"},
    "a point that is not on its curve": {**EC, "y": EC["x"]},
    "the point at infinity": {**EC, "x": b64(bytes(32)).decode(), "y": b64(bytes(32)).decode()},
    "another curve's name": {**EC, "crv": "P-384"},
    "secp256k1": jwk(ec_key("secp256k1"), "ES256K", kid="k"),
    "a curve that nobody knows": {**EC, "crv": "P-999"},
    "coordinates beyond the field": {**EC, "x": b64(b"\xff" * 32).decode()},
    "coordinates of 31 octets": {**EC, "x": b64((_X >> 8).to_bytes(31)).decode()},
    "a compressed point": {**EC, "y": True},
    "no y": {name: value for name, value in EC.items() if name != "y"},
    "X25519": {**ED, "crv": "X25519"},
    "Ed448": {**ED, "crv": "Ed448"},
    "an Ed25519 key of 31 octets": {**ED, "x": b64(bytes(31)).decode()},
    "an Ed25519 key of 33 octets": {**ED, "x": b64(bytes(33)).decode()},
    "no kty": {name: value for name, value in RSA.items() if name != "kty"},
    "kty of another case": {**RSA, "kty": "rsa"},
    "kty of a list": {**RSA, "kty": ["RSA"]},
    "a kid that is a number": {**RSA, "kid": 7},
    "a kid that is empty": {**RSA, "kid": ""},
    "a kid of 10,000 characters": {**RSA, "kid": "k" * 10_000},
    "a string": "RSA",
    "null": None,
    "a list": [RSA],
    "nothing": {},
}


@pytest.mark.parametrize("member", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_key_that_must_not_be_used_is_left_out_and_its_neighbour_stays(member: Any) -> None:
    """A9, S-22, S-32a, S-32b: whatever stands in a fetched set, nothing is raised and nothing else is lost."""
    document = json.dumps({"keys": [member, jwk(MALLORY, kid="neighbour")]}).encode()
    for fips in (False, True):
        keys, dropped = read_key_set(document, EVERY, fips=fips)
        assert len(keys) == 1
        assert keys.knows("neighbour")
        assert [key.position for key in dropped] == [0]


def start(*, fips: bool = True, **changes: Any) -> None:
    """Make an authenticator of these settings, as a start does."""

    async def making() -> None:
        async with httpx.AsyncClient() as http:
            settings = AuthenticationSettings(issuers=(issuer(fips=fips, **changes),), fips=fips)
            authenticator = Authenticator(settings, http)
            await authenticator.start()
            await authenticator.close()

    asyncio.run(making())


APPROVED = {
    "RS256": (RSA, ("RS256", "RS384", "RS512")),
    "PS256": (RSA, ("PS256", "PS384", "PS512")),
    "ES256": (EC, ("ES256",)),
    "ES384": (jwk(ec_key("P-384"), "ES384", kid="k"), ("ES384",)),
    "ES512": (jwk(ec_key("P-521"), "ES512", kid="k"), ("ES512",)),
}


@pytest.mark.parametrize(("key", "algorithms"), APPROVED.values(), ids=APPROVED.keys())
def test_what_fips_approves_starts(key: dict[str, Any], algorithms: tuple[str, ...]) -> None:
    """A9: RS and PS of 2048 bits, ES on the NIST curves."""
    start(jwks=jwks(key), algorithms=algorithms)


@pytest.mark.parametrize(("algorithm", "size"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_a_secret_must_be_as_long_as_the_hash(algorithm: str, size: int) -> None:
    """A9, S-32a: one octet less is refused, with FIPS and without."""
    start(jwks=b"", secret=b"s" * size, algorithms=(algorithm,))
    for fips in (True, False):
        with pytest.raises(ConfigError, match=f"the secret has {size - 1} bytes, {algorithm} needs at least {size}"):
            start(fips=fips, jwks=b"", secret=b"s" * (size - 1), algorithms=(algorithm,))


NOT_APPROVED: dict[str, tuple[dict[str, Any], str]] = {
    "EdDSA": ({"jwks": jwks(ED), "algorithms": ("EdDSA",)}, "EdDSA is not in the FIPS-approved set"),
    "EdDSA beside others": ({"jwks": jwks(EC), "algorithms": ("ES256", "EdDSA")}, "EdDSA is not in the FIPS-approved set"),
    "an exponent of 3": ({"jwks": jwks(rsa_of(_N, 3))}, "with the exponent 3"),
    "an exponent of 65,535": ({"jwks": jwks(rsa_of(_N, 65_535))}, "with the exponent 65535"),
    "an exponent of 3 beside a good key": ({"jwks": jwks(RSA, rsa_of(_N, 3))}, "key 1: RSA key"),
    "1,024 bits": ({"jwks": jwks(jwk(rsa_key(1024), kid="k"))}, "RSA key of 1024 bits, at least 2048 are needed"),
}


@pytest.mark.parametrize(("changes", "message"), NOT_APPROVED.values(), ids=NOT_APPROVED.keys())
def test_what_fips_does_not_approve_fails_the_start_with_the_reason(changes: dict[str, Any], message: str) -> None:
    """A9, S-32a: refused, not warned about."""
    with pytest.raises(ConfigError, match=message):
        start(**changes)
