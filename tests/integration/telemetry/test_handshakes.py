"""S-34, AU-2: a client that does not prove who it is by its certificate leaves a record, though it never asked anything."""

from __future__ import annotations

import contextlib
import http.client
import re
import ssl
from pathlib import Path

from tests.support.certificates import EXPIRED, Authority, Files, client_context
from tests.support.redis_server import wait_until
from tests.support.whole_gateway import Json, ProcessGateway, base_document, running


class Doors:
    """Authorities of the gateway and of its clients, and how clients come."""

    def __init__(self, directory: Path) -> None:
        self.gateway = Authority(directory)
        self.clients = Authority(directory, "clients")
        self._own = self.gateway.issue("127.0.0.1")

    def document(self, directory: Path, **audit: object) -> Json:
        """A gateway that wants certificates, and whose audit is set so."""
        tls = {"certificate_file": str(self._own.certificate), "key_file": str(self._own.key), "client_ca_file": str(self.clients.file)}
        document = base_document(directory, state={"url": "embedded://"}, server={"tls": tls})
        document["audit"] |= audit
        return document

    def knock(self, gateway: ProcessGateway, files: Files | None) -> int:
        """The status of the answer; 0 when there is none."""
        host, _, port = gateway.url.removeprefix("https://").rpartition(":")
        client = http.client.HTTPSConnection(host, int(port), timeout=20, context=client_context(self.gateway, files))
        with contextlib.closing(client), contextlib.suppress(ssl.SSLError, ConnectionError):
            client.request("GET", "/nothing")
            return client.getresponse().status
        return 0


def wait_for_failures(gateway: ProcessGateway, reason: str, count: int) -> None:
    """Return when the metrics have counted so many."""
    found = re.compile(rf'gateway_tls_failures_total{{[^}}]*place="server",reason="{reason}"[^}}]*}} (\S+)')

    def counted() -> bool:
        return [float(value) for value in found.findall(gateway.admin("GET", "/metrics").text)] == [count]

    wait_until(counted, f"{count} of {reason} to be counted")


def test_clients_that_do_not_prove_who_they_are_leave_a_record(tmp_path: Path) -> None:
    """S-34, S-35, H13: why, and from where; one for each reason in a while, however many they are; nothing of those that come in, or that
    have only no idea of TLS."""
    doors = Doors(tmp_path)
    visitors = {"no_certificate": None, "expired": doors.clients.issue(days=EXPIRED), "unknown_authority": doors.gateway.issue()}
    with running(tmp_path, doors.document(tmp_path)) as gateway:
        plain = http.client.HTTPConnection("127.0.0.1", int(gateway.url.rpartition(":")[2]), timeout=20)
        with contextlib.closing(plain), contextlib.suppress(ConnectionError, http.client.HTTPException):
            plain.request("GET", "/nothing")
            plain.getresponse()
        for reason, files in visitors.items():
            assert [doors.knock(gateway, files) for _ in range(2)] == [0, 0]
            wait_for_failures(gateway, reason, 2)
        wait_for_failures(gateway, "not_tls", 1)
        assert doors.knock(gateway, doors.clients.issue()) == 404
    told = [record["detail"] for record in gateway.records(lambda record: record["event"] == "handshake")]
    assert told == [{"reason": reason, "source": "127.0.0.1", "failures": 1} for reason in visitors]
    assert gateway.records()[-1]["event"] == "stop"


def test_records_of_handshakes_are_chosen(tmp_path: Path) -> None:
    """AU-12: without the word in `audit.events` there is none; the log and the metric tell it all the same."""
    doors = Doors(tmp_path)
    with running(tmp_path, doors.document(tmp_path, events=["denied"])) as gateway:
        assert doors.knock(gateway, None) == 0
        wait_for_failures(gateway, "no_certificate", 1)
    assert [record["event"] for record in gateway.records()] == ["start", "stop"]
    assert "TLS handshake failed, server, 127.0.0.1: no_certificate" in gateway.said
