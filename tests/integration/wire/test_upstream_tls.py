"""TLS towards instances: verified with the service's own authority, by name and date, with a client certificate where one is asked for."""

from __future__ import annotations

import ssl
import warnings
from pathlib import Path

import pytest

from gateway import BackendAPIGateway
from tests.support.certificates import EXPIRED, NOT_YET, Authority, server_context
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
                    await gateway.idle()
                assert len(upstream.links) == 1

    run(main())


async def plain(link: Link) -> None:
    """What a server without TLS answers to a hello."""
    await link.read()
    await link.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


HOSTILE = {
    "another name": "wrong_name",
    "expired": "expired",
    "not valid yet": "not_yet_valid",
    "self-signed": "self_signed",
    "another authority": "unknown_authority",
    "the system's authorities": "unknown_authority",
    "for clients": "wrong_purpose",
    # This server closes before its alert is sent.
    "TLS 1.1": "cut_off",
    "plain HTTP": "not_tls",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_an_instance_that_cannot_be_verified_is_a_502(
    store: str, tmp_path: Path, authority: Authority, stranger: Authority, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    """S-39, S-41: nothing is sent to it; why is in the log and in a metric, and for clients nowhere."""
    files = {
        "another name": authority.issue("other.internal"),
        "expired": authority.issue("127.0.0.1", days=EXPIRED),
        "another authority": stranger.issue("127.0.0.1"),
        "not valid yet": authority.issue("127.0.0.1", days=NOT_YET),
        "self-signed": authority.issue("127.0.0.1", self_signed=True),
        "the system's authorities": authority.issue("127.0.0.1"),
        "for clients": authority.issue("127.0.0.1", purposes=["client"]),
        "TLS 1.1": authority.issue("127.0.0.1"),
        "plain HTTP": None,
    }[case]
    tls = {} if case == "the system's authorities" else {"ca_file": str(authority.file)}

    async def main() -> None:
        context = server_context(files) if files else None
        if context is not None and case == "TLS 1.1":
            old_only(context)
        async with recording_upstream(None if files else plain, tls=context) as upstream:
            app = declared(tmp_path, store, f"https://127.0.0.1:{upstream.port}", service={"tls": tls})
            async with serving(app, tmp_path) as gateway:
                response = await gateway.ask(GET)
                assert (response.status, response.problem["code"]) == (502, "bad_gateway")
                assert b"certificate" not in response.body.lower()
                assert (await gateway.record())["reason"] == "upstream_tls_failure"
                assert upstream.requests == []
                assert dict(gateway.runtime.tls_failures.counts())["service", HOSTILE[case]] >= 1
                line = f"TLS handshake failed, service, s at 127.0.0.1:{upstream.port}: {HOSTILE[case]}: "
                assert [record.getMessage().startswith(line) for record in caplog.records if "TLS" in record.getMessage()] == [True]

    run(main())
    assert not any(record.exc_info for record in caplog.records)


def old_only(context: ssl.SSLContext) -> None:
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1


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
    # With TLS 1.3 the refusal comes when the handshake is over for us; see the unit test of connections.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    certificate, key = stranger.issue("gateway.internal")
    own = {"certificate_file": str(certificate), "key_file": str(key)} if shown else {}

    async def main() -> None:
        async with recording_upstream(tls=context) as upstream:
            app = declared(tmp_path, store, upstream, service={"tls": {"ca_file": str(authority.file), **own}})
            async with serving(app, tmp_path) as gateway:
                response = await gateway.ask(GET)
                assert response.status == (200 if shown else 502)
                if not shown:
                    assert (await gateway.record())["reason"] == "upstream_tls_failure"
                    # This server closes before its alert is sent.
                    assert dict(gateway.runtime.tls_failures.counts()) == {("service", "cut_off"): 2}

    run(main())


def test_another_client_certificate_is_shown_after_a_reload(store: str, tmp_path: Path, authority: Authority, stranger: Authority) -> None:
    """S-39, S-42, G3: connections of before are not used again; an authority that was taken out is believed no longer."""
    context = server_context(authority.issue("127.0.0.1"), clients=stranger)
    bundle, certificate, key = tmp_path / "ca.pem", tmp_path / "tls.crt", tmp_path / "tls.key"
    bundle.write_bytes(authority.file.read_bytes())
    pairs = [stranger.issue(subject=f"CN=gateway-{number}") for number in (1, 2)]

    async def main() -> None:
        async with recording_upstream(tls=context) as upstream:

            def app() -> BackendAPIGateway:
                files = {"ca_file": str(bundle), "certificate_file": str(certificate), "key_file": str(key)}
                return declared(tmp_path, store, upstream, service={"tls": files, "retry": {"attempts": 0}})

            pairs[0].put(certificate, key)
            async with serving(app(), tmp_path) as gateway:
                assert (await gateway.ask(GET)).status == 200
                pairs[1].put(certificate, key)
                await gateway.runtime.adopt(app().settings)
                assert (await gateway.ask(GET)).status == 200
                shown = [link.writer.get_extra_info("ssl_object").getpeercert(binary_form=True) for link in upstream.links]
                assert shown == [ssl.PEM_cert_to_DER_cert(pair.certificate.read_text()) for pair in pairs]
                bundle.write_bytes(stranger.file.read_bytes())
                await gateway.runtime.adopt(app().settings)
                assert (await gateway.ask(GET)).status == 502
                assert dict(gateway.runtime.tls_failures.counts()) == {("service", "unknown_authority"): 1}

    run(main())
