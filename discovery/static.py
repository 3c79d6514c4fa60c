"""Instances that stand in the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from discovery.instance import Instance
from discovery.source import Found, Publish


@dataclass(frozen=True, slots=True)
class StaticSource:
    """A fixed list of instances."""

    instances: tuple[Instance, ...]

    def __str__(self) -> str:
        return "static"

    async def watch(self, publish: Publish) -> None:
        """Publish the list, once."""
        publish(Found(self.instances))
