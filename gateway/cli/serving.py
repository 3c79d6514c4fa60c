"""`gateway run`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.options import CONFIG_VARIABLE, COULD_NOT_START, DEFAULT_CONFIG, fail

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

        serve(listening_at(settings, host, port, workers), read)
    except ConfigProblems as error:
        fail(f"could not start: {_summary(error, config)}", COULD_NOT_START)
    except ConfigError as error:
        fail(f"could not start: {error}", COULD_NOT_START)


def _summary(error: ConfigProblems, config: Path) -> str:
    """The first problem, and where to see the others."""
    others = len(error.problems) - 1
    return f"{error.problems[0]}" + (f" (and {others} more: gateway check {config})" if others > 0 else "")
