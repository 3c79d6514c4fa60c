"""Other spellings of a good token, and documents that two readers would read differently (A3; S-26, S-27, S-28)."""

from __future__ import annotations

import base64
import codecs
import json
import urllib.parse

from tests.conformance.tokens.case import Case, table
from tests.conformance.tokens.forge import GOOD, HEADER, octets, rs256, signed, signing_input
from tests.support.tokens import b64

TOKEN = signed()
_HEAD, _BODY, _SIGN = TOKEN.split(b".")
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def _unused_bits(segment: bytes) -> bytes:
    """The same octets with other bits where none is used (RFC 4648 section 3.5); a segment without such bits gets one octet more."""
    assert len(segment) % 4, segment
    return segment[:-1] + bytes([_ALPHABET[_ALPHABET.index(segment[-1]) ^ 1]])


def _padded(octets_: bytes) -> bytes:
    return base64.urlsafe_b64encode(octets_)


#: Signed over the spelling itself, so that nothing but the spelling is wrong.
def _signed_as(head: bytes, body: bytes) -> bytes:
    return head + b"." + body + b"." + b64(rs256(head + b"." + body))


_WITH_REST = octets({**HEADER, "x": "a" * (3 - len(octets({**HEADER, "x": ""})) % 3 + 1)})

_SEGMENTS = {
    "padding after the signature": TOKEN + b"==",
    "one padding after the signature": TOKEN + b"=",
    "padding after the payload": b".".join((_HEAD, _BODY + b"=", _SIGN)),
    "padding after the header": b".".join((_HEAD + b"=", _BODY, _SIGN)),
    "padding that was signed, header": _signed_as(_padded(_WITH_REST), _BODY),
    "padding that was signed, payload": _signed_as(_HEAD, _padded(octets(GOOD)) + b"="),
    "unused bits of the signature": b".".join((_HEAD, _BODY, _unused_bits(_SIGN))),
    "unused bits of the header that were signed": _signed_as(_unused_bits(b64(_WITH_REST)), _BODY),
    "a dot in front": b"." + TOKEN,
    "a dot behind": TOKEN + b".",
    "a fourth segment": TOKEN + b".AAAA",
    "five segments": TOKEN + b".AAAA.AAAA",
    "only dots": b"..",
    "one segment": _HEAD,
    "two segments": _HEAD + b"." + _BODY,
    "no payload": _HEAD + b".." + _SIGN,
    "no header": b"." + _BODY + b"." + _SIGN,
    "no signature": _HEAD + b"." + _BODY + b".",
    "a space within": TOKEN[:50] + b" " + TOKEN[50:],
    "a tab within": TOKEN[:50] + b"\t" + TOKEN[50:],
    "a line feed within": TOKEN[:50] + b"\n" + TOKEN[50:],
    "a line feed behind": TOKEN + b"\n",
    "CR LF behind": TOKEN + b"\r\n",
    "NUL behind": TOKEN + b"\0",
    "NUL within": TOKEN[:50] + b"\0" + TOKEN[50:],
    "tildes behind": TOKEN + b"~~~~",
    "junk within": TOKEN[:50] + b"!" + TOKEN[50:],
    "percent-encoded dots": TOKEN.replace(b".", b"%2E"),
    "percent-encoded": urllib.parse.quote_from_bytes(TOKEN[:8]).encode().replace(b"e", b"%65") + TOKEN[8:],
    "a comma and another token": TOKEN + b"," + TOKEN,
    "a comma behind": TOKEN + b",",
    "the scheme twice": b"Bearer " + TOKEN,
    "two tokens with a space": TOKEN + b" " + TOKEN,
    "a byte order mark": codecs.BOM_UTF8 + TOKEN,
    "Latin-1": b"\xe9" + TOKEN,
    "fullwidth dots": TOKEN.replace(b".", "\uff0e".encode()),
    "UTF-16": TOKEN.decode().encode("utf-16-le"),
    "the standard alphabet": b".".join((_HEAD, _BODY, _SIGN.replace(b"-", b"+").replace(b"_", b"/") + b"+")),
    "hexadecimal": TOKEN.hex().encode(),
    "base64 of the token": b64(TOKEN),
    "an impossible length": b".".join((_HEAD, _BODY, _SIGN + b"AAA")),
}

_JSON_FORMS = {
    "flattened": json.dumps({"protected": _HEAD.decode(), "payload": _BODY.decode(), "signature": _SIGN.decode()}).encode(),
    "general": json.dumps({"payload": _BODY.decode(), "signatures": [{"protected": _HEAD.decode(), "signature": _SIGN.decode()}]}).encode(),
    "an array of tokens": json.dumps([TOKEN.decode()]).encode(),
    "a string": json.dumps(TOKEN.decode()).encode(),
    "compact within the flattened form": b'{"protected":"' + TOKEN + b'"}',
}

_NESTED = {
    "a token as the payload": signed({**HEADER, "cty": "JWT"}, TOKEN),
    "a token as the payload, unsaid": signed(HEADER, TOKEN),
    "a quoted token as the payload": signed(HEADER, json.dumps(TOKEN.decode()).encode()),
    "tokens within tokens": signed(HEADER, signed(HEADER, signed(HEADER, TOKEN))),
}


