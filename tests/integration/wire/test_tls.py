"""TLS on the data port: what is spoken, who is let in, what a bad handshake costs, and that everything behind it is as on a plain one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.handlers import GatewayRequest
from tests.integration.wire import test_streams as streams
from tests.integration.wire.conftest import Stage
from tests.support.certificates import EXPIRED, NOT_YET, Authority, Files, client_context
from tests.support.gateway_process import GET, Adapter, RunningGateway, declared, run, serving
from tests.support.recording_upstream import RecordingUpstream, Script, recording_upstream
from tests.support.redis_server import until

Secure = Callable[..., Any]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority of clients."""
    return Authority(tmp_path_factory.mktemp("clients"), "clients")


@pytest.fixture
def secure(store: str, tmp_path: Path, authority: Authority) -> Stage:
    """The stage of the other tests, whose gateway speaks TLS; `tls` are further keys of `server.tls`."""
    files = authority.issue("127.0.0.1")

    @asynccontextmanager
    async def staged(
        script: Script | None = None,
        adapter: Adapter = "wire",
        *,
        server: dict[str, Any] | None = None,
        tls: dict[str, Any] | None = None,
        **sections: Any,
    ) -> AsyncIterator[tuple[RunningGateway, RecordingUpstream]]:
        section = {"certificate_file": str(files.certificate), "key_file": str(files.key), **(tls or {})}
        async with recording_upstream(script) as upstream:
            app = declared(tmp_path, store, upstream, server={**(server or {}), "tls": section}, **sections)
            async with serving(app, tmp_path, adapter) as gateway:
                gateway.tls = client_context(authority)
                yield gateway, upstream

    return staged


def failures(gateway: RunningGateway) -> dict[tuple[str, ...], float]:
    """Handshakes that failed, by place and reason."""
    return dict(gateway.runtime.tls_failures.counts())


async def refused(gateway: RunningGateway, tls: ssl.SSLContext, reason: str) -> None:
    """A client can't get through, and the gateway knows why."""
    before = failures(gateway).get(("server", reason), 0)
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        # With TLS 1.3 a client learns only when it reads what the server thinks of its certificate.
        await gateway.ask(GET, tls=tls)
    await until(lambda: failures(gateway).get(("server", reason), 0) > before, f"{reason} in {failures(gateway)}")


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_both_versions_are_spoken(secure: Stage, authority: Authority, version: str) -> None:
    """H13, S-39: HTTP/1.1 by ALPN, forward secrecy, several requests on a connection; the upstream hears of https."""

    async def main() -> None:
        async with secure() as (gateway, upstream):
            context = client_context(authority)
            context.minimum_version = context.maximum_version = ssl.TLSVersion[version.replace(".", "_")]
            context.set_alpn_protocols(["h2", "http/1.1"])
            client = await gateway.connect(tls=context)
            connection = client.writer.get_extra_info("ssl_object")
            assert (connection.version(), connection.selected_alpn_protocol()) == (version, "http/1.1")
            assert version == "TLSv1.3" or connection.cipher()[0].startswith("ECDHE-")
            for _ in range(3):
                assert (await client.ask(GET)).body == b"ok"
            assert upstream.requests[0].values(b"x-forwarded-proto") == [b"https"]

    run(main())


