"""Keys that a stack of containers makes once."""

from pathlib import Path

import pytest

from gateway.auth.development import JWKS_FILE, PRIVATE_KEY_FILE
from gateway.demo.keys import main


def test_keys_are_made_once_and_then_left_alone(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    assert main([str(directory)]) == 0
    made = (directory / JWKS_FILE).read_bytes(), (directory / PRIVATE_KEY_FILE).read_bytes()
    assert main([str(directory)]) == 0
    assert ((directory / JWKS_FILE).read_bytes(), (directory / PRIVATE_KEY_FILE).read_bytes()) == made
    assert (directory / PRIVATE_KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_private_key_without_its_key_set_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / PRIVATE_KEY_FILE).write_text("somebody's")
    assert main([str(tmp_path)]) == 3
    assert "exists already and is not replaced" in capsys.readouterr().err
    assert (tmp_path / PRIVATE_KEY_FILE).read_text() == "somebody's"


def test_usage_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().err == "usage: python -m gateway.demo.keys DIRECTORY\n"
