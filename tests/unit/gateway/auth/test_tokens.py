from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
from typing import Any

import hypothesis
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.cache import PrincipalCache
from gateway.auth.jwk import KeySet, secret_key
from gateway.auth.keys import StaticKeys, local_key_set
from gateway.auth.principal import Principal
from gateway.auth.tokens import TrustedIssuer, Verifier
from gateway.errors import ConfigError, Unauthorized, Unavailable
from gateway.settings import ClaimNames, Issuer
from tests.support.tokens import (
    ISSUER,
    NOW,
    SECRET,
    FakeClock,
    b64,
    claims,
    ec_key,
    ed_key,
    issuer,
    jwk,
    jwks,
    private_key_for,
    raw_token,
    rsa_key,
    signature,
    token,
)


def _verify(text: bytes, settings: Issuer | None = None, now: float = NOW) -> Principal:
    return asyncio.run(_verifier(settings or issuer(), FakeClock(now)).verify(text))


def _verifier(settings: Issuer, clock: FakeClock, cache: PrincipalCache | None = None) -> Verifier:
    keys = (
        KeySet([secret_key(settings.secret, settings.algorithms[0])]) if settings.secret else local_key_set(settings.jwks, settings, "jwks")
    )
    return Verifier([TrustedIssuer(settings, StaticKeys(keys))], PrincipalCache(10, clock) if cache is None else cache, clock)


def _refused(text: bytes, reason: str, settings: Issuer | None = None, now: float = NOW, code: str = "token_invalid") -> None:
    with pytest.raises(Unauthorized) as caught:
        _verify(text, settings, now)
    assert (caught.value.code, caught.value.reason) == (code, reason)


# What is accepted


def test_a_good_token_becomes_a_principal() -> None:
    """A1, A2: everything that the token said, under our names."""
    text = token(claims(scope="patients:read claims:write", roles=["nurse"], sid="s-1", azp="portal", nbf=NOW - 5))
    principal = _verify(text)
    assert principal.subject == "alice"
    assert principal.issuer == ISSUER
    assert principal.method == "jwt"
    assert principal.scopes == {"patients:read", "claims:write"}
    assert principal.roles == {"nurse"}
    assert (principal.token_id, principal.session, principal.client) == ("t-1", "s-1", "portal")
    assert (principal.issued_at, principal.expires_at) == (NOW, NOW + 600.0)
    assert principal.claims["nbf"] == NOW - 5


def test_claim_names_may_be_nested_paths() -> None:
    """A2: `realm_access.roles` and the like."""
    settings = issuer(claims=ClaimNames(subject="user.id", scope="scp", roles="realm_access.roles", session="session", client="cid"))
    text = token(claims(user={"id": "u-1"}, scp=["a", "b"], realm_access={"roles": ["nurse"]}, session="s", cid="c"))
    principal = _verify(text, settings)
    assert (principal.subject, set(principal.scopes), set(principal.roles)) == ("u-1", {"a", "b"}, {"nurse"})
    assert (principal.session, principal.client) == ("s", "c")


@pytest.mark.parametrize(("changes", "client"), [({"client_id": "c"}, "c"), ({"client_id": "c", "azp": "a"}, "a"), ({}, None)])
def test_the_client_falls_back_to_client_id(changes: dict[str, Any], client: str | None) -> None:
    """A2: `azp`, else `client_id`."""
    assert _verify(token(claims(**changes))).client == client


def test_a_token_without_a_subject_is_its_clients_own() -> None:
    """A2: where `sub` is not required; with neither, nobody is left to limit or revoke."""
    settings = issuer(required_claims=("exp",))
    assert _verify(token(claims(sub=..., azp="batch")), settings).subject == "batch"
    _refused(token(claims(sub=...)), "token_claim_missing", settings)


@pytest.mark.parametrize("value", [..., "", 7, None, "a\nb", ["t"]])
def test_a_token_without_a_usable_jti_is_named_by_its_payload(value: object) -> None:
    """S-30: accepted by default, and revocation can name it."""
    text = token(claims(jti=value))
    payload = base64.urlsafe_b64decode(text.split(b".")[1] + b"==")
    assert _verify(text).token_id == f"sha256:{hashlib.sha256(payload).hexdigest()}"


