"""Putting a gateway together, as far as nothing is opened."""

from __future__ import annotations

import asyncio

import pytest

from discovery.instance import ConsulAgent, ConsulQuery
from discovery.tls import TlsFailures
from gateway.assembly import UNBOUNDED_LIFE_SECONDS, Runtime, longest_life, open_runtime, replica_name, with_store_url
from gateway.errors import ConfigError
from gateway.route import Service
from gateway.settings import ApiKeys, AuditSettings, AuthenticationSettings, Issuer, Settings, StateSettings
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


def issuer(maximum_lifetime: float = 0.0, leeway: float = 30.0) -> Issuer:
    return Issuer(
        name="login",
        issuer="https://login.example.gov",
        audience=("hms",),
        jwks_file="keys.json",
        maximum_lifetime=maximum_lifetime,
        leeway=leeway,
    )


@pytest.mark.parametrize(
    ("authentication", "seconds"),
    [
        (AuthenticationSettings(issuers=(issuer(maximum_lifetime=3600, leeway=30),)), 3660),
        (AuthenticationSettings(issuers=(issuer(maximum_lifetime=3600, leeway=0), issuer(maximum_lifetime=7200, leeway=0))), 7200),
        (AuthenticationSettings(issuers=(issuer(maximum_lifetime=3600), issuer())), UNBOUNDED_LIFE_SECONDS),
        (AuthenticationSettings(issuers=(issuer(maximum_lifetime=3600),), api_keys=ApiKeys()), UNBOUNDED_LIFE_SECONDS),
        (AuthenticationSettings(), UNBOUNDED_LIFE_SECONDS),
    ],
)
def test_a_revocation_lasts_as_long_as_any_credential_may(authentication: AuthenticationSettings, seconds: float) -> None:
    """V1: an entry without an end must not end before the last token that it concerns."""
    assert longest_life(authentication) == seconds


def test_consul_that_can_not_be_used_fails_the_start() -> None:
    async def main() -> None:
        await open_runtime(Settings(state=AWAY, consul=ConsulAgent(url="ftp://127.0.0.1"), audit=AuditSettings(sink=())))

    with pytest.raises(ConfigError, match=r"discovery\.consul: "):
        asyncio.run(main())


def test_runtime_that_has_not_started_says_what_it_waits_for() -> None:
    """F-52: for operators, on /readyz."""

    async def main() -> None:
        settings = Settings(state=AWAY, audit=AuditSettings(sink=()))
        runtime = Runtime(settings, Store.open(settings.state), None, "replica-1", TlsFailures())
        assert not runtime.ready
        assert runtime.not_ready_because() == ["store"]
        assert repr(runtime) == "<Runtime replica-1 generation=1 not ready>"
        runtime.draining = True
        assert runtime.not_ready_because() == ["draining"]
        await runtime.close()

    asyncio.run(main())
