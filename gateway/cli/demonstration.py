"""`gateway demo`: sample services and a gateway in front of them, with lines to paste."""

from __future__ import annotations

import http.client
import os
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from gateway.cli.options import COULD_NOT_START, fail

if TYPE_CHECKING:
    from gateway.auth.development import DevelopmentIssuer
    from gateway.settings import Settings

CLERK = "clinic-12"
READER = "auditor"
#: What the second token may do: see patients, and nothing else.
READER_SCOPES = ("patients:read",)
DEFAULT_CONSUL = "http://127.0.0.1:8500"
TOKEN_SECONDS = 8 * 3600
CLAIM = '{"patient": "246", "insurance": "POL20146", "item": [{"productOrService": "office-visit", "net": "120.50"}]}'


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the gateway; 8080 when not given.")
@click.option("--admin-port", type=click.IntRange(1, 65535), help="Port of the admin site; 9080 when not given.")
def demo(port: int | None, admin_port: int | None) -> None:
    """Start two patients services, a claims and a policies service, and a gateway in front of them. Ctrl-C stops everything.

    Nothing is needed beforehand: the store is embedded. When a Consul agent is reachable (CONSUL_HTTP_ADDR, or 127.0.0.1:8500), the
    services register there and the gateway finds them by it.
    """
    from dataclasses import replace

    from gateway.app import serve
    from gateway.demo.stack import DemoError, DemoStack
    from gateway.errors import ConfigError

    environment = dict(os.environ)
    consul = environment.pop("CONSUL_HTTP_ADDR", "") or DEFAULT_CONSUL
    if not reachable(consul):
        consul = ""
    services = {**environment, "CONSUL_HTTP_ADDR": consul} if consul else environment
    chosen = {"GATEWAY_DEMO_PORT": port, "GATEWAY_DEMO_ADMIN_PORT": admin_port}
    environment |= {name: str(value) for name, value in chosen.items() if value is not None}
    try:
        with DemoStack(environment=services) as stack:
            settings, issuer = demo_settings({**environment, **stack.environment}, consul)
            for instance in stack.instances:
                click.echo(f"{instance.service:<9} {instance.url}  ({instance.name})")
            click.echo("Services are found in Consul at " + consul if consul else "No Consul agent is reachable: services are static.")
            click.echo(guide(settings, issuer))
            # Not from a file: the demonstration ends with its terminal.
            settings = replace(settings, source="")
            serve(settings, lambda: settings)
    except (ConfigError, DemoError) as error:
        fail(str(error), COULD_NOT_START)


def reachable(consul: str) -> bool:
    """Whether a Consul agent answers there, quickly."""
    parts = urlsplit(consul if "://" in consul else f"http://{consul}")
    try:
        connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 8500, timeout=0.5)
        connection.request("GET", "/v1/status/leader")
        return connection.getresponse().status == http.client.OK
    except (OSError, ValueError, http.client.HTTPException):
        return False


def demo_settings(environment: Mapping[str, str], consul: str) -> tuple[Settings, DevelopmentIssuer]:
    """The demonstration's settings, with a development issuer, an admin token, and services from Consul when there is one."""
    from dataclasses import replace

    from discovery.consul import agent_from_environment
    from discovery.instance import ConsulQuery
    from gateway.auth.development import DevelopmentIssuer
    from gateway.config import load
    from gateway.demo.stack import CONFIG_FILE

    settings = load(CONFIG_FILE, environment)
    issuer = DevelopmentIssuer.create()
    settings = replace(settings, authentication=replace(settings.authentication, issuers=(issuer.issuer,)))
    if not settings.admin.token:
        settings = replace(settings, admin=replace(settings.admin, token=secrets.token_urlsafe(16)))
    if consul:
        services = {name: replace(service, instances=(), consul=ConsulQuery(name)) for name, service in settings.services.items()}
        agent = agent_from_environment({**environment, "CONSUL_HTTP_ADDR": consul})
        settings = replace(settings, consul=agent, services=services)
    return settings, issuer


def guide(settings: Settings, issuer: DevelopmentIssuer) -> str:
    """Lines to paste into another terminal."""
    from gateway.development import scopes_of

    base = f"http://{settings.server.host}:{settings.server.port}"
    admin = f"http://{settings.admin.host}:{settings.admin.port}"
    clerk = issuer.sign(CLERK, scopes_of(settings), TOKEN_SECONDS)
    reader = issuer.sign(READER, READER_SCOPES, TOKEN_SECONDS)
    bearer = '-H "Authorization: Bearer $TOKEN"'
    steps = (
        ("a public route", f"curl -i {base}/plans"),
        ("a patient, from one of two instances (see X-Served-By)", f"curl -i {bearer} {base}/patients/123"),
        ("submit a claim", f"curl -i {bearer} -H 'Content-Type: application/json' -d '{CLAIM}' {base}/claims"),
        ("no token: 401", f"curl -i {base}/patients/123"),
        ("a token without the scope: 403", f'curl -i -H "Authorization: Bearer $READER" {base}/claims/CLM100'),
        (
            "the limit, 10 a second and 5 at once: some 200, then 429",
            f'curl -s -o /dev/null -w "%{{http_code}} " {bearer} "{base}/patients/123?[1-12]"; echo',
        ),
        (
            "revoke the reader's token, then use it: 401 on every replica at once",
            f'curl -s -H "Authorization: Bearer $ADMIN" {admin}/v1/revocations '
            '-d "{\\"kind\\": \\"token\\", \\"value\\": \\"$READER\\"}"; echo',
        ),
        ("", f'curl -i -H "Authorization: Bearer $READER" {base}/patients/123'),
        ("what the admin site knows", f'curl -s -H "Authorization: Bearer $ADMIN" {admin}/v1/services; curl -s {admin}/metrics | head -20'),
    )
    lines = ["", "Paste into another terminal:", "", f"TOKEN={clerk}", f"READER={reader}", f"ADMIN={settings.admin.token}"]
    for title, line in steps:
        lines += ([f"# {title}"] if title else []) + [line]
    return "\n".join([*lines, ""])
