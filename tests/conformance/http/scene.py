"""Plays a row between a raw client and a recording upstream, in several deliveries, and judges what came of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.conformance.http.answer import Answer
from tests.conformance.http.case import AFTER, Case, Seen, get
from tests.support.gateway_process import Adapter, Client, Response, RunningGateway
from tests.support.recording_upstream import Link, RecordedRequest, RecordingUpstream, Script

#: A request whose fields most rows repeat, so that the paths for repeated heads are warm.
WARM = get(target=b"/s/warm")
#: Fields that we add to every request; each exactly once, whatever came.
OURS = (b"traceparent", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-proto", b"x-request-id")
FRAMING = (b"content-length", b"transfer-encoding")
#: What of an answer isn't in its row.
BESIDE = frozenset((*FRAMING, b"date", b"x-request-id"))
ASIDE = frozenset((*OURS, *FRAMING, b"host"))


@dataclass
class Scene:
    """The gateways, the upstream, and what the upstream has to say to `/s/answer`."""

    upstream: RecordingUpstream = field(default_factory=RecordingUpstream)
    gateways: dict[Adapter, RunningGateway] = field(default_factory=dict)
    #: The same, but that they believe the address that tests come from.
    behind_proxies: dict[Adapter, RunningGateway] = field(default_factory=dict)
    answer: Answer | None = None
    #: Bytes that the upstream sends of it at a time.
    piece_bytes: int = 1 << 20
    #: Requests that were read whole, in the order of their arrival, and the connections that they came by.
    whole: list[RecordedRequest] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)

    def clear(self) -> None:
        """Forget what was recorded."""
        self.whole.clear()
        self.links.clear()
        self.upstream.links[:] = [link for link in self.upstream.links if not link.lost.is_set()]
        for link in self.upstream.links:
            link.received.clear()
            link.requests.clear()

    @property
    def received(self) -> bytes:
        """Every byte since then, whole requests or not."""
        return b"".join(link.received for link in self.upstream.links)


def script_of(scene: Scene) -> Script:
    """Answers with the target, so that nobody can take one answer for another; and at `/s/answer` as the row says."""

    async def script(link: Link) -> None:
        while (request := await link.request()) is not None:
            scene.whole.append(request)
            scene.links.append(link)
            target = request.line.split(b" ")[1]
            if target == b"/s/answer" and scene.answer is not None:
                if not await scene.answer.play(link, scene.piece_bytes):
                    return
                continue
            body = b"" if request.line.startswith(b"HEAD ") else target
            await link.send(b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: %d\r\n\r\n" % len(target) + body)

    return script


#: How the bytes of a row reach the gateway. `warm` comes behind a request that was answered, and in a read of its own.
DELIVERIES = ("at once", "warm", "byte by byte", "in pieces")


def pieces(data: bytes, delivery: str, seed: str) -> Iterator[bytes]:
    """The reads that the bytes are cut into."""
    if delivery == "byte by byte":
        yield from (data[at : at + 1] for at in range(len(data)))
    elif delivery == "in pieces":
        randomly = random.Random(seed)
        at = 0
        while at < len(data):
            size = randomly.randint(1, 24)
            yield data[at : at + size]
            at += size
    else:
        yield data


async def send(client: Client, data: bytes, delivery: str, seed: str) -> None:
    """Send so that each piece is a read of its own."""
    for piece in pieces(data, delivery, seed):
        await client.send(piece)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def deliveries(case: Case, adapter: Adapter) -> tuple[str, ...]:
    """How the row is delivered. Other servers close without lingering: what comes after an answer then can take the answer with it."""
    if adapter == "wire":
        return DELIVERIES
    return ("at once", "in pieces") if case.kept else ("at once",)


async def play(scene: Scene, case: Case, adapter: Adapter, delivery: str) -> None:
    """Send a row, and `AFTER` behind it, and judge it."""
    gateway = scene.gateways[adapter]
    client = await gateway.connect()
    try:
        if delivery == "warm":
            for _ in range(2):
                assert (await client.ask(WARM)).body == b"/s/warm"
        scene.clear()
        if delivery == "warm":
            await send(client, case.sent, "at once", case.name)
            await client.send(AFTER)
        else:
            await send(client, case.sent + AFTER, delivery, case.name)
        await judge(scene, case, client, adapter)
    except BaseException as error:
        error.add_note(f"{adapter}, {delivery}")
        raise
    finally:
        gateway.clients.remove(client)
        client.close()


async def judge(scene: Scene, case: Case, client: Client, adapter: Adapter) -> None:
    """The answers, the end of the connection, and what the upstream got are as the row says."""
    responses = [await response_to(client, case, turn) for turn in range(len(case.statuses))]
    assert [response.status for response in responses] == list(case.statuses)
    assert all(response.whole for response in responses)
    expected = list(case.seen)
    if case.kept:
        after = await client.response()
        assert (after.status, after.body, after.whole) == (200, b"/s/after", True)
        expected.append(Seen(b"GET /s/after"))
    else:
        assert responses[-1].values(b"connection") == [b"close"]
        assert await client.rest() == b""
        assert b"/s/after" not in scene.received
        assert sum(len(link.requests) for link in scene.upstream.links) <= len(case.seen) + 1
    if case.is_refusal:
        assert responses[-1].problem["status"] == case.statuses[-1]
    assert [request.line for request in scene.whole] == [each.line + b" HTTP/1.1" for each in expected]
    for request, each in zip(scene.whole, expected, strict=True):
        judge_request(request, each, scene.gateways[adapter])
    answers = [response.body for response in responses if response.status == 200]
    assert answers == [b"" if each.line.startswith(b"HEAD") else each.line.split(b" ")[1] for each in case.seen]


async def response_to(client: Client, case: Case, turn: int) -> Response:
    """The next answer of a row; to HEAD it has no body."""
    line = case.seen[turn].line if len(case.seen) == len(case.statuses) else case.sent
    while (response := await client.response(bodiless=line.startswith(b"HEAD "))).status < 200:
        """An ASGI server says 100 (Continue) by itself."""
    return response


def judge_request(request: RecordedRequest, expected: Seen, gateway: RunningGateway) -> None:
    """What the upstream got is exactly what it had to get."""
    assert request.values(b"x-forwarded-for") == [b"127.0.0.1"]
    assert request.values(b"x-forwarded-port") == [b"%d" % gateway.port]
    assert request.values(b"x-forwarded-proto") == [b"http" if gateway.tls is None else b"https"]
    assert request.values(b"x-forwarded-host") == [expected.forwarded_host]
    assert request.values(b"host") == [expected.host]
    assert len(request.values(b"x-request-id")) == len(request.values(b"traceparent")) == 1
    assert request.values(b"via")[-1:] == [expected.via + b" hms-gateway"]
    fields = [b"%b: %b" % (name.lower(), value) for name, value in request.fields]
    # Ours is behind those that came.
    own_via = len(fields) - 1 - fields[::-1].index(b"via: %b hms-gateway" % expected.via)
    del fields[own_via]
    assert [each for each in fields if each.partition(b":")[0] not in ASIDE] == list(expected.fields)
    assert request.body == expected.body
    assert sum(len(request.values(name)) for name in FRAMING) <= 1


async def play_answer(scene: Scene, answer: Answer, adapter: Adapter, piece_bytes: int) -> None:
    """Have the upstream answer as the row says, in pieces of that size, and judge what the client gets."""
    gateway = scene.gateways[adapter]
    scene.answer, scene.piece_bytes = answer, piece_bytes
    client = await gateway.connect()
    try:
        for _ in range(2):
            assert (await client.ask(WARM)).body == b"/s/warm"
        scene.clear()
        await client.send(get(target=b"/s/answer", method=answer.method))
        await judge_answer(answer, client)
    except BaseException as error:
        error.add_note(f"{adapter}, {piece_bytes} bytes at a time")
        raise
    finally:
        gateway.clients.remove(client)
        client.close()
    # On a connection of its own: whose answer it is must not depend on who asks.
    after = await gateway.ask(AFTER)
    assert (after.status, after.body) == (200, b"/s/after")
    # A connection that ended without a byte of an answer is no answer: the request was sent once more (SPEC R1).
    times = 2 if not answer.sent else 1
    assert [request.line.split(b" ")[1] for request in scene.whole] == [b"/s/answer"] * times + [b"/s/after"]
    assert answer.reused is None or (scene.links[-2] is scene.links[-1]) == answer.reused


async def judge_answer(answer: Answer, client: Client) -> None:
    """The client gets what the row says, and the next answer on its connection is its own."""
    interim = []
    while (response := await client.response(bodiless=answer.method == b"HEAD")).status < 200:
        interim.append(response.status)
    assert tuple(interim) == answer.interim
    if answer.cut and response.status == 200:
        assert not response.whole
        assert answer.body.startswith(response.body)
        return
    assert (response.status, response.whole) == (answer.status, True)
    assert len(response.values(b"x-request-id")) == 1
    if response.status == 502:
        assert response.values(b"content-type") == [b"application/problem+json"]
        assert answer.method == b"HEAD" or response.problem["code"] == "bad_gateway"
        return
    assert response.body == answer.body
    fields = [b"%b: %b" % (name.lower(), value) for name, value in response.fields]
    assert [each for each in fields if each.partition(b":")[0] not in BESIDE] == list(answer.fields)
