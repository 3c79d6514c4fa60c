"""The project's frame: locks that fit, targets that are listed, and scripts that say in one line what they miss."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
HASH = "    --hash=sha256:" + "0" * 64
GOOD = f"anyio==4.16.0 \\\n{HASH}\n    # via httpx\ncolorama==0.4.6 ; sys_platform == 'win32' \\\n{HASH} \\\n{HASH}\n"


@pytest.fixture(scope="module")
def check_lock() -> ModuleType:
    loader = SourceFileLoader("check_lock", str(ROOT / "scripts" / "check-lock"))
    spec = importlib.util.spec_from_loader("check_lock", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_the_committed_locks_fit(check_lock: ModuleType) -> None:
    """What is installed is what pyproject.toml asks for, with hashes, from no particular place."""
    assert check_lock.main() == 0


def test_a_lock_of_pinned_hashed_requirements_is_good(check_lock: ModuleType) -> None:
    assert check_lock.problems("lock", GOOD, {"anyio", "colorama"}) == []
    assert check_lock.pins(GOOD) == {"anyio": {"4.16.0"}, "colorama": {"0.4.6"}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("anyio>=4 \\\n" + HASH + "\n", "no pinned requirement"),
        ("anyio==4.16.0\n", "has no hash"),
        ("--index-url x\n" + GOOD, "no pinned requirement"),
        ("anyio @ https://example.org/anyio.whl \\\n" + HASH + "\n", "names an address"),
        (GOOD + "# from https://example.org/simple\n", "names an address"),
        (GOOD.replace("anyio", "other"), "anyio is not locked"),
    ],
)
def test_what_is_wrong_with_a_lock_is_said(check_lock: ModuleType, text: str, problem: str) -> None:
    assert any(problem in each for each in check_lock.problems("lock", text, {"anyio"}))


def test_groups_require_what_the_groups_in_them_require(check_lock: ModuleType) -> None:
    groups = {"build": ["Hatchling>=1"], "dev": [{"include-group": "build"}, "types_PyYAML", "mypy[x]>=1; sys_platform != 'win32'"]}
    assert check_lock.group_names(groups, "dev") == {"hatchling", "types-pyyaml", "mypy"}


def test_help_lists_every_target() -> None:
    """CONTRACT 1: `make help` lists the targets."""
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    # Under `make test` this would be a make within a make, which prints more.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, env=environment).stdout
    assert [line.split()[0] for line in listed.splitlines()] == phony[1].split()


@pytest.mark.parametrize(
    ("script", "arguments", "environment", "status", "message"),
    [
        ("make-environment", [], {}, 2, "usage: scripts/make-environment run | dev"),
        ("install-test-parts", [], {"PATH": "/nonexistent"}, 0, "not on this machine: redis-server"),
    ],
)
def test_a_script_says_in_one_line_what_it_misses(
    script: str, arguments: list[str], environment: dict[str, str], status: int, message: str
) -> None:
    command = ["/bin/sh", str(ROOT / "scripts" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"} | environment, check=False)
    assert done.returncode == status
    assert message in done.stderr
    assert done.stderr.count("\n") == bool(message)


def test_redis_that_is_named_is_not_installed() -> None:
    environment = {"PATH": "/nonexistent", "GATEWAY_TEST_REDIS_URL": "redis://127.0.0.1"}
    command = ["/bin/sh", str(ROOT / "scripts" / "install-test-parts")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0
    assert "redis-server" not in done.stderr
