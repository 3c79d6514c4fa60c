"""Key servers that are worse than broken: they trickle, never end, hand out rubbish that is nearly a key set, or change their mind (A4).

What a server that is plainly broken does is in `test_key_server.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway import BackendAPIGateway
from gateway.auth.authenticator import Authenticator
from gateway.auth.fetch import MAX_DOCUMENT_BYTES
from gateway.auth.jwk import MAX_KEYS
from gateway.auth.keys import KeyTimings
from tests.support.authenticating import authenticating, outcome
from tests.support.gateway_process import run, serving
from tests.support.recording_upstream import recording_upstream
from tests.support.redis_server import any_server, until
from tests.support.tokens import claims, jwk, jwks, rsa_key, token

KEY, OTHER_KEY = jwk(rsa_key(), kid="k1", alg="RS256"), jwk(rsa_key(which=1), kid="k2", alg="RS256")
FIRST, SECOND = b"Bearer " + token(), b"Bearer " + token(None, rsa_key(which=1), kid="k2")
TIMEOUT_SECONDS = 0.2
#: A token asks; nothing else does.
QUIET = KeyTimings(refresh=1000.0, retry_first=1000.0, retry_last=1000.0, refetch=0.0, unknown=0.0, timeout=TIMEOUT_SECONDS)
BUSY = KeyTimings(refresh=0.02, retry_first=0.02, retry_last=0.02, timeout=1.0)

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def http(body: bytes, status: str = "200 OK", *fields: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


def says(answer: bytes) -> Behaviour:
    """Answers so and hangs up."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    return behave


