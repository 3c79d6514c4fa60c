"""When the context for a service's `https` instances is made."""

from __future__ import annotations

import ssl

import pytest

import gateway.upstream.tls
from discovery.instance import ConsulQuery, Instance
from gateway.errors import ConfigError
from gateway.route import Service, UpstreamTLS
from gateway.upstream.tls import context_source

PLAIN = Instance("a", "127.0.0.1", 9001)
SECURE = Instance("b", "127.0.0.1", 9002, scheme="https")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of services, one each time that a context is made."""
    names: list[str] = []
    real = gateway.upstream.tls.client_context

    def counted(settings: UpstreamTLS, service: str) -> ssl.SSLContext:
        names.append(service)
        return real(settings, service)

    monkeypatch.setattr(gateway.upstream.tls, "client_context", counted)
    return names


@pytest.mark.parametrize(
    "service",
    [
        Service(name="s", instances=(PLAIN, SECURE)),
        Service(name="s", consul=ConsulQuery("s")),
        Service(name="s", instances=(PLAIN,), tls=UpstreamTLS(verify=False)),
    ],
    ids=["an https instance", "any instance may come", "configured"],
)
def test_it_is_made_at_start_where_it_may_be_needed(service: Service, made: list[str]) -> None:
    source = context_source(service)
    assert made == ["s"]
    assert source() is source()
    assert made == ["s"]


def test_for_a_list_of_plain_instances_it_is_made_when_it_is_asked_for(made: list[str]) -> None:
    """Reading the system's authorities costs more than all else that a service costs at start."""
    source = context_source(Service(name="s", instances=(PLAIN,)))
    assert made == []
    context = source()
    assert context is source()
    assert made == ["s"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_a_file_that_can_not_be_read_fails_the_start_of_plain_instances_too() -> None:
    service = Service(name="s", instances=(PLAIN,), tls=UpstreamTLS(ca_file="/nowhere"))
    with pytest.raises(ConfigError, match=r"services\.s\.tls\.ca_file: '/nowhere'"):
        context_source(service)
