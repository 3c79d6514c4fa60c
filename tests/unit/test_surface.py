"""What somebody gets who configures nothing: the least that can be reached, and the least that can be done with it."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.config import load
from gateway.settings import AdminSettings, ServerSettings

ROOT = Path(__file__).resolve().parents[2]


def test_the_admin_port_is_on_loopback_unless_told_otherwise(tmp_path: Path) -> None:
    """S-41, CM-7: by default nobody outside of the machine reaches it; nor the data port."""
    file = tmp_path / "gateway.yaml"
    file.write_text("version: 1\n")
    settings = load(file, {})
    assert settings.admin.host == AdminSettings().host == "127.0.0.1"
    assert settings.server.host == ServerSettings().host == "127.0.0.1"


def test_the_image_runs_as_nobody_in_particular_and_carries_no_package_manager() -> None:
    """F-55: a numeric user that is not root, set after the last step that needs one; pip stays in the stage that builds."""
    stages = re.split(r"(?m)^FROM ", (ROOT / "Dockerfile").read_text())
    last = stages[-1]
    users = re.findall(r"(?m)^USER (\S+)", last)
    assert users == ["10001:10001"]
    assert not re.search(r"(?m)^(RUN|ADD|COPY)\b", last[last.index("USER ") :])
    assert "PYTHONDONTWRITEBYTECODE=1" in last, "the root file system may be read-only"
    assert "/opt/build" not in last
