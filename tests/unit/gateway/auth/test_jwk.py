from __future__ import annotations

import base64
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from gateway.auth.jwk import KeySet, WeakKey, read_key_set, secret_key
from tests.support.tokens import SECRET, b64, ec_key, ed_key, jwk, jwks, private_key_for, rsa_key

EVERY = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


@pytest.mark.parametrize("algorithm", EVERY)
def test_every_algorithm_verifies_its_own_signatures_only(algorithm: str) -> None:
    """A1: each asymmetric algorithm is bound to a key that fits it."""
    private = private_key_for(algorithm)
    keys, dropped = read_key_set(jwks(jwk(private, algorithm, kid="k", alg=algorithm)), (algorithm,))
    assert dropped == ()
    (key,) = keys.candidates("k", algorithm)
    signature = jwt.get_algorithm_by_name(algorithm).sign(b"input", private)
    assert key.verifies(b"input", signature)
    assert not key.verifies(b"other", signature)
    for damaged in (b"", b"\0", signature[:-1], signature + b"\0", bytes(len(signature)), b"\xff" * len(signature)):
        assert not key.verifies(b"input", damaged)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_secret_verifies(algorithm: str) -> None:
    """A1: a shared secret is bound to one HMAC."""
    key = secret_key(SECRET * 2, algorithm)
    assert key.verifies(b"input", jwt.get_algorithm_by_name(algorithm).sign(b"input", SECRET * 2))
    assert not key.verifies(b"input", bytes(32))


@pytest.mark.parametrize(("algorithm", "size"), [("HS256", 31), ("HS384", 47), ("HS512", 63), ("HS256", 16), ("HS256", 0)])
def test_a_secret_shorter_than_the_hash_is_refused(algorithm: str, size: int) -> None:
    """S-32a: RFC 7518 section 3.2."""
    with pytest.raises(WeakKey, match="needs at least"):
        secret_key(b"x" * size, algorithm)


def test_a_public_key_is_no_secret() -> None:
    """A1: the key confusion of CVE-2026-48526 can't even be configured."""
    pem = rsa_key().public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for public in (pem, b'{"kty":"RSA","n":"AQAB","e":"AQAB","padding":"xxxxxxxxxxxx"}'):
        with pytest.raises(WeakKey, match="must be random bytes"):
            secret_key(public, "HS256")


def _rsa(**members: Any) -> dict[str, Any]:
    return jwk(rsa_key(), **{"kid": "k", **members})


UNUSABLE: dict[str, tuple[object, str]] = {
    "no object": ("key", "not an object"),
    "for encryption": (_rsa(use="enc"), "`use`"),
    "use of another type": (_rsa(use=["sig"]), "`use`"),
    "for signing only": (_rsa(key_ops=["sign"]), "`key_ops`"),
    "for wrapping": (_rsa(key_ops=["wrapKey", "encrypt"]), "`key_ops`"),
    "key_ops of another type": (_rsa(key_ops="verify"), "`key_ops`"),
    "kid is a number": (_rsa(kid=1), "`kid`"),
    "kid too long": (_rsa(kid="k" * 257), "`kid`"),
    "kid empty": (_rsa(kid=""), "`kid`"),
    "alg not allowed": (_rsa(alg="RS512"), "`alg`"),
    "alg of encryption": (_rsa(alg="RSA-OAEP"), "`alg`"),
    "alg none": (_rsa(alg="none"), "`alg`"),
    "alg HMAC": (_rsa(alg="HS256"), "`alg`"),
    "alg of another type": (_rsa(alg=["RS256"]), "`alg`"),
    "alg of another key type": (_rsa(alg="ES256"), "`alg`"),
    "symmetric": ({"kty": "oct", "k": "AAAA", "kid": "k"}, "private members"),
    "private RSA": (_rsa(d="AQAB"), "private members"),
    "private prime": (_rsa(p="AQAB"), "private members"),
    "short RSA": (jwk(rsa_key(1024), kid="k"), "RSA key of 1024 bits"),
    "exponent too long": (_rsa(e=base64.urlsafe_b64encode(b"\x01" * 9).decode().rstrip("=")), "exponent"),
    "exponent even": (_rsa(e="BA"), "not a key"),
    "modulus missing": (_rsa(n=None), "not a key"),
    "modulus a number": (_rsa(n=5), "not a key"),
    "modulus null": ({**_rsa(), "n": None}, "not a key"),
    "modulus junk": (_rsa(n="!!!"), "not a key"),
    "curve of Bitcoin": (jwk(ec_key("secp256k1"), "ES256K", kid="k"), "type fits none"),
    "curve not allowed": (jwk(ec_key("P-384"), "ES384", kid="k"), "type fits none"),
    "off the curve": (jwk(ec_key(), "ES256", x=base64.urlsafe_b64encode(b"\x01" * 32).decode().rstrip("=")), "not a key"),
    "coordinate short": (jwk(ec_key(), "ES256", x="AQ"), "not a key"),
    "kty missing": ({"kid": "k"}, "type fits none"),
    "kty of another type": ({"kty": {"RSA": 1}, "crv": [], "kid": "k"}, "type fits none"),
    "stray long number": ({"kty": "RSA", "crv": 99999999999999999999, "n": "AQAB", "e": "AQAB"}, "not a key|bits"),
}


