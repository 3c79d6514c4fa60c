"""Fixtures of the fault suite; see `tests/support/faults.py`."""

from __future__ import annotations

from tests.support.fault_fixtures import figures_file, form, login, measured

__all__ = ["figures_file", "form", "login", "measured"]
