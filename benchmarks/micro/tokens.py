"""What authentication costs: `cached` on every request, a full verification once a token. Prints microseconds an operation.

Run: python benchmarks/micro/tokens.py
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import timeit
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gateway.auth.authenticator import Authenticator
from gateway.auth.authorization import compile_rule
from gateway.auth.compact import parse
from gateway.auth.principal import Principal
from gateway.auth.tokens import ClaimPolicy
from gateway.route import Route
from gateway.settings import AuthenticationSettings, Issuer

CLAIMS = {
    "iss": "https://login.example.gov",
    "aud": ["hms"],
    "sub": "7f6a2c1e-6a54-4f0e-9f3c-8c1d5a3b2e10",
    "jti": "0f4b7c9a1e2d3f4a5b6c7d8e9f0a1b2c",
    "azp": "portal",
    "iat": 1_700_000_000,
    "exp": 4_000_000_000,
    "scope": "patients:read claims:write",
}


def main() -> None:
    """Print every figure."""
    for name, algorithm, key in _keys():
        token, issuer = _token(algorithm, key)
        asyncio.run(_measure(name, token, issuer))
    _measure_rule()
    _measure_hostile()


def _keys() -> list[tuple[str, str, Any]]:
    return [
        ("RS256", "RS256", rsa.generate_private_key(65537, 2048)),
        ("ES256", "ES256", ec.generate_private_key(ec.SECP256R1())),
        ("EdDSA", "EdDSA", ed25519.Ed25519PrivateKey.generate()),
        ("HS256", "HS256", b"0123456789abcdef0123456789abcdef"),
    ]


def _token(algorithm: str, key: Any) -> tuple[bytes, Issuer]:
    issuer = Issuer(name="login", issuer="https://login.example.gov", audience=("hms",), algorithms=(algorithm,))
    token = jwt.encode(CLAIMS, key, algorithm=algorithm, headers={"kid": "k1"}).encode()
    if isinstance(key, bytes):
        return token, replace(issuer, secret=key)
    public = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    document = json.dumps({"keys": [{**public, "kid": "k1"}]}).encode()
    return token, replace(issuer, jwks=document)


async def _measure(name: str, token: bytes, issuer: Issuer) -> None:
    async with httpx.AsyncClient() as http:
        authenticator = Authenticator(AuthenticationSettings(issuers=(issuer,)), http)
        await authenticator.start()
        field = b"Bearer " + token
        await authenticator.authenticate(field, None)
        _report(f"{name} cached, {len(token)}-byte token", lambda: authenticator.cached(field, None), 200_000)
        verifier = authenticator._verifier

        def verify() -> None:
            # A coroutine that never waits ends at its first step.
            with contextlib.suppress(StopIteration):
                verifier.verify(token).send(None)

        _report(f"{name} verified in full", verify, 3_000)
        _report(f"{name}   of which taking apart", lambda: parse(token), 20_000)
        compact, policy = parse(token), ClaimPolicy(issuer)
        _report(f"{name}   of which strict reading", compact.claims, 20_000)
        claims = compact.claims()
        _report(f"{name}   of which claims", lambda: policy.principal(claims, 1_800_000_000.0), 20_000)
        await authenticator.close()


def _measure_rule() -> None:
    principal = Principal(subject="a", issuer="i", method="jwt", scopes=frozenset(("patients:read", "claims:write")))
    rule = compile_rule(Route(name="r", path="/", target="s", scopes=("patients:read",)))
    _report("rule, one scope", lambda: rule(principal), 500_000)


def _measure_hostile() -> None:
    # What somebody without a key can make us do with 8 KiB, before the signature is found wrong.
    header = base64.urlsafe_b64encode(b'{"alg":"RS256"}').rstrip(b"=")
    for name, payload in (
        ("numbers", b'{"iss":[' + b",".join([b"1.5"] * 1400) + b"]}"),
        ("objects", b'{"iss":[' + b",".join([b"{}"] * 1900) + b"]}"),
        ("members", b"{" + b",".join(b'"%d":1' % number for number in range(600)) + b"}"),
    ):
        text = header + b"." + base64.urlsafe_b64encode(payload).rstrip(b"=") + b".AAAA"
        _report(f"hostile {name}, {len(text)}-byte token", lambda text=text: parse(text), 500)  # type: ignore[misc]


def _report(what: str, operation: Callable[[], object], number: int) -> None:
    best = min(timeit.repeat(operation, number=number, repeat=5)) / number
    print(f"{what:45} {best * 1e6:8.2f} us")


if __name__ == "__main__":
    main()
