"""`gateway check`, `schema` and `routes`: what a configuration says, without starting anything."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.options import EXISTING_FILE, FOUND_A_PROBLEM, GRACE_VARIABLE

if TYPE_CHECKING:
    from gateway.route import Limit, Route
    from gateway.settings import Settings

_WITHOUT_FILES = click.option(
    "--without-files",
    is_flag=True,
    help="Do not open the files that the configuration names (secrets, certificates): to check it away from where it runs.",
)
_COLUMNS = ("ROUTE", "METHODS", "HOSTS", "PATH", "TARGET", "AUTHENTICATION", "NEEDS", "LIMITS")


@click.command()
@click.argument("file", type=EXISTING_FILE)
@_WITHOUT_FILES
@click.option(
    "--grace-period",
    metavar="DURATION",
    envvar=GRACE_VARIABLE,
    default="90s",
    show_default=True,
    show_envvar=True,
    help="What the platform gives a process between telling it to end and killing it.",
)
def check(file: Path, without_files: bool, grace_period: str) -> None:
    """Say everything that is wrong with FILE, and what is legal but dangerous."""
    from gateway.config import warnings
    from gateway.config.caution import grace_period as seconds_of
    from gateway.config.problems import Wrong

    try:
        grace_seconds = seconds_of(grace_period)
    except Wrong as error:
        raise click.UsageError(f"--grace-period: {error}; {error.allowed}") from error
    settings = _load(file, without_files)
    cautions = warnings(settings, grace_seconds=grace_seconds)
    for caution in cautions:
        click.echo(f"warning: {caution}", err=True)
    counts = f"{_count(len(settings.routes), 'route')}, {_count(len(settings.services), 'service')}, {_count(len(cautions), 'warning')}"
    click.echo(f"{file}: good ({counts})")


@click.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from gateway.config.schema import schema as config_schema

    click.echo(json.dumps(config_schema(), indent=2))


@click.command()
@click.argument("file", type=EXISTING_FILE)
@_WITHOUT_FILES
def routes(file: Path, without_files: bool) -> None:
    """Print the route table of FILE in the order in which routes are tried."""
    from gateway.router import Router

    rows = [_row(route) for route, _ in Router((route, None) for route in _load(file, without_files).routes).entries]
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
    for row in [_COLUMNS, *rows]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _load(file: Path, without_files: bool) -> Settings:
    """The settings, or every problem on stderr and the end."""
    from gateway.config import ConfigProblems, load

    try:
        return load(file, os.environ, require_files=not without_files)
    except ConfigProblems as error:
        for problem in error.problems:
            click.echo(str(problem), err=True)
        click.echo(f"{file}: {_count(len(error.problems), 'problem')}", err=True)
        raise SystemExit(FOUND_A_PROBLEM) from None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _row(route: Route) -> tuple[str, ...]:
    return (
        route.name,
        ",".join(route.methods) or "any",
        ",".join(route.hosts) or "any",
        route.path,
        route.target if isinstance(route.target, str) else "(handler)",
        route.authentication,
        _needs(route),
        ",".join([*map(_limit, route.limits), *(f"({_limit(limit)})" for limit in route.shadow_limits)]) or "-",
    )


def _needs(route: Route) -> str:
    """Scopes as they are, `a|b` for one of several, roles and claims by name."""
    needs = [*route.scopes]
    if route.any_scope:
        needs.append("|".join(route.any_scope))
    if route.client_certificate is not None:
        needs.append("client certificate")
    if route.roles:
        needs.append(f"role:{'|'.join(route.roles)}")
    needs += [f"claim:{name}" for name in route.claims]
    return ",".join(needs) or "-"


def _limit(limit: Limit) -> str:
    return limit.name
