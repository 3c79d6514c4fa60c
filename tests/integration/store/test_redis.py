"""The store over TCP, TLS and Unix sockets, with users, databases and a bounded pool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from discovery.tls import TlsFailures
from gateway.errors import ConfigError
from gateway.settings import StateSettings
from gateway.store.error import StoreError, translated
from gateway.store.redis import Store
from gateway.store.script import Script
from gateway.store.wire import Wire
from tests.support.certificates import EXPIRED, NOT_YET, Authority, Certificates, Files, issue
from tests.support.ports import free_port
from tests.support.redis_server import KINDS, LOOPS, RedisServer, redis_server, run

ECHO = Script("return {KEYS[1], ARGV[1]}")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return issue(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with redis_server(request.param) as started:
        yield started


async def answers(settings: StateSettings) -> bool:
    """Whether the client and a wire both get through."""
    store = Store.open(settings)
    try:
        assert await store.run(ECHO, [b"key"], [b"value"]) == [b"key", b"value"]
        await (await store.connect()).disconnect()
        wire = Wire(store, (ECHO.load,), lambda why: None)
        await wire.open()
        replies: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        wire.send(b"*1\r\n$4\r\nPING\r\n", replies.set_result)
        assert await replies == b"PONG"
        await wire.close()
    finally:
        await store.close()
    return True


def test_users_passwords_and_databases_are_those_of_the_url(server: RedisServer) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "gate@way", "on", ">p@ss/wörd:", "~*", "+@all")
    url = f"redis://gate%40way:p%40ss%2Fw%C3%B6rd%3A@127.0.0.1:{server.port}/3"

    async def main() -> None:
        assert await answers(StateSettings(url=url))
        store = Store.open(StateSettings(url=url))
        await store.client.set("here", 1)
        await store.close()
        by_socket = Store.open(StateSettings(url=f"unix://{server.socket_path}?db=3"))
        assert await by_socket.client.get("here") == b"1"
        await by_socket.close()
        with pytest.raises(StoreError) as caught:
            await answers(StateSettings(url=url.replace("ss%2F", "")))
        assert caught.value.kind == "authentication"

    run(main())


@pytest.mark.parametrize("loop_factory", LOOPS, ids=["asyncio", "uvloop"])
def test_tls_is_verified_on_both_sides(loop_factory: Callable[[], asyncio.AbstractEventLoop], certificates: Certificates) -> None:
    """SC-8(1): the server's certificate must come from our authority, and it may ask for ours. Debian's Redis speaks TLS."""
    options = {"tls-cert-file": certificates.server, "tls-key-file": certificates.server_key, "tls-ca-cert-file": certificates.ca}
    tls_port = str(free_port())
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with redis_server("redis", "--port", "0", "--tls-port", tls_port, *words):
        url = f"rediss://127.0.0.1:{tls_port}"
        ca_file, other_ca_file = str(certificates.ca), str(certificates.other_ca)
        ours = StateSettings(url=url, ca_file=ca_file, certificate_file=str(certificates.client), key_file=str(certificates.client_key))

        async def main() -> None:
            assert await answers(ours)
            for wrong in (
                replace(ours, ca_file=other_ca_file),
                replace(ours, ca_file=""),
                replace(ours, certificate_file="", key_file=""),
                StateSettings(url=f"redis://127.0.0.1:{tls_port}"),
            ):
                with pytest.raises(StoreError) as caught:
                    await answers(wrong)
                assert caught.value.kind in ("unavailable", "timeout")

        run(main(), loop_factory)


@contextmanager
def mutual(port: int, server: Files, authority: Authority, *options: str) -> Iterator[None]:
    """A server that lets in who shows a certificate of the authority, and nobody else. Debian's Redis speaks TLS."""
    files = {"tls-cert-file": server.certificate, "tls-key-file": server.key, "tls-ca-cert-file": authority.file}
    words = [word for name, value in files.items() for word in (f"--{name}", str(value))]
    with redis_server("redis", "--port", "0", "--tls-port", str(port), *words, "--tls-auth-clients", "yes", *options):
        yield


