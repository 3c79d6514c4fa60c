"""Keys that verify, each bound to exactly one algorithm (RFC 8725 section 3.1), and how they are read from a JWK Set (RFC 7517).

The algorithm is a property of the key, decided by the issuer's configuration when the key is loaded. A token's `alg` only has to agree.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import Algorithm

from gateway.auth.compact import is_key_id
from gateway.auth.strict_json import loads_object

#: Algorithm -> key type and curve that fit it. ES256K and Ed448 are left out: no federal issuer may use them.
_KEY_TYPES: dict[str, tuple[str, str | None]] = {
    "RS256": ("RSA", None),
    "RS384": ("RSA", None),
    "RS512": ("RSA", None),
    "PS256": ("RSA", None),
    "PS384": ("RSA", None),
    "PS512": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
#: Algorithm -> octets of its hash, which a secret must not be shorter than (RFC 7518 section 3.2).
_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}

ASYMMETRIC_ALGORITHMS = frozenset(_KEY_TYPES)
SYMMETRIC_ALGORITHMS = frozenset(_SECRET_BYTES)

#: NIST SP 800-131A; the upper bound is one of cost: an 8192-bit verification takes half a millisecond.
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
#: FIPS 186-5 allows exponents up to 256 bits; every key in use has 65537, and a longer one costs verification time.
_MAX_RSA_EXPONENT_BITS = 33
_FIPS_RSA_EXPONENT_ABOVE = 2**16
#: A set with more keys than this is no set of signing keys in rotation.
MAX_KEYS = 100
#: How many keys a token without `kid` may be tried on.
_MAX_CANDIDATES = 4
_PRIVATE_MEMBERS = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))
_PUBLIC_MEMBERS = ("crv", "e", "kty", "n", "x", "y")


class WeakKey(ValueError):
    """A key that is too short for its algorithm, or that no longer is a secret."""


@dataclass(frozen=True, slots=True, eq=False)
class VerificationKey:
    """A key and the one algorithm it is used with.

    Args:
        key_id: its `kid`; None fits tokens that name a key unknown to the set, and those that name none.
        fingerprint: equal for equal keys under an equal name, for telling which keys left a set.
    """

    key_id: str | None
    algorithm: str
    fingerprint: bytes
    _scheme: Algorithm = field(repr=False)
    _key: Any = field(repr=False)

    def verifies(self, signing_input: bytes, signature: bytes) -> bool:
        """Whether this key made the signature. A signature that can't even be read did not come from it."""
        try:
            return self._scheme.verify(signing_input, self._key, signature)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            return False


