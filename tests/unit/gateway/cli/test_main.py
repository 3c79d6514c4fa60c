"""The command line as a whole."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import pytest
from click.testing import CliRunner

from gateway.cli.main import DISTRIBUTION, gateway


def test_help_lists_every_command() -> None:
    output = CliRunner().invoke(gateway, ["--help"]).output
    assert [
        name for name in ("run", "check", "schema", "routes", "token", "keygen", "revoke", "revocations") if f"\n  {name} " not in output
    ] == []


def test_version_is_the_distributions() -> None:
    try:
        expected = version(DISTRIBUTION)
    except PackageNotFoundError:
        expected = "unknown"
    result = CliRunner().invoke(gateway, ["--version"])
    assert (result.exit_code, result.output) == (0, f"gateway {expected}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["check"],
        ["check", "/nowhere/gateway.yaml"],
        ["run", "--port", "99999"],
        ["run", "--workers", "0"],
        ["token"],
        ["token", "--subject", "s"],
        ["token", "--subject", "s", "--expires", "soon", "--key-file", "/dev/null"],
        ["revoke"],
        ["revoke", "--jti", "a", "--session", "b"],
        ["revoke", "--subject", "a", "--client", "b"],
        ["revoke", "--subject", "a", "--expires", "soon"],
        ["revoke", "--subject", ""],
    ],
)
def test_bad_usage_ends_with_2(arguments: list[str]) -> None:
    """CONTRACT §3: exit 2 bad usage."""
    assert CliRunner().invoke(gateway, arguments).exit_code == 2
