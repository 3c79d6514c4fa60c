"""Which gateway this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def gateway_version() -> str:
    """The installed version."""
    try:
        return version("hms-gateway")
    except PackageNotFoundError:
        return "0+source"
