"""`check`, `schema` and `routes`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli.main import gateway

GOOD = """\
version: 1
services: {p: {instances: ["http://10.0.0.1:9001"]}}
limits: {daily: {quota: 100/day}, minute: {rate: 5/minute}}
routes:
  - {name: rest, path: "/{rest:path}", service: p, hosts: [a.example], scopes: [x, y], any_scope: [u, v], roles: [r], claims: {dept: [d]}}
  - {name: one, path: "/a/{id}", service: p, methods: [GET], limits: [daily], shadow_limits: [minute]}
  - {name: literal, path: /a/b, service: p, methods: [GET], authentication: none}
"""


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(gateway, arguments)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(GOOD)
    return path


def test_check_counts_what_is_good(good: Path) -> None:
    result = invoke("check", str(good))
    assert (result.exit_code, result.stdout) == (0, f"{good}: good (3 routes, 1 service, 0 warnings)\n")


def test_check_says_every_problem_and_ends_with_1(good: Path) -> None:
    """CONTRACT §3: exit 1 found a problem."""
    good.write_text(GOOD.replace("limits: [daily]", "limits: [dayly]").replace("version: 1", "version: 2"))
    result = invoke("check", str(good))
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f"{good}:1:10 version: 2 is out of range; allowed: 1",
        f'{good}:6:71 routes[1].limits[0]: unknown limit "dayly", did you mean "daily"?; defined limits: daily, minute',
        f"{good}: 2 problems",
    ]


def test_check_warns_and_ends_with_0(good: Path) -> None:
    """CONTRACT §3: warns of legal but dangerous config."""
    good.write_text(GOOD.replace("methods: [GET], authentication: none", "methods: [POST], authentication: none"))
    result = invoke("check", str(good))
    assert result.exit_code == 0
    assert result.stderr.startswith(f"warning: {good}:7:1 route literal: anybody may POST without authentication")


def test_check_can_leave_files_alone(good: Path) -> None:
    good.write_text(GOOD + "admin: {token_file: /run/secrets/nowhere}\n")
    assert invoke("check", str(good)).exit_code == 1
    assert invoke("check", "--without-files", str(good)).exit_code == 0


def test_routes_are_in_match_order(good: Path) -> None:
    """CONTRACT §3: the compiled route table, in match order."""
    lines = invoke("routes", str(good)).stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["ROUTE", "METHODS", "HOSTS", "PATH", "TARGET", "AUTHENTICATION", "NEEDS", "LIMITS"],
        ["rest", "any", "a.example", "/{rest:path}", "p", "required", "x,y,u|v,role:r,claim:dept", "-"],
        ["literal", "GET", "any", "/a/b", "p", "none", "-", "-"],
        ["one", "GET", "any", "/a/{id}", "p", "required", "-", "daily,(minute)"],
    ]


def test_schema_is_json() -> None:
    """CONTRACT §3: JSON Schema of the config."""
    assert json.loads(invoke("schema").stdout)["title"] == "gateway.yaml"
