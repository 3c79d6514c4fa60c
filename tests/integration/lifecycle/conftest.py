"""What the tests of reloads and drains share: one store, and gateways between raw sockets."""

from __future__ import annotations

from tests.integration.wire.conftest import Stage, stage, store

__all__ = ["Stage", "stage", "store"]
