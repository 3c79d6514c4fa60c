"""`gateway run`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.options import CONFIG_VARIABLE, COULD_NOT_START, DEFAULT_CONFIG, GRACE_VARIABLE, fail

if TYPE_CHECKING:
    from gateway.config import ConfigProblems
    from gateway.settings import Settings


@click.command()
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    default=DEFAULT_CONFIG,
    envvar=CONFIG_VARIABLE,
    show_default=True,
    show_envvar=True,
    help="The configuration file.",
)
@click.option("--host", help="Address to listen on, instead of server.host.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on, instead of server.port; 0 takes a free one.")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes that serve, instead of server.workers.")
def run(config: Path, host: str | None, port: int | None, workers: int | None) -> None:
    """Serve until SIGTERM or SIGINT."""
    from gateway.config import ConfigProblems, load
    from gateway.errors import ConfigError

    def read() -> Settings:
        return listening_at(load(config, os.environ), host, port, workers)

    try:
        settings = load(config, os.environ)
        # Imported when the configuration is known to be good: most of what this takes is the import.
        from gateway.app import listening_at, serve

        _warn_of_grace(settings)
        serve(listening_at(settings, host, port, workers), read)
    except ConfigProblems as error:
        fail(f"could not start: {_summary(error, config)}", COULD_NOT_START)
    except ConfigError as error:
        fail(f"could not start: {error}", COULD_NOT_START)


def _warn_of_grace(settings: Settings) -> None:
    """Say when the platform would kill us before the drain is over, as far as it has told us."""
    from gateway.config.caution import drain_warnings, grace_period
    from gateway.config.problems import Wrong

    given = os.environ.get(GRACE_VARIABLE)
    if not given:
        return
    try:
        cautions = drain_warnings(settings, grace_period(given))
    except Wrong as error:
        fail(f"could not start: {GRACE_VARIABLE}: {error}; {error.allowed}", COULD_NOT_START)
    for caution in cautions:
        click.echo(f"warning: {caution}", err=True)


def _summary(error: ConfigProblems, config: Path) -> str:
    """The first problem, and where to see the others."""
    others = len(error.problems) - 1
    return f"{error.problems[0]}" + (f" (and {others} more: gateway check {config})" if others > 0 else "")
