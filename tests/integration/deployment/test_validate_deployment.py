"""scripts/validate-deployment: it passes what is committed, and says what is wrong with what is broken."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def validate(root: Path) -> subprocess.CompletedProcess[str]:
    # The programs are those of the environment that runs the tests, wherever that is.
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix}
    return subprocess.run(
        [ROOT / "scripts" / "validate-deployment", "--root", root],
        capture_output=True,
        text=True,
        env=environment,
        timeout=110,
        check=False,
    )


def rewritten(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The validated files alone, to be broken."""
    for name in ("k8s", "examples", "gateway/demo"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.py", "data"))
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    return tmp_path


def test_committed_deployment_is_valid() -> None:
    result = validate(ROOT)
    assert (result.returncode, result.stdout, result.stderr) == (0, "deployment files are valid\n", "")


def test_every_broken_file_is_named(copy: Path) -> None:
    breaks = [
        rewritten("k8s/base/deployment.yaml", "readOnlyRootFilesystem:", "readonlyRootFilesystem:"),
        rewritten("k8s/overlays/dev/redis.yaml", "kind: Service\n", "kind: Servize\n"),
        rewritten("docker-compose.yml", "stop_grace_period:", "stop_grace_time:"),
        rewritten("k8s/base/gateway.yaml", "limits: [per-client, daily]", "limits: [per-client, dayly]"),
        rewritten("examples/clinic_gateway.yaml", "service: claims", "service: claim"),
    ]
    for change in breaks:
        change(copy)
    result = validate(copy)
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    for where, what in [
        ("k8s/base: ", "readonlyRootFilesystem"),
        ("k8s/overlays/dev: ", "Servize"),
        ("docker-compose.yml: ", "stop_grace_time"),
        ("k8s/base/gateway.yaml: ", "dayly"),
        ("examples/clinic_gateway.yaml: ", "claim"),
    ]:
        assert any(line.startswith(where) and what in line for line in lines), result.stderr


def test_kustomization_that_does_not_render_is_one_line(copy: Path) -> None:
    (copy / "k8s/base/service.yaml").unlink()
    result = validate(copy)
    assert result.returncode == 1
    assert [line for line in result.stderr.splitlines() if line.startswith("k8s/base: does not render: ")]
