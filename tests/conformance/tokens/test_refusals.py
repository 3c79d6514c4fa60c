"""Every hostile token of the tables, to the verifier, and to a gateway over HTTP (SPEC A1 to A3; S-22 to S-32).

Each is refused for what is wrong with it: with the code that the client sees, and with the reason that our records show.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import Any

import pytest

from gateway.auth.cache import PrincipalCache
from gateway.auth.claims import content_id
from gateway.auth.jwk import KeySet, secret_key
from gateway.auth.keys import StaticKeys, local_key_set
from gateway.auth.tokens import TrustedIssuer, Verifier
from gateway.errors import Unauthorized
from gateway.settings import Issuer
from tests.conformance.tokens import claims, headers, signatures, spellings
from tests.conformance.tokens.case import Case
from tests.conformance.tokens.forge import (
    ALGORITHMS,
    BATCH,
    BATCH_SECRET,
    GOOD,
    HEADER,
    ISSUER,
    JWKS,
    PARTNER,
    PARTNER_JWKS,
    es256,
    headed,
    hmac_token,
    octets,
    pair,
    ps256,
    signed,
    signing_input,
    with_signature,
)
from tests.conformance.tokens.subject import ask
from tests.support.redis_server import wait_until
from tests.support.tokens import AUDIENCE, ed_key
from tests.support.whole_gateway import Json, ProcessGateway, Upstream

TABLES = {"headers": headers.CASES, "spellings": spellings.CASES, "claims": claims.CASES, "signatures": signatures.CASES}
EVERY: list[Case] = [case for cases in TABLES.values() for case in cases]
EVERY_TOKEN = Counter(case.token for case in EVERY)
OVER_HTTP = [case for case in EVERY if case.fits_a_field]

_ES = signing_input({"alg": "ES256", "kid": "ec"}, GOOD)
_R, _S = es256(_ES)
#: What the same verifier and gateway take: without these a suite of refusals would prove nothing.
GOOD_TOKENS: dict[str, bytes] = {
    "RS256": signed(),
    "PS256": with_signature(
        signing_input({"alg": "PS256", "kid": "pss"}, GOOD), ps256(signing_input({"alg": "PS256", "kid": "pss"}, GOOD))
    ),
    "ES256": with_signature(_ES, pair(_R, _S)),
    "EdDSA": with_signature(
        signing_input({"alg": "EdDSA", "kid": "ed"}, GOOD), ed_key().sign(signing_input({"alg": "EdDSA", "kid": "ed"}, GOOD))
    ),
    "HS256": hmac_token(BATCH_SECRET, "HS256", {**GOOD, "iss": BATCH}),
    "without a kid": signed({"alg": "RS256"}),
    "an access token": headed(typ="at+jwt"),
    "keys brought along are ignored": headed(jku="https://evil.example/keys", x5c=["AAAA"], jwk={"kty": "oct", "k": "AAAA"}),
    "several audiences": signed(HEADER, {**GOOD, "aud": ["billing", AUDIENCE]}),
    "a fractional date": signed(HEADER, {**GOOD, "exp": GOOD["exp"] + 0.5}),
    "members in another order": signed(dict(reversed(HEADER.items())), dict(reversed(GOOD.items()))),
    "white space": signed(json.dumps(HEADER, indent=3).encode(), json.dumps(GOOD, indent=3).encode()),
    "names beyond ASCII": signed(HEADER, {**GOOD, "sub": "alice", "name": "\u00c5sa \U0001f600"}),
}


def trusted(name: str, iss: str, **settings: Any) -> TrustedIssuer:
    issuer = Issuer(name=name, issuer=iss, audience=(AUDIENCE,), **settings)
    if issuer.secret:
        return TrustedIssuer(issuer, StaticKeys(KeySet([secret_key(issuer.secret, "HS256")])))
    return TrustedIssuer(issuer, StaticKeys(local_key_set(issuer.jwks, issuer, "jwks")))


@pytest.fixture(scope="module")
def verifier() -> Verifier:
    issuers = [
        trusted("login", ISSUER, algorithms=ALGORITHMS, jwks=JWKS),
        trusted("partner", PARTNER, algorithms=("RS256",), jwks=PARTNER_JWKS),
        trusted("batch", BATCH, algorithms=("HS256",), secret=BATCH_SECRET),
    ]
    return Verifier(issuers, PrincipalCache(1000, time.time), time.time)


@pytest.mark.parametrize("case", EVERY, ids=lambda case: case.name)
def test_is_refused_for_what_is_wrong_with_it(verifier: Verifier, case: Case) -> None:
    """A1, A2, A3, S-22, S-23, S-24, S-25, S-26, S-27, S-28, S-29, S-32: a 401 with its code and reason, never anything else."""
    with pytest.raises(Unauthorized) as caught:
        asyncio.run(verifier.verify(case.token))
    assert (caught.value.code, caught.value.reason) == (case.code, case.reason)


@pytest.mark.parametrize("token", GOOD_TOKENS.values(), ids=GOOD_TOKENS.keys())
def test_the_same_verifier_takes_good_tokens(verifier: Verifier, token: bytes) -> None:
    """A1, A2: what is refused above is not refused for being unknown here."""
    assert asyncio.run(verifier.verify(token)).subject == "alice"


def test_nothing_of_a_refused_token_is_kept(verifier: Verifier) -> None:
    """A5: only valid tokens are remembered."""
    cache = verifier._cache
    before = len(cache)
    for _ in range(3):
        for case in EVERY[:50]:
            with pytest.raises(Unauthorized):
                asyncio.run(verifier.verify(case.token))
    assert len(cache) == before


def test_the_tables_are_as_wide_as_they_claim() -> None:
    """S-28: no case is there twice, and every kind of attack has several."""
    assert [case.name for case in EVERY if EVERY_TOKEN[case.token] > 1] == []
    assert len(EVERY) >= 400
    assert len(OVER_HTTP) >= 300
    assert all(len(cases) >= 50 for cases in TABLES.values())


# Over HTTP


@pytest.mark.parametrize("number", range(len(OVER_HTTP)), ids=[case.name for case in OVER_HTTP])
def test_is_refused_over_http(gateway: ProcessGateway, service: Upstream, number: int) -> None:
    """A1, A2, A3, S-28, S-31, S-41: 401, the code, the challenge, nothing of the token; the service sees nothing, and nothing is a 500."""
    case = OVER_HTTP[number]
    before = len(service.seen)
    status, answer = ask(gateway, case.token, number)
    fields, _, body = answer.partition(b"\r\n\r\n")
    assert status == 401, answer
    assert json.loads(body)["code"] == case.code
    assert b'www-authenticate: bearer realm="gateway", error="invalid_token"' in fields.lower()
    assert len(case.token) < 16 or case.token[:16] not in answer
    assert len(service.seen) == before


@pytest.mark.parametrize("token", GOOD_TOKENS.values(), ids=GOOD_TOKENS.keys())
def test_the_same_gateway_serves_good_tokens(gateway: ProcessGateway, token: bytes) -> None:
    """A1, A2: and goes on to after all of that."""
    status, answer = ask(gateway, token)
    assert status == 200, answer
    assert b'["x-auth-subject", "alice"]' in answer


def test_a_token_that_no_field_can_carry_never_gets_that_far(gateway: ProcessGateway, service: Upstream) -> None:
    """S-5, S-28: line ends and NUL within a field are the parser's to refuse; the end of a field is trimmed (RFC 9110 section 5.5)."""
    before = len(service.seen)
    for token in (case.token for case in EVERY if not case.fits_a_field):
        if any(octet in token.strip(b" \t\r\n") for octet in b"\0\r\n"):
            status, answer = ask(gateway, token, 9_000)
            assert status in (400, 401, 429), answer
    assert len(service.seen) == before