def test_hostile_certificates_end_at_the_handshake(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """S-39, S-42: the server's and ours; the log names place and reason, a metric counts."""
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    servers = {
        "expired": authority.issue("127.0.0.1", days=EXPIRED),
        "not_yet_valid": authority.issue("127.0.0.1", days=NOT_YET),
        "wrong_name": authority.issue("127.0.0.2"),
        "self_signed": authority.issue("127.0.0.1", self_signed=True),
        "unknown_authority": other.issue("127.0.0.1"),
        "wrong_purpose": authority.issue("127.0.0.1", purposes=["client"]),
    }
    ours = authority.issue()
    failures = TlsFailures()

    async def refused(settings: StateSettings, reason: str) -> None:
        store = Store.open(settings, failures)
        with pytest.raises(StoreError, match=f"TLS: {reason}: "):
            await store.connect()
        with pytest.raises(StoreError, match=f"TLS: {reason}: "):
            await store.command("PING")
        await store.close()
        assert dict(failures.counts())["store", reason] == 2

    def settings(port: int, files: Files | None) -> StateSettings:
        shown: dict[str, Any] = {} if files is None else {"certificate_file": str(files.certificate), "key_file": str(files.key)}
        return StateSettings(url=f"rediss://127.0.0.1:{port}", ca_file=str(authority.file), **shown)

    for reason, files in servers.items():
        port = free_port()
        with mutual(port, files, authority):
            run(refused(settings(port, ours), reason))
    port = free_port()
    with mutual(port, authority.issue("127.0.0.1"), authority):
        assert run(answers(settings(port, ours)))
    # With TLS 1.3 a refusal comes when the handshake is over for us, and the reset behind it may be quicker.
    with mutual(port, authority.issue("127.0.0.1"), authority, "--tls-protocols", "TLSv1.2"):
        run(refused(settings(port, None), "handshake_failure"))
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("TLS handshake failed, store, 127.0.0.1:")]
    assert len(lines) == len(servers) + 1


def test_another_client_certificate_is_shown_when_it_is_renewed(tmp_path: Path) -> None:
    """S-39, S-42: a server that believes another authority of clients is reached without a restart, by all connections."""
    authority, first, second = (Authority(tmp_path, name) for name in ("servers", "first", "second"))
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    first.issue().put(certificate, key)
    port, server = free_port(), authority.issue("127.0.0.1")
    url = f"rediss://127.0.0.1:{port}"
    settings = StateSettings(url=url, ca_file=str(authority.file), certificate_file=str(certificate), key_file=str(key))

    async def main() -> None:
        store = Store.open(settings)
        with mutual(port, server, first):
            assert await store.command("PING")
        second.issue().put(certificate, key)
        with mutual(port, server, second):
            with pytest.raises(StoreError):
                await store.command("PING")
            store.renew_certificates()
            assert await store.command("PING")
            await (await store.connect()).disconnect()
            key.write_bytes(server.key.read_bytes())
            with pytest.raises(ConfigError, match=r"state\.ca_file, state\.certificate_file"):
                store.renew_certificates()
            await (await store.connect()).disconnect()
        await store.close()

    run(main())


def test_a_script_that_the_server_forgot_is_sent_with_its_text(server: RedisServer) -> None:
    """L8, F-4."""

    async def main() -> None:
        store = Store.open(StateSettings(url=server.url))
        with server.client() as client:
            for _ in range(2):
                client.script_flush()
                assert await store.run(ECHO, [b"key"], [1]) == [b"key", b"1"]
        await store.close()

    run(main())


def test_the_pool_is_bounded_and_waiting_for_it_ends(server: RedisServer) -> None:
    """F-11: more callers than connections wait, and those that wait too long get an error instead of a connection."""

    async def main() -> None:
        store = Store.open(StateSettings(url=server.url))
        await asyncio.gather(*(store.client.ping() for _ in range(100)))
        assert int((await store.client.info("clients"))["connected_clients"]) <= 16
        blocked = [asyncio.ensure_future(store.client.blpop(["nothing"], timeout=1.5)) for _ in range(16)]
        await asyncio.sleep(0)
        with pytest.raises(StoreError) as caught, translated():
            await store.client.ping()
        assert caught.value.kind == "unavailable"
        await asyncio.gather(*blocked)
        await store.close()

    run(main())


def test_nobody_there_is_unavailable(server: RedisServer) -> None:
    server.kill()

    async def main() -> None:
        store = Store.open(StateSettings(url=f"redis://127.0.0.1:{server.port}"))
        for call in (store.connect(), store.run(ECHO, [b"key"], [1])):
            with pytest.raises(StoreError) as caught:
                await call
            assert caught.value.kind == "unavailable"
        await store.close()

    run(main())
