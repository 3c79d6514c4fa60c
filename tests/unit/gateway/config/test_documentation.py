"""`docs/configuration.md` knows every key, and its examples load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.config import load_text, models

TEXT = (Path(__file__).parents[4] / "docs" / "configuration.md").read_text()
SECTIONS = [model for model in vars(models).values() if isinstance(model, type) and issubclass(model, models.Section)]
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
#: What examples that show one section leave out.
REST = {
    "services": "services: {patients: {instances: [http://10.0.0.1:1]}}\n",
    "limits": "limits: {per-client: {rate: 1/second}, daily: {quota: 1/day}}\n",
}


@pytest.mark.parametrize("model", SECTIONS, ids=lambda model: model.__name__)
def test_every_key_has_a_row_with_its_description(model: type[models.Section]) -> None:
    for key, field in model.model_fields.items():
        assert re.search(rf"^\| `{key}` \|.*\| {re.escape(str(field.description).replace('|', chr(92) + '|'))} \|$", TEXT, re.MULTILINE), (
            key
        )


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.split("\n", 1)[0])
def test_examples_load(example: str) -> None:
    """CONTRACT §4: what the documentation shows is what the gateway takes."""
    version = "" if example.startswith("version") else "version: 1\n"
    rest = "".join(text for key, text in REST.items() if f"{key}:\n" not in example)
    load_text(version + rest + example, {"REDIS_PASSWORD": "secret"}, require_files=False)
