"""The signed examples of RFC 7515, 7519, 7520, 7797 and 8037: numbers that others have computed (SPEC A1; S-26, S-32)."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.auth.cache import PrincipalCache
from gateway.auth.compact import decode_base64url, parse
from gateway.auth.jwk import SYMMETRIC_ALGORITHMS, KeySet, VerificationKey, read_key_set, secret_key
from gateway.auth.keys import StaticKeys
from gateway.auth.tokens import TrustedIssuer, Verifier
from gateway.errors import Unauthorized
from gateway.settings import Issuer
from tests.support.tokens import b64

VECTORS: dict[str, list[dict[str, Any]]] = json.loads((Path(__file__).parent / "rfc_vectors.json").read_text())
SIGNED = [pytest.param(vector, id=f"{vector['source']} {vector['algorithm']}") for vector in VECTORS["signed"]]
#: Before the example of RFC 7519 section 3.1 expired.
IN_2011 = 1_300_819_000.0


def key_of(vector: dict[str, Any]) -> VerificationKey:
    algorithm = vector["algorithm"]
    if algorithm in SYMMETRIC_ALGORITHMS:
        return secret_key(decode_base64url(vector["key"]["k"].encode()), algorithm)
    keys, dropped = read_key_set(json.dumps({"keys": [vector["key"]]}).encode(), (algorithm,))
    assert not dropped
    [key] = keys.candidates(vector["key"].get("kid"), algorithm)
    return key


def parts(vector: dict[str, Any]) -> tuple[bytes, bytes]:
    """What is signed, and the signature."""
    covered, _, signature = vector["token"].encode().rpartition(b".")
    return covered, decode_base64url(signature)


@pytest.mark.parametrize("vector", SIGNED)
def test_the_signature_of_an_example_holds(vector: dict[str, Any]) -> None:
    """A1, S-32: our keys, read from the RFC's JWK, verify what the RFC has signed."""
    covered, signature = parts(vector)
    assert key_of(vector).verifies(covered, signature)


@pytest.mark.parametrize("vector", SIGNED)
def test_no_neighbour_of_an_example_holds(vector: dict[str, Any]) -> None:
    """S-32: one bit of the signature or of what is signed, a shorter or longer one."""
    covered, signature = parts(vector)
    key = key_of(vector)
    for at in range(0, len(signature), max(1, len(signature) // 32)):
        assert not key.verifies(covered, signature[:at] + bytes([signature[at] ^ 0x10]) + signature[at + 1 :])
    for at in range(0, len(covered), max(1, len(covered) // 16)):
        assert not key.verifies(covered[:at] + bytes([covered[at] ^ 1]) + covered[at + 1 :], signature)
    for other in (signature[:-1], signature[1:], signature + b"\0", b"\0" + signature, b"", signature * 2):
        assert not key.verifies(covered, other)


def test_the_example_of_rfc_7519_is_a_token_without_an_audience() -> None:
    """A2: RFC 7519 section 3.1 verifies; it is refused for what we want besides, and for having expired, not for its signature."""
    [vector] = [vector for vector in VECTORS["signed"] if vector["source"] == "RFC 7515 A.1"]
    secret = decode_base64url(vector["key"]["k"].encode())

    def reason(token: bytes, now: float, **changes: Any) -> str:
        settings = Issuer(name="joe", issuer="joe", audience=("a",), algorithms=("HS256",), secret=secret, **changes)
        trusted = TrustedIssuer(settings, StaticKeys(KeySet([secret_key(secret, "HS256")])))
        with pytest.raises(Unauthorized) as caught:
            asyncio.run(Verifier([trusted], PrincipalCache(10, time.time), lambda: now).verify(token))
        return caught.value.reason

    text = vector["token"].encode()
    assert reason(text, IN_2011) == "token_audience"
    covered, signature = parts(vector)
    assert reason(covered + b"." + b64(signature[::-1]), IN_2011) == "token_signature"
    assert parse(text).claims()["http://example.com/is_root"] is True


@pytest.mark.parametrize("vector", [pytest.param(vector, id=vector["source"]) for vector in VECTORS["refused"]])
def test_an_example_of_another_kind_is_refused(vector: dict[str, Any]) -> None:
    """A1, A3, S-26: unsecured, JSON-serialised, encrypted, nested, detached and unencoded examples are no bearer tokens of ours."""
    with pytest.raises(Unauthorized) as caught:
        parse(vector["token"].encode())
    assert (caught.value.code, caught.value.reason) == ("token_invalid", "token_malformed")


def test_the_examples_are_all_there() -> None:
    """S-32: nine that are signed, with every kind of key, and those of other kinds."""
    assert {vector["algorithm"] for vector in VECTORS["signed"]} == {"HS256", "RS256", "ES256", "ES512", "PS384", "EdDSA"}
    assert (len(VECTORS["signed"]), len(VECTORS["refused"])) == (9, 25)
