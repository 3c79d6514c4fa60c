"""Answers that no sane Consul gives, or not on demand, from a real HTTP server."""

import asyncio
import contextlib
import gzip
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from discovery import consul as consul_module
from discovery import watch as watch_module
from discovery.consul import Consul
from discovery.instance import ConsulAgent, ConsulQuery
from discovery.reply import ConsulError
from discovery.source import Failed, Found, Update
from tests.support.scripted_http import Answer, ScriptedServer, reply, scripted_server
from tests.support.sources import until

WEB = ConsulQuery("web")
GOOD: list[dict[str, Any]] = [
    {
        "Node": {"Node": "n1", "Address": "127.0.0.1"},
        "Service": {"ID": "w1", "Service": "web", "Address": "10.0.0.1", "Port": 80},
        "Checks": [],
    }
]


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


class Script:
    """Gives its answers in turn, and then waits as a blocking query does."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)

    def __call__(self, target: str) -> Answer:
        if target == "/v1/internal/acl/authorize":
            return reply(b"", None, "401 Unauthorized")
        return self._answers.pop(0) if self._answers else None


async def watched(answer: Callable[[str], Answer], count: int, **settings: Any) -> tuple[list[Update], ScriptedServer]:
    """The first updates of a watch."""
    updates: list[Update] = []
    async with scripted_server(answer) as server:
        consul = Consul(ConsulAgent(url=server.url, **settings))
        task = asyncio.create_task(consul.source(WEB).watch(updates.append))
        await until(lambda: len(updates) >= count and len(server.heads) > count - 1)
        if isinstance(updates[-1], Found):
            await until(lambda: len(server.heads) > count)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await consul.close()
    return updates, server


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (reply(b"No cluster leader", None, "500 Internal Server Error"), "HTTP 500: No cluster leader"),
        (reply(b"Your IP is issuing too many requests", None, "429 Too Many Requests"), "HTTP 429"),
        (reply(b"Permission denied", None, "403 Forbidden"), "HTTP 403"),
        (reply(b"<html>Not here</html>", None, "404 Not Found"), "HTTP 404"),
        (reply(b"", None, "302 Found", Location="http://10.0.0.1/"), "HTTP 302"),
        (reply(b"<html>Welcome</html>"), "not Consul's"),
        (reply(b""), "not Consul's"),
        (reply(b"[{]"), "not Consul's"),
        (reply([], None), "no index"),
        (reply([], "seven"), "no index"),
        (reply({"error": 1}), "no list"),
        (reply(None), "no list"),
        (reply([], X_Consul_KnownLeader="false"), "no leader"),
        (reply([], X_Consul_Results_Filtered_By_ACLs="true"), "ACL"),
        (b"SSH-2.0-OpenSSH_9\r\n", "can't be reached"),
        (b"", "can't be reached"),
        (reply(GOOD)[:-20], "can't be reached"),
    ],
)
def test_what_is_no_answer_is_a_failure_and_the_watch_goes_on(answer: bytes, reason: str) -> None:
    """D3: error, 403, leaderless or malformed reply: never an empty list from an error."""

    async def scenario() -> None:
        updates, _ = await watched(Script(reply(GOOD), answer, reply(GOOD, 9)), 3)
        first, failed, after = updates[:3]
        assert isinstance(first, Found)
        assert isinstance(failed, Failed)
        assert reason in failed.reason
        assert "\n" not in failed.reason
        assert after == first

    run(scenario())


def test_the_query_is_stale_passing_and_blocking_with_the_token_in_its_header() -> None:
    """D1."""

    async def scenario() -> None:
        _, server = await watched(Script(reply(GOOD, 41)), 1, token="hush", datacenter="dc1", wait_seconds=7.5)
        first, second = server.targets[:2]
        assert first == "/v1/health/service/web?passing=1&dc=dc1&stale=1"
        assert second == "/v1/health/service/web?passing=1&dc=dc1&stale=1&index=41&wait=7500ms"
        assert all("x-consul-token: hush" in head.lower() for head in server.heads)
        assert "hush" not in "".join(server.targets)

    run(scenario())


def test_the_environment_s_token_and_proxy_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "other")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")

    async def scenario() -> None:
        updates, server = await watched(Script(reply(GOOD)), 1)
        assert isinstance(updates[0], Found)
        assert "x-consul-token" not in server.heads[0].lower()

    run(scenario())


def test_warning_instances_are_asked_for_when_configured() -> None:
    """D5."""

    async def scenario() -> None:
        _, server = await watched(Script(reply(GOOD)), 1, warning=True)
        assert "passing" not in server.targets[0]

    run(scenario())


@pytest.mark.parametrize(("indexes", "asked"), [((9, 5, 6), ["", "9", "", "6"]), ((0, 0), ["", "1", ""]), ((5, 5), ["", "5", "5"])])
def test_the_index_is_followed_by_the_rules(indexes: tuple[int, ...], asked: list[str]) -> None:
    """D2, F-13: smaller than the last -> 0; below 1 -> 1."""

    async def scenario() -> None:
        _, server = await watched(Script(*(reply(GOOD, index) for index in indexes)), len(indexes))
        sent = [target.partition("index=")[2].partition("&")[0] for target in server.targets]
        assert sent[: len(asked)] == asked

    run(scenario())


def test_after_a_failure_the_next_query_does_not_block() -> None:
    """D2: an agent that lost its memory would let us wait with the old index."""

    async def scenario() -> None:
        _, server = await watched(Script(reply(GOOD, 900), reply(b"", None, "500 Internal Server Error"), reply(GOOD, 3)), 3)
        assert "index=900" in server.targets[1]
        assert "index" not in server.targets[2]
        assert "index=3&" in server.targets[3]

    run(scenario())


def test_an_agent_that_never_blocks_is_not_asked_all_the_time() -> None:
    """D2, F-13: the loop is limited by a token bucket."""

    async def scenario() -> None:
        started = time.monotonic()
        updates, _ = await watched(lambda _: reply(GOOD, 7), 6)
        # Two at once, four more at a quarter of a second each.
        assert time.monotonic() - started >= 4 * watch_module.INTERVAL_SECONDS - 0.05
        assert all(update == updates[0] for update in updates)

    run(scenario())


def test_an_answer_without_a_leader_serves_a_cold_start_and_nothing_else() -> None:
    """D3, F-17: ?stale reads go on without a quorum, but what one server remembers is no news."""

    async def scenario() -> None:
        leaderless = reply(GOOD, 7, X_Consul_KnownLeader="false", X_Consul_LastContact="4500")
        updates, _ = await watched(Script(leaderless, leaderless), 2)
        first, second = updates[:2]
        assert isinstance(first, Found)
        assert (first.known_leader, first.last_contact_seconds) == (False, 4.5)
        assert isinstance(second, Failed)
        assert "no leader" in second.reason

    run(scenario())


def test_a_query_that_gets_no_answer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """D1, F-14: the time-out is finite, so that a half-open connection is noticed."""
    monkeypatch.setattr(consul_module, "REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(consul_module, "WAIT_MARGIN_SECONDS", 0.2)

    async def scenario() -> None:
        updates, _ = await watched(Script(reply(GOOD), None, reply(GOOD)), 3, wait_seconds=0.16)
        failed = updates[1]
        assert isinstance(failed, Failed)
        assert failed.reason.startswith("no answer from Consul at http://127.0.0.1:")
        assert failed.reason.endswith("within 0.4 s")

    run(scenario())


def test_an_agent_that_takes_no_connection_costs_no_place_in_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """F-14, F-35: a black hole for hours must not use up the connections that the client may have."""
    monkeypatch.setattr(consul_module, "CONNECT_SECONDS", 0.1)
    monkeypatch.setattr(consul_module, "SPARE_CONNECTIONS", 1)

    async def scenario(url: str) -> None:
        consul = Consul(ConsulAgent(url=url, connections=1))
        for _ in range(5):
            with pytest.raises(ConsulError, match="does not take a connection"):
                await consul.health(WEB, 0)
        await consul.close()

    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        # The kernel queues one connection that nobody accepts, and lets later ones hang.
        for _ in range(2):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        run(scenario(f"http://127.0.0.1:{full.getsockname()[1]}"))


def test_an_endless_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """F-15: also when it is small on the wire."""
    monkeypatch.setattr(consul_module, "MAXIMUM_REPLY_BYTES", 1000)

    async def scenario() -> None:
        bomb = reply(gzip.compress(b"[" + b" " * 100_000 + b"]"), Content_Encoding="gzip")
        updates, _ = await watched(Script(bomb), 1)
        failed = updates[0]
        assert isinstance(failed, Failed)
        assert "longer than" in failed.reason

    run(scenario())


def test_a_unix_socket_works(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with scripted_server(Script(reply(GOOD, 5)), str(tmp_path / "consul.sock")) as server:
            consul = Consul(ConsulAgent(url=server.url))
            answer = await consul.health(WEB, 0)
            assert (answer.entries, answer.index) == (GOOD, 5)
            await consul.close()

    run(scenario())


def self_signed(directory: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1, and a server's context that shows it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "consul.test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now - timedelta(hours=1), now + timedelta(hours=1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public, both = directory / "ca.pem", directory / "server.pem"
    public.write_bytes(certificate.public_bytes(Encoding.PEM))
    both.write_bytes(secret + public.read_bytes())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(both)
    return public, context


def test_an_https_agent_is_believed_only_with_a_certificate_that_holds(tmp_path: Path) -> None:
    async def scenario() -> None:
        ca_file, context = self_signed(tmp_path)
        async with scripted_server(lambda _: reply(GOOD), tls=context) as server:
            trusting, doubting = Consul(ConsulAgent(url=server.url, ca_file=str(ca_file))), Consul(ConsulAgent(url=server.url))
            assert (await trusting.health(WEB, 0)).entries == GOOD
            with pytest.raises(ConsulError, match="TLS: self_signed: "):
                await doubting.health(WEB, 0)
            await trusting.close()
            await doubting.close()

    run(scenario())


def test_one_bad_registration_does_not_hide_the_good_one(caplog: pytest.LogCaptureFixture) -> None:
    """F-18: the reason is logged once."""

    async def scenario() -> None:
        broken: list[Any] = [None, {"Node": None, "Service": None, "Checks": None}, *GOOD]
        updates, _ = await watched(Script(reply(broken), reply(broken, 8)), 2)
        assert all(isinstance(update, Found) and len(update.instances) == 1 and len(update.rejected) == 2 for update in updates[:2])

    run(scenario())
    assert caplog.text.count("its Service is None") == 1
