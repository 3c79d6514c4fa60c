"""`gateway audit verify`."""

from __future__ import annotations

import asyncio
import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.options import EXISTING_FILE, FOUND_A_PROBLEM

if TYPE_CHECKING:
    from gateway.settings import StateSettings
    from gateway.telemetry.verification import Verification


@click.group()
def audit() -> None:
    """Look into audit records."""


@audit.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=EXISTING_FILE)
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=EXISTING_FILE,
    help="Lines that were kept elsewhere, such as standard output; each checkpoint in them has to be met. May be repeated.",
)
@click.option("--store", metavar="URL", help="The shared store, which keeps the last checkpoint of each process.")
@click.option("-c", "--config", type=EXISTING_FILE, help="The same: the store that this configuration names.")
@click.option("--partial", is_flag=True, help="Earlier files are gone (retention): a chain may begin with any record.")
def verify(files: tuple[Path, ...], checkpoints: tuple[Path, ...], store: str | None, config: Path | None, partial: bool) -> None:
    """Say whether the audit records in FILEs are all there, unchanged and in their places.

    Rotated files may be given in any order, also compressed (.gz). Exit code 1 when something is wrong.
    """
    from gateway.telemetry.verification import Verification

    if len({path.resolve() for path in files}) < len(files):
        raise click.UsageError("the same file is given twice")
    settings = _state(store, config)
    verification = Verification(partial=partial)
    for path in files:
        verification.read(str(path), _lines(path))
    for path in checkpoints:
        if not verification.expect_checkpoints(str(path), _lines(path)):
            raise click.UsageError(f"{path}: there is no checkpoint in it")
    if settings is not None:
        asyncio.run(_ask(settings, verification))
    _tell(verification)


def _tell(verification: Verification) -> None:
    findings = verification.judge()
    for finding in findings:
        click.echo(str(finding))
    for chain in verification.chains.values():
        click.echo(str(chain))
    problems = sum(finding.level == "problem" for finding in findings)
    if not verification.records:
        click.echo("no sealed record was found: nothing is proved")
        raise SystemExit(FOUND_A_PROBLEM)
    told = f"{verification.records} records in {len(verification.chains)} chain{'' if len(verification.chains) == 1 else 's'}"
    click.echo(f"{told}: {'good' if not problems else f'{problems} problem' + ('' if problems == 1 else 's')}")
    if problems:
        raise SystemExit(FOUND_A_PROBLEM)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from file
    except (OSError, EOFError) as error:
        raise click.UsageError(f"{path} can't be read: {error}") from error


def _state(store: str | None, config: Path | None) -> StateSettings | None:
    from gateway.config import ConfigProblems, load
    from gateway.settings import StateSettings

    if store is not None and config is not None:
        raise click.UsageError("either --store or --config names the store")
    if config is None:
        return None if store is None else StateSettings(url=store)
    try:
        return load(config, os.environ).state
    except ConfigProblems as error:
        raise click.UsageError("; ".join(map(str, error.problems))) from None


async def _ask(settings: StateSettings, verification: Verification) -> None:
    """Expect what the store knows of the chains that were met."""
    from gateway.errors import ConfigError
    from gateway.store.error import StoreError
    from gateway.store.redis import Store
    from gateway.telemetry.checkpoints import kept_checkpoint

    try:
        store = Store.open(settings)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    try:
        for replica in sorted(verification.replicas):
            head = await kept_checkpoint(store, replica)
            if head is not None:
                verification.expect(replica, head, "the store")
    except StoreError as error:
        raise click.UsageError(f"the store can't be asked: {error}") from error
    finally:
        await store.close()