def repeats(start: bytes, piece: bytes, pause_seconds: float = 0.0) -> Behaviour:
    """Begins so and then says the same until the other side has had enough."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while not writer.transport.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_seconds)

    return behave


@dataclass
class KeyServer:
    """Behaves as it is told, and counts what it was asked."""

    behaviour: Behaviour
    url: str = ""
    asked: int = 0
    serving: set[asyncio.Task[Any]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                self.asked += 1
                await self.behaviour(reader, writer)
            writer.close()
        finally:
            self.serving.discard(task)
            if not writer.is_closing():
                writer.transport.abort()

    async def close(self) -> None:
        """End what is still being said."""
        for task in self.serving:
            task.cancel()
        await asyncio.gather(*self.serving, return_exceptions=True)


@asynccontextmanager
async def key_server(behaviour: Behaviour) -> AsyncIterator[KeyServer]:
    server = KeyServer(behaviour)
    listening = await asyncio.start_server(server.serve, "127.0.7.3", 0)
    server.url = f"http://127.0.7.3:{listening.sockets[0].getsockname()[1]}/keys"
    try:
        yield server
    finally:
        listening.close()
        await server.close()


async def comes(condition: Callable[[], bool]) -> None:
    """Waits for what the server, or the keys that it gives, bring about."""
    await until(condition, "the keys")


def only_keys(authenticator: Authenticator, *names: str) -> bool:
    """Whether these are the keys that are known."""
    [source] = authenticator._sources.values()
    return source.keys is not None and len(source.keys) == len(names) and all(map(source.keys.knows, names))


GOOD = jwks(KEY, OTHER_KEY)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
NASTY: dict[str, Behaviour] = {
    "a body that trickles": repeats(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b" ", 0.02),
    "a head that trickles": repeats(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n", 0.02),
    "a head without end": repeats(b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"b" * 4000 + b"\r\n"),
    "a status line without end": repeats(b"HTTP/1.1 200 ", b"O" * 4000),
    "chunks without end": repeats(CHUNKED, b"1000\r\n" + b" " * 4096 + b"\r\n"),
    "tiny chunks without end": repeats(CHUNKED, b"1\r\n \r\n" * 1000),
    "a chunk of 2^60 octets": says(CHUNKED + b"1000000000000000\r\n" + GOOD),
    "a body until the connection ends, without end": repeats(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b" " * 65_536),
    "interim answers without end": repeats(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.005),
    "an upgrade": says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n" + GOOD),
    "no HTTP": says(b"SSH-2.0-OpenSSH_9.9\r\n"),
    "HTTP/0.9": says(GOOD),
    "two lengths": says(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 500\r\n\r\n" + GOOD),
    "a negative length": says(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n" + GOOD),
    "201 Created": says(http(GOOD, "201 Created")),
    "203 from a proxy": says(http(GOOD, "203 Non-Authoritative Information")),
    "204 No Content": says(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "206 Partial Content": says(http(GOOD[:100], "206 Partial Content", "Content-Range: bytes 0-99/1000")),
    "304 Not Modified": says(b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    "301 to itself": says(http(GOOD, "301 Moved Permanently", "Location: /keys")),
    "307 to another host": says(http(GOOD, "307 Temporary Redirect", "Location: http://169.254.169.254/latest/meta-data")),
    "308 to a file": says(http(GOOD, "308 Permanent Redirect", "Location: file:///etc/passwd")),
    "401 that asks for a password": says(http(GOOD, "401 Unauthorized", 'WWW-Authenticate: Basic realm="x"')),
    "407 of a proxy": says(http(GOOD, "407 Proxy Authentication Required", 'Proxy-Authenticate: Basic realm="x"')),
    "429 for an hour": says(http(GOOD, "429 Too Many Requests", "Retry-After: 3600")),
    "503": says(http(GOOD, "503 Service Unavailable")),
    "a page": says(http(b"<!doctype html><title>Sign in</title>", "200 OK", "Content-Type: text/html")),
    "an array": says(http(b"[" + json.dumps(KEY).encode() + b"]")),
    "a key alone": says(http(json.dumps(KEY).encode())),
    "keys in an object": says(http(json.dumps({"keys": {"k2": OTHER_KEY}}).encode())),
    "keys of null": says(http(b'{"keys":null}')),
    "keys twice": says(http(b'{"keys":[],"keys":[' + json.dumps(OTHER_KEY).encode() + b"]}")),
    "too many keys": says(http(jwks(*[{**OTHER_KEY, "kid": f"k{number}"} for number in range(MAX_KEYS + 1)]))),
    "NaN": says(http(GOOD[:-1] + b',"x":NaN}')),
    "UTF-16": says(http(GOOD.decode().encode("utf-16"))),
    "a byte order mark": says(http(b"\xef\xbb\xbf" + GOOD)),
    "arrays 100,000 deep": says(http(b'{"keys":' + b"[" * 100_000)),
    "a number of 100,000 digits": says(http(b'{"keys":[],"x":' + b"9" * 100_000 + b"}")),
    "an octet more than may be": says(http(GOOD + b" " * (MAX_DOCUMENT_BYTES + 1 - len(GOOD)))),
    "a JWT": says(http(token())),
    "a reset": says(b""),
}


@pytest.mark.parametrize("behaviour", NASTY.values(), ids=NASTY.keys())
def test_a_nasty_answer_costs_a_bounded_time_and_changes_nothing(behaviour: Behaviour) -> None:
    """A4, S-33: the last good keys go on verifying meanwhile and after; the unknown key is a 401; nothing else is asked."""

    async def scenario() -> None:
        async with key_server(says(http(jwks(KEY)))) as server, authenticating(QUIET, jwks_url=server.url) as authenticator:
            await comes(lambda: authenticator.ready)
            server.behaviour = behaviour
            started = time.monotonic()
            waiting = asyncio.create_task(outcome(authenticator, SECOND))
            await comes(lambda: server.asked == 2)
            assert await outcome(authenticator, FIRST) == "alice"
            assert await waiting == "401 token_key_unknown"
            # A generous multiple of the time-out: the machine may be busy.
            assert time.monotonic() - started < 10 + 2 * TIMEOUT_SECONDS
            assert await outcome(authenticator, FIRST) == "alice"
            assert server.asked == 2

    run(scenario())


def test_after_the_worst_the_next_good_answer_is_believed() -> None:
    """A4: no answer wedges the refreshes."""

    async def scenario() -> None:
        async with key_server(says(http(jwks(KEY)))) as server, authenticating(BUSY, jwks_url=server.url) as authenticator:
            await comes(lambda: authenticator.ready)
            for behaviour in list(NASTY.values())[12:]:
                asked = server.asked
                server.behaviour = behaviour
                await comes(lambda asked=asked: server.asked >= asked + 2)  # type: ignore[misc]
            server.behaviour = says(http(jwks(OTHER_KEY)))
            await comes(lambda: only_keys(authenticator, "k2"))
            assert await outcome(authenticator, SECOND) == "alice"

    run(scenario())


def test_a_set_of_exactly_the_largest_size_is_read() -> None:
    """A4: the bounds are where they are said to be."""

    async def scenario() -> None:
        keys = [{**OTHER_KEY, "kid": f"k{number}"} for number in range(2, MAX_KEYS + 2)]
        document = jwks(*keys)
        document += b" " * (MAX_DOCUMENT_BYTES - len(document))
        async with key_server(says(http(document))) as server, authenticating(QUIET, jwks_url=server.url) as authenticator:
            assert await outcome(authenticator, SECOND) == "alice"

    run(scenario())


def test_another_key_under_the_old_name_ends_what_the_old_one_signed() -> None:
    """A4, A5: a key is its numbers, not its name; what it vouched for is forgotten with it."""

    async def scenario() -> None:
        async with key_server(says(http(jwks(KEY)))) as server, authenticating(BUSY, jwks_url=server.url) as authenticator:
            assert await outcome(authenticator, FIRST) == "alice"
            assert authenticator.cached(FIRST, None) is not None
            server.behaviour = says(http(jwks({**OTHER_KEY, "kid": "k1"})))
            await comes(lambda: authenticator.cached(FIRST, None) is None)
            assert await outcome(authenticator, FIRST) == "401 token_signature"
            assert await outcome(authenticator, b"Bearer " + token(None, rsa_key(which=1))) == "alice"

    run(scenario())


def test_a_key_that_has_turned_weak_or_private_ends_too() -> None:
    """A4, A9, S-32b: the same key marked for encryption, or published with its private half, verifies no more."""

    async def scenario() -> None:
        async with key_server(says(http(jwks(KEY)))) as server, authenticating(BUSY, jwks_url=server.url) as authenticator:
            for spoilt in ({**KEY, "use": "enc"}, {**KEY, "d": "AQAB"}, {**KEY, "key_ops": ["encrypt"]}, {**KEY, "alg": "RS512"}):
                server.behaviour = says(http(jwks(KEY)))
                await comes(lambda: only_keys(authenticator, "k1"))
                assert await outcome(authenticator, FIRST) == "alice"
                server.behaviour = says(http(jwks(spoilt)))
                await comes(lambda: authenticator.cached(FIRST, None) is None)
                assert await outcome(authenticator, FIRST) == "401 token_key_unknown"

    run(scenario())


def test_a_server_that_rotates_at_each_question_is_not_asked_more_often_for_it() -> None:
    """A4: a hundred tokens with names that it has made up are one question in ten seconds."""
    asked = 0

    async def rotate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        writer.write(http(jwks({**KEY, "kid": f"r{asked}"})))
        await writer.drain()

    async def scenario() -> None:
        timings = KeyTimings(refresh=1000.0, timeout=1.0)
        async with key_server(rotate) as server, authenticating(timings, jwks_url=server.url) as authenticator:
            await comes(lambda: authenticator.ready)
            for number in range(3, 103):
                await outcome(authenticator, b"Bearer " + token(kid=f"r{number}"))
            assert server.asked == 2

    run(scenario())


def test_a_flood_of_unknown_names_while_the_server_hangs_holds_up_nobody() -> None:
    """A4: a thousand tokens wait for one question at most, in bounded memory, and those that can be verified do not wait."""

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def scenario() -> None:
        timings = KeyTimings(refresh=1000.0, timeout=1.0)
        async with key_server(says(http(jwks(KEY)))) as server, authenticating(timings, jwks_url=server.url) as authenticator:
            await comes(lambda: authenticator.ready)
            server.behaviour = hang
            flood = [b"Bearer " + token(kid=f"x{number}") for number in range(100)]
            waiting = [asyncio.create_task(outcome(authenticator, flood[number % 100])) for number in range(1000)]
            await comes(lambda: server.asked == 2)
            assert await outcome(authenticator, FIRST) == "alice"
            assert set(await asyncio.gather(*waiting)) == {"401 token_key_unknown"}
            assert server.asked == 2

    run(scenario())


def test_over_http_a_hostile_key_server_is_a_401_or_a_503_and_never_a_500(tmp_path: Path) -> None:
    """A4, S-28: before the first keys 503 `overloaded` with Retry-After; with keys 401 for what they don't know, 200 for what they do."""

    async def scenario(store: str) -> None:
        good = {"iss": "https://login.example.gov", "exp": int(time.time()) + 600, "iat": int(time.time())}
        known, unknown = (token(claims(**good), kid=kid) for kid in ("k1", "k9"))
        async with key_server(NASTY["a page"]) as server, recording_upstream() as upstream:
            trusted = {"name": "login", "issuer": good["iss"], "audience": ["hms"], "jwks_url": server.url}
            app = BackendAPIGateway(
                state={"url": store, "budget": "2s"},
                audit={"sink": [f"file:{tmp_path / 'audit.jsonl'}"]},
                authentication={"issuers": [trusted], "failures": "off"},
            )
            app.service("s", instances=[upstream.url])
            app.proxy("/s", "s")
            async with serving(app, tmp_path) as gateway:
                request = b"GET /s HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer %b\r\n\r\n"
                response = await gateway.ask(request % known)
                assert (response.status, response.problem["code"]) == (503, "overloaded")
                assert response.values(b"retry-after") == [b"5"]
                server.behaviour = says(http(jwks(KEY)))
                await comes(lambda: gateway.runtime.authenticator.ready)
                for behaviour in (NASTY["a page"], NASTY["chunks without end"], NASTY["307 to another host"], NASTY["no HTTP"]):
                    server.behaviour = behaviour
                    assert (await gateway.ask(request % known)).status == 200
                    response = await gateway.ask(request % unknown)
                    assert (response.status, response.problem["code"]) == (401, "token_invalid")

    with any_server("redis") as store:
        run(scenario(store.url))
