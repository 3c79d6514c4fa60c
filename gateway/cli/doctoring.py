"""`gateway doctor`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from gateway.cli.options import CONFIG_VARIABLE, DEFAULT_CONFIG, EXISTING_FILE, FOUND_A_PROBLEM

_MARKS = {"good": "ok", "warning": "warning", "problem": "PROBLEM"}


@click.command()
@click.option(
    "-c",
    "--config",
    type=EXISTING_FILE,
    default=DEFAULT_CONFIG,
    envvar=CONFIG_VARIABLE,
    show_default=True,
    show_envvar=True,
    help="The configuration file.",
)
def doctor(config: Path) -> None:
    """Test whether a gateway with this configuration could do its job here, without starting one.

    Ports, keys, the store (shared, writable, scripts, eviction, persistence, clock), its other replicas, Consul. Exit code 1 when something
    keeps the gateway from its job; warnings alone are 0.
    """
    from gateway.config import ConfigProblems, load
    from gateway.development import lacks_issuer

    try:
        settings = load(config, os.environ)
    except ConfigProblems as error:
        for problem in error.problems:
            click.echo(f"{_MARKS['problem']:<8} config       {problem}")
        raise SystemExit(FOUND_A_PROBLEM) from None
    from gateway.doctor import diagnose
    from gateway.finding import Finding

    findings = asyncio.run(diagnose(settings))
    if lacks_issuer(settings):
        told = "no issuer is configured; a development issuer is made at each start, and never in production"
        findings.append(Finding("issuers", "warning", told))
    for finding in findings:
        click.echo(f"{_MARKS[finding.level]:<8} {finding.what:<12} {finding.told}")
    if any(finding.level == "problem" for finding in findings):
        raise SystemExit(FOUND_A_PROBLEM)
