"""Tokens of a run."""

from __future__ import annotations

import json
from pathlib import Path

import jwt
import pytest

from benchmarks.sidebyside.credentials import AUDIENCE, ISSUER, Credentials, tampered

CREDENTIALS = Credentials.create()


def key_of(directory: Path) -> jwt.PyJWK:
    CREDENTIALS.write_jwks(directory / "jwks.json")
    return jwt.PyJWK(json.loads((directory / "jwks.json").read_text())["keys"][0])


def test_rs256_token_verifies_against_the_written_key_set(tmp_path: Path) -> None:
    claims = jwt.decode(CREDENTIALS.token("RS256"), key_of(tmp_path), algorithms=["RS256"], audience=AUDIENCE, issuer=ISSUER)
    assert claims["scope"] == "patients:read"


def test_hs256_token_verifies_against_the_secret() -> None:
    assert jwt.decode(CREDENTIALS.token("HS256"), CREDENTIALS.hs256_secret, algorithms=["HS256"], audience=AUDIENCE)["sub"]


def test_tampered_token_differs_in_its_signature_only_and_is_refused(tmp_path: Path) -> None:
    token = CREDENTIALS.token("RS256")
    changed = tampered(token)
    assert changed.rpartition(".")[0] == token.rpartition(".")[0]
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(changed, key_of(tmp_path), algorithms=["RS256"], audience=AUDIENCE)


def test_expired_token_is_expired(tmp_path: Path) -> None:
    with pytest.raises(jwt.ExpiredSignatureError):
        jwt.decode(CREDENTIALS.token("RS256", expired=True), key_of(tmp_path), algorithms=["RS256"], audience=AUDIENCE)


def test_no_two_tokens_share_an_id() -> None:
    assert CREDENTIALS.token("RS256") != CREDENTIALS.token("RS256")
