"""Properly signed claims that must not be believed (A2; S-24, S-25, S-29)."""

from __future__ import annotations

import json

from tests.conformance.tokens.case import Case, table
from tests.conformance.tokens.forge import GOOD, HEADER, ISSUER, NOW, changed, claiming, octets, signed
from tests.support.tokens import AUDIENCE


def _raw(name: str, literal: str) -> bytes:
    """A claim as it is written, not as Python would write it."""
    return signed(HEADER, octets(changed(GOOD, {name: ...}))[:-1] + f', "{name}": {literal}}}'.encode())


_ISSUERS = {
    f"iss {value!r}": claiming(iss=value)
    for value in (
        ISSUER + "/",
        ISSUER + ":443",
        ISSUER + ".",
        ISSUER + "#",
        ISSUER + "?",
        ISSUER + "\0",
        ISSUER + " ",
        " " + ISSUER,
        ISSUER[:-1],
        ISSUER[8:],
        ISSUER.upper(),
        ISSUER.replace("https", "http"),
        ISSUER.replace("https", "HTTPS"),
        ISSUER.replace("login", "l\u043egin"),
        ISSUER.replace("login", "%6Cogin"),
        ISSUER.replace("//", "//evil@"),
        ISSUER + "@evil.example",
        ISSUER + ".evil.example",
        "https://evil.example/" + ISSUER,
        "",
        [ISSUER],
        {"iss": ISSUER},
        None,
        True,
        0,
    )
} | {"iss absent": claiming(iss=...)}

_AUDIENCES = {
    f"aud {json.dumps(value)}": claiming(aud=value)
    for value in (
        AUDIENCE.upper(),
        AUDIENCE + " ",
        " " + AUDIENCE,
        AUDIENCE + "\0",
        AUDIENCE[:-1],
        AUDIENCE + "2",
        f"{AUDIENCE} billing",
        f"{AUDIENCE},billing",
        "*",
        "",
        [],
        [[AUDIENCE]],
        ["billing"],
        [AUDIENCE + "/"],
        [AUDIENCE, None],
        [AUDIENCE, 1],
        [AUDIENCE, [AUDIENCE]],
        {AUDIENCE: True},
        {"0": AUDIENCE},
        True,
        0,
        None,
    )
} | {"aud absent": claiming(aud=...)}

_DATES = {
    f"{name} {literal}": _raw(name, literal)
    for name in ("exp", "nbf", "iat")
    for literal in (
        "true",
        "false",
        f'"{NOW}"',
        '""',
        '"Infinity"',
        f"[{NOW}]",
        '{"$numberLong": "1"}',
        "-1",
        "-0.5",
        "1e300",
        "253402300800",
    )
} | {"exp 2^63": _raw("exp", str(2**63)), "nbf null": _raw("nbf", "null")}

_NOT_JSON_DATES = {
    f"{name} {literal[:24]}": _raw(name, literal)
    for name in ("exp", "nbf", "iat")
    for literal in ("NaN", "Infinity", "-Infinity", "1e999", "9" * 400, "0x7fffffff", "1_000_000_000", "+1", "1.", ".5", "017")
}

_MISSING = {
    "exp absent": claiming(exp=...),
    "exp null": claiming(exp=None),
    "iat absent": claiming(iat=...),
    "iat null": claiming(iat=None),
    "sub absent": claiming(sub=...),
    "sub null": claiming(sub=None),
    "no claims but the issuer": signed(HEADER, {"iss": ISSUER, "aud": AUDIENCE}),
    "Exp in another case": claiming(exp=..., Exp=NOW + 60),
    "exp with a space": claiming(exp=..., **{"exp ": NOW + 60}),
}

_EXPIRED = {
    "exp 0": claiming(exp=0),
    "exp an hour ago": claiming(exp=NOW - 3600),
    "exp just beyond the leeway": claiming(exp=NOW - 31),
    "exp a fraction above 0": claiming(exp=1e-300),
    "exp in the past as a float": claiming(exp=NOW - 3600.5),
    "exp in the past with an exponent": _raw("exp", "1.0e9"),
}