@pytest.mark.parametrize(("member", "why"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_an_unusable_key_is_dropped_and_the_rest_stays(member: Any, why: str) -> None:
    """A4, S-32b: one bad member neither verifies nor takes the others with it."""
    keys, dropped = read_key_set(jwks(member, jwk(rsa_key(which=1), kid="good")), ("RS256", "ES256"))
    assert len(keys) == 1
    assert keys.knows("good")
    (problem,) = dropped
    assert problem.position == 0
    assert any(word in problem.why for word in why.split("|"))
    assert "AQAB" not in str(problem)


def test_weak_and_private_keys_are_told_apart_from_merely_unused_ones() -> None:
    """S-32a: an operator's own file with a weak key fails the start."""
    _, dropped = read_key_set(jwks(jwk(rsa_key(1024)), _rsa(d="AQAB"), _rsa(use="enc")), ("RS256",))
    assert [key.weak for key in dropped] == [True, True, False]


def test_a_key_without_alg_is_bound_to_the_first_that_fits() -> None:
    """S-22: one key, one algorithm, chosen by the configuration."""
    keys, _ = read_key_set(jwks(_rsa()), ("ES256", "PS256", "RS256"))
    assert len(keys.candidates("k", "PS256")) == 1
    assert keys.candidates("k", "RS256") == ()


@pytest.mark.parametrize(
    "document", [b"", b"[]", b"{}", b'{"keys":{}}', b'{"keys":null}', b"<html>", b'{"keys":[],"keys":[]}', jwks(*[{}] * 101)]
)
def test_what_is_no_key_set_is_a_value_error(document: bytes) -> None:
    """A4: garbage is an error of the source, never a new set."""
    with pytest.raises(ValueError):
        read_key_set(document, ("RS256",))


def test_candidates_by_name() -> None:
    """A1: `kid` is a name in a fixed set; without one every key of the algorithm is a candidate, at most four."""
    named, other = jwk(rsa_key(), kid="a"), jwk(rsa_key(which=1), kid="b")
    keys, _ = read_key_set(jwks(named, other), ("RS256",))
    assert [key.key_id for key in keys.candidates("a", "RS256")] == ["a"]
    assert keys.candidates("c", "RS256") == ()
    assert keys.candidates("a", "ES256") == ()
    assert {key.key_id for key in keys.candidates(None, "RS256")} == {"a", "b"}
    many, _ = read_key_set(jwks(*(jwk(rsa_key(), kid=str(number)) for number in range(9))), ("RS256",))
    assert len(many.candidates(None, "RS256")) == 4


def test_a_nameless_key_fits_any_unknown_name() -> None:
    """A1: a set of one key without `kid` verifies tokens that have one."""
    keys, _ = read_key_set(jwks(jwk(ed_key(), "EdDSA")), ("EdDSA",))
    assert len(keys.candidates("whatever", "EdDSA")) == 1
    assert not keys.knows("whatever")


def test_fingerprints_tell_names_and_algorithms_apart() -> None:
    """A4: a key that comes back under another name is another key."""
    first, _ = read_key_set(jwks(jwk(rsa_key(), kid="a")), ("RS256",))
    again, _ = read_key_set(jwks(jwk(rsa_key(), kid="a", use="sig")), ("RS256",))
    renamed, _ = read_key_set(jwks(jwk(rsa_key(), kid="b")), ("RS256",))
    assert first.fingerprints == again.fingerprints != renamed.fingerprints
    assert repr(first) == "<KeySet 1 keys>"
    assert len(KeySet()) == 0


def test_no_key_material_in_a_repr() -> None:
    """O4: secrets show nowhere."""
    assert SECRET.decode() not in repr(secret_key(SECRET, "HS256"))


@pytest.mark.parametrize(("exponent", "usable"), [(3, False), (17, False), (65_536, False), (65_537, True)])
def test_an_exponent_outside_of_the_approved_range_is_weak(exponent: int, usable: bool) -> None:
    """A9, S-32a: FIPS 186-5 section 5.1; without `fips` a small odd exponent is used as it is."""
    document = jwks(jwk(rsa_key(), kid="k1", e=b64(exponent.to_bytes(3)).decode()))
    approved, dropped = read_key_set(document, ("RS256",), fips=True)
    assert (len(approved), len(dropped)) == ((1, 0) if usable else (0, 1))
    assert len(read_key_set(document, ("RS256",))[0]) == exponent % 2


@pytest.mark.parametrize("bits", [1024, 1536, 2047])
def test_an_rsa_key_below_strength_is_refused_with_and_without_fips(bits: int) -> None:
    """A9, S-32a: whatever the mode, a key set's key of less than 2048 bits verifies nothing."""
    document = jwks(jwk(rsa_key(bits), kid="k1"))
    for fips in (True, False):
        keys, dropped = read_key_set(document, ("RS256", "PS256"), fips=fips)
        assert (len(keys), [key.weak for key in dropped]) == (0, [True])
