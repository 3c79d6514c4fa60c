"""Entry of the `gateway` command. Command modules are imported when their command is used, and heavy modules inside the commands."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import click

DISTRIBUTION = "hms-gateway"

_TOKENS = "gateway.cli.tokens"
#: Command to the module that has it, under the same name with `_` for `-`.
_HOMES = {
    "run": "gateway.cli.serving",
    "demo": "gateway.cli.demonstration",
    "check": "gateway.cli.checking",
    "doctor": "gateway.cli.doctoring",
    "audit": "gateway.cli.auditing",
    "schema": "gateway.cli.checking",
    "routes": "gateway.cli.checking",
    "token": _TOKENS,
    "keygen": _TOKENS,
    "revoke": "gateway.cli.revoking",
    "revocations": "gateway.cli.revoking",
}


class _Commands(click.Group):
    """A group that imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _HOMES:
            return None
        command = getattr(import_module(_HOMES[cmd_name]), cmd_name)
        assert isinstance(command, click.Command)
        return command


def installed_version() -> str:
    """The version of the installed distribution; `unknown` when run from a tree that is not installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"


def _print_version(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"gateway {installed_version()}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version and end.")
def gateway() -> None:
    """HMS Gateway: routing, tokens, shared limits and revocation in front of HTTP services.

    Exit codes: 0 good, 1 found a problem, 2 bad usage, 3 could not start.
    """


def main() -> None:
    """Run the command line; ends the process."""
    gateway(prog_name="gateway")