def test_what_names_a_token_is_its_content_and_nothing_around_it() -> None:
    """S-30: another signature and another header over the same payload are the same token; another payload is another one."""
    rsa, ec = rsa_key(), ec_key()
    settings = issuer(algorithms=("RS256", "ES256"), jwks=jwks(jwk(rsa, kid="k1"), jwk(ec, "ES256", kid="k2")))
    said = claims(jti=...)
    texts = [
        jwt.encode(said, rsa, algorithm="RS256", headers={"kid": "k1"}),
        jwt.encode(said, ec, algorithm="ES256", headers={"kid": "k2"}),
        jwt.encode(said, ec, algorithm="ES256", headers={"kid": "k2"}),
        jwt.encode({**said, "iat": said["iat"] - 1}, ec, algorithm="ES256", headers={"kid": "k2"}),
    ]
    first, second, third, other = (_verify(text.encode(), settings).token_id for text in texts)
    assert len(set(texts)) == 4
    assert first == second == third != other


@pytest.mark.parametrize("value", [..., "", 7, None, "a\nb", ["t"], "x" * 600])
def test_a_token_without_a_usable_jti_is_refused_where_one_is_required(value: object) -> None:
    """S-30: `required_claims: [jti, ...]`, for whoever wants no other tokens."""
    settings = issuer(required_claims=("exp", "jti"))
    assert _verify(token(claims(jti="t-1")), settings).token_id == "t-1"
    _refused(token(claims(jti=value)), "token_claim_missing", settings)


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"])
def test_every_asymmetric_algorithm(algorithm: str) -> None:
    """A1: RS, PS, ES and EdDSA, each pinned by the issuer."""
    key = private_key_for(algorithm)
    settings = issuer(algorithms=(algorithm,), jwks=jwks(jwk(key, algorithm, kid="k1")))
    text = jwt.encode(claims(), key, algorithm=algorithm, headers={"kid": "k1"}).encode()
    assert _verify(text, settings).subject == "alice"


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_every_shared_secret(algorithm: str) -> None:
    """A1: HS with a secret of sufficient length."""
    settings = issuer(algorithms=(algorithm,), jwks=b"", secret=SECRET * 2)
    text = jwt.encode(claims(), SECRET * 2, algorithm=algorithm, headers={"kid": "any"}).encode()
    assert _verify(text, settings).subject == "alice"


# Key confusion and signatures

PUBLIC_PEM = rsa_key().public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
PUBLIC_DER = rsa_key().public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
PUBLIC_JWK = json.dumps(jwk(rsa_key(), kid="k1", alg="RS256")).encode()


def _hmac_token(key: bytes, algorithm: str = "HS256") -> bytes:
    signing_input = b64(json.dumps({"alg": algorithm, "kid": "k1"}).encode()) + b"." + b64(json.dumps(claims()).encode())
    return signing_input + b"." + b64(hmac.digest(key, signing_input, hashlib.sha256))


def _unsigned(algorithm: str) -> bytes:
    return b64(json.dumps({"alg": algorithm}).encode()) + b"." + b64(json.dumps(claims()).encode()) + b".AA"


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "nOnE", "", "rs256", "RS256 ", "RS1", "HS256", "ES256", "PS256", "RS512", "ES256K", "RSA-OAEP"]
)
def test_an_algorithm_that_is_not_pinned_is_refused(algorithm: str) -> None:
    """A1: the allow-list is of exact strings, `none` never (S-22)."""
    _refused(_unsigned(algorithm), "token_algorithm")


@pytest.mark.parametrize(
    "secret", [PUBLIC_PEM, PUBLIC_PEM.strip(), PUBLIC_DER, PUBLIC_JWK, b""], ids=["PEM", "PEM stripped", "DER", "JWK", "empty"]
)
def test_a_public_key_is_not_taken_for_a_secret(secret: bytes) -> None:
    """A1: no RSA/HMAC confusion."""
    _refused(_hmac_token(secret), "token_algorithm")


def test_a_key_verifies_with_its_own_algorithm_only() -> None:
    """S-22: a PS256 signature by a key that is bound to RS256 is refused, though the issuer allows both."""
    settings = issuer(algorithms=("RS256", "PS256"))
    text = jwt.encode(claims(), rsa_key(), algorithm="PS256", headers={"kid": "k1"}).encode()
    _refused(text, "token_key_unknown", settings)


