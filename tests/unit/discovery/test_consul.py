"""What of the Consul client can be told without a socket; the rest is in tests/integration."""

import pytest

from discovery.consul import Consul, agent_from_environment
from discovery.instance import ConsulAgent, ConsulQuery
from discovery.reply import ConsulError
from discovery.watch import next_index


@pytest.mark.parametrize(
    ("last", "reported", "following"),
    [(0, 7, 7), (7, 7, 7), (7, 9, 9), (9, 7, 0), (0, 0, 1), (5, 0, 0), (0, -3, 0), (1, 1, 1)],
)
def test_the_index_for_the_next_query(last: int, reported: int, following: int) -> None:
    """D2: smaller than the last -> 0; below 1 -> 1."""
    assert next_index(last, reported) == following


@pytest.mark.parametrize(
    "url",
    [
        "consul:8500",
        "ftp://consul",
        "http://",
        "http://h:99999",
        "http://h:x",
        "unix://relative/path",
        "http://h/prefix",
        "http://u:secret@h:8500",
    ],
)
def test_a_url_that_can_not_be_used_is_told_without_its_secrets(url: str) -> None:
    with pytest.raises(ConsulError, match="the Consul URL") as caught:
        Consul(ConsulAgent(url=url))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8500", "https://consul.example", "http://[::1]:8500", "unix:///run/consul.sock"])
def test_ordinary_urls_are_taken(url: str) -> None:
    assert repr(Consul(ConsulAgent(url=url, token="hush"))) == f"<Consul {url}>"


def test_missing_certificate_files_are_named() -> None:
    with pytest.raises(ConsulError, match=r"/nowhere/ca\.pem"):
        Consul(ConsulAgent(url="https://consul:8501", ca_file="/nowhere/ca.pem"))


@pytest.mark.parametrize(
    ("url", "loopback", "rule"),
    [
        ("http://127.0.0.1:8500", "auto", "same_machine"),
        ("http://localhost:8500", "auto", "same_machine"),
        ("http://[::1]:8500", "auto", "same_machine"),
        ("unix:///run/consul.sock", "auto", "same_machine"),
        ("http://10.0.0.1:8500", "auto", "refuse"),
        ("http://10.0.0.1:8500", "allow", "allow"),
        ("http://127.0.0.1:8500", "refuse", "refuse"),
    ],
)
def test_loopback_instances_by_setting(url: str, loopback: str, rule: str) -> None:
    """F-18."""
    assert Consul(ConsulAgent(url=url, loopback=loopback)).rules.loopback == rule  # type: ignore[arg-type]


def test_sources_of_one_query_are_equal_while_the_client_is_the_same() -> None:
    consul = Consul(ConsulAgent())
    assert consul.source(ConsulQuery("web")) == consul.source(ConsulQuery("web"))
    assert consul.source(ConsulQuery("web")) != Consul(ConsulAgent()).source(ConsulQuery("web"))


@pytest.mark.parametrize(
    ("query", "text"),
    [(ConsulQuery("web"), "consul web"), (ConsulQuery("web", ("v2", "eu"), "dc2"), "consul web tags v2, eu in dc2")],
)
def test_a_source_says_what_it_watches(query: ConsulQuery, text: str) -> None:
    assert str(Consul(ConsulAgent()).source(query)) == text


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, "http://127.0.0.1:8500"),
        ({"CONSUL_HTTP_ADDR": "10.0.0.1:8500"}, "http://10.0.0.1:8500"),
        ({"CONSUL_HTTP_ADDR": "10.0.0.1:8501", "CONSUL_HTTP_SSL": "true"}, "https://10.0.0.1:8501"),
        ({"CONSUL_HTTP_ADDR": "unix:///run/consul.sock"}, "unix:///run/consul.sock"),
    ],
)
def test_the_environment_names_the_agent(environment: dict[str, str], url: str) -> None:
    agent = agent_from_environment({**environment, "CONSUL_HTTP_TOKEN": "hush"})
    assert (agent.url, agent.token) == (url, "hush")
    assert "hush" not in repr(agent)
