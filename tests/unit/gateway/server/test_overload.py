"""What is done about overload, step by step, on a clock of the test's."""

from __future__ import annotations

import json
import mmap
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.exchange import Exchange
from gateway.server.drain import LastAnswers
from gateway.server.memory import group_limit_bytes, keep_tls_buffers_apart, resident_bytes
from gateway.server.overload import CALM_SECONDS, FREE_REFUSALS, HELD_SECONDS, Overload, Refusal
from gateway.server.shedding import CALM, CLOSING, DEAF, NO_LIMIT, REFUSING
from gateway.settings import OverloadSettings


class Pipeline:
    """Handles nothing."""

    def open(self, exchange: Exchange) -> None:
        raise AssertionError("no request here")

    def begin(self, exchange: Exchange) -> bool:
        raise AssertionError("no request here")

    async def handle(self, exchange: Exchange) -> None:
        raise AssertionError("no request here")


class Front:
    """What connections share."""

    def __init__(self) -> None:
        self.handler: Any = Pipeline()
        self.room = NO_LIMIT


class Server:
    """Accepts, or not."""

    def __init__(self) -> None:
        self.accepting = True

    def pause_accepting(self) -> None:
        assert self.accepting
        self.accepting = False

    def resume_accepting(self) -> None:
        assert not self.accepting
        self.accepting = True


class Connection:
    """Counts how often it was released."""

    def __init__(self) -> None:
        self.released = 0

    def release(self) -> None:
        self.released += 1


class Scene:
    def __init__(self) -> None:
        self.now = 100.0
        self.front = Front()
        self.server = Server()
        self.told: list[Mapping[str, object]] = []
        settings = OverloadSettings(lag=0.05, memory=0.0)
        self.overload = Overload(self.front, settings, 1, self.told.append, lambda: self.now)
        self.overload.guard(self.server)

    def looks(self, lag: float, times: int) -> None:
        for _ in range(times):
            self.now += 0.025 + lag
            self.front.room -= min(self.front.room, 400)
            self.overload.look(lag, lag)


def test_acts_come_in_order_and_are_taken_back() -> None:
    """F-44: 503, then no keep-alive, then no accept; the audit hears of the beginning and of the end."""
    scene = Scene()
    seen = [(scene.overload.level, isinstance(scene.front.handler, LastAnswers), scene.server.accepting)]
    for _ in range(40):
        scene.looks(0.5, 1)
        now = (scene.overload.level, isinstance(scene.front.handler, LastAnswers), scene.server.accepting)
        if now != seen[-1]:
            seen.append(now)
    assert seen == [(CALM, False, True), (REFUSING, False, True), (CLOSING, True, True), (DEAF, True, False)]
    scene.looks(0.0, 200)
    assert scene.overload.level == CALM
    assert isinstance(scene.front.handler, Pipeline)
    assert scene.server.accepting
    assert scene.front.room == NO_LIMIT
    assert [(event["action"], event["level"]) for event in scene.told] == [("overload", "refusing"), ("overload", "calm")]


def test_a_reload_meanwhile_does_not_bring_keep_alive_back() -> None:
    """F-44, G3: the new generation's answers close too, and the old one is not put back at the end."""
    scene = Scene()
    scene.looks(0.5, 14)
    assert scene.overload.level >= CLOSING
    renewed = Pipeline()
    scene.front.handler = renewed
    scene.looks(0.5, 1)
    assert isinstance(scene.front.handler, LastAnswers)
    scene.looks(0.0, 200)
    assert isinstance(scene.front.handler, Pipeline)
    assert scene.front.handler is renewed


def test_the_end_of_the_process_goes_before() -> None:
    """F-44, G1: the port is open again for as long as the drain wants it, and its answers are left alone."""
    scene = Scene()
    scene.looks(0.5, 40)
    assert not scene.server.accepting
    scene.overload.end()
    assert scene.server.accepting
    ending = LastAnswers(Pipeline(), lambda: 0.0)
    scene.front.handler = ending
    scene.looks(0.5, 40)
    scene.looks(0.0, 200)
    assert scene.front.handler is ending
    assert scene.server.accepting


def test_it_is_over_when_it_has_been_over_for_a_while() -> None:
    """F-44: what comes and goes is told once."""
    scene = Scene()
    for _ in range(10):
        scene.looks(0.1, 5)
        scene.looks(0.0, 60)
    assert scene.front.room == NO_LIMIT
    assert len(scene.told) == 1
    scene.looks(0.0, int(CALM_SECONDS / 0.025) + 1)
    assert len(scene.told) == 2


def test_who_is_refused_again_and_again_is_not_read_for_a_while() -> None:
    """F-44: the first refusals between two looks are free."""
    scene = Scene()
    connections = [Connection() for _ in range(FREE_REFUSALS + 3)]
    assert [scene.overload.refused(each) for each in connections] == [False] * FREE_REFUSALS + [True] * 3
    assert scene.overload.shed == len(connections)
    scene.looks(0.0, 1)
    assert not any(each.released for each in connections)
    scene.looks(0.0, int(HELD_SECONDS / 0.025) + 1)
    assert [each.released for each in connections] == [0] * FREE_REFUSALS + [1] * 3
    assert not scene.overload.refused(connections[0])


@pytest.mark.parametrize("body", [True, False])
@pytest.mark.parametrize("close", [True, False])
def test_a_refusal_is_a_whole_answer(body: bool, close: bool) -> None:
    """F-44, O3: a problem document with an id that is in the head too; without one for HEAD."""
    refusal = Refusal()
    head, _, content = refusal([(b"date", b"now")], body=body, close=close).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    fields = dict(line.split(b": ", 1) for line in lines[1:])
    assert lines[0] == b"HTTP/1.1 503 Service Unavailable"
    assert (fields[b"retry-after"], fields[b"date"], fields.get(b"connection")) == (b"1", b"now", b"close" if close else None)
    if body:
        document = json.loads(content)
        assert len(content) == int(fields[b"content-length"])
        assert (document["status"], document["code"], document["trace_id"]) == (503, "overloaded", fields[b"x-request-id"].decode())
    else:
        assert content == b""
    assert refusal([], body=True, close=False) != refusal([], body=True, close=False)


@pytest.mark.parametrize(
    ("name", "text", "limit"),
    [
        ("memory.max", "536870912\n", 536870912),
        ("memory.max", "max\n", 0),
        ("memory/memory.limit_in_bytes", "536870912\n", 536870912),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", 0),
        ("memory.stat", "anon 1\n", 0),
    ],
)
def test_the_limit_of_the_container_is_known(tmp_path: Path, name: str, text: str, limit: int) -> None:
    """F-55: both versions of control groups."""
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    assert group_limit_bytes(tmp_path) == limit


def test_a_process_knows_what_it_uses() -> None:
    """F-55."""
    # Pages of its own: the allocator may have room left that is resident already.
    with mmap.mmap(-1, 32 << 20) as block:
        before = resident_bytes()
        for at in range(0, len(block), mmap.PAGESIZE):
            block[at] = 1
        assert 16 << 20 < resident_bytes() - before < 64 << 20
        assert len(block) == 32 << 20


def test_the_c_library_is_told_where_tls_buffers_go() -> None:
    """H6: on a system with glibc it takes it."""
    assert keep_tls_buffers_apart() is (platform.libc_ver()[0] == "glibc")
