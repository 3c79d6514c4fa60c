"""Putting a gateway together, as far as nothing is opened."""

from __future__ import annotations

import asyncio

import pytest

from discovery.instance import ConsulQuery
from gateway.assembly import Runtime, open_runtime, replica_name, with_store_url
from gateway.errors import ConfigError
from gateway.route import Service
from gateway.settings import AuditSettings, Settings, StateSettings
from gateway.store.redis import Store

AWAY = StateSettings(url="redis://127.0.0.1:1/0")


def test_no_two_processes_share_a_name() -> None:
    """O6: records of two processes must never share a sequence."""
    assert replica_name() != replica_name()


def test_store_can_be_another_one() -> None:
    settings = with_store_url(Settings(), "unix:///run/store.sock")
    assert settings.state.url == "unix:///run/store.sock"
    assert settings.state.budget == Settings().state.budget


def test_service_in_consul_needs_consul() -> None:
    """F-52: told at the start, not with the first request."""
    service = Service(name="patients", consul=ConsulQuery("patients"))

    async def main() -> None:
        await open_runtime(Settings(state=AWAY, services={"patients": service}, audit=AuditSettings(sink=())))

    with pytest.raises(ConfigError, match=r"services\.patients\.consul: discovery\.consul is not configured"):
        asyncio.run(main())


def test_runtime_that_has_not_started_says_what_it_waits_for() -> None:
    """F-52: for operators, on /readyz."""

    async def main() -> None:
        settings = Settings(state=AWAY, audit=AuditSettings(sink=()))
        runtime = Runtime(settings, Store.open(settings.state), None, "replica-1")
        assert not runtime.ready
        assert runtime.not_ready_because() == ["store"]
        assert repr(runtime) == "<Runtime replica-1 generation=1 not ready>"
        runtime.draining = True
        assert runtime.not_ready_because() == ["draining"]
        await runtime.close()

    asyncio.run(main())
