"""What authentication costs: `cached` on every request, a full verification once a token. Prints microseconds an operation.

Run: python -m benchmarks.micro.tokens
With `refusals` behind it: what a token costs that is refused, in microseconds of CPU, the dearest first.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
import time
import timeit
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gateway.admission.plan import AdmissionPlan
from gateway.admission.verdict import Verdict
from gateway.auth.authenticator import Authenticator
from gateway.auth.authorization import compile_rule
from gateway.auth.cache import PrincipalCache
from gateway.auth.compact import parse
from gateway.auth.failures import FailureLimit
from gateway.auth.keys import StaticKeys, local_key_set
from gateway.auth.principal import Principal
from gateway.auth.tokens import ClaimPolicy, TrustedIssuer, Verifier
from gateway.errors import RateLimited, Unauthorized
from gateway.route import Route
from gateway.settings import FAILURES, AuthenticationSettings, Issuer

CLAIMS: dict[str, Any] = {
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
    """Print every figure, or those of refusals."""
    if sys.argv[1:] == ["refusals"]:
        _measure_refusals()
        return
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
        _report(f"{name}   of which claims", lambda: policy.principal(claims, compact.payload, 1_800_000_000.0), 20_000)
        await authenticator.close()


def _measure_rule() -> None:
    principal = Principal(subject="a", issuer="i", method="jwt", scopes=frozenset(("patients:read", "claims:write")))
    rule = compile_rule(Route(name="r", path="/", target="s", scopes=("patients:read",)))
    _report("rule, one scope", lambda: rule(principal), 500_000)


class _Hostile:
    """Tokens that an issuer with large keys refuses, each by what has to be done before that is known. Nobody but the issuer can sign them:
    where a signature holds, it is a user of the issuer that has such claims written into his token."""

    def __init__(self) -> None:
        self._rsa = {bits: rsa.generate_private_key(65537, bits) for bits in (2048, 4096, 8192)}
        self._others = {
            "ES256": ec.generate_private_key(ec.SECP256R1()),
            "ES384": ec.generate_private_key(ec.SECP384R1()),
            "ES512": ec.generate_private_key(ec.SECP521R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate(),
        }

    def verifier(self) -> Verifier:
        """Trusts all of these keys, and for tokens without a kid four of the largest that are allowed."""
        document = json.dumps({"keys": [*self._keys()]}).encode()
        issuer = Issuer(name="login", issuer=CLAIMS["iss"], audience=("hms",), algorithms=("RS256", *self._others), jwks=document)
        many = [self._jwk("RS256", rsa.generate_private_key(65537, 8192), f"m{number}") for number in range(4)]
        largest = replace(issuer, name="largest", issuer="largest", algorithms=("RS256",), jwks=json.dumps({"keys": many}).encode())
        trusted = [TrustedIssuer(each, StaticKeys(local_key_set(each.jwks, each, "jwks"))) for each in (issuer, largest)]
        return Verifier(trusted, PrincipalCache(10, time.time))

    def _keys(self) -> Iterator[dict[str, Any]]:
        for bits, key in self._rsa.items():
            yield self._jwk("RS256", key, f"rsa{bits}")
        for algorithm, other in self._others.items():
            yield self._jwk(algorithm, other, algorithm)

    def _jwk(self, algorithm: str, key: Any, kid: str) -> dict[str, Any]:
        return {**jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True), "kid": kid, "alg": algorithm}

    def tokens(self) -> Iterator[tuple[str, bytes]]:
        """Name and token."""
        for bits in self._rsa:
            yield f"RS256, {bits} bits, wrong signature", self._forged("RS256", f"rsa{bits}", CLAIMS)
        yield "RS256, four keys of 8192 bits tried, wrong signature", self._forged("RS256", None, {**CLAIMS, "iss": "largest"})
        for algorithm in self._others:
            yield f"{algorithm}, wrong signature", self._forged(algorithm, algorithm, CLAIMS)
        numbers = {**CLAIMS, "aud": "other", "x": [1.5] * 1370}
        objects = {**CLAIMS, "aud": "other", "x": [{}] * 1830}
        names = {**CLAIMS, "aud": "other", "x": {f"n{number}": 1 for number in range(610)}}
        for name, claims in (("numbers", numbers), ("empty objects", objects), ("members", names)):
            yield f"RS256, 8 KiB of {name}, signed, wrong audience", self._signed("RS256", "rsa2048", claims)
            yield f"RS256, 8 KiB of {name}, wrong signature", self._forged("RS256", "rsa2048", claims)
            yield f"8 KiB of {name}, unknown issuer", self._forged("RS256", "rsa2048", {**claims, "iss": "other"})
        yield "8 KiB of brackets", _token_of(b'{"alg":"RS256"}', b"[" * 6000, b"x" * 3)
        yield "8 KiB that are no token", b"A" * 8192
        yield "more than 8 KiB", b"A" * 9000

    def _signed(self, algorithm: str, kid: str | None, claims: dict[str, Any]) -> bytes:
        key: Any = self._others.get(algorithm) or self._rsa[int(kid.removeprefix("rsa")) if kid else 8192]
        return jwt.encode(claims, key, algorithm, headers={"kid": kid} if kid else {}).encode()

    def _forged(self, algorithm: str, kid: str | None, claims: dict[str, Any]) -> bytes:
        """With a signature of the issuer's over something else: it looks right until the very end."""
        covered = self._signed(algorithm, kid, claims).rpartition(b".")[0]
        return covered + b"." + self._signed(algorithm, kid, {}).rpartition(b".")[2]


def _token_of(*parts: bytes) -> bytes:
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)


def _measure_refusals() -> None:
    hostile = _Hostile()
    verifier = hostile.verifier()
    figures = [(_cpu_us(partial(_refuse, verifier, token), 200), len(token), name) for name, token in hostile.tokens()]
    for cost_us, size, name in sorted(figures, reverse=True):
        print(f"| {name} | {size} | {cost_us:.1f} |")
    limit = FailureLimit(replace(FAILURES, period_us=86_400_000_000), _NoStore())
    here = _Here()
    for _ in range(FAILURES.count + 1):
        with contextlib.suppress(RateLimited, StopIteration):
            limit.count(here).send(None)
    print(f"| anything, beyond the limit of failures | | {_cpu_us(partial(_limited, limit, here), 20_000):.1f} |")


def _refuse(verifier: Verifier, token: bytes) -> None:
    try:
        verifier.verify(token).send(None)
    except Unauthorized:
        return
    raise AssertionError("it was not refused")


def _limited(limit: FailureLimit, here: _Here) -> None:
    try:
        limit.check(here)
    except RateLimited:
        return
    raise AssertionError("it was not refused")


class _Here:
    """A client."""

    client_ip = "192.0.2.1"
    path_params: ClassVar[dict[str, object]] = {}

    def header(self, name: bytes) -> bytes | None:
        return None


class _NoStore:
    """A store that is away."""

    shards = 1

    def shard_of(self, key: bytes | str) -> int:
        return 0

    def tag(self, shard: int) -> bytes:
        return b"{s00}"

    def plan(self, route: Route) -> AdmissionPlan:
        return AdmissionPlan(route, self, 1)

    def reaches(self, plan: AdmissionPlan, principal: Principal | None, facts: object) -> bool:
        return False

    async def admit(self, plan: AdmissionPlan, principal: Principal | None, facts: object) -> Verdict:
        raise AssertionError("nobody asks it")


def _cpu_us(operation: Callable[[], object], number: int) -> float:
    return min(timeit.repeat(operation, number=number, repeat=5, timer=time.process_time)) / number * 1e6


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
