"""The JSON Schema for editors: it accepts what loads and refuses the commonest mistakes."""

from __future__ import annotations

import pytest
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from gateway.config.schema import schema
from tests.unit.gateway.config.test_loading import CONTRACT

VALIDATOR = Draft202012Validator(schema())


def test_is_a_valid_schema() -> None:
    Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize(
    "fragment",
    [
        "server: {port: 80, timeouts: {header: 10s}, max: {body_bytes: 10MiB}}",
        "server: {port: '${PORT}', timeouts: {header: '${HEADER:-10s}'}}",
        "services: {p: {consul: p, balance: {consistent_hash: {by: subject}}}, q: {instances: ['http://h', {url: 'http://i', weight: 2}]}}",
        "limits: {a: {rate: 100/minute, key: [subject, route]}, b: {concurrency: 3}}",
        "telemetry: {traces: {always: [errors, slow: 1s], sample_ratio: 10%}}",
        "state: {shards: auto}",
    ],
)
def test_accepts_what_loads(fragment: str) -> None:
    """CONTRACT §3 (schema): JSON Schema of the config, for editors."""
    assert VALIDATOR.is_valid(yaml.safe_load(f"version: 1\n{fragment}"))


@pytest.mark.parametrize(
    "fragment",
    [
        "sever: {}",
        "server: {port: 99999}",
        "server: {timeouts: {header: 10}}",
        "server: {tls: {}}",
        "services: {p: {balance: best}}",
        "limits: {a: {rate: fast}}",
        "routes: [{path: /a}]",
        "routes: [{path: /a, service: p, authentication: maybe}]",
        "audit: {chain: maybe}",
    ],
)
def test_refuses_the_commonest_mistakes(fragment: str) -> None:
    assert not VALIDATOR.is_valid(yaml.safe_load(f"version: 1\n{fragment}"))


def test_accepts_the_contracts_example() -> None:
    tree = yaml.safe_load(CONTRACT)
    # YAML 1.1, which PyYAML speaks, reads `off` as false; the gateway reads YAML 1.2.
    tree["authentication"]["failures"] = "off"
    assert [error.message for error in VALIDATOR.iter_errors(tree)] == []


def test_every_key_is_described() -> None:
    document = schema()
    for model in [document, *document["$defs"].values()]:
        assert model["description"]
        # A section that says the same as its model has it there.
        assert all("description" in value or "$ref" in value for value in model["properties"].values())


def test_defaults_are_as_the_file_says_them() -> None:
    definitions = schema()["$defs"]
    for model in definitions.values():
        section = {key: value["default"] for key, value in model["properties"].items() if "default" in value}
        for key, value in section.items():
            assert Draft202012Validator({"$defs": definitions, **model["properties"][key]}).is_valid(value), (key, value)
    assert definitions["ServerTimeouts"]["properties"]["idle"]["default"] == "75s"
