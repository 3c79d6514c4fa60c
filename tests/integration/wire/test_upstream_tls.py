"""TLS towards instances: verified with the service's own authority, by name and date, with a client certificate where one is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.certificates import EXPIRED, Authority, server_context
from tests.support.gateway_process import ADAPTERS, GET, Adapter, declared, run, serving
from tests.support.recording_upstream import Link, recording_upstream


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "agency")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("name", ["by address", "by server_name"])
def test_a_verified_instance_is_used(store: str, tmp_path: Path, authority: Authority, adapter: Adapter, name: str) -> None:
    """S-39: the connection is kept like a plain one; the body passes."""
    host, tls = ("127.0.0.1", {}) if name == "by address" else ("patients.internal", {"server_name": "patients.internal"})

    async def main() -> None:
        async with recording_upstream(tls=server_context(authority.issue(host))) as upstream:
            app = declared(tmp_path, store, upstream, service={"tls": {"ca_file": str(authority.file), **tls}})
            async with serving(app, tmp_path, adapter) as gateway:
                client = await gateway.connect()
                for _ in range(3):
                    assert (await client.ask(GET)).body == b"ok"
                assert len(upstream.links) == 1

    run(main())


async def plain(link: Link) -> None:
    """What a server without TLS answers to a hello."""
    await link.read()
    await link.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize("case", ["another name", "expired", "another authority", "the system's authorities", "plain HTTP"])
def test_an_instance_that_cannot_be_verified_is_a_502(
    store: str, tmp_path: Path, authority: Authority, stranger: Authority, case: str
) -> None:
    """S-39, S-41: nothing is sent to it; why is in the records only."""
    files = {
        "another name": authority.issue("other.internal"),
        "expired": authority.issue("127.0.0.1", days=EXPIRED),
        "another authority": stranger.issue("127.0.0.1"),
        "the system's authorities": authority.issue("127.0.0.1"),
        "plain HTTP": None,
    }[case]
    tls = {} if case == "the system's authorities" else {"ca_file": str(authority.file)}

    async def main() -> None:
        async with recording_upstream(None if files else plain, tls=server_context(files) if files else None) as upstream:
            app = declared(tmp_path, store, f"https://127.0.0.1:{upstream.port}", service={"tls": tls})
            async with serving(app, tmp_path) as gateway:
                response = await gateway.ask(GET)
                assert (response.status, response.problem["code"]) == (502, "bad_gateway")
                assert b"certificate" not in response.body.lower()
                assert (await gateway.record())["reason"] == "upstream_tls_failure"
                assert upstream.requests == []

    run(main())


def test_verification_can_be_switched_off_for_a_service(store: str, tmp_path: Path, stranger: Authority) -> None:
    """CONTRACT section 4: `verify: false`."""

    async def main() -> None:
        async with recording_upstream(tls=server_context(stranger.issue("127.0.0.1"))) as upstream:
            app = declared(tmp_path, store, upstream, service={"tls": {"verify": False}})
            async with serving(app, tmp_path) as gateway:
                assert (await gateway.ask(GET)).status == 200

    run(main())


@pytest.mark.parametrize("shown", [True, False], ids=["with", "without"])
def test_a_client_certificate_is_shown_where_one_is_configured(
    store: str, tmp_path: Path, authority: Authority, stranger: Authority, shown: bool
) -> None:
    """S-39, S-42: mutual TLS."""
    context = server_context(authority.issue("127.0.0.1"), clients=stranger)
    certificate, key = stranger.issue("gateway.internal")
    own = {"certificate_file": str(certificate), "key_file": str(key)} if shown else {}

    async def main() -> None:
        async with recording_upstream(tls=context) as upstream:
            app = declared(tmp_path, store, upstream, service={"tls": {"ca_file": str(authority.file), **own}})
            async with serving(app, tmp_path) as gateway:
                response = await gateway.ask(GET)
                assert response.status == (200 if shown else 502)
                if not shown:
                    assert (await gateway.record())["reason"].startswith("upstream_")

    run(main())
