"""The in-memory table of a demonstration service."""

from gateway.demo.records import Table, load

RECORDS = [
    {"id": "1", "status": "active", "name": {"family": "Bawick"}},
    {"id": "2", "status": "active", "name": {"family": "Domar"}},
    {"id": "3", "status": "draft", "name": {"family": "Bawick"}},
]


def found(table: Table, **wanted: str) -> list[str]:
    return [record["id"] for record in table.search({name.replace("__", "."): value for name, value in wanted.items()})]


def test_search_needs_every_condition_to_hold() -> None:
    table = Table(RECORDS)
    assert found(table) == ["1", "2", "3"]
    assert found(table, status="active") == ["1", "2"]
    assert found(table, status="active", name__family="bawick") == ["1"]


def test_search_for_a_field_that_is_not_there_finds_nothing() -> None:
    assert found(Table(RECORDS), name__family__first="x") == []


def test_put_replaces_the_record_with_the_same_id() -> None:
    table = Table(RECORDS)
    table.put({"id": "2", "status": "cancelled"})
    assert len(table) == 3
    assert table.get("2") == {"id": "2", "status": "cancelled"}
    assert table.get("9") is None


def test_every_kind_of_record_is_packaged() -> None:
    assert [len(load(kind)) for kind in ("patients", "plans", "policies", "claims")] == [240, 4, 240, 180]
