"""What an administrator can have a serving process do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway.server.reload import Reloaded


@dataclass(frozen=True, slots=True)
class Controls:
    """For the admin site.

    Args:
        reload: loads the configuration again. Raises ConfigError.
        end: begins the end of the whole gateway.
    """

    reload: Callable[[], Awaitable[Reloaded]]
    end: Callable[[], None]
