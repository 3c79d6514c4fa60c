from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from gateway.auth.compact import MAX_TOKEN_BYTES, decode_base64url, parse
from gateway.errors import Unauthorized
from tests.support.tokens import b64, claims, raw_token, token

GOOD = token()
HEADER, PAYLOAD, SIGNATURE = GOOD.split(b".")


def test_a_token_taken_apart_shows_nothing_of_itself() -> None:
    """O4: a representation ends up in logs."""
    assert repr(parse(GOOD)) == "Compact(algorithm='RS256')"


def _last_bit_flipped(segment: bytes) -> bytes:
    """Another spelling of the same octets: an unused bit of the last character set."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return segment[:-1] + bytes([alphabet[alphabet.index(segment[-1]) ^ 1]])


SPELLINGS = {
    "padded header": HEADER + b"=." + PAYLOAD + b"." + SIGNATURE,
    "padded payload": HEADER + b"." + PAYLOAD + b"==." + SIGNATURE,
    "padded signature": GOOD + b"=",
    "padded signature twice": GOOD + b"==",
    "trailing dot": GOOD + b".",
    "leading dot": b"." + GOOD,
    "trailing space": GOOD + b" ",
    "trailing newline": GOOD + b"\n",
    "leading space": b" " + GOOD,
    "leading tab": b"\t" + GOOD,
    "inner newline": HEADER + b".\n" + PAYLOAD + b"." + SIGNATURE,
    "junk at the end": GOOD + b"!",
    "tildes at the end": GOOD + b"~~~~",
    "NUL at the end": GOOD + b"\0",
    "standard alphabet": GOOD[:-1] + b"+",
    "slash": GOOD[:-1] + b"/",
    "non-ASCII": GOOD + "é".encode(),
    "unused bits of the signature": HEADER + b"." + PAYLOAD + b"." + _last_bit_flipped(SIGNATURE),
    "comma-joined": GOOD + b", Bearer " + GOOD,
    "four characters of one octet": HEADER + b"." + PAYLOAD + b"." + SIGNATURE + b"A" * 3,
}

MALFORMED = {
    "empty": b"",
    "dots": b"..",
    "one segment": HEADER,
    "two segments": HEADER + b"." + PAYLOAD,
    "no signature": HEADER + b"." + PAYLOAD + b".",
    "no header": b"." + PAYLOAD + b"." + SIGNATURE,
    "no payload": HEADER + b".." + SIGNATURE,
    "four segments": GOOD + b"." + SIGNATURE,
    "five segments, JWE": GOOD + b".AAAA.AAAA",
    "JSON serialisation": json.dumps({"payload": PAYLOAD.decode(), "protected": HEADER.decode(), "signature": SIGNATURE.decode()}).encode(),
    "too large": HEADER + b"." + b"A" * MAX_TOKEN_BYTES + b"." + SIGNATURE,
    "one character segment": b"A." + PAYLOAD + b"." + SIGNATURE,
    "binary": bytes(range(256)),
    "percent-encoded dots": GOOD.replace(b".", b"%2e"),
}

HEADERS: dict[str, bytes] = {
    "array": b"[]",
    "string": b'"RS256"',
    "null": b"null",
    "empty object": b"{}",
    "BOM": b'\xef\xbb\xbf{"alg":"RS256"}',
    "UTF-16": '{"alg":"RS256"}'.encode("utf-16"),
    "Latin-1": b'{"alg":"RS256","x":"\xe9"}',
    "duplicate alg": b'{"alg":"none","alg":"RS256"}',
    "duplicate kid": b'{"alg":"RS256","kid":"a","kid":"b"}',
    "NaN": b'{"alg":"RS256","x":NaN}',
    "deep": b'{"alg":"RS256","x":' + b"[" * 2400 + b"]" * 2400 + b"}",
    "huge number": b'{"alg":"RS256","x":' + b"9" * 4000 + b"}",
    "lone surrogate": b'{"alg":"RS256","kid":"\\ud800"}',
    "truncated": b'{"alg":"RS256"',
}

MEMBERS: dict[str, dict[str, Any]] = {
    "alg absent": {"alg": ...},
    "alg null": {"alg": None},
    "alg a number": {"alg": 256},
    "alg a list": {"alg": ["RS256"]},
    "alg an object": {"alg": {"RS256": 1}},
    "crit unknown": {"crit": ["exp2"], "exp2": 1},
    "crit known": {"crit": ["b64"], "b64": True},
    "crit empty": {"crit": []},
    "crit null": {"crit": None},
    "crit a string": {"crit": "b64"},
    "b64 false": {"b64": False},
    "b64 true": {"b64": True},
    "zip": {"zip": "DEF"},
    "JWE": {"alg": "dir", "enc": "A256GCM"},
    "JWE with PBES2": {"alg": "PBES2-HS256+A128KW", "enc": "A128CBC-HS256", "p2c": 2_000_000_000},
    "JWE with a key": {"alg": "ECDH-ES", "epk": {}},
    "nested": {"cty": "JWT"},
    "nested in lower case": {"cty": "jwt"},
    "nested by media type": {"cty": "application/jwt"},
    "cty a number": {"cty": 1},
    "kid a number": {"kid": 1},
    "kid null": {"kid": None},
    "kid a list": {"kid": ["k1"]},
    "kid an object": {"kid": {"k1": 1}},
    "kid empty": {"kid": ""},
    "kid too long": {"kid": "k" * 257},
    "typ a list": {"typ": ["JWT"]},
    "typ of a logout token": {"typ": "logout+jwt"},
    "typ of a security event": {"typ": "secevent+jwt"},
    "typ of a proof": {"typ": "application/dpop+jwt"},
    "typ of an encrypted token": {"typ": "JWE"},
}


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_another_spelling_of_a_good_token_is_no_token(text: bytes) -> None:
    """A3: strict, canonical base64url; exactly one spelling (S-27)."""
    _refused(text)


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_compact_token_is_refused(text: bytes) -> None:
    """A3: exactly three segments within 8 KiB (S-26, S-28)."""
    _refused(text)


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_a_header_that_is_no_strict_object_is_refused(header: bytes) -> None:
    """A3: the protected header is a strict UTF-8 JSON object, though its signature is good."""
    _refused(raw_token(header, json.dumps(claims()).encode()))


@pytest.mark.parametrize("members", MEMBERS.values(), ids=MEMBERS.keys())
def test_a_header_that_asks_for_more_is_refused(members: dict[str, Any]) -> None:
    """A1: extensions, encryption, nesting and odd types are refused (S-23, S-26)."""
    _refused(token(**members))


PAYLOADS = {name: document for name, document in HEADERS.items() if name != "empty object"}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_a_payload_that_is_no_strict_object_is_refused(payload: bytes) -> None:
    """A3: as strict below the signature as above."""
    _refused(raw_token(b'{"alg":"RS256"}', payload))


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+jwt", "AT+JWT", "application/okta-internal-at+jwt"])
def test_access_token_types_are_read(kind: str) -> None:
    """A1: RFC 9068 types and the common ones pass."""
    assert parse(token(typ=kind)).claims()["sub"] == "alice"


def test_the_parts_are_those_that_were_signed() -> None:
    """A3: the signing input is the octets as they came."""
    compact = parse(GOOD)
    assert compact.signing_input == HEADER + b"." + PAYLOAD
    assert (compact.algorithm, compact.key_id, compact.claims()) == ("RS256", "k1", claims())
    assert b64(compact.signature) == SIGNATURE


def test_what_a_hasty_reader_saw_must_be_what_the_strict_one_sees() -> None:
    """A3: a document with two meanings has none."""
    compact = parse(GOOD)
    for changed in (
        dataclasses.replace(compact, issuer="https://evil.example"),
        dataclasses.replace(compact, algorithm="none"),
        dataclasses.replace(compact, key_id=None),
    ):
        with pytest.raises(Unauthorized):
            changed.claims()


def test_the_cap_comes_first() -> None:
    """A3: nothing of an oversized token is looked at."""
    with pytest.raises(Unauthorized) as caught:
        parse(b"." * (MAX_TOKEN_BYTES + 1))
    assert caught.value.reason == "token_too_large"


@pytest.mark.parametrize("octets", [b"", b"a", b"ab", b"abc", bytes(range(256))])
def test_base64url_is_read_back(octets: bytes) -> None:
    """A3: canonical segments of every length."""
    assert decode_base64url(b64(octets)) == octets


@pytest.mark.parametrize("segment", [b"A", b"AB", b"AAB", b"AAAAA"])
def test_base64url_with_unused_bits_or_an_impossible_length(segment: bytes) -> None:
    """A3: RFC 4648 section 3.5."""
    with pytest.raises(ValueError):
        decode_base64url(segment)


def _refused(text: bytes) -> None:
    with pytest.raises(Unauthorized) as caught:
        parse(text).claims()
    assert caught.value.code == "token_invalid"
    assert caught.value.detail == "The token is not valid."