@pytest.mark.parametrize("token_id", ["token-respelled", None])
def test_a_respelled_signature_is_the_same_token(gateway: ProcessGateway, verifier: Verifier, token_id: str | None) -> None:
    """S-30: n - s is as good as s and needs no key, so a revocation must not go by the token's text; with a jti or without."""
    payload = {**GOOD, "jti": token_id}
    covered = signing_input({"alg": "ES256", "kid": "ec"}, payload)
    r, s = es256(covered)
    first, second = with_signature(covered, pair(r, s)), with_signature(covered, pair(r, signatures.P256_ORDER - s))
    (name,) = {asyncio.run(verifier.verify(each)).token_id for each in (first, second)}
    assert name == (token_id or content_id(octets(payload)))
    assert [ask(gateway, each, 8_000)[0] for each in (first, second)] == [200, 200]
    assert gateway.admin("POST", "/v1/revocations", json={"kind": "token", "value": first.decode()}).status_code == 201
    for each in (first, second):
        status, answer = ask(gateway, each, 8_000)
        assert (status, json.loads(answer.partition(b"\r\n\r\n")[2])["code"]) == (401, "token_revoked")


def test_the_gateway_recorded_each_refusal_and_no_failure(gateway: ProcessGateway) -> None:
    """S-28, S-34: after all that there is no 500, no trace of an exception, and each refusal has its record."""

    def refusals() -> list[Json]:
        return gateway.records(lambda record: record["event"] == "request" and record["response"]["status"] == 401)

    wait_until(lambda: len(refusals()) >= len(OVER_HTTP), "the records")
    assert gateway.records(lambda record: record["event"] == "request" and record["response"]["status"] >= 500) == []
    assert "Traceback" not in gateway.said