def _broken(document: dict[str, object]) -> dict[str, bytes]:
    """Octets that are no strict JSON object, though they hold this document."""
    text = json.dumps(document)
    raw = text.encode()
    inner = raw[:-1]
    return {
        "UTF-16 little-endian": text.encode("utf-16-le"),
        "UTF-16 with its mark": text.encode("utf-16"),
        "UTF-32": text.encode("utf-32-be"),
        "a byte order mark": codecs.BOM_UTF8 + raw,
        "Latin-1": inner + ', "x": "\xe9"}'.encode("latin-1"),
        "overlong UTF-8": inner + b', "x": "\xc0\xaf"}',
        "a surrogate in UTF-8": inner + b', "x": "\xed\xa0\x80"}',
        "a lone surrogate": inner + b', "x": "\\ud800"}',
        "a lone low surrogate as a name": inner + b', "\\udc00": 1}',
        "an array": b"[" + raw + b"]",
        "a string": json.dumps(text).encode(),
        "a number": b"1",
        "null": b"null",
        "nothing but spaces": b"  ",
        "two objects": raw + raw,
        "something behind": raw + b"x",
        "NUL behind": raw + b"\0",
        "a comma at the end": inner + b",}",
        "a comment": inner + b"/* */}",
        "single quotes": raw.replace(b'"', b"'"),
        "a name without quotes": inner + b", x: 1}",
        "a control character in a string": inner + b', "x": "\n"}',
        "a bad escape": inner + b', "x": "\\x41"}',
        "a form feed between": b"\x0c" + raw,
        "a no-break space between": b"\xc2\xa0" + raw,
        "NaN": inner + b', "x": NaN}',
        "Infinity": inner + b', "x": -Infinity}',
        "a number out of range": inner + b', "x": 1e400}',
        "a number with a leading zero": inner + b', "x": 01}',
        "a hexadecimal number": inner + b', "x": 0x1}',
        "a plus sign": inner + b', "x": +1}',
        "a number of 5,000 digits": inner + b', "x": ' + b"9" * 5000 + b"}" if len(raw) < 60 else inner + b', "x": ' + b"9" * 4400 + b"}",
        "a fraction of 4,000 digits": inner + b', "x": 0.' + b"1" * 4000 + b"}",
        "a duplicate member": inner + b', "x": 1, "x": 1}',
        "a duplicate member, escaped": inner + b', "x": 1, "\\u0078": 1}',
        "a duplicate member within": inner + b', "x": {"y": 1, "y": 2}}',
        "arrays 1,000 deep": inner + b', "x": ' + b"[" * 1000 + b"]" * 1000 + b"}",
        "objects 500 deep": inner + b', "x": ' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}",
        "arrays 17 deep": inner + b', "x": ' + b"[" * 17 + b"]" * 17 + b"}",
        "2,500 brackets that are not closed": b"[" * 2500,
        "cut short": raw[:-2],
    }


_DUPLICATES = {
    "alg none and RS256": signed(b'{"alg":"none","alg":"RS256","kid":"rsa"}'),
    "alg twice, the same": signed(b'{"alg":"RS256","alg":"RS256","kid":"rsa"}'),
    "kid twice": signed(b'{"alg":"RS256","kid":"evil","kid":"rsa"}'),
    "alg twice, escaped": signed(b'{"\\u0061lg":"HS256","alg":"RS256","kid":"rsa"}'),
    "sub twice": signed(HEADER, octets(GOOD)[:-1] + b', "sub": "root"}'),
    "iss twice, the same": signed(HEADER, octets(GOOD)[:-1] + b', "iss": "https://login.example.gov"}'),
    "exp twice": signed(HEADER, octets(GOOD)[:-1] + b', "exp": 99999999999}'),
    "scope twice, escaped": signed(HEADER, octets(GOOD)[:-1] + b', "sc\\u006fpe": "admin"}'),
}

_TOO_LARGE = {
    "one octet beyond 8 KiB": b"a" * 8193,
    "a good token of more than 8 KiB": signed(HEADER, {**GOOD, "x": "y" * 6000}),
    "a header of more than 8 KiB": signed({**HEADER, "x": "y" * 6000}),
    "16,000 dots": b"." * 16_000,
    "a signature of 12 KB": signing_input(HEADER, GOOD) + b"." + b"A" * 12_000,
}
_LARGE = {
    "8 KiB of one character": b"a" * 8192,
    "8 KiB of dots": b"." * 8192,
    "8 KiB of padding": b"=" * 8192,
}

CASES: list[Case] = [
    *table("RFC 7515 sections 2 and 7.1; RFC 4648 section 3.5; Wycheproof JWS base64 cases", "token_malformed", _SEGMENTS),
    *table("RFC 7515 section 7.2: not a bearer token (RFC 6750 section 2.1)", "token_malformed", _JSON_FORMS),
    *table("RFC 7519 A.2; RFC 8725 section 3.3", "token_malformed", _NESTED),
    *(
        Case(f"header: {name}", "RFC 7515 section 5.2; RFC 8259; RFC 8725 section 3.7", signed(document), "token_malformed")
        for name, document in _broken(HEADER).items()
    ),
    *(
        Case(f"payload: {name}", "RFC 7519 section 7.2; RFC 8259; RFC 7493", signed(HEADER, document), "token_malformed")
        for name, document in _broken(GOOD).items()
    ),
    *table("RFC 7515 section 4, RFC 7519 section 4: names are unique; CVE-2017-12973 and its kind", "token_malformed", _DUPLICATES),
    *table("A3: at most 8 KiB, before anything is read", "token_too_large", _TOO_LARGE),
    *table("A3: what 8 KiB may cost", "token_malformed", _LARGE),
]