def old(authority: Authority, version: ssl.TLSVersion, ciphers: str = "ALL:@SECLEVEL=0") -> ssl.SSLContext:
    context = client_context(authority)
    context.set_ciphers(ciphers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_refused(secure: Stage, authority: Authority, version: ssl.TLSVersion) -> None:
    """H13, S-39."""

    async def main() -> None:
        async with secure() as (gateway, upstream):
            await refused(gateway, old(authority, version), "protocol_version")
            assert upstream.links == []

    run(main())


def test_a_minimum_version_and_forward_secrecy_hold(secure: Stage, authority: Authority) -> None:
    """H13: TLS 1.2 where only 1.3 is allowed; key exchange by RSA, and CBC, where 1.2 is."""

    async def main() -> None:
        async with secure(tls={"minimum_version": "1.3"}) as (gateway, _):
            await refused(gateway, old(authority, ssl.TLSVersion.TLSv1_2), "protocol_version")
            assert (await gateway.ask(GET)).status == 200
        async with secure() as (gateway, _):
            for ciphers in ("AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256"):
                await refused(gateway, old(authority, ssl.TLSVersion.TLSv1_2, ciphers), "no_common_cipher")

    run(main())


def test_plain_http_and_tls_on_the_wrong_port_are_turned_away(secure: Stage, stage: Stage) -> None:
    """H13, H1: neither reaches the upstream, and the port goes on."""

    async def main() -> None:
        async with secure() as (gateway, upstream):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(GET)
            assert b"HTTP" not in await read_all(reader)
            writer.close()
            await until(lambda: failures(gateway) == {("server", "not_tls"): 1}, "the failure")
            assert (await gateway.ask(GET)).status == 200
            assert len(upstream.requests) == 1
        async with stage() as (gateway, upstream):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(client_hello())
            assert (await read_all(reader)).startswith(b"HTTP/1.1 400 ")
            writer.close()
            assert upstream.links == []

    run(main())


async def read_all(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


def client_hello() -> bytes:
    """What a client begins a handshake with."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="api.example.gov")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("sent", [b"", client_hello()[:40]], ids=["silent", "half a hello"])
def test_a_slow_handshake_is_cut_off(secure: Stage, sent: bytes) -> None:
    """H10, H13, `server.timeouts.tls`: the time is for the whole handshake."""

    async def main() -> None:
        async with secure(server={"timeouts": {"tls": "200ms"}}) as (gateway, _):
            started = asyncio.get_running_loop().time()
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(sent)
            assert await read_all(reader) == b""
            writer.close()
            assert 0.15 < asyncio.get_running_loop().time() - started < 5
            await until(lambda: failures(gateway) == {("server", "timeout"): 1}, "the failure")
            assert gateway.runtime.front.context is not None

    run(main())


async def one_too_many(gateway: RunningGateway, silent: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
    """Beside silent clients, another one is closed at once; when all of them have left, nothing of them is left either."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    assert await read_all(reader) == b""
    assert failures(gateway) == {("server", "overloaded"): 1}
    for _, each in [*silent, (reader, writer)]:
        each.close()
    await until(lambda: not gateway.connections, "the connections to end")


def test_handshakes_count_as_connections(secure: Stage) -> None:
    """H10, S-44: over the cap clients are told so, as long as few handshakes are under way; beyond that they are closed at once."""

    async def main() -> None:
        async with secure(server={"max": {"connections": 4}, "timeouts": {"tls": "30s"}}) as (gateway, _):
            silent = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(4)]
            response = await gateway.ask(GET)
            assert (response.status, response.problem["code"]) == (503, "overloaded")
            silent += [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(60)]
            await one_too_many(gateway, silent)
            assert (await gateway.ask(GET)).status == 200

    run(main())


def test_handshakes_count_as_their_clients_connections(secure: Stage) -> None:
    """H10: `connections_per_client`, without an answer, because that would need the handshake."""

    async def main() -> None:
        async with secure(server={"max": {"connections_per_client": 2}, "timeouts": {"tls": "30s"}}) as (gateway, _):
            silent = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(2)]
            await one_too_many(gateway, silent)
            client = await gateway.connect()
            assert [(await client.ask(GET)).status for _ in range(2)] == [200, 200]
            assert (await gateway.ask(GET)).status == 200

    run(main())


SAME = (
    streams.test_a_request_body_passes_piece_by_piece,
    streams.test_a_response_body_passes_piece_by_piece,
    streams.test_a_large_body_passes_unchanged_both_ways,
    streams.test_a_client_that_does_not_read_holds_the_upstream_back,
    streams.test_an_upstream_that_does_not_read_holds_the_client_back,
    streams.test_a_client_that_leaves_ends_the_upstreams_work,
    streams.test_a_client_that_leaves_in_the_middle_ends_the_upstreams_work,
    streams.test_a_client_that_sends_less_than_it_said_never_makes_a_whole_request,
    streams.test_a_declared_length_over_the_bound_is_refused_unread,
)


