"""What a reload may change, without files or sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from gateway.errors import ConfigError
from gateway.route import Limit
from gateway.server.reload import Reloaded, Reloader, fixed_changes
from gateway.settings import (
    AdminSettings,
    AuditSettings,
    DrainSettings,
    Maxima,
    ServerSettings,
    Settings,
    StateSettings,
    TelemetrySettings,
    TraceSettings,
)
from gateway.telemetry.audit import EventKind

START = Settings()
LIMIT = Limit(name="daily", kind="quota", count=1, period_us=86_400_000_000)


@pytest.mark.parametrize(
    ("after", "keys"),
    [
        (Settings(), []),
        (Settings(server=ServerSettings(trusted_proxies=("10.0.0.0/8",), max=Maxima(headers=5), drain=DrainSettings(delay=0.0))), []),
        (Settings(admin=AdminSettings(token="another"), limits={"daily": LIMIT}), []),
        (Settings(server=ServerSettings(host="::1", port=1, workers=2)), ["server.host", "server.port", "server.workers"]),
        (Settings(admin=AdminSettings(host="::1", port=1)), ["admin.host", "admin.port"]),
        (Settings(state=StateSettings(url="redis://a", budget=1.0)), ["state.url", "state.budget"]),
        (Settings(audit=AuditSettings(sink=())), ["audit.sink"]),
        (Settings(telemetry=TelemetrySettings(traces=TraceSettings(endpoint="http://a"))), ["telemetry.traces.endpoint"]),
    ],
)
def test_what_only_a_restart_can_change(after: Settings, keys: list[str]) -> None:
    """G3: everything else can."""
    assert list(fixed_changes(START, after)) == keys


class Gateway:
    """Takes what it is given, and remembers."""

    def __init__(self) -> None:
        self.draining = False
        self.generation = 1
        self.settings = START
        self.records: list[Mapping[str, object]] = []
        self.accepted = 0

    async def adopt(self, settings: Settings) -> int:
        if settings != self.settings:
            self.settings = settings
            self.generation += 1
        return self.generation

    def event(self, kind: EventKind, detail: Mapping[str, object]) -> None:
        assert kind == "config"
        self.records.append(detail)

    def accept(self) -> None:
        self.accepted += 1


def test_reloads_follow_each_other() -> None:
    """F-54: two at once would each build on what the other replaces."""
    gateway = Gateway()
    given = iter([replace(START, limits={"daily": LIMIT}), START, START])

    async def main() -> list[Reloaded]:
        reloader = Reloader(lambda: next(given), START, gateway, gateway, gateway.accept)
        return list(await asyncio.gather(*(reloader.reload("admin") for _ in range(3))))

    assert asyncio.run(main()) == [Reloaded(2, True), Reloaded(3, True), Reloaded(3, False)]
    assert [record["generation"] for record in gateway.records] == [2, 3]
    assert gateway.accepted == 2


def test_what_was_accepted_is_what_the_next_one_is_compared_with() -> None:
    """G3: a refusal changes nothing of that."""
    gateway = Gateway()
    given = iter([Settings(server=ServerSettings(port=1)), START])

    async def main() -> None:
        reloader = Reloader(lambda: next(given), START, gateway, gateway, gateway.accept)
        with pytest.raises(ConfigError, match=r"server\.port: can't change while the gateway runs"):
            await reloader.reload("signal")
        assert await reloader.reload("signal") == Reloaded(1, False)

    asyncio.run(main())
    assert [(record["result"], record["keys"]) for record in gateway.records] == [("refused", ["server.port"])]
    assert gateway.accepted == 0


def test_failure_that_nobody_expected_leaves_the_watch_alive(caplog: pytest.LogCaptureFixture) -> None:
    """F-54: it is told of; the configuration before stays."""
    gateway = Gateway()

    def broken() -> Settings:
        raise RuntimeError("a bug")

    async def main() -> None:
        reloader = Reloader(broken, START, gateway, gateway, gateway.accept)
        reloader.request("signal")
        while not caplog.records:  # noqa: ASYNC110 - the log tells when it is over
            await asyncio.sleep(0.001)
        await reloader.close()

    asyncio.run(main())
    assert "broke down" in caplog.text
    assert gateway.generation == 1
