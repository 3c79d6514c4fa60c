"""`gateway revoke` and `revocations`, over the admin API."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from gateway.cli.options import FOUND_A_PROBLEM, admin_options, fail
from gateway.cli.when import When

_PATH = "/v1/revocations"


@click.command()
@click.option("--token", help="This token; - reads it from standard input.")
@click.option("--jti", help="The token with this id; --subject may say whose it is.")
@click.option("--subject", help="All tokens of this subject.")
@click.option("--session", help="All tokens of this session.")
@click.option("--client", help="All tokens of this client.")
@click.option("--issuer", help="All tokens of this issuer.")
@click.option("--issued-before", type=When(), help="Only tokens issued at or before WHEN: RFC 3339, epoch seconds, now, +1h, -5m.")
@click.option("--expires", type=When(), help="WHEN the entry ends; by itself when the last token that it concerns has expired.")
@click.option("--reason", default="", help="For the records.")
@admin_options
def revoke(
    token: str | None,
    jti: str | None,
    subject: str | None,
    session: str | None,
    client: str | None,
    issuer: str | None,
    issued_before: float | None,
    expires: float | None,
    reason: str,
    admin: str,
    admin_token_file: Path | None,
) -> None:
    """Revoke a token, or all tokens of a subject, session, client or issuer. In force on every replica when this command ends."""
    from gateway.cli.admin_client import AdminError, open_admin

    values = {"token": token, "jti": jti, "subject": subject, "session": session, "client": client, "issuer": issuer}
    body = _revocation({kind: value for kind, value in values.items() if value is not None})
    body |= {key: value for key, value in {"issued_before": issued_before, "expires_at": expires}.items() if value is not None}
    try:
        with open_admin(admin, admin_token_file) as api:
            entry = api.call("POST", _PATH, body | {"reason": reason})
    except AdminError as error:
        fail(str(error), FOUND_A_PROBLEM)
    click.echo(f"revoked {_line(entry)}")


@click.command()
@admin_options
def revocations(admin: str, admin_token_file: Path | None) -> None:
    """List what is revoked."""
    from gateway.cli.admin_client import AdminError, open_admin

    try:
        with open_admin(admin, admin_token_file) as api:
            entries = api.call("GET", _PATH)["revocations"]
    except AdminError as error:
        fail(str(error), FOUND_A_PROBLEM)
    for entry in entries:
        click.echo(_line(entry))
    if not entries:
        click.echo("nothing is revoked", err=True)


def _revocation(values: dict[str, str]) -> dict[str, object]:
    """Which kind is meant: the members `kind`, `value` and perhaps `subject` of the request."""
    subject = values.pop("subject", None) if "jti" in values else None
    if len(values) != 1:
        raise click.UsageError("give exactly one of --token, --jti (with or without --subject), --subject, --session, --client, --issuer")
    kind, value = values.popitem()
    value = sys.stdin.readline().strip() if (kind, value) == ("token", "-") else value
    if not value:
        raise click.UsageError(f"--{kind} is empty")
    return {"kind": kind, "value": value} | ({"subject": subject} if subject is not None else {})


def _line(entry: Mapping[str, Any]) -> str:
    """One entry: kind, value, and what else it says."""
    parts = [str(entry["kind"]), str(entry["value"])]
    parts += [f"{key}={entry[key]}" for key in ("issuer", "subject") if entry.get(key) is not None]
    parts += [f"{key}={_moment(entry[key])}" for key in ("issued_before", "expires_at") if entry.get(key)]
    if entry.get("reason"):
        parts.append(f"reason={entry['reason']!r}")
    return " ".join(parts)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