@pytest.mark.parametrize("member", ["jwk", "jku", "x5u", "x5c", "x5t"])
def test_a_key_that_the_token_brings_is_not_used(member: str) -> None:
    """A1: embedded keys are ignored, so the attacker's signature is just wrong (S-23)."""
    mallory = rsa_key(which=1)
    value: object = jwk(mallory, kid="k1") if member == "jwk" else "https://evil.example/keys"
    _refused(token(None, mallory, **{member: value}), "token_signature")


def test_an_embedded_key_does_not_spoil_a_good_token() -> None:
    """A1: ignored means ignored."""
    assert _verify(token(jku="https://evil.example/keys", x5c=["AAAA"])).subject == "alice"


@pytest.mark.parametrize("kid", ["k2", "../../dev/null", "k1' OR '1'='1", "https://evil.example/k1", "K1", "k1\0"])
def test_a_key_id_is_only_a_name(kid: str) -> None:
    """A1: `kid` is looked up in a fixed set, nothing else (S-23)."""
    _refused(token(kid=kid), "token_key_unknown")


HEADER, PAYLOAD, SIGNATURE = token().split(b".")
EVIL = b64(json.dumps(claims(sub="root")).encode())
TAMPERED = {
    "payload of another": HEADER + b"." + EVIL + b"." + SIGNATURE,
    "header of another": b64(b'{"alg":"RS256","kid":"k1","typ":"at+jwt"}') + b"." + PAYLOAD + b"." + SIGNATURE,
    "short signature": HEADER + b"." + PAYLOAD + b".AAAA",
    "zero signature": HEADER + b"." + PAYLOAD + b"." + b64(bytes(256)),
    "all ones": HEADER + b"." + PAYLOAD + b"." + b64(b"\xff" * 256),
    "long signature": HEADER + b"." + PAYLOAD + b"." + b64(bytes(1) + signature(HEADER + b"." + PAYLOAD)),
    "signature of the payload": HEADER + b"." + PAYLOAD + b"." + b64(signature(PAYLOAD)),
    "another key": token(None, rsa_key(which=1)),
    "HMAC with the modulus": HEADER + b"." + PAYLOAD + b"." + b64(hmac.digest(PUBLIC_PEM, HEADER + b"." + PAYLOAD, hashlib.sha256)),
}


@pytest.mark.parametrize("text", TAMPERED.values(), ids=TAMPERED.keys())
def test_a_signature_that_does_not_hold(text: bytes) -> None:
    """A1: only the issuer's key over exactly these octets (S-32)."""
    _refused(text, "token_signature")


@pytest.mark.parametrize("size", [0, 1, 63, 65, 64, 96])
def test_an_ecdsa_signature_of_another_length(size: int) -> None:
    """S-32: raw r || s of exactly two coordinates, neither zero."""
    settings = issuer(algorithms=("ES256",), jwks=jwks(jwk(ec_key(), "ES256", kid="k1")))
    signing_input = b64(b'{"alg":"ES256","kid":"k1"}') + b"." + b64(json.dumps(claims()).encode())
    _refused(signing_input + b"." + b64(bytes(size)), "token_signature" if size else "token_malformed", settings)


def test_an_eddsa_signature_of_another_length() -> None:
    """S-32: 64 octets."""
    settings = issuer(algorithms=("EdDSA",), jwks=jwks(jwk(ed_key(), "EdDSA", kid="k1")))
    signing_input = b64(b'{"alg":"EdDSA","kid":"k1"}') + b"." + b64(json.dumps(claims()).encode())
    _refused(signing_input + b"." + b64(bytes(63)), "token_signature", settings)


def test_without_a_key_id_every_key_of_the_algorithm_is_tried() -> None:
    """A1: a token that names no key may be of any of them."""
    settings = issuer(jwks=jwks(jwk(rsa_key(which=1), kid="k0"), jwk(rsa_key(), kid="k1")))
    assert _verify(token(kid=...), settings).subject == "alice"


