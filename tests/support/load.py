"""Open-loop load on gateways: requests leave at their times, whatever became of earlier ones, and each tells how it ended."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

DEADLINE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Reply:
    """How one request ended.

    Attributes:
        sent_at: of the monotonic clock.
        seconds: until the answer was whole, or until it was known that there is none.
        status: of the answer; 0 when there is none.
        code: of a problem document, or the name of the exception.
        url: of the gateway that was asked.
        headers: of the answer, names in lower case.
    """

    sent_at: float
    seconds: float
    status: int
    code: str
    url: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def ended_at(self) -> float:
        return self.sent_at + self.seconds


@dataclass(frozen=True, slots=True)
class Ask:
    """One request."""

    url: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "GET"
    body: bytes = b""

    def encoded(self) -> bytes:
        fields = {"Host": urlsplit(self.url).netloc, **self.headers}
        if self.body:
            fields["Content-Length"] = str(len(self.body))
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"{self.method} {self.path} HTTP/1.1\r\n{lines}\r\n".encode() + self.body


_Link = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Sender:
    """Connections to gateways, kept and used again. The newest idle one goes first, so that few stay open."""

    def __init__(self) -> None:
        self._idle: dict[str, list[_Link]] = {}

    async def ask(self, ask: Ask) -> Reply:
        """One request, never sent twice unless a kept connection had been closed before a byte of the answer came."""
        sent_at = time.monotonic()
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                status, headers, body = await self._exchange(ask)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            return Reply(sent_at, time.monotonic() - sent_at, 0, type(error).__name__, ask.url, ask.path)
        seconds = time.monotonic() - sent_at
        return Reply(sent_at, seconds, status, _code(headers, body), ask.url, ask.path, headers)

    def close(self) -> None:
        """Close what is idle."""
        for links in self._idle.values():
            for _, writer in links:
                writer.close()
        self._idle.clear()

    async def _exchange(self, ask: Ask) -> tuple[int, dict[str, str], bytes]:
        link = self._kept(ask.url) or await self._connect(ask.url)
        try:
            link[1].write(ask.encoded())
            status, headers, body = await _answer(link[0])
        except BaseException:
            link[1].transport.abort()
            raise
        if headers.get("connection") == "close":
            link[1].close()
        else:
            self._idle.setdefault(ask.url, []).append(link)
        return status, headers, body

    def _kept(self, url: str) -> _Link | None:
        links = self._idle.get(url, [])
        while links:
            reader, writer = links.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return None

    @staticmethod
    async def _connect(url: str) -> _Link:
        address = urlsplit(url)
        return await asyncio.open_connection(address.hostname, address.port)


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return int(head[0].split(" ")[1]), headers, body


def _code(headers: Mapping[str, str], body: bytes) -> str:
    if headers.get("content-type") != "application/problem+json":
        return ""
    parsed: dict[str, Any] = json.loads(body)
    return str(parsed["code"])


async def offer(asks: Callable[[int], Ask], rate: float, seconds: float, replies: list[Reply], until: asyncio.Event | None = None) -> None:
    """Send `asks(0)`, `asks(1)`, ... at the rate a second, for so long or until the event; replies are added as they come."""
    sender, tasks = Sender(), set[asyncio.Task[None]]()

    async def one(number: int) -> None:
        replies.append(await sender.ask(asks(number)))

    started = time.monotonic()
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
        if until is not None and until.is_set():
            break
        task = asyncio.create_task(one(number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    sender.close()


def at_once(asks: Iterable[Ask]) -> list[Reply]:
    """The replies to requests of one instant."""

    async def main() -> list[Reply]:
        sender = Sender()
        replies = await asyncio.gather(*map(sender.ask, asks))
        sender.close()
        return replies

    return asyncio.run(main())


class Load:
    """Load from a thread, for the length of a block, while the test makes its fault.

    Args:
        asks: each is sent at the rate, one after the other in turn.
        rate: requests a second.
    """

    def __init__(self, asks: Sequence[Ask], rate: float, most_seconds: float = 3600.0) -> None:
        self.replies: list[Reply] = []
        self._asks = asks
        self._rate = rate
        self._most_seconds = most_seconds
        self._thread = threading.Thread(target=self._run)
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._until: asyncio.Event | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop sending and wait for what is on its way."""
        assert self._loop is not None
        assert self._until is not None
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._until.set)
        self._thread.join()

    @property
    def running(self) -> bool:
        """Whether requests are still sent or on their way."""
        return self._thread.is_alive()

    def since(self, moment: float) -> list[Reply]:
        """Replies to what was sent at or after the moment, so far."""
        return [reply for reply in tuple(self.replies) if reply.sent_at >= moment]

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop, self._until = asyncio.get_running_loop(), asyncio.Event()
        self._started.set()
        await offer(lambda number: self._asks[number % len(self._asks)], self._rate, self._most_seconds, self.replies, self._until)


def statuses(replies: Iterable[Reply]) -> Counter[int]:
    """How many of each status."""
    return Counter(reply.status for reply in replies)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which the share of the values lies; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def downtime(replies: Sequence[Reply], good: int = 200) -> float:
    """Seconds from the first request sent that did not end well to the last one that did not; 0 when all did."""
    bad = [reply.sent_at for reply in replies if reply.status != good]
    return max(bad) - min(bad) if bad else 0.0
