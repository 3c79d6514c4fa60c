"""Options and endings that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import click

FOUND_A_PROBLEM = 1
COULD_NOT_START = 3

CONFIG_VARIABLE = "GATEWAY_CONFIG"
DEFAULT_CONFIG = "gateway.yaml"

#: A file that must be there: a wrong path is bad usage.
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def fail(message: str, code: int) -> NoReturn:
    """One line on stderr, then the end."""
    click.echo(f"gateway: {' '.join(message.split())}", err=True)
    raise SystemExit(code)