# Claims

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "iss absent": ({"iss": ...}, "token_issuer_unknown"),
    "iss of another": ({"iss": "https://evil.example"}, "token_issuer_unknown"),
    "iss with a slash": ({"iss": ISSUER + "/"}, "token_issuer_unknown"),
    "iss upper case": ({"iss": ISSUER.upper()}, "token_issuer_unknown"),
    "iss a part": ({"iss": ISSUER[:-1]}, "token_issuer_unknown"),
    "iss a list": ({"iss": [ISSUER]}, "token_issuer_unknown"),
    "iss a number": ({"iss": 1}, "token_issuer_unknown"),
    "aud absent": ({"aud": ...}, "token_audience"),
    "aud of another": ({"aud": "billing"}, "token_audience"),
    "aud a part": ({"aud": "hm"}, "token_audience"),
    "aud empty list": ({"aud": []}, "token_audience"),
    "aud with a number": ({"aud": ["hms", 1]}, "token_audience"),
    "aud an object": ({"aud": {"hms": True}}, "token_audience"),
    "aud null": ({"aud": None}, "token_audience"),
    "exp absent": ({"exp": ...}, "token_claim_missing"),
    "exp null": ({"exp": None}, "token_claim_missing"),
    "exp a string": ({"exp": str(NOW + 600)}, "token_claim_date"),
    "exp a bool": ({"exp": True}, "token_claim_date"),
    "exp a list": ({"exp": [NOW + 600]}, "token_claim_date"),
    "exp negative": ({"exp": -1}, "token_claim_date"),
    "exp after the year 9999": ({"exp": 10**15}, "token_claim_date"),
    "exp of 1e300": ({"exp": 1e300}, "token_claim_date"),
    "nbf a string": ({"nbf": "0"}, "token_claim_date"),
    "nbf null": ({"nbf": None}, "token_claim_date"),
    "nbf a bool": ({"nbf": False}, "token_claim_date"),
    "iat a string": ({"iat": str(NOW)}, "token_claim_date"),
    "iat a bool": ({"iat": True}, "token_claim_date"),
    "iat absent": ({"iat": ...}, "token_claim_missing"),
    "iat in the future": ({"iat": NOW + 31}, "token_not_yet_valid"),
    "nbf in the future": ({"nbf": NOW + 31}, "token_not_yet_valid"),
    "sub absent": ({"sub": ...}, "token_claim_missing"),
    "sub null": ({"sub": None}, "token_claim_missing"),
    "sub a number": ({"sub": 7}, "token_claim_text"),
    "sub a list": ({"sub": ["alice"]}, "token_claim_text"),
    "sub empty": ({"sub": ""}, "token_claim_text"),
    "sub with CR LF": ({"sub": "alice\r\nX-Auth-Scopes: admin"}, "token_claim_text"),
    "sub with NUL": ({"sub": "alice\0"}, "token_claim_text"),
    "sub with DEL": ({"sub": "alice\x7f"}, "token_claim_text"),
    "sub with a space at the end": ({"sub": "alice "}, "token_claim_text"),
    "sub too long": ({"sub": "a" * 513}, "token_claim_text"),
    "sub with a bidirectional override": ({"sub": "alice\u202e"}, "token_claim_text"),
    "sid a number": ({"sid": 7}, "token_claim_text"),
    "sid with LF": ({"sid": "a\nb"}, "token_claim_text"),
    "azp a list": ({"azp": ["portal"]}, "token_claim_text"),
    "client_id an object": ({"client_id": {}}, "token_claim_text"),
    "scope a number": ({"scope": 7}, "token_claim_scope"),
    "scope an object": ({"scope": {"admin": True}}, "token_claim_scope"),
    "scope with CR LF": ({"scope": "a\r\nX: y"}, "token_claim_scope"),
    "scope members with spaces": ({"scope": ["a admin"]}, "token_claim_scope"),
    "scope with a quote": ({"scope": 'a" b'}, "token_claim_scope"),
    "roles a number": ({"roles": 7}, "token_claim_roles"),
    "roles with a number": ({"roles": ["a", 7]}, "token_claim_roles"),
}


@pytest.mark.parametrize(("changes", "reason"), WRONG.values(), ids=WRONG.keys())
def test_a_signed_token_with_a_wrong_claim_is_refused(changes: dict[str, Any], reason: str) -> None:
    """A2: exact issuer and audience, strict types, texts fit for a header; never anything but a 401 (S-24, S-25, S-28, S-29)."""
    _refused(token(claims(**changes)), reason)


