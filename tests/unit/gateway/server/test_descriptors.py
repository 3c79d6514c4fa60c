"""Connections that there are no file descriptors for."""

from __future__ import annotations

import logging
import resource
from dataclasses import replace

import pytest

from discovery.instance import Instance
from gateway.errors import ConfigError
from gateway.route import Service
from gateway.server.descriptors import affordable_connections
from gateway.settings import Maxima, ServerSettings, Settings

SETTINGS = Settings(
    server=ServerSettings(max=Maxima(connections=10_000)),
    services={"patients": Service(name="patients", instances=(Instance("one", "127.0.0.1", 9001),))},
)


class Limits:
    """RLIMIT_NOFILE of a process."""

    def __init__(self, soft: int, hard: int) -> None:
        self.now = (soft, hard)

    def get(self, which: int) -> tuple[int, int]:
        assert which == resource.RLIMIT_NOFILE
        return self.now

    def set(self, which: int, limits: tuple[int, int]) -> None:
        assert which == resource.RLIMIT_NOFILE
        self.now = limits


def limited(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int) -> Limits:
    limits = Limits(soft, hard)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    return limits


def test_the_soft_limit_is_raised_to_what_is_needed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """F-43: clients, connections to services, and the rest; never lowered."""
    limits = limited(monkeypatch, 1024, 1_048_576)
    assert affordable_connections(SETTINGS) == 10_000
    assert limits.now == (10_000 + 1024 + 256, 1_048_576)
    limits.now = (1_000_000, 1_048_576)
    assert affordable_connections(SETTINGS) == 10_000
    assert limits.now == (1_000_000, 1_048_576)
    assert not caplog.records


def test_a_hard_limit_that_is_too_low_is_told_and_kept_to(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """F-43: fewer connections, so that none is accepted that can't be served."""
    limited(monkeypatch, 1024, 4096)
    with caplog.at_level(logging.WARNING):
        connections = affordable_connections(SETTINGS)
    assert 3000 < connections < 4096 - 256
    [record] = caplog.records
    assert "server.max.connections: 10000" in record.getMessage()
    assert f"it takes {connections} connections" in record.getMessage()


def test_next_to_none_is_no_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    """F-43: the start fails, and says what is needed."""
    limited(monkeypatch, 256, 300)
    with pytest.raises(
        ConfigError, match=r"server\.max\.connections: 10000 connections need 11280 open files and this process may have 300"
    ):
        affordable_connections(SETTINGS)


def test_few_are_wanted_and_few_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, 256, 256 + 32)
    settings = replace(SETTINGS, server=ServerSettings(max=Maxima(connections=8, in_flight=8)))
    assert affordable_connections(settings) == 8