@pytest.mark.parametrize("test", SAME, ids=lambda test: test.__name__)
def test_bodies_move_as_on_a_plain_connection(secure: Stage, test: Callable[[Stage, Adapter], None]) -> None:
    """H6, H7, H13, R7: piece by piece, as quickly as the slower side takes them, and ended on both sides when one ends."""
    test(secure, "wire")


def test_a_conversation_goes_on_over_tls(secure: Stage) -> None:
    """H6, H13."""
    streams.test_both_directions_move_at_once(secure)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_early_answer_is_delivered_over_tls(secure: Stage, framing: str) -> None:
    """R8, H13: a client that still sends gets its answer, not a reset."""
    streams.test_an_early_answer_is_delivered(secure, framing)


# Clients' certificates


def hostile(authority: Authority, clients: Authority) -> dict[str, Files | None]:
    """Certificates that nobody may come in with, by the reason that the log gives."""
    return {
        "no_certificate": None,
        "expired": clients.issue(days=EXPIRED),
        "not_yet_valid": clients.issue(days=NOT_YET),
        "self_signed": clients.issue(self_signed=True),
        "unknown_authority": authority.issue(),
        "wrong_purpose": clients.issue(purposes=["server"]),
    }


def test_clients_without_a_good_certificate_stay_outside(
    secure: Stage, authority: Authority, clients: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """H13, S-39, S-42: nothing reaches the upstream; the log names place and reason, once for many; a metric counts."""

    async def main() -> None:
        async with secure(tls={"client_ca_file": str(clients.file)}) as (gateway, upstream):
            for reason, files in hostile(authority, clients).items():
                for _ in range(2):
                    await refused(gateway, client_context(authority, files), reason)
                lines = [record.getMessage() for record in caplog.records if f": {reason}: " in record.getMessage()]
                assert len(lines) == 1, lines
                assert lines[0].startswith("TLS handshake failed, server, 127.0.0.1: ")
            assert upstream.links == []
            good = client_context(authority, clients.issue(purposes=["client"]))
            assert (await gateway.ask(GET, tls=good)).status == 200
            metrics = gateway.runtime.telemetry.render().decode()
            assert 'gateway_tls_failures_total{place="server",reason="wrong_purpose"} 2.0' in metrics

    run(main())
    assert not any(record.exc_info for record in caplog.records)


def test_a_certificate_may_be_optional(secure: Stage, authority: Authority, clients: Authority) -> None:
    """H13: without one a client is let in, with a bad one it is not."""

    async def main() -> None:
        async with secure(tls={"client_ca_file": str(clients.file), "client_certificate": "optional"}) as (gateway, _):
            assert (await gateway.ask(GET)).status == 200
            assert (await gateway.ask(GET, tls=client_context(authority, clients.issue()))).status == 200
            await refused(gateway, client_context(authority, clients.issue(days=EXPIRED)), "expired")

    run(main())


#: Long enough for a busy machine to have asked twice by then.
SOON_SECONDS = 3
SOON = (-1, SOON_SECONDS / 86_400)


def test_a_connection_ends_with_its_certificate(secure: Stage, authority: Authority, clients: Authority) -> None:
    """H13, S-38: what was asked before is answered; then the connection closes, and the session can't be taken up again."""

    async def main() -> None:
        async with secure(tls={"client_ca_file": str(clients.file)}) as (gateway, _):
            context = client_context(authority, clients.issue(days=SOON))
            client = await gateway.connect(tls=context)
            assert (await client.ask(GET)).status == 200
            assert await asyncio.wait_for(client.rest(), 30) == b""
            await refused(gateway, context, "expired")

    run(main())


def test_a_resumed_session_ends_with_its_certificate(secure: Stage, authority: Authority, clients: Authority) -> None:
    """H13: OpenSSL does not look at dates again when a session is taken up; the gateway does."""

    def ask(context: ssl.SSLContext, port: int, session: ssl.SSLSession | None) -> tuple[bytes, bool, ssl.SSLSession | None]:
        with socket.create_connection(("127.0.0.1", port), 10) as plain:
            with context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as client:
                kept = client.session
                client.sendall(GET)
                return client.recv(1 << 16), bool(client.session_reused), kept

    async def main() -> None:
        async with secure(tls={"client_ca_file": str(clients.file)}) as (gateway, _):
            loop = asyncio.get_running_loop()
            ends = loop.time() + SOON_SECONDS + 0.1
            context = client_context(authority, clients.issue(days=SOON))
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            data, _, session = await asyncio.to_thread(ask, context, gateway.port, None)
            assert data.startswith(b"HTTP/1.1 200")
            data, reused, _ = await asyncio.to_thread(ask, context, gateway.port, session)
            assert (data.startswith(b"HTTP/1.1 200"), reused) == (True, True)
            await until(lambda: loop.time() > ends, "the certificate's end")
            try:
                data, _, _ = await asyncio.to_thread(ask, context, gateway.port, session)
            except OSError:
                data = b""
            assert data == b""
            await until(lambda: ("server", "expired") in failures(gateway), "the failure")

    run(main())


LAB: dict[str, Any] = {"subject": "CN=lab,O=Example", "uris": ["spiffe://example.gov/lab"]}


@pytest.mark.parametrize("rule", ["required", "subject", "uri", "dns", "fingerprint", "two kinds"])
def test_a_route_asks_for_certificates(secure: Stage, authority: Authority, clients: Authority, rule: str) -> None:
    """H13, S-42: 403 without one, and with another's; no challenge, because no token would help."""
    lab, other = clients.issue("lab.example.gov", **LAB), clients.issue("other.example.gov", subject="CN=other", uris=["spiffe://x/y"])
    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(lab.certificate.read_text())).hexdigest()
    rules: dict[str, Any] = {
        "required": "required",
        "subject": {"subject": ["CN=nobody", "CN=lab,O=Example"]},
        "uri": {"uri": ["spiffe://example.gov/lab"]},
        "dns": {"dns": ["lab.example.gov"]},
        "fingerprint": {"fingerprint": [":".join(fingerprint[at : at + 2] for at in range(0, 64, 2)).upper()]},
        "two kinds": {"dns": ["lab.example.gov", "other.example.gov"], "subject": ["CN=lab,O=Example"]},
    }

    async def main() -> None:
        tls = {"client_ca_file": str(clients.file), "client_certificate": "optional"}
        async with secure(tls=tls, route={"client_certificate": rules[rule]}) as (gateway, upstream):
            assert (await gateway.ask(GET, tls=client_context(authority, lab))).status == 200
            stranger = await gateway.ask(GET, tls=client_context(authority, other))
            assert stranger.status == (200 if rule == "required" else 403)
            nobody = await gateway.ask(GET)
            assert (nobody.status, nobody.problem["code"], nobody.values(b"www-authenticate")) == (403, "forbidden", [])
            assert (await gateway.record(lambda each: each["decision"] == "deny", of=1 if rule == "required" else 2))["detail"].startswith(
                "client_certificate_"
            )
            assert len(upstream.requests) == (2 if rule == "required" else 1)

    run(main())


