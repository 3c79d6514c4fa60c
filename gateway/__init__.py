"""HMS Gateway: a Redis-backed distributed API gateway.

The names are imported on first use, so that the command line and the modules below stay quick to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.app import BackendAPIGateway
    from gateway.errors import ConfigError, GatewayError
    from gateway.handlers import GatewayRequest

__all__ = ["BackendAPIGateway", "ConfigError", "GatewayError", "GatewayRequest"]

_HOME = {
    "BackendAPIGateway": "gateway.app",
    "ConfigError": "gateway.errors",
    "GatewayError": "gateway.errors",
    "GatewayRequest": "gateway.handlers",
}


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
