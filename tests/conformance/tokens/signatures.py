"""Signatures that do not hold, in the shapes that lenient verifiers have accepted (S-32), made with keys of our own after the ideas of the
Wycheproof project (C2SP/wycheproof: JWS, RSA PKCS#1 v1.5, RSA-PSS, ECDSA and EdDSA test vectors)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tests.conformance.tokens.case import Case, table
from tests.conformance.tokens.forge import (
    GOOD,
    HEADER,
    MALLORY,
    PSS_KEY,
    SHA256_INFO,
    encoded_block,
    es256,
    pair,
    ps256,
    raw_rsa,
    rs256,
    signed,
    signing_input,
    with_signature,
)
from tests.support.tokens import ec_key, ed_key, rsa_key

_RSA, _PSS = signing_input(HEADER, GOOD), signing_input({"alg": "PS256", "kid": "pss"}, GOOD)
_EC, _ED = signing_input({"alg": "ES256", "kid": "ec"}, GOOD), signing_input({"alg": "EdDSA", "kid": "ed"}, GOOD)
_N = rsa_key().public_key().public_numbers().n
#: Order of P-256, and of the base point of Ed25519.
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
P256_PRIME = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493

R, S = es256(_EC)
_GOOD_RSA, _GOOD_PSS, _GOOD_ED = rs256(_RSA), ps256(_PSS), ed_key().sign(_ED)


def _flipped(signature: bytes, at: int) -> bytes:
    return signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :]


def _of_any(good: bytes) -> dict[str, bytes]:
    """What is wrong whatever the algorithm."""
    size = len(good)
    return {
        "first bit": _flipped(good, 0),
        "last bit": _flipped(good, size - 1),
        "a bit in the middle": _flipped(good, size // 2),
        "an octet more": good + b"\0",
        "a zero octet in front": b"\0" + good,
        "an octet less": good[:-1],
        "without its first octet": good[1:],
        "half of it": good[: size // 2],
        "twice": good + good,
        "one octet": b"\0",
        # For ES256 that is CVE-2022-21449.
        "zeros": bytes(size),
        "ones": b"\xff" * size,
        "backwards": good[::-1],
    }


_DIGEST = hashlib.sha256(_RSA).digest()


def _block(middle: bytes, lead: bytes = b"\0\1") -> bytes:
    """A block of the right size that ends in these octets."""
    return lead + b"\xff" * (256 - len(lead) - len(middle)) + middle


_PKCS1_BLOCKS: dict[str, bytes] = {
    "block type 0": encoded_block(_RSA).replace(b"\0\1", b"\0\0", 1),
    "block type 2": encoded_block(_RSA).replace(b"\0\1", b"\0\2", 1),
    "first octet 1": b"\1" + encoded_block(_RSA)[1:],
    "no zero before DigestInfo": _block(SHA256_INFO + _DIGEST),
    "a zero in the padding": _flipped(encoded_block(_RSA), 100).replace(b"\xfe", b"\0", 1),
    "padding of one octet other than FF": _flipped(encoded_block(_RSA), 50),
    "8 octets of padding, the rest behind (Bleichenbacher 2006)": b"\0\1" + b"\xff" * 8 + b"\0" + SHA256_INFO + _DIGEST + bytes(194),
    "no padding, the rest behind": b"\0\1\0" + SHA256_INFO + _DIGEST + bytes(202),
    "DigestInfo without NULL": _block(b"\0" + bytes.fromhex("302f300b0609608648016503040201" + "0420") + _DIGEST),
    "NULL of a wrong tag": _block(b"\0" + SHA256_INFO.replace(b"\5\0", b"\4\0") + _DIGEST),
    "NULL of a long length": _block(b"\0" + bytes.fromhex("3032300e06096086480165030402010581000420") + _DIGEST),
    "a long length of the sequence": _block(b"\0" + bytes.fromhex("308131300d060960864801650304020105000420") + _DIGEST),
    "an indefinite length": _block(b"\0" + bytes.fromhex("3080300d060960864801650304020105000420") + _DIGEST + b"\0\0"),
    "something behind the digest": _block(b"\0" + SHA256_INFO + _DIGEST + b"\0"),
    "something behind the digest, within the sequence": _block(
        b"\0" + bytes.fromhex("3033300d060960864801650304020105000420") + _DIGEST + b"\5\0"
    ),
    "SHA-1": _block(b"\0" + bytes.fromhex("3021300906052b0e03021a05000414") + hashlib.sha1(_RSA, usedforsecurity=False).digest()),
    "MD5": _block(b"\0" + bytes.fromhex("3020300c06082a864886f70d020505000410") + hashlib.md5(_RSA, usedforsecurity=False).digest()),
    "SHA-512 in place of SHA-256": _block(b"\0" + bytes.fromhex("3051300d060960864801650304020305000440") + hashlib.sha512(_RSA).digest()),
    "the name of SHA-512 before SHA-256": _block(b"\0" + SHA256_INFO.replace(b"\2\1\5\0", b"\2\3\5\0") + _DIGEST),
    "no DigestInfo": _block(b"\0" + _DIGEST),
    "DigestInfo of nothing": _block(b"\0" + SHA256_INFO + hashlib.sha256(b"").digest()),
    "the digest of the payload alone": encoded_block(_RSA.split(b".")[1]),
    "the digest with a dot behind": encoded_block(_RSA + b"."),
}
_PKCS1 = {
    **{name: with_signature(_RSA, raw_rsa(block)) for name, block in _PKCS1_BLOCKS.items()},
    **{name: with_signature(_RSA, signature) for name, signature in _of_any(_GOOD_RSA).items()},
    "1": with_signature(_RSA, (1).to_bytes(256)),
    "n - 1": with_signature(_RSA, (_N - 1).to_bytes(256)),
    "n": with_signature(_RSA, _N.to_bytes(256)),
    "n + 1": with_signature(_RSA, (_N + 1).to_bytes(256)),
    "n - s": with_signature(_RSA, (_N - int.from_bytes(_GOOD_RSA)).to_bytes(256)),
    "s + n, an octet longer": with_signature(_RSA, (_N + int.from_bytes(_GOOD_RSA)).to_bytes(257)),
    "PSS by the key of PKCS#1": with_signature(_RSA, ps256(_RSA, key=rsa_key())),
    "another key": with_signature(_RSA, rs256(_RSA, MALLORY)),
    "the block itself": with_signature(_RSA, encoded_block(_RSA)),
}
_RSA_PSS = {
    **{name: with_signature(_PSS, signature) for name, signature in _of_any(_GOOD_PSS).items()},
    "no salt": with_signature(_PSS, ps256(_PSS, 0)),
    "a salt of 20 octets": with_signature(_PSS, ps256(_PSS, 20)),
    "a salt of 31 octets": with_signature(_PSS, ps256(_PSS, 31)),
    "a salt of 33 octets": with_signature(_PSS, ps256(_PSS, 33)),
    "the longest salt": with_signature(_PSS, ps256(_PSS, 222)),
    "MGF1 with SHA-1": with_signature(_PSS, ps256(_PSS, 32, hashes.SHA1())),
    "MGF1 with SHA-512": with_signature(_PSS, ps256(_PSS, 32, hashes.SHA512())),
    "PKCS#1 v1.5 by the key of PSS": with_signature(_PSS, rs256(_PSS, PSS_KEY)),
    "a block of zeros": with_signature(_PSS, raw_rsa(bytes(255) + b"\xbc", PSS_KEY)),
}


def _ec(r: int, s: int, size: int = 32) -> bytes:
    return with_signature(_EC, pair(r, s, size))


_ECDSA = {
    **{name: with_signature(_EC, signature) for name, signature in _of_any(pair(R, S)).items()},
    "r 0": _ec(0, S),
    "s 0": _ec(R, 0),
    "r 1 and s 1": _ec(1, 1),
    "r n and s n": _ec(P256_ORDER, P256_ORDER),
    "r n": _ec(P256_ORDER, S),
    "s n": _ec(R, P256_ORDER),
    "r 1 and s 0": _ec(1, 0),
    "r n - 1 and s n - 1": _ec(P256_ORDER - 1, P256_ORDER - 1),
    "r p - 1": _ec(P256_PRIME - 1, S),
    "r p - n": _ec(P256_PRIME - P256_ORDER, S),
    "r and s changed over": _ec(S, R),
    "n - r": _ec(P256_ORDER - R, S),
    "r + n, coordinates of 33 octets": _ec(R + P256_ORDER, S, 33),
    "s + n, coordinates of 33 octets": _ec(R, S + P256_ORDER, 33),
    "coordinates of 33 octets": _ec(R, S, 33),
    "coordinates of 48 octets": _ec(R, S, 48),
    "coordinates of 64 octets": _ec(R, S, 64),
    "DER in place of r and s": with_signature(_EC, encode_dss_signature(R, S)),
    "another key": with_signature(_EC, pair(*es256(_EC, ec_key(which=1)))),
    "of the payload alone": with_signature(_EC, pair(*es256(_EC.split(b".")[1]))),
    "of another header": with_signature(_EC, pair(*es256(_RSA))),
}


def _beyond_the_order(signature: bytes) -> bytes:
    """s + L: the same equation, another spelling (RFC 8032 section 5.1.7 forbids it)."""
    return signature[:32] + (int.from_bytes(signature[32:], "little") + ED25519_ORDER).to_bytes(32, "little")


#: Points of small order, which make the equation hold for many messages under careless keys.
_SMALL_ORDER = {
    "the neutral point": (1).to_bytes(32, "little"),
    "a point of order 2": (2**255 - 20).to_bytes(32, "little"),
    "the neutral point, not canonical": (2**255 - 18).to_bytes(32, "little"),
}
_EDDSA = {
    **{name: with_signature(_ED, signature) for name, signature in _of_any(_GOOD_ED).items()},
    "s + L": with_signature(_ED, _beyond_the_order(_GOOD_ED)),
    **{f"R is {name}": with_signature(_ED, point + bytes(32)) for name, point in _SMALL_ORDER.items()},
    "s 0": with_signature(_ED, _GOOD_ED[:32] + bytes(32)),
    "the high bit of s": with_signature(_ED, _GOOD_ED[:-1] + bytes([_GOOD_ED[-1] | 0x80])),
    "of the digest (Ed25519ph)": with_signature(_ED, ed_key().sign(hashlib.sha512(_ED).digest())),
    "of the payload alone": with_signature(_ED, ed_key().sign(_ED.split(b".")[1])),
}

_SPLICE: Callable[[bytes, bytes], bytes] = lambda covered, token: covered + b"." + token.rsplit(b".", 1)[1]  # noqa: E731
_SPLICED = {
    "another payload": _SPLICE(signing_input(HEADER, {**GOOD, "sub": "root"}), signed()),
    "another header": _SPLICE(signing_input({**HEADER, "typ": "at+jwt"}, GOOD), signed()),
    "members in another order": _SPLICE(signing_input(dict(reversed(HEADER.items())), GOOD), signed()),
    "a claim more": _SPLICE(signing_input(HEADER, {**GOOD, "roles": ["admin"]}), signed()),
    "spaces in the payload": _SPLICE(signing_input(HEADER, str(GOOD).replace("'", '"').encode() + b" "), signed()),
}

_SOURCE = "RFC 8017 section 8.2.2; RFC 8725 section 3.3; Wycheproof rsa_signature and json_web_signature"

CASES: list[Case] = [
    *(Case(f"RS256: {case.name}", case.source, case.token, case.reason) for case in table(_SOURCE, "token_signature", _PKCS1)),
    *(
        Case(f"PS256: {case.name}", case.source, case.token, case.reason)
        for case in table("RFC 8017 section 9.1.2, RFC 7518 section 3.5; Wycheproof rsa_pss", "token_signature", _RSA_PSS)
    ),
    *(
        Case(f"ES256: {case.name}", case.source, case.token, case.reason)
        for case in table(
            "FIPS 186-5 section 6.4.2, RFC 7518 section 3.4; Wycheproof ecdsa_p1363; CVE-2022-21449", "token_signature", _ECDSA
        )
    ),
    *(
        Case(f"EdDSA: {case.name}", case.source, case.token, case.reason)
        for case in table("RFC 8032 section 5.1.7, RFC 8037; Wycheproof eddsa", "token_signature", _EDDSA)
    ),
    *table("RFC 7515 section 5.2", "token_signature", _SPLICED),
]