@pytest.mark.parametrize(
    "extra",
    [
        b'"exp":9999999999',
        b'"\\u0065xp":9999999999',
        b'"iss":"https://login.example.gov"',
        b'"aud":"hms"',
        b'"x":{"y":1,"y":2}',
        b'"x":NaN',
        b'"x":Infinity',
        b'"x":1e999',
        b'"x":123456789012345678901',
        b'"x":"\\ud800"',
        b'"x":' + b"[" * 16 + b"]" * 16,
    ],
)
def test_a_signed_payload_of_no_strict_json_is_refused(extra: bytes) -> None:
    """A3: duplicates, NaN, Infinity, overlong numbers and depth, though the issuer signed them."""
    payload = json.dumps(claims()).encode()[:-1] + b"," + extra + b"}"
    _refused(raw_token(b'{"alg":"RS256","kid":"k1"}', payload), "token_malformed")


def test_a_signed_header_of_no_strict_json_is_refused() -> None:
    """A3: the same for the header."""
    _refused(raw_token(b'{"alg":"none","alg":"RS256","kid":"k1"}', json.dumps(claims()).encode()), "token_malformed")


@pytest.mark.parametrize(
    ("now", "outcome"),
    [(NOW + 599.9, "valid"), (NOW + 600, "valid"), (NOW + 629.999, "valid"), (NOW + 630, "expired"), (NOW + 10**6, "expired")],
)
def test_the_edge_of_expiry(now: float, outcome: str) -> None:
    """A2: valid before exp + leeway, expired from then on (RFC 7519 section 4.1.4)."""
    if outcome == "valid":
        assert _verify(token(), now=now).subject == "alice"
    else:
        _refused(token(), "token_expired", now=now, code="token_expired")


@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_the_edge_of_the_future(name: str) -> None:
    """A2: up to the leeway, and no further."""
    text = token(claims(**{name: NOW + 30}))
    assert _verify(text).subject == "alice"
    _refused(text, "token_not_yet_valid", now=NOW - 0.001)


def test_leeway_may_be_none() -> None:
    """A2: leeway 0 is the second itself."""
    settings = issuer(leeway=0.0)
    assert _verify(token(), settings, NOW + 599.999).subject == "alice"
    _refused(token(), "token_expired", settings, NOW + 600, "token_expired")


def test_maximum_lifetime() -> None:
    """A2: exp - iat is bounded, and a token that hides its age has none."""
    settings = issuer(maximum_lifetime=600.0, required_claims=("exp", "sub"))
    assert _verify(token(), settings).subject == "alice"
    _refused(token(claims(exp=NOW + 601)), "token_lifetime", settings)
    _refused(token(claims(iat=...)), "token_lifetime", settings)


def test_required_claims_may_be_paths() -> None:
    """A2: anything can be required."""
    settings = issuer(required_claims=("exp", "realm.id"))
    assert _verify(token(claims(realm={"id": 1})), settings).subject == "alice"
    _refused(token(claims(realm={})), "token_claim_missing", settings)


def test_exp_is_required_whatever_the_settings_say() -> None:
    """A2: a token without end is refused (S-24)."""
    _refused(token(claims(exp=...)), "token_claim_missing", issuer(required_claims=()))


def test_a_refusal_never_repeats_the_token() -> None:
    """O4: details are fixed sentences."""
    with pytest.raises(Unauthorized) as caught:
        _verify(token(claims(sub="canary\n")))
    assert "canary" not in caught.value.detail + caught.value.reason
    assert caught.value.headers == [(b"www-authenticate", b'Bearer realm="gateway", error="invalid_token"')]


# Anything at all

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=12,
)
_NAMES = st.sampled_from(["iss", "aud", "exp", "nbf", "iat", "sub", "scope", "roles", "jti", "sid", "azp", "client_id"])
_EAGER = hypothesis.settings(deadline=None, max_examples=200)


def _refused_or_verified(text: bytes) -> None:
    with contextlib.suppress(Unauthorized):
        assert _verify(text).subject


