"""`keygen` and `token`."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import jwt
import pytest
from click.testing import CliRunner, Result

from gateway.auth.development import AUDIENCE, ISSUER, JWKS_FILE, PRIVATE_KEY_FILE
from gateway.cli.main import gateway


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(gateway, arguments)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    assert invoke("keygen", "--out", str(tmp_path)).exit_code == 0
    return tmp_path


def claims(token: str, keys: Path) -> dict[str, object]:
    """The claims, verified with the key set that `keygen` wrote."""
    key = jwt.PyJWK(json.loads((keys / JWKS_FILE).read_text())["keys"][0])
    decoded: dict[str, object] = jwt.decode(token, key, algorithms=["ES256"], audience=AUDIENCE, issuer=ISSUER)
    return decoded


def test_keygen_makes_a_private_key_that_only_its_owner_reads(keys: Path) -> None:
    """CONTRACT §3: key pair + JWKS file."""
    assert stat.S_IMODE((keys / PRIVATE_KEY_FILE).stat().st_mode) == 0o600


def test_keygen_never_replaces_a_key(keys: Path) -> None:
    result = invoke("keygen", "--out", str(keys))
    assert result.exit_code == 1
    assert "exists already" in result.stderr


def test_token_is_signed_with_the_key_file(keys: Path) -> None:
    key_file = str(keys / PRIVATE_KEY_FILE)
    result = invoke(
        "token", "--subject", "jane", "--scope", "a b", "--scope", "c", "--expires", "2h", "--session", "s", "--key-file", key_file
    )
    found = claims(result.stdout.strip(), keys)
    assert (found["sub"], found["scope"], found["sid"]) == ("jane", "a b c", "s")
    assert isinstance(found["exp"], int)
    assert isinstance(found["iat"], int)
    assert found["exp"] - found["iat"] == 7200


def config(keys: Path, *issuers: str) -> str:
    path = keys / "gateway.yaml"
    path.write_text("version: 1\nauthentication:\n  issuers:\n" + "".join(f"    - {{{issuer}}}\n" for issuer in issuers))
    return str(path)


DEVELOPMENT = (
    f"name: dev, issuer: '{ISSUER}', audience: [{AUDIENCE}], algorithms: [ES256], "
    f"jwks_file: {JWKS_FILE}, development_key_file: {PRIVATE_KEY_FILE}"
)
LOGIN = "name: login, issuer: 'https://login', audience: [a], jwks_url: 'https://login/keys'"


def test_token_is_signed_for_the_configurations_development_issuer(keys: Path) -> None:
    """CONTRACT §3: signs with a development issuer's key."""
    file = config(keys, LOGIN, DEVELOPMENT)
    assert claims(invoke("token", "--subject", "s", "-c", file).stdout.strip(), keys)["sub"] == "s"
    assert claims(invoke("token", "--subject", "s", "-c", file, "--issuer", "dev").stdout.strip(), keys)["sub"] == "s"


@pytest.mark.parametrize(
    ("issuers", "arguments", "message"),
    [
        ([LOGIN], [], "no issuer has a development_key_file"),
        ([LOGIN, DEVELOPMENT], ["--issuer", "login"], "is not a development issuer"),
        ([LOGIN], ["--issuer", "other"], "no issuer is named 'other'; defined issuers: login"),
    ],
)
def test_token_refuses_any_other_issuer(issuers: list[str], arguments: list[str], message: str, keys: Path) -> None:
    """CONTRACT §3: refuses any other."""
    result = invoke("token", "--subject", "s", "-c", config(keys, *issuers), *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
