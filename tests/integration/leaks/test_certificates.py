"""O4, H13: what stands in certificates and keys, and where it may be read."""

from __future__ import annotations

import contextlib
import http.client
import ssl
from collections.abc import Sequence
from pathlib import Path

from tests.integration.leaks.scene import Monitor, Planted, dump
from tests.support.canaries import Canary, leaks
from tests.support.certificates import EXPIRED, Authority, Files, client_context
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.redis_server import redis_server
from tests.support.whole_gateway import ProcessGateway, base_document, running, upstream

#: Who has proved who he is: his name stands in the records, and nowhere else.
AUDIT = ("audit",)


def ask(gateway: ProcessGateway, path: str, context: ssl.SSLContext) -> bytes:
    """Status, fields and body of the answer; nothing when the gateway hangs up."""
    client = http.client.HTTPSConnection("127.0.0.1", int(gateway.url.rpartition(":")[2]), timeout=20, context=context)
    with contextlib.closing(client), contextlib.suppress(ssl.SSLError, ConnectionError):
        client.request("GET", path)
        answer = client.getresponse()
        return f"{answer.status} {answer.getheaders()}".encode() + answer.read()
    return b""


def shown(put: Planted, authority: Authority, who: str, told: Sequence[str] = (), **options: object) -> Files:
    """A certificate with a canary in each of its names."""
    names = {"subject": f"CN={put(f'subject of {who}', *told)}", "uris": [f"spiffe://{put(f'URI of {who}')}/x"]}
    return authority.issue(f"{put(f'host name of {who}')}.example", **names, **options)  # type: ignore[arg-type]


def test_certificates_and_keys_are_told_in_the_audit_alone(tmp_path: Path) -> None:
    """O4, S-35, H13: the subject in the record of a request, by right; other names, and who proved nothing, nowhere; no key."""
    put = Planted()
    own = Authority(tmp_path)
    clients = Authority(tmp_path, "clients")
    files = own.issue("127.0.0.1")
    for number, line in enumerate(files.key.read_text().splitlines()[1:-1]):
        put.adopt(f"line {number} of the key", line[:20])
    visitors = {
        "good": shown(put, clients, "a client", AUDIT),
        "expired": shown(put, clients, "an expired client", days=EXPIRED),
        "self-signed": shown(put, clients, "an impostor", self_signed=True),
    }
    password = put("password of the store")
    tls = {"certificate_file": str(files.certificate), "key_file": str(files.key), "client_ca_file": str(clients.file)}
    with OtlpReceiver() as traces, redis_server("redis", "--requirepass", password) as store, upstream("records") as service:
        document = base_document(
            tmp_path,
            server={"tls": tls},
            state={"url": f"redis://:{password}@127.0.0.1:{store.port}/0", "budget": "2s"},
            services={"records": {"instances": [service.url]}},
            limits={"by-certificate": {"rate": "1/hour", "key": "client_certificate"}},
            routes=[
                {"name": "open", "path": "/open", "service": "records", "authentication": "none", "limits": ["by-certificate"]},
                {
                    "name": "closed",
                    "path": "/closed",
                    "service": "records",
                    "authentication": "none",
                    "client_certificate": {"dns": ["other.example"]},
                },
            ],
            telemetry={"traces": {"endpoint": traces.endpoint}, "access_log": {"sink": "stdout"}},
        )
        monitor = Monitor(store, password)
        with running(tmp_path, document) as gateway:
            good = client_context(own, visitors["good"])
            answers = [ask(gateway, path, good) for path in ("/open", "/open", "/closed", "/nowhere")]
            assert [answer[:3] for answer in answers] == [b"200", b"429", b"403", b"404"]
            assert [ask(gateway, "/open", client_context(own, visitors[name])) for name in ("expired", "self-signed")] == [b"", b""]
            told = ("/metrics", "/v1/config", "/v1/routes", "/v1/services", "/v1/limits")
            admin = b"\n".join(gateway.admin("GET", path).content for path in told)
            kept = dump(store, password)
        sinks = {
            "answers": b"\n".join(answers),
            "admin answers": admin,
            "access log": gateway.output.encode(),
            "log": gateway.said.encode(),
            "audit": gateway.file.read_bytes(),
            "spans": traces.messages(),
            "store: what it keeps": kept,
            "store: what it was told": monitor.close(),
        }
    found = [leak for sink, content in sinks.items() for leak in leaks(sink, content, put.all)]
    assert not found, "\n".join(found)
    assert leaks("audit", sinks["audit"], [Canary("subject", put("subject of a client"))]), "the record names the client"
    by_right = {"access log": "by-certificate|open", "log": "expired", "spans": "closed", "admin answers": "by-certificate"}
    for sink, words in by_right.items():
        assert any(word.encode() in sinks[sink] for word in words.split("|")), sink
    assert all(leaks(sink, content + put("URI of a client").encode(), put.all) for sink, content in sinks.items())
