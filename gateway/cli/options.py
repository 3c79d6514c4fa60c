"""Options and endings that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

FOUND_A_PROBLEM = 1
COULD_NOT_START = 3

CONFIG_VARIABLE = "GATEWAY_CONFIG"
DEFAULT_CONFIG = "gateway.yaml"
#: What the platform gives a process between telling it to end and killing it.
GRACE_VARIABLE = "GATEWAY_GRACE_PERIOD"

DEFAULT_ADMIN_URL = "http://127.0.0.1:9080"
ADMIN_TOKEN_VARIABLE = "GATEWAY_ADMIN_TOKEN"  # nosec B105 # noqa: S105 - the name of a variable

F = TypeVar("F", bound=Callable[..., Any])

#: A file that must be there: a wrong path is bad usage.
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def fail(message: str, code: int) -> NoReturn:
    """One line on stderr, then the end."""
    click.echo(f"gateway: {' '.join(message.split())}", err=True)
    raise SystemExit(code)


def admin_options(command: F) -> F:
    """Adds `--admin` and `--admin-token-file`."""
    token_file = click.option("--admin-token-file", type=EXISTING_FILE, help=f"File with the admin token; else {ADMIN_TOKEN_VARIABLE}.")
    return click.option("--admin", default=DEFAULT_ADMIN_URL, show_default=True, help="URL of the admin port.")(token_file(command))
