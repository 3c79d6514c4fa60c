"""Where a credential may stand, and how many there may be (S-31; RFC 6750 sections 2 and 3, RFC 9110 section 11)."""

from __future__ import annotations

import json

import pytest

from tests.conformance.tokens.forge import signed
from tests.conformance.tokens.subject import send
from tests.support.whole_gateway import ProcessGateway, Upstream

GOOD = signed()
OTHER = signed({"alg": "RS256", "kid": "rsa", "typ": "at+jwt"})
BEARER = b"Authorization: Bearer " + GOOD + b"\r\n"

#: Fields -> code; `error=` stands in the challenge only where a token came.
REFUSED: dict[str, tuple[bytes, str]] = {
    "none": (b"", "unauthorized"),
    "two lines": (BEARER + b"Authorization: Bearer " + OTHER + b"\r\n", "token_invalid"),
    "the same line twice": (BEARER * 2, "token_invalid"),
    "a bad one before a good one": (b"Authorization: Bearer x\r\n" + BEARER, "token_invalid"),
    "a good one before an empty one": (BEARER + b"Authorization:\r\n", "token_invalid"),
    "another case for the second": (BEARER + b"AUTHORIZATION: Bearer " + OTHER + b"\r\n", "token_invalid"),
    "joined by a comma": (b"Authorization: Bearer " + GOOD + b", Bearer " + OTHER + b"\r\n", "token_invalid"),
    "an empty field": (b"Authorization:\r\n", "unauthorized"),
    "the scheme alone": (b"Authorization: Bearer\r\n", "token_invalid"),
    "the scheme and spaces": (b"Authorization: Bearer    \r\n", "token_invalid"),
    "no scheme": (b"Authorization: " + GOOD + b"\r\n", "unauthorized"),
    "Basic": (b"Authorization: Basic YWxpY2U6c2VjcmV0\r\n", "unauthorized"),
    "a token as Basic": (b"Authorization: Basic " + GOOD + b"\r\n", "unauthorized"),
    "Token": (b"Authorization: Token " + GOOD + b"\r\n", "unauthorized"),
    "JWT": (b"Authorization: JWT " + GOOD + b"\r\n", "unauthorized"),
    "DPoP": (b"Authorization: DPoP " + GOOD + b"\r\n", "unauthorized"),
    "Digest": (b'Authorization: Digest username="alice"\r\n', "unauthorized"),
    "Negotiate": (b"Authorization: Negotiate YII=\r\n", "unauthorized"),
    "a colon after the scheme": (b"Authorization: Bearer: " + GOOD + b"\r\n", "unauthorized"),
    "a tab after the scheme": (b"Authorization: Bearer\t" + GOOD + b"\r\n", "unauthorized"),
    "an equals sign": (b"Authorization: Bearer=" + GOOD + b"\r\n", "unauthorized"),
    "a parameter": (b'Authorization: Bearer token="' + GOOD + b'"\r\n', "token_invalid"),
    "a cookie": (b"Cookie: Authorization=Bearer " + GOOD + b"; access_token=" + GOOD + b"\r\n", "unauthorized"),
    "Proxy-Authorization": (b"Proxy-Authorization: Bearer " + GOOD + b"\r\n", "unauthorized"),
    "X-Authorization": (b"X-Authorization: Bearer " + GOOD + b"\r\n", "unauthorized"),
    "an underscore": (b"Authorization_: Bearer " + GOOD + b"\r\n", "unauthorized"),
    "our own identity field": (b"X-Auth-Subject: root\r\nX-Auth-Scopes: admin\r\n", "unauthorized"),
    "X-Forwarded-User": (b"X-Forwarded-User: root\r\nX-Remote-User: root\r\n", "unauthorized"),
    "named in Connection": (b"Connection: authorization\r\nAuthorization: Bearer x\r\n", "token_invalid"),
}


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=REFUSED.keys())
def test_is_no_credential_that_we_take(gateway: ProcessGateway, service: Upstream, number: int) -> None:
    """S-31, S-12a: 401 with a challenge, `error=` only where a token came; the service sees nothing."""
    fields, code = list(REFUSED.values())[number]
    before = len(service.seen)
    status, answer = send(gateway, fields, 10_000 + number)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (status, json.loads(body)["code"]) == (401, code)
    challenge = b'www-authenticate: bearer realm="gateway"' + (b"" if code == "unauthorized" else b', error="invalid_token"') + b"\r\n"
    assert challenge in head.lower() + b"\r\n"
    assert len(service.seen) == before


@pytest.mark.parametrize("name", [b"access_token", b"token", b"jwt", b"authorization", b"bearer"])
def test_a_token_in_the_address_is_not_read(gateway: ProcessGateway, name: bytes) -> None:
    """S-31: addresses end up in logs and histories (RFC 6750 section 5.3)."""
    status, answer = send(gateway, b"", 11_000, b"/patients/7?" + name + b"=" + GOOD)
    assert (status, json.loads(answer.partition(b"\r\n\r\n")[2])["code"]) == (401, "unauthorized")


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER ", b"bEaReR ", b"Bearer   "])
def test_the_scheme_is_taken_in_any_case(gateway: ProcessGateway, scheme: bytes) -> None:
    """S-31: RFC 9110 section 11.1; spaces around a field's value belong to no value."""
    assert send(gateway, b"Authorization:   " + scheme + GOOD + b"  \r\n", 11_100)[0] == 200