FORGED = b"".join(
    b"%b: forged\r\n" % name
    for name in (
        b"X-Client-Cert-Subject",
        b"x-client-cert-issuer",
        b"X_Client_Cert_Subject",
        b"X.Client.Cert.San",
        b"X-Client-Cert-Fingerprint",
        b"X-Client-Cert-Verify",
        b"Client-Cert",
        b"Client-Cert-Chain",
        b"X-Forwarded-Client-Cert",
    )
)


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
def test_a_service_is_told_of_the_certificate_on_request(secure: Stage, authority: Authority, clients: Authority, told: bool) -> None:
    """H13, H3: what the certificate says and nothing that a client says; a certificate can't forge a field either."""
    hostile = clients.issue("lab.example.gov", subject="CN=l\u00e4b\\0d\\0aX-Auth-Subject: root", uris=["spiffe://x/a,URI:spiffe://x/b%"])
    request = GET.removesuffix(b"\r\n") + FORGED + b"\r\n"

    async def main() -> None:
        tls = {"client_ca_file": str(clients.file), "client_certificate": "optional"}
        async with secure(tls=tls, service={"forward_client_certificate": told}) as (gateway, upstream):
            assert (await gateway.ask(request, tls=client_context(authority, hostile))).status == 200
            assert (await gateway.ask(request)).status == 200
            fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(hostile.certificate.read_text())).hexdigest().encode()
            sent = [{name: value for name, value in each.fields if b"cert" in name or b"auth" in name} for each in upstream.requests]
            assert sent[1] == {}
            assert sent[0] == (
                {
                    b"x-client-cert-subject": b"CN=l%C3%A4b%0D%0AX-Auth-Subject: root",
                    b"x-client-cert-issuer": b"CN=clients",
                    b"x-client-cert-san": b"URI:spiffe://x/a%2CURI:spiffe://x/b%25, DNS:lab.example.gov",
                    b"x-client-cert-fingerprint": fingerprint,
                }
                if told
                else {}
            )
            assert all(b"forged" not in each.head for each in upstream.requests)

    run(main())


