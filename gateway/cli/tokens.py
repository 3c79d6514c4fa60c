"""`gateway keygen` and `token`: keys and tokens of a development issuer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.options import EXISTING_FILE, FOUND_A_PROBLEM, fail

if TYPE_CHECKING:
    from gateway.auth.development import DevelopmentIssuer
    from gateway.settings import Issuer


class DurationType(click.ParamType[float]):
    """`1h`, `30m`, as in the configuration; seconds once parsed."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from gateway.config.problems import Wrong
        from gateway.config.values import Duration

        try:
            return Duration("1s", "3650d").parse(value)
        except Wrong as error:
            self.fail(f"{error.message}; {error.allowed}", param, ctx)


@click.command()
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path(), show_default="the current directory", help="Where to write."
)
def keygen(out: Path) -> None:
    """Make a key pair: a private key for `gateway token`, and the JWKS file by which a gateway trusts it."""
    from gateway.auth.development import keygen as make
    from gateway.errors import ConfigError

    try:
        files = make(out)
    except ConfigError as error:
        fail(str(error), FOUND_A_PROBLEM)
    click.echo(f"private key  {files.private_key}")
    click.echo(f"key set      {files.jwks}")


@click.command()
@click.option("--subject", required=True, help="Whose token: `sub`.")
@click.option("--scope", "scopes", multiple=True, help="A scope, or several with spaces between; may be repeated.")
@click.option("--expires", type=DurationType(), default="1h", show_default=True, help="How long the token holds.")
@click.option("--session", help="`sid`.")
@click.option("-c", "--config", type=EXISTING_FILE, help="Sign for the development issuer of this configuration.")
@click.option("--issuer", "issuer_name", help="Name of the issuer in the configuration, when it has several for development.")
@click.option("--key-file", type=EXISTING_FILE, help="Sign with this private key, made by `gateway keygen`.")
def token(
    subject: str,
    scopes: tuple[str, ...],
    expires: float,
    session: str | None,
    config: Path | None,
    issuer_name: str | None,
    key_file: Path | None,
) -> None:
    """Print a token, signed with a development issuer's key; other issuers sign their own."""
    from gateway.errors import ConfigError

    if (config is None) == (key_file is None):
        raise click.UsageError("give either -c FILE or --key-file FILE")
    try:
        issuer = _configured(config, issuer_name) if config is not None else _of_key(key_file)
        click.echo(issuer.sign(subject, " ".join(scopes).split(), expires, session=session))
    except ConfigError as error:
        fail(str(error), FOUND_A_PROBLEM)


def _configured(config: Path, name: str | None) -> DevelopmentIssuer:
    from gateway.auth.development import DevelopmentIssuer
    from gateway.config import load

    return DevelopmentIssuer.of(_choose(load(config, os.environ).authentication.issuers, name))


def _choose(issuers: tuple[Issuer, ...], name: str | None) -> Issuer:
    """The issuer of that name, or the only one with a development key."""
    from gateway.errors import ConfigError

    found = [issuer for issuer in issuers if (issuer.name == name if name else issuer.development_key_file)]
    if len(found) == 1:
        return found[0]
    if name:
        raise ConfigError(f"no issuer is named {name!r}; defined issuers: {', '.join(issuer.name for issuer in issuers) or 'none'}")
    if found:
        raise ConfigError(f"several development issuers: choose with --issuer one of {', '.join(issuer.name for issuer in found)}")
    raise ConfigError("no issuer has a development_key_file: tokens are signed by the issuers, not here")


def _of_key(key_file: Path | None) -> DevelopmentIssuer:
    from gateway.auth.development import ALGORITHM, AUDIENCE, ISSUER, NAME, DevelopmentIssuer
    from gateway.settings import Issuer

    issuer = Issuer(name=NAME, issuer=ISSUER, audience=(AUDIENCE,), algorithms=(ALGORITHM,), development_key_file=str(key_file))
    return DevelopmentIssuer.of(issuer)