class KeySet:
    """An immutable set of keys, indexed for look-up."""

    __slots__ = ("_by_algorithm", "_by_name", "_key_ids", "fingerprints")

    def __init__(self, keys: Iterable[VerificationKey] = ()) -> None:
        by_name: dict[tuple[str | None, str], list[VerificationKey]] = {}
        by_algorithm: dict[str, list[VerificationKey]] = {}
        for key in keys:
            by_name.setdefault((key.key_id, key.algorithm), []).append(key)
            by_algorithm.setdefault(key.algorithm, []).append(key)
        self._by_name = {name: tuple(found[:_MAX_CANDIDATES]) for name, found in by_name.items()}
        self._by_algorithm = {name: tuple(found[:_MAX_CANDIDATES]) for name, found in by_algorithm.items()}
        self._key_ids = frozenset(key_id for key_id, _ in by_name if key_id is not None)
        self.fingerprints = frozenset(key.fingerprint for found in by_algorithm.values() for key in found)

    def __len__(self) -> int:
        return len(self.fingerprints)

    def __repr__(self) -> str:
        return f"<KeySet {len(self)} keys>"

    def knows(self, key_id: str | None) -> bool:
        """Whether a key has this name, whatever its algorithm."""
        return key_id in self._key_ids

    def candidates(self, key_id: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        """Keys that a token may have been signed with, at most four; empty when the set has none."""
        if key_id is None:
            return self._by_algorithm.get(algorithm, ())
        if key_id in self._key_ids:
            return self._by_name.get((key_id, algorithm), ())
        return self._by_name.get((None, algorithm), ())


@dataclass(frozen=True, slots=True)
class DroppedKey:
    """A member of a JWK Set that is not used. `position` counts from 0; `weak` when using it would have been a hazard."""

    position: int
    why: str
    weak: bool

    def __str__(self) -> str:
        return f"key {self.position}: {self.why}"


def secret_key(secret: bytes, algorithm: str) -> VerificationKey:
    """The key of a shared secret.

    Raises:
        WeakKey: shorter than the hash of the algorithm, or a public key or JWK taken for a secret.
    """
    needed = _SECRET_BYTES[algorithm]
    if len(secret) < needed:
        raise WeakKey(f"the secret has {len(secret)} bytes, {algorithm} needs at least {needed}")
    scheme = jwt.get_algorithm_by_name(algorithm)
    try:
        prepared = scheme.prepare_key(secret)
    except jwt.InvalidKeyError as exc:
        raise WeakKey("the secret is a public key, a certificate or a JWK; it must be random bytes") from exc
    return VerificationKey(None, algorithm, sha256(b"secret\0" + secret).digest(), scheme, prepared)


def read_key_set(document: bytes, algorithms: Sequence[str], *, fips: bool = False) -> tuple[KeySet, tuple[DroppedKey, ...]]:
    """Keys of a JWK Set that an issuer with these algorithms may sign with, and those that it may not.

    A key without `alg` is bound to the first of `algorithms` that fits its type. With `fips`, keys outside of the approved ranges count as
    weak.

    Raises:
        ValueError: the document is no JWK Set.
    """
    members = loads_object(document).get("keys")
    if not isinstance(members, list) or len(members) > MAX_KEYS:
        raise ValueError(f"`keys` must be a list of at most {MAX_KEYS} keys")
    keys: list[VerificationKey] = []
    dropped: list[DroppedKey] = []
    for position, member in enumerate(members):
        try:
            keys.append(_read_key(member, algorithms, fips=fips))
        except ValueError as exc:
            dropped.append(DroppedKey(position, str(exc), isinstance(exc, WeakKey)))
    return KeySet(keys), tuple(dropped)


def _read_key(member: object, algorithms: Sequence[str], *, fips: bool) -> VerificationKey:
    if not isinstance(member, dict):
        raise ValueError("not an object")
    _check_purpose(member)
    key_id = member.get("kid")
    if key_id is not None and not is_key_id(key_id):
        raise ValueError("`kid` is not a string of 1 to 256 characters")
    algorithm = _bind(member, algorithms)
    scheme = jwt.get_algorithm_by_name(algorithm)
    key = _load(scheme, member)
    if fips and isinstance(key, RSAPublicKey):
        _check_approved(key)
    public = [key_id, algorithm, *(member.get(name) for name in _PUBLIC_MEMBERS)]
    return VerificationKey(key_id, algorithm, sha256(json.dumps(public).encode()).digest(), scheme, key)


def _check_purpose(member: dict[str, Any]) -> None:
    if not _PRIVATE_MEMBERS.isdisjoint(member):
        raise WeakKey("has private members: a key that was published is no secret any more")
    if member.get("use", "sig") != "sig":
        raise ValueError("`use` is not `sig`")
    operations = member.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("`key_ops` does not list `verify`")


def _bind(member: dict[str, Any], algorithms: Sequence[str]) -> str:
    shape = (member.get("kty"), None if member.get("kty") == "RSA" else member.get("crv"))
    fitting = [name for name in algorithms if _KEY_TYPES.get(name) == shape]
    if not fitting:
        raise ValueError("its type fits none of the issuer's algorithms")
    if "alg" not in member:
        return fitting[0]
    if member["alg"] not in fitting:
        raise ValueError("its `alg` is none of the issuer's algorithms that fit its type")
    return str(member["alg"])


def _load(scheme: Algorithm, member: dict[str, Any]) -> Any:
    try:
        key = scheme.from_jwk(member)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError, UnsupportedAlgorithm) as exc:
        raise ValueError("its parameters are not a key") from exc
    if isinstance(key, RSAPublicKey):
        _check_rsa(key)
    return key


def _check_rsa(key: RSAPublicKey) -> None:
    if key.key_size < MIN_RSA_BITS:
        raise WeakKey(f"RSA key of {key.key_size} bits, at least {MIN_RSA_BITS} are needed")
    if key.key_size > MAX_RSA_BITS:
        raise ValueError(f"RSA key of {key.key_size} bits, at most {MAX_RSA_BITS} are allowed")
    if key.public_numbers().e.bit_length() > _MAX_RSA_EXPONENT_BITS:
        raise ValueError("its RSA exponent is too long")


def _check_approved(key: RSAPublicKey) -> None:
    """FIPS 186-5 section 5.1: an odd exponent above 2^16, a modulus of an even number of bits."""
    exponent = key.public_numbers().e
    if exponent <= _FIPS_RSA_EXPONENT_ABOVE or not exponent % 2 or key.key_size % 2:
        raise WeakKey(
            f"RSA key of {key.key_size} bits with the exponent {exponent}: FIPS 186-5 wants an even size and an odd exponent above 2^16"
        )
