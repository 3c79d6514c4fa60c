"""F-62: the number of metric series is bounded, whatever the traffic is like."""

from __future__ import annotations

import asyncio
import random
import re
import secrets
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway import BackendAPIGateway
from gateway.telemetry.spans import KNOWN_METHODS, OTHER_METHOD
from tests.support.canaries import Canary, leaks
from tests.support.certificates import Authority, client_context
from tests.support.gateway_process import Adapter, Client, RunningGateway, declared, serving
from tests.support.recording_upstream import recording_upstream
from tests.support.redis_server import run, until
from tests.support.websockets import TEXT, echo, frame, opened

#: What llhttp knows besides those that HTTP has.
EXTENSIONS = ("PURGE", "PROPFIND", "LOCK", "UNLOCK", "MKCOL", "REPORT", "MERGE", "SUBSCRIBE", "SEARCH", "QUERY")
METHODS = (*sorted(KNOWN_METHODS - {"CONNECT", "TRACE"}), *EXTENSIONS)
STATUSES = (200, 201, 299, 404, 422, 499, 503, 599)
TOGETHER = 50
MARK = Canary("what a client chooses").text[:8]


def chosen() -> str:
    """Something that no request before this one has said."""
    return f"{MARK}{secrets.token_hex(8)}"


def requests(dice: random.Random, count: int) -> Iterator[tuple[str, bytes]]:
    """Method and message, each with a path, host, query, key and field of its own."""
    for _ in range(count):
        method = dice.choice(METHODS)
        path = dice.choice((f"/any/{chosen()}/{dice.choice(STATUSES)}", f"/{chosen()}/{chosen()}", "/any"))
        lines = [
            f"{method} {path}?{chosen()}={chosen()} HTTP/1.1",
            f"Host: {chosen()}.example",
            f"X-Key: {chosen()}",
            f"User-Agent: {chosen()}",
            f"{chosen()}: {chosen()}",
            f"Authorization: {dice.choice(('Bearer', 'Basic', chosen()))} {chosen()}",
        ]
        yield method, "\r\n".join([*lines[: dice.choice((5, 6))], "Content-Length: 0", "", ""]).encode()


def series(exposition: str) -> set[str]:
    """Names with labels, but for buckets of histograms, of which there are always as many."""
    return {line.rpartition(" ")[0] for line in exposition.splitlines() if line and not line.startswith("#") and "_bucket" not in line}


def labels(found: set[str], name: str) -> set[str]:
    """The values of one label."""
    return {value for one in found for value in re.findall(rf'[{{,]{name}="([^"]*)"', one)}


