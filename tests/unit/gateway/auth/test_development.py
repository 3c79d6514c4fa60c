from __future__ import annotations

import asyncio
import json
import stat
from dataclasses import replace
from pathlib import Path

import httpx
import jwt
import pytest

from gateway.auth.authenticator import Authenticator
from gateway.auth.development import DevelopmentIssuer, keygen
from gateway.auth.principal import Principal
from gateway.errors import ConfigError
from gateway.settings import AuthenticationSettings, Issuer
from tests.support.tokens import NOW, FakeClock, issuer


def _authenticate(settings: Issuer, token: str, now: float = NOW) -> Principal:
    async def scenario() -> Principal:
        async with httpx.AsyncClient() as http:
            authenticator = Authenticator(AuthenticationSettings(issuers=(settings,)), http, clock=FakeClock(now))
            await authenticator.start()
            assert authenticator.ready
            principal = await authenticator.authenticate(b"Bearer " + token.encode(), None)
            await authenticator.close()
            assert principal is not None
            return principal

    return asyncio.run(scenario())


def test_a_signed_token_is_accepted_under_its_own_settings() -> None:
    """CONTRACT section 2: the development issuer works without any configuration."""
    development = DevelopmentIssuer.create(clock=FakeClock())
    token = development.sign("developer", ["a", "b"], 60, session="s-1", dept="er")
    principal = _authenticate(development.issuer, token)
    assert (principal.subject, set(principal.scopes), principal.session) == ("developer", {"a", "b"}, "s-1")
    assert (principal.issued_at, principal.expires_at) == (NOW, NOW + 60)
    assert principal.issuer == "https://development.gateway.invalid"
    assert principal.token_id
    assert principal.claims["dept"] == "er"
    assert development.issuer.name == "development"
    assert development.issuer.audience == ("gateway",)
    assert development.issuer.development_key_file == ""


def test_every_token_has_its_own_id() -> None:
    """V1: each can be revoked alone."""
    development = DevelopmentIssuer.create()
    ids = {jwt.decode(development.sign("a"), options={"verify_signature": False})["jti"] for _ in range(20)}
    assert len(ids) == 20


def test_the_key_of_a_directory_is_made_once_and_kept_private(tmp_path: Path) -> None:
    """CONTRACT section 2: tokens outlive a restart."""
    first = DevelopmentIssuer.create(tmp_path / "state", FakeClock())
    second = DevelopmentIssuer.create(tmp_path / "state", FakeClock())
    assert first.issuer == second.issuer
    assert _authenticate(second.issuer, first.sign("a")).subject == "a"
    path = Path(first.issuer.development_key_file)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["development-key.pem"]


def test_another_process_signs_with_the_key_file(tmp_path: Path) -> None:
    """CONTRACT section 3: `gateway token`."""
    development = DevelopmentIssuer.create(tmp_path)
    token = DevelopmentIssuer.of(development.issuer, FakeClock()).sign("a")
    assert _authenticate(development.issuer, token).subject == "a"


def test_nothing_but_a_development_issuer_signs(tmp_path: Path) -> None:
    """CONTRACT section 3: `gateway token` refuses any other issuer's key."""
    with pytest.raises(ConfigError, match="issuer 'login' is not a development issuer"):
        DevelopmentIssuer.of(issuer())
    foreign = DevelopmentIssuer.create(tmp_path)
    with pytest.raises(ConfigError, match="is not the key that its JWK Set names"):
        DevelopmentIssuer.of(replace(DevelopmentIssuer.create().issuer, development_key_file=foreign.issuer.development_key_file))


@pytest.mark.parametrize("name", ["iss", "sub", "iat", "exp", "scope"])
def test_claims_that_are_decided_here_can_not_be_replaced(name: str) -> None:
    """A2: arguments mean what they say."""
    with pytest.raises(ValueError, match=name):
        DevelopmentIssuer.create().sign("a", **{name: "x"})  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [0, -1])
def test_a_token_needs_time(seconds: float) -> None:
    """A2: an expiry that is not positive is a mistake."""
    with pytest.raises(ValueError, match="must be positive"):
        DevelopmentIssuer.create().sign("a", (), seconds)


def test_keygen_writes_a_pair_that_fits(tmp_path: Path) -> None:
    """CONTRACT section 3: `gateway keygen`."""
    files = keygen(tmp_path / "keys")
    assert stat.S_IMODE(files.private_key.stat().st_mode) == 0o600
    (public,) = json.loads(files.jwks.read_bytes())["keys"]
    assert "d" not in public
    assert (public["kty"], public["alg"], public["use"]) == ("EC", "ES256", "sig")
    settings = Issuer(
        name="private",
        issuer="https://private.example.gov",
        audience=("hms",),
        algorithms=("ES256",),
        jwks_file=str(files.jwks),
        development_key_file=str(files.private_key),
    )
    assert _authenticate(settings, DevelopmentIssuer.of(settings, FakeClock()).sign("a")).subject == "a"


def test_keygen_replaces_nothing(tmp_path: Path) -> None:
    """CONTRACT section 3: a key in use is not lost by a second call."""
    files = keygen(tmp_path)
    before = files.private_key.read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        keygen(tmp_path)
    assert files.private_key.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_a_key_file_that_can_not_be_trusted_is_refused(tmp_path: Path) -> None:
    """A1: readable by others, or no P-256 key."""
    development = DevelopmentIssuer.create(tmp_path)
    path = Path(development.issuer.development_key_file)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="mode must be 0600"):
        DevelopmentIssuer.create(tmp_path)
    path.write_text("garbage")
    with pytest.raises(ConfigError, match="not an unencrypted private key"):
        DevelopmentIssuer.create(tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match="can't be read"):
        DevelopmentIssuer.of(development.issuer)
    with pytest.raises(ConfigError, match="can't be written"):
        DevelopmentIssuer.create("/proc/nowhere")


def test_no_key_in_a_repr() -> None:
    """O4: secrets show nowhere."""
    assert repr(DevelopmentIssuer.create()).startswith("<DevelopmentIssuer ")
