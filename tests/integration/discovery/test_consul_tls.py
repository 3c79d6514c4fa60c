"""Consul over HTTPS: an agent that asks for certificates, and agents and gateways whose certificates don't hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from discovery.consul import Consul
from discovery.instance import ConsulAgent, ConsulQuery
from discovery.reply import ConsulError
from discovery.tls import TlsFailures
from tests.support.certificates import EXPIRED, NOT_YET, Authority, Files
from tests.support.consul_agent import Agent, secure_consul_agent

QUERY = ConsulQuery("patients")


def settings(agent: Agent, authority: Authority, files: Files | None) -> ConsulAgent:
    shown: dict[str, Any] = {} if files is None else {"certificate_file": str(files.certificate), "key_file": str(files.key)}
    return ConsulAgent(url=f"https://{agent.host}:{agent.https_port}", ca_file=str(authority.file), **shown)


async def instances(agent: ConsulAgent, failures: TlsFailures) -> int:
    consul = Consul(agent, failures=failures)
    try:
        return len((await consul.health(QUERY, 0)).entries)
    finally:
        await consul.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("consul"))


def test_an_agent_that_asks_for_certificates_gets_ours(tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    """S-39, S-42: `verify_incoming`; without one, or with one that does not hold, nothing is read, and the log says why."""
    clients = Authority(tmp_path, "clients")
    failures = TlsFailures()
    with secure_consul_agent(authority.issue, clients.file) as agent:
        agent.register("patients", 9001)
        assert asyncio.run(instances(settings(agent, authority, clients.issue()), failures)) == 1
        assert dict(failures.counts()) == {}
        for files in (None, clients.issue(days=EXPIRED), authority.issue(), clients.issue(purposes=["server"])):
            # With TLS 1.3 the agent says why when the handshake is over for us, and its reset may be quicker.
            with pytest.raises(ConsulError, match="can't be reached"):
                asyncio.run(instances(settings(agent, authority, files), failures))
        for reason, other in hostile(authority, clients).items():
            with secure_consul_agent(other, clients.file) as bad:
                with pytest.raises(ConsulError, match=f"TLS: {reason}: "):
                    asyncio.run(instances(settings(bad, authority, clients.issue()), failures))
            line = f"TLS handshake failed, consul, Consul at https://{bad.host}:{bad.https_port}: {reason}: "
            assert any(record.getMessage().startswith(line) for record in caplog.records), reason
            assert dict(failures.counts())["consul", reason] == 1
    assert not any(record.exc_info for record in caplog.records)


def hostile(authority: Authority, clients: Authority) -> dict[str, Callable[[str], Files]]:
    """Certificates that an agent must not be believed with."""
    return {
        "expired": lambda host: authority.issue(host, days=EXPIRED),
        "not_yet_valid": lambda host: authority.issue(host, days=NOT_YET),
        "self_signed": lambda host: authority.issue(host, self_signed=True),
        "unknown_authority": clients.issue,
        "wrong_purpose": lambda host: authority.issue(host, purposes=["client"]),
        "wrong_name": lambda host: authority.issue("127.0.0.1"),
    }