@_EAGER
@given(st.binary(max_size=200) | st.text(alphabet="ABCabc019-_.=", max_size=200).map(str.encode))
def test_no_bytes_raise_anything_but_a_401(text: bytes) -> None:
    """S-28: parsing never fails in any other way."""
    _refused_or_verified(text)


@_EAGER
@given(st.dictionaries(_NAMES, _JSON, max_size=4))
def test_no_signed_claims_raise_anything_but_a_401(changes: dict[str, Any]) -> None:
    """S-28: also when the issuer itself signed them."""
    _refused_or_verified(token({**claims(), **changes}))


@_EAGER
@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "cty", "crit", "jwk", "x5c", "b64"]), _JSON, max_size=3))
def test_no_header_raises_anything_but_a_401(members: dict[str, Any]) -> None:
    """S-28: the same for the protected header."""
    _refused_or_verified(token(**members))


@_EAGER
@given(st.integers(min_value=0, max_value=len(token()) - 1), st.integers(min_value=1, max_value=255))
def test_no_changed_byte_is_accepted(position: int, change: int) -> None:
    """S-27: every octet counts."""
    text = bytearray(token())
    text[position] ^= change
    with pytest.raises(Unauthorized):
        _verify(bytes(text))


# Cache and several issuers


def test_a_verified_token_is_cached_until_exp_and_a_refused_one_is_not() -> None:
    """A5: only valid tokens, until exp; within the leeway beyond it they are verified again."""
    clock = FakeClock()
    cache = PrincipalCache(10, clock)
    verifier = _verifier(issuer(), clock, cache)
    principal = asyncio.run(verifier.verify(token()))
    assert cache.get(token()) is principal
    with pytest.raises(Unauthorized):
        asyncio.run(verifier.verify(token(claims(aud="x"))))
    assert len(cache) == 1
    clock.advance(600)
    assert cache.get(token()) is None
    assert asyncio.run(verifier.verify(token())).subject == "alice"
    assert len(cache) == 0


def test_the_key_of_one_issuer_does_not_sign_for_another() -> None:
    """A1, A2: keys are chosen by the exact issuer."""
    other = issuer(name="other", issuer="https://other.example.gov", jwks=jwks(jwk(rsa_key(which=1), kid="k1")))
    clock = FakeClock()
    trusted = [TrustedIssuer(one, StaticKeys(local_key_set(one.jwks, one, "jwks"))) for one in (issuer(), other)]
    verifier = Verifier(trusted, PrincipalCache(10, clock), clock)
    assert asyncio.run(verifier.verify(token(claims(iss=other.issuer), rsa_key(which=1)))).issuer == other.issuer
    with pytest.raises(Unauthorized):
        asyncio.run(verifier.verify(token(claims(iss=other.issuer))))


def test_two_issuers_with_one_name_are_refused() -> None:
    """A1: the choice of keys must be unambiguous."""
    keys = StaticKeys(KeySet())
    with pytest.raises(ConfigError, match="'login' and 'again' have the same issuer"):
        Verifier([TrustedIssuer(issuer(), keys), TrustedIssuer(issuer(name="again"), keys)], PrincipalCache(1, FakeClock()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"issuer": ""}, "issuer must be"),
        ({"audience": ()}, "audience"),
        ({"audience": ("hms", "")}, "audience"),
        ({"leeway": -1.0}, "leeway"),
        ({"maximum_lifetime": -1.0}, "maximum_lifetime"),
    ],
)
def test_settings_that_would_accept_anybody_are_refused(changes: dict[str, Any], message: str) -> None:
    """A2: fails at start, not open."""
    with pytest.raises(ConfigError, match=message):
        TrustedIssuer(issuer(**changes), StaticKeys(KeySet()))


class _NoKeys:
    """A source that has never had keys."""

    keys = None

    async def refetch(self, key_id: str | None) -> None:
        """In vain."""


def test_unknown_keys_of_a_known_issuer_are_a_503() -> None:
    """A4: an outage of the key server is neither a 401 nor a 500."""
    verifier = Verifier([TrustedIssuer(issuer(), _NoKeys())], PrincipalCache(1, FakeClock()), FakeClock())
    with pytest.raises(Unavailable) as caught:
        asyncio.run(verifier.verify(token()))
    assert (caught.value.code, caught.value.reason) == ("overloaded", "keys_unavailable")
