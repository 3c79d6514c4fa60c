"""Scripts as commands on the wire."""

from __future__ import annotations

from pathlib import Path

from gateway.store.script import Script, bulk


def test_an_argument_is_a_bulk_string() -> None:
    assert bulk(b"") == b"$0\r\n\r\n"
    assert bulk("ä".encode()) == b"$2\r\n\xc3\xa4\r\n"


def test_a_script_is_called_by_hash_by_text_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "one.lua"
    path.write_text("return 1")
    script = Script.read(path)
    assert script.sha == "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"
    assert script.by_sha == b"$7\r\nEVALSHA\r\n$40\r\ne0e1f9fabfc9d4800c877a703b823ac0578ff8db\r\n"
    assert script.by_text == b"$4\r\nEVAL\r\n$8\r\nreturn 1\r\n"
    assert script.load == b"*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n$8\r\nreturn 1\r\n"