async def send(client: Client, dice: random.Random, count: int) -> None:
    """Requests one behind the other, some at a time."""
    for _ in range(count // TOGETHER):
        batch = list(requests(dice, TOGETHER))
        await client.send(b"".join(message for _, message in batch))
        for method, _ in batch:
            await client.response(bodiless=method == "HEAD")


async def strangers(gateway: RunningGateway) -> None:
    """Requests that end their connection: the parser refuses them, or the path is ambiguous."""
    for line in (f"{chosen().upper()} /{chosen()}", f"GET /any/{chosen()}/%2e%2e") * 10:
        stranger = await gateway.connect()
        await stranger.send(f"{line} HTTP/1.1\r\nHost: {chosen()}\r\nConnection: close\r\n\r\n".encode())
        assert (await stranger.rest()).startswith(b"HTTP/1.1 4")


def gateway_of(directory: Path) -> BackendAPIGateway:
    app = BackendAPIGateway(audit={"sink": [f"file:{directory / 'audit.jsonl'}"]}, authentication={"failures": "off", "issuers": [ISSUER]})
    app.limit("by-key", rate="1/hour", burst=1, key=["header:X-Key", "path:what"])

    @app.route("/any/{what}/{status:int}", methods=list(METHODS), authentication="optional", limits=["by-key"], name="any")
    def answer(request: Any) -> dict[str, Any]:
        return {"status": request.path_params["status"], "data": None}

    return app


ISSUER = {"name": "nobody", "issuer": "https://login.example.gov", "audience": ["hms"], "jwks_url": "http://127.0.0.1:9/jwks"}


@pytest.mark.parametrize(("adapter", "count"), [("wire", 5_000), ("asgi", 1_000)])
def test_no_traffic_makes_a_series(adapter: Adapter, count: int, tmp_path: Path) -> None:
    """F-62: after some requests of each kind, thousands of others add none; and no label has a value that a client chose."""
    dice = random.Random(62)

    async def main() -> None:
        async with serving(gateway_of(tmp_path), tmp_path, adapter) as gateway:
            client = await gateway.connect()
            await send(client, dice, 1_000 if adapter == "wire" else 600)
            await strangers(gateway)
            before = series(metrics(gateway.runtime))
            await send(client, dice, count)
            await strangers(gateway)
            after = series(metrics(gateway.runtime))
        assert not leaks("metrics", "\n".join(after).encode(), [Canary("what a client chooses", MARK)])
        added = {one for one in after - before if "gateway_requests_total" not in one}
        assert not added
        assert labels(after, "method") <= KNOWN_METHODS | {OTHER_METHOD}
        assert labels(after, "status") <= {str(status) for status in (*STATUSES, 204, 400, 401, 404, 405, 429, 503)}
        assert labels(after, "route") <= {"any", "_none"}
        assert len(after) < 400, "routes x methods x statuses, and what the process says of itself"

    run(main(), uvloop.new_event_loop)


def metrics(runtime: Any) -> str:
    """What a scrape gets."""
    runtime.telemetry.tell()
    text: str = runtime.telemetry.render().decode()
    return text


#: Names of what tunnels, handshakes, the audit and overload are counted by.
FAMILIES = {
    "gateway_tunnels_open",
    "gateway_tunnels_opened_total",
    "gateway_tunnel_bytes_total",
    "gateway_tls_failures_total",
    "gateway_audit_dropped_total",
    "gateway_sink_dropped_total",
    "gateway_sink_waiting_bytes",
    "gateway_shed_total",
    "gateway_overload_level",
}


async def visitors(gateway: RunningGateway, own: Authority, count: int) -> None:
    """WebSockets that name pages, paths and subprotocols of their own, and handshakes that fail with names and bytes of their own."""
    for _ in range(count):
        client = await gateway.connect()
        lines = (f"Sec-WebSocket-Protocol: {chosen()}", f"Origin: https://{chosen()}.example", f"{chosen()}: {chosen()}")
        await opened(client, *(line.encode() for line in lines), target=f"/s/{chosen()}?{chosen()}".encode())
        await client.send(frame(TEXT, chosen().encode()))
        await client.reader.readexactly(len(frame(TEXT, chosen().encode())))
        client.close()
        impostor = client_context(own, own.issue(subject=f"CN={chosen()}", self_signed=True))
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await gateway.ask(f"GET /s/{chosen()} HTTP/1.1\r\nHost: {chosen()}\r\n\r\n".encode(), tls=impostor)
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(f"{chosen()} /{chosen()}\r\n\r\n".encode())
        writer.close()


def test_no_tunnel_and_no_handshake_makes_a_series(tmp_path: Path) -> None:
    """F-62, H8, H13: metrics of tunnels, TLS, audit and overload are there, and don't grow with what clients choose."""
    own = Authority(tmp_path)
    files = own.issue("127.0.0.1")
    tls = {"certificate_file": str(files.certificate), "key_file": str(files.key), "client_ca_file": str(own.file)}

    async def main() -> None:
        async with recording_upstream(echo) as upstream:
            server = {"tls": {**tls, "client_certificate": "optional"}}
            route = {"websocket": {"origins": ["*"]}}
            app = declared(tmp_path, "embedded://", upstream, server=server, route=route)
            async with serving(app, tmp_path) as gateway:
                gateway.tls = client_context(own)

                async def known(failed: int) -> set[str]:
                    def counted() -> bool:
                        counts = dict(gateway.runtime.tls_failures.counts())
                        return sum(counts.values()) == failed and len(gateway.records()) == failed // 2

                    await until(counted, "handshakes and tunnels to be counted")
                    return series(metrics(gateway.runtime))

                await visitors(gateway, own, 5)
                before = await known(10)
                await visitors(gateway, own, 30)
                after = await known(70)
        assert {one.partition("{")[0] for one in after} >= FAMILIES
        assert not after - before
        assert not leaks("metrics", "\n".join(after).encode(), [Canary("what a client chooses", MARK)])

    run(main())
