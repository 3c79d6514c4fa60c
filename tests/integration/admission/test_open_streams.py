"""Streams that are open when their token is revoked (SPEC V7, S-38)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest

from gateway import BackendAPIGateway
from gateway.admission.revocation import Revocation
from tests.support.gateway_process import ADAPTERS, Adapter, Client, RunningGateway, run, serving
from tests.support.recording_upstream import Link, recording_upstream
from tests.support.redis_server import redis_server, until
from tests.support.tokens import secret_file

both = pytest.mark.parametrize("adapter", ADAPTERS)
#: What the test's own issuer signs with.
SECRET = "a secret that is long enough for HS256"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECE = b"6\r\nevent\n\r\n"
#: A second, and what a busy machine makes of it.
ENDED_SECONDS = 5.0
LEEWAY_SECONDS = 5


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with redis_server("valkey") as server:
        yield server.url


async def stream_for_ever(link: Link) -> None:
    """Answers with events until the other side has gone."""
    await link.request()
    await link.send(HEAD)
    while not link.lost.is_set():
        await link.send(PIECE)
        try:
            async with asyncio.timeout(0.02):
                await link.read()
        except TimeoutError:
            continue


async def events(scope: Any, receive: Any, send: Any) -> None:
    """The same as an application in the gateway's own process."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    message: dict[str, Any] = {"type": "http.request"}
    while message["type"] != "http.disconnect":
        await send({"type": "http.response.body", "body": b"event\n", "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.02):
                message = await receive()


@asynccontextmanager
async def gateway(directory: Path, store: str, upstream: str, adapter: Adapter = "wire") -> AsyncIterator[RunningGateway]:
    """A gateway with a streaming service, a streaming application, and a public route to the service."""
    issuer = {"name": "i", "issuer": "https://i", "audience": ["a"], "algorithms": ["HS256"], "secret_file": secret_file(directory, SECRET)}
    issuer["leeway"] = f"{LEEWAY_SECONDS}s"
    app = BackendAPIGateway(
        state={"url": store, "budget": "2s"},
        audit={"sink": [f"file:{directory / 'audit.jsonl'}"]},
        authentication={"issuers": [issuer]},
    )
    app.service("s", instances=[upstream], timeouts={"total": "60s"})
    app.proxy("/s/{rest:path}", "s")
    app.proxy("/public", "s", authentication="none")
    app.mount("/local", events)
    async with serving(app, directory, adapter) as running:
        yield running


def request(path: str, subject: str, *, expires: float = 0.0) -> bytes:
    now = int(time.time())
    claims = {"iss": "https://i", "aud": "a", "sub": subject, "jti": f"jti-{subject}", "iat": now, "exp": expires or now + 600}
    token = jwt.encode(claims, SECRET, algorithm="HS256")
    return b"GET %b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\n\r\n" % (path.encode(), token.encode())


async def opened(running: RunningGateway, path: str, subject: str, *, expires: float = 0.0) -> Client:
    """A client that has had two pieces of its stream."""
    client = await running.connect()
    await client.send(request(path, subject, expires=expires))
    assert (await client.head()).status == 200
    assert [await client.chunk() for _ in range(2)] == [b"event\n"] * 2
    return client


async def ended(client: Client) -> float:
    """Waits until the stream breaks off. Returns how long that took."""
    started = time.monotonic()
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        async with asyncio.timeout(10):
            while await client.chunk() == b"event\n":
                pass
        raise AssertionError("the stream was completed")
    return time.monotonic() - started


async def goes_on(client: Client) -> None:
    for _ in range(5):
        assert await client.chunk() == b"event\n"


@both
@pytest.mark.parametrize("path", ["/s/x", "/local/x"])
def test_an_open_stream_of_a_revoked_token_ends(store: str, tmp_path: Path, adapter: Adapter, path: str) -> None:
    """V7, S-38: revoked at one replica, ended at the other, within a second; the record says why; others go on."""

    alice, bob = (f"{who}-{adapter}-{path}" for who in ("alice", "bob"))

    async def main() -> None:
        async with (
            recording_upstream(stream_for_ever) as upstream,
            gateway(tmp_path / "one", store, upstream.url) as one,
            gateway(tmp_path / "two", store, upstream.url, adapter) as two,
        ):
            first, again, other = [await opened(two, path, subject) for subject in (alice, alice, bob)]
            assert len(two.runtime.streams) == 3
            await one.runtime.revocations.revoke(Revocation(kind="subject", value=alice, expires_at=time.time() + 60))
            assert max(await asyncio.gather(ended(first), ended(again))) < ENDED_SECONDS
            await goes_on(other)
            record = await two.record(lambda record: record["reason"] == "token_revoked", of=2)
            assert record["response"]["status"] == 200
            assert record["principal"]["subject"] == alice
            await until(lambda: len(two.runtime.streams) == 1, "the registry to forget them")
            refused = await two.connect()
            answer = await refused.ask(request(path, alice))
            assert (answer.status, answer.problem["code"]) == (401, "token_revoked")
            other.close()
            await until(lambda: len(two.runtime.streams) == 0, "the last one to be over")

    run(main())


@both
@pytest.mark.parametrize("path", ["/s/x", "/local"], ids=["of a service", "of an application"])
def test_a_token_that_expires_ends_its_streams(adapter: Adapter, path: str, store: str, tmp_path: Path) -> None:
    """S-38: within a second of `exp` and the leeway, and not before; the record says why; others go on."""

    async def main() -> None:
        async with recording_upstream(stream_for_ever) as upstream, gateway(tmp_path, store, upstream.url, adapter) as running:
            # Good for another 1.1 to 2.1 s: what counts is the end of the leeway.
            bound = int(time.time()) + 2.1
            expiring = await opened(running, path, f"dora-{adapter}-{path}", expires=bound - LEEWAY_SECONDS)
            other = await opened(running, path, f"eric-{adapter}-{path}")
            await ended(expiring)
            assert bound <= time.time() < bound + ENDED_SECONDS
            await goes_on(other)
            record = await running.record(lambda record: record["reason"] == "token_expired")
            assert record["response"]["status"] == 200
            other.close()
            await until(lambda: len(running.runtime.streams) == 0, "the registry to forget them")

    run(main())


def test_a_revocation_between_admission_and_the_first_piece_ends_the_stream(store: str, tmp_path: Path) -> None:
    """V7: the mirror learned of it while the service still thought."""
    asked, go = asyncio.Event(), asyncio.Event()

    async def late(link: Link) -> None:
        await link.request()
        asked.set()
        await go.wait()
        await link.send(HEAD + PIECE)
        await link.read()

    async def main() -> None:
        async with recording_upstream(late) as upstream, gateway(tmp_path / "one", store, upstream.url) as one:
            client = await one.connect()
            await client.send(request("/s/x", "late"))
            await asked.wait()
            await one.runtime.revocations.revoke(Revocation(kind="jti", value="jti-late", expires_at=time.time() + 60))
            go.set()
            assert (await client.head()).status == 200
            assert await ended(client) < ENDED_SECONDS

    run(main())


def test_short_requests_and_public_streams_are_not_kept(store: str, tmp_path: Path) -> None:
    """V5, V7: nothing is registered for a response that came whole, nor where nobody was asked who he is."""

    async def quick(link: Link) -> None:
        while found := await link.request():
            if b"/public" in found.line:
                await link.send(HEAD + PIECE)
                await link.read()
                return
            await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async def main() -> None:
        async with recording_upstream(quick) as upstream, gateway(tmp_path / "one", store, upstream.url) as one:
            kept: list[object] = []
            one.runtime.streams.add = kept.append  # type: ignore[assignment, method-assign]
            client = await one.connect()
            assert [(await client.ask(request("/s/x", "carol"))).status for _ in range(5)] == [200] * 5
            public = await one.connect()
            await public.send(b"GET /public HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await public.head()).status == 200
            assert await public.chunk() == b"event\n"
            assert kept == []
            public.close()

    run(main())
