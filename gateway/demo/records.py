"""The records that a demonstration service holds in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Literal

import orjson

from gateway.demo.synthesis import Record

Kind = Literal["patients", "plans", "policies", "claims"]


class Table:
    """Records by id, in order. One process owns a table; what is added to it ends with the process."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._by_id = {str(record["id"]): record for record in records}

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, identity: str) -> Record | None:
        return self._by_id.get(identity)

    def put(self, record: Record) -> None:
        """Add a record, or replace the one with the same id."""
        self._by_id[str(record["id"])] = record

    def search(self, wanted: Mapping[str, str]) -> list[Record]:
        """Records whose fields have these values. `name.family` reaches into a nested object; text is compared without case."""
        conditions = [(path.split("."), value.casefold()) for path, value in wanted.items()]
        return [record for record in self._by_id.values() if all(_text(record, path) == value for path, value in conditions)]


def load(kind: Kind) -> Table:
    """The committed records of one kind."""
    return Table(orjson.loads(resources.files("gateway.demo").joinpath("data", f"{kind}.json").read_bytes()))


def _text(record: Record, path: list[str]) -> str:
    value: object = record
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return str(value).casefold()