_FUTURE = {
    "nbf in an hour": claiming(nbf=NOW + 3600),
    "iat in an hour": claiming(iat=NOW + 3600),
    "nbf in the year 9999": claiming(nbf=253_402_300_799),
    "nbf in milliseconds": claiming(nbf=NOW * 10),
}

INJECTIONS = {
    "CR LF and a field": "alice\r\nX-Auth-Scopes: admin",
    "CR": "alice\rX: y",
    "LF": "alice\nX: y",
    "NUL": "alice\0",
    "a tab": "alice\tbob",
    "DEL": "alice\x7f",
    "vertical tab": "alice\x0bX: y",
    "C1 next line": "alice\x85X: y",
    "line separator": "alice\u2028X: y",
    "paragraph separator": "alice\u2029X: y",
    "characters whose low octets are CR LF": "alice\u010d\u010aX: y\u200b",
    "a zero-width space": "al\u200bice",
    "a bidirectional override": "alice\u202eecila",
    "a soft hyphen": "ali\u00adce",
    "a private-use character": "alice\ue000",
    "a space in front": " alice",
    "a space behind": "alice ",
    "a no-break space": "alice\u00a0",
    "an escape sequence": "\x1b[31malice",
    "nothing": "",
    "a byte order mark": "\ufeffalice",
    "too many characters": "a" * 513,
}
_TEXTS = {
    **{f"{claim}: {name}": claiming(**{claim: text}) for claim in ("sub", "sid", "azp") for name, text in INJECTIONS.items()},
    "sub a number": claiming(sub=0),
    "sub a bool": claiming(sub=False),
    "sub a list": claiming(sub=["alice"]),
    "sub an object": claiming(sub={"toString": "alice"}),
    "client_id an object": claiming(client_id={"a": 1}),
}

_SCOPES = {
    f"scope {json.dumps(value)[:40]}": claiming(scope=value)
    for value in (
        "read\r\nX-Auth-Subject: root",
        "read\nadmin",
        "read\tadmin",
        "read\0",
        'read"',
        "read\\",
        "r\u00e9ad",
        "a" * 257,
        ["read admin"],
        ["read", 1],
        ["read", None],
        [["read"]],
        {"read": True},
        1,
        True,
        ["read\r\nX: y"],
        [""],
    )
}
_ROLES = {
    f"roles {json.dumps(value)[:40]}": claiming(roles=value)
    for value in ("nurse\r\nX: y", ["nurse", 1], ["nurse\n"], [["nurse"]], {"nurse": 1}, 1, True, [""], ["nurse,admin\0"])
}

CASES: list[Case] = [
    *table("RFC 7519 section 4.1.1, RFC 8725 section 3.8; GHSA-75c5-xw7c-p5pm", "token_issuer_unknown", _ISSUERS),
    *table("RFC 7519 section 4.1.3, RFC 8725 section 3.9", "token_audience", _AUDIENCES),
    *table("RFC 7519 section 2: a NumericDate is a JSON number", "token_claim_date", _DATES),
    *table("RFC 8259 section 6", "token_malformed", _NOT_JSON_DATES),
    *table("RFC 7519 section 4.1, RFC 9068 section 2.2; APISIX and Kong accept a missing exp", "token_claim_missing", _MISSING),
    *table("RFC 7519 section 4.1.4", "token_expired", _EXPIRED, "token_expired"),
    *table("RFC 7519 sections 4.1.5 and 4.1.6", "token_not_yet_valid", _FUTURE),
    *table("S-29: claims become header fields (RFC 9110 section 5.5)", "token_claim_text", _TEXTS),
    *table("RFC 6749 section 3.3", "token_claim_scope", _SCOPES),
    *table("S-29: claims become header fields (RFC 9110 section 5.5)", "token_claim_roles", _ROLES),
]