def test_clients_are_counted_by_their_certificates(secure: Stage, authority: Authority, clients: Authority) -> None:
    """H13, V5: all of a client's connections and certificates count as one, another's apart, and who shows none by address."""
    tls = {"client_ca_file": str(clients.file), "client_certificate": "optional"}

    limits = {"each": {"rate": "2/minute", "key": "client_certificate"}}

    async def main() -> None:
        async with secure(tls=tls, limits=limits, route={"limits": ["each"]}) as (gateway, _):
            first, renewed, other = (client_context(authority, clients.issue(subject=name)) for name in ("CN=a", "CN=a", "CN=b"))
            statuses = [(await gateway.ask(GET, tls=each)).status for each in (first, renewed, first, other, None, None, None)]
            assert statuses == [200, 200, 429, 200, 200, 200, 429]

    run(main())


def test_records_and_handlers_know_the_certificate(
    store: str, tmp_path: Path, secure: Stage, authority: Authority, clients: Authority
) -> None:
    """H13, S-35: in `source` of the audit record, on the way to a service and to a function of this process alike."""
    files = clients.issue("lab.example.gov", **LAB)
    facts = {
        "subject": "CN=lab,O=Example",
        "fingerprint": hashlib.sha256(ssl.PEM_cert_to_DER_cert(files.certificate.read_text())).hexdigest(),
    }
    own = authority.issue("127.0.0.1")
    section = {"certificate_file": str(own.certificate), "key_file": str(own.key), "client_ca_file": str(clients.file)}

    async def main() -> None:
        async with recording_upstream() as upstream:
            app = declared(tmp_path, store, upstream, server={"tls": section})

            @app.route("/who", methods=["GET"], authentication="none", client_certificate={"dns": ["lab.example.gov"]})
            def who(request: GatewayRequest) -> dict[str, object]:
                shown = request.client_certificate
                assert shown is not None
                return {"data": {"uris": shown.uris, "dns": shown.dns}}

            async with serving(app, tmp_path) as gateway:
                gateway.tls = client_context(authority, files)
                client = await gateway.connect()
                for _ in range(2):
                    assert (await client.ask(GET)).status == 200
                    reply = await client.ask(GET.replace(b"/s/x", b"/who"))
                    assert json.loads(reply.body) == {"uris": LAB["uris"], "dns": ["lab.example.gov"]}
                gateway.tls = client_context(authority, clients.issue(subject="CN=other"))
                assert (await gateway.ask(GET.replace(b"/s/x", b"/who"))).status == 403
                await until(lambda: len(gateway.records()) == 5, "the records")
                assert [record["source"]["certificate"] for record in gateway.records()[:4]] == [facts] * 4

    run(main())
