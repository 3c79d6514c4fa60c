"""What a gateway does with more than it can carry: goodput and latency at 0.5 to 3 times what a core can do, with and without shedding.

    python -m benchmarks.overload [--seconds S] [--write]

A gateway in a process of its own answers from a Python handler that takes a millisecond of CPU, so that its capacity is well below what
the generator can offer from the other core. What a core can do is measured first, in a closed loop. Then requests leave at their times,
whatever became of earlier ones, on connections that are kept and used again; who has got no answer after `PATIENCE_SECONDS` hangs up.
Goodput counts the 200s that came before that. Beyond what a core can do, the load is for each second of CPU that the gateway gets.
`--write` puts the table into docs/resilience.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import uvloop

from benchmarks.sidebyside.machine import processor

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "resilience.md"
BEGIN, END = "<!-- benchmarks/overload.py -->", "<!-- end -->"
LISTENING = re.compile(r"Gateway listening on http://127\.0\.0\.1:(\d+), admin on http://127\.0\.0\.1:(\d+)")
PATIENCE_SECONDS = 2.0
#: Clients, in all: more connections than that nobody opens.
MOST_CONNECTIONS = 1500
CAPACITY_CONNECTIONS = 16
FACTORS = (0.5, 1.0, 2.0, 3.0)
REQUEST = b"GET /work HTTP/1.1\r\nHost: api.example.gov\r\n\r\n"
#: How long a handler works (`time.process_time`), so that it costs the same on every machine.
WORK_SECONDS = 0.001

_GATEWAY = """
import sys, time
from gateway import BackendAPIGateway

gateway = BackendAPIGateway(
    server={{"port": 0, "overload": {overload}}}, admin={{"port": 0}}, audit={{"sink": ["file:{directory}/audit.jsonl"]}}
)

@gateway.route("/work", methods=["GET"], authentication="none")
async def work(request):
    end = time.process_time() + {work}
    while time.process_time() < end:
        pass
    return {{"data": {{"done": True}}}}

gateway.start(port=0)
"""


@dataclass(frozen=True, slots=True)
class Started:
    """A gateway that listens."""

    pid: int
    port: int

    @property
    def cpu_seconds(self) -> float:
        """What its process has used so far."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) * 1e-9


@contextmanager
def gateway(*, shedding: bool, work_seconds: float = WORK_SECONDS) -> Iterator[Started]:
    """A gateway until the end of the block."""
    overload = "{}" if shedding else '{"lag": 0, "memory": 0}'
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "module.py"
        script.write_text(_GATEWAY.format(overload=overload, directory=directory, work=work_seconds))
        said = Path(directory) / "stderr"
        with said.open("wb") as errors:
            process = subprocess.Popen([sys.executable, str(script)], cwd=ROOT, env=_environment(), stdout=errors, stderr=errors)
        try:
            yield Started(process.pid, _port(process, said))
        finally:
            process.kill()
            process.wait()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _port(process: subprocess.Popen[bytes], said: Path) -> int:
    deadline = time.monotonic() + 30
    while (found := LISTENING.search(said.read_text())) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the gateway did not start: {said.read_text()}")
        time.sleep(0.05)
    return int(found[1])


@dataclass(slots=True)
class Outcome:
    """How the requests of one run ended: `seconds` of each 200, the number of 503s, and of those that got nothing. `cpu_seconds` of the
    gateway while it `lasted`."""

    offered: float
    lasted: float = 0.0
    cpu_seconds: float = 0.0
    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    lost: int = 0

    @property
    def goodput(self) -> float:
        """200s a second."""
        return len(self.seconds) / self.lasted

    @property
    def good_a_cpu_second(self) -> float:
        """200s for each second of CPU that the gateway got: goodput, whoever else is busy on the machine."""
        return len(self.seconds) / self.cpu_seconds

    @property
    def asked(self) -> int:
        """All requests."""
        return len(self.seconds) + self.refused + self.lost

    def percentile(self, share: float) -> float:
        """Of the seconds that 200s took; 0 when there were none."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class Link(asyncio.Protocol):
    """One connection: a request, its answer, and again."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self.transport: asyncio.Transport | None = None
        self.due = 0.0
        self.busy = False
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.busy:
            transport.write(REQUEST)

    def ask(self, due: float) -> None:
        """Send a request that was due then."""
        self.due = due
        self.busy = True
        if self.transport is not None:
            self.transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if found and len(body) >= _content_length(head):
            self._received = b""
            self.busy = False
            self._clients.answered(self, int(head[9:12]), closing=b"connection: close" in head)

    def connection_lost(self, exc: Exception | None) -> None:
        self._clients.ended(self)


def _content_length(head: bytes) -> int:
    return int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])


class Clients:
    """Clients that keep their connections, and their patience for so long, by a clock of their own."""

    def __init__(self, port: int, outcome: Outcome, clock: Callable[[], float]) -> None:
        self._port = port
        self.outcome = outcome
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._idle: list[Link] = []
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.counting = True
        #: Requests that were due earlier are not counted.
        self.counts_from = 0.0

    def ask(self, due: float) -> None:
        """Have one client send a request."""
        if self._idle:
            self._idle.pop().ask(due)
        elif len(self._links) < MOST_CONNECTIONS:
            link = Link(self)
            link.ask(due)
            self._links.add(link)
            task = self._loop.create_task(self._connect(link))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self.outcome.lost += self.counting

    async def _connect(self, link: Link) -> None:
        try:
            await self._loop.create_connection(lambda: link, "127.0.0.1", self._port)
        except OSError:
            self.ended(link)

    def answered(self, link: Link, status: int, *, closing: bool) -> None:
        """An answer came whole."""
        if self.counting and link.due >= self.counts_from:
            if status == 200:
                self.outcome.seconds.append(self._clock() - link.due)
            else:
                self.outcome.refused += 1
        if closing:
            assert link.transport is not None
            link.transport.close()
        else:
            self._idle.append(link)

    def ended(self, link: Link) -> None:
        """A connection is gone."""
        if link in self._links:
            self._links.discard(link)
            self.outcome.lost += link.busy and self.counting and link.due >= self.counts_from
            if not link.busy and link in self._idle:
                self._idle.remove(link)

    def lose_patience(self) -> None:
        """Hang up where an answer took too long."""
        latest = self._clock() - PATIENCE_SECONDS
        for link in [link for link in self._links if link.busy and link.due < latest]:
            self.ended(link)
            if link.transport is not None:
                link.transport.abort()


async def _offer(gateway: Started, rate: float, seconds: float, *, of_cpu: bool, warm_seconds: float = 2.0) -> Outcome:
    """Requests at the rate, the first `warm_seconds` of them not counted. `of_cpu`: the clock of the clients, too, goes with the CPU."""
    loop = asyncio.get_running_loop()
    outcome = Outcome(rate)
    started, sent, looked, used, idle = loop.time(), 0, 0.0, 0.0, gateway.cpu_seconds

    def passed() -> float:
        wall = loop.time() - started
        return max(gateway.cpu_seconds - idle, wall / 4) if of_cpu else wall

    clients = Clients(gateway.port, outcome, passed)
    clients.counting = False
    while (now := loop.time()) < started + warm_seconds + seconds:
        if not clients.counting and now >= started + warm_seconds:
            clients.counting = True
            clients.counts_from = passed()
            used = gateway.cpu_seconds
        until = passed()
        while sent / rate <= until:
            clients.ask(sent / rate)
            sent += 1
        if now > looked + 0.1:
            looked = now
            clients.lose_patience()
        await asyncio.sleep(0.001)
    outcome.lasted = loop.time() - started - warm_seconds
    outcome.cpu_seconds = gateway.cpu_seconds - used
    return outcome


async def _capacity(gateway: Started, connections: int, seconds: float) -> Outcome:
    """Of a closed loop."""
    outcome = Outcome(0.0)
    loop = asyncio.get_running_loop()
    clients = Clients(gateway.port, outcome, loop.time)
    started, used = loop.time(), gateway.cpu_seconds
    answered = clients.answered

    def again(link: Link, status: int, *, closing: bool) -> None:
        answered(link, status, closing=closing)
        clients.ask(loop.time())

    clients.answered = again  # type: ignore[method-assign]
    for _ in range(connections):
        clients.ask(started)
    await asyncio.sleep(seconds)
    outcome.lasted = loop.time() - started
    outcome.cpu_seconds = gateway.cpu_seconds - used
    return outcome


def offer(gateway: Started, rate: float, seconds: float, *, of_cpu: bool = False) -> Outcome:
    """Requests at the rate, whatever becomes of them. `of_cpu`: for each second of CPU that the gateway gets, as others use the machine."""
    return _apart("offer of CPU" if of_cpu else "offer", gateway, rate, seconds)


def capacity(gateway: Started, seconds: float, connections: int = CAPACITY_CONNECTIONS) -> Outcome:
    """Requests of clients that each wait for their answers."""
    return _apart("capacity", gateway, connections, seconds)


def _apart(kind: str, gateway: Started, number: float, seconds: float) -> Outcome:
    """The clients are a process of their own, which leaves its connections behind as it ends."""
    given = json.dumps([kind, gateway.pid, gateway.port, number, seconds])
    command = [sys.executable, "-m", "benchmarks.overload", "--clients", given]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, timeout=60 + 10 * seconds, check=True)
    return Outcome(**json.loads(done.stdout))


def _be_clients(kind: str, pid: int, port: int, number: float, seconds: float) -> None:
    async def main() -> None:
        gateway = Started(pid, port)
        outcome = await (
            _capacity(gateway, int(number), seconds)
            if kind == "capacity"
            else _offer(gateway, number, seconds, of_cpu=kind == "offer of CPU")
        )
        print(json.dumps(asdict(outcome)), flush=True)
        os._exit(0)

    uvloop.run(main())


@dataclass(frozen=True, slots=True)
class Row:
    """A run with `factor` times the load that can be carried."""

    factor: float
    shedding: bool
    outcome: Outcome


def experiment(seconds: float) -> tuple[Outcome, list[Row]]:
    """What can be carried, and the runs."""
    rows = []
    with gateway(shedding=True) as started:
        most = capacity(started, seconds)
    for factor in FACTORS:
        for shedding in (False, True):
            with gateway(shedding=shedding) as started:
                outcome = offer(started, factor * most.good_a_cpu_second, seconds, of_cpu=factor > 1)
                rows.append(Row(factor, shedding, outcome))
    return most, rows


def table(most: Outcome, rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        f"Capacity {most.good_a_cpu_second:.0f} requests for each second of CPU. "
        f"{processor(Path('/proc/cpuinfo').read_text())}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}.",
        "",
        "| offered | shedding | goodput/s | for each second of CPU, of the best | p50 of 200s | p99 of 200s | 503 | no answer in 2 s |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        outcome = row.outcome
        lines.append(
            f"| {row.factor:g} x | {'on' if row.shedding else 'off'} | {outcome.goodput:.0f} "
            f"| {outcome.good_a_cpu_second / most.good_a_cpu_second:.0%} "
            f"| {outcome.percentile(0.5) * 1000:.0f} ms | {outcome.percentile(0.99) * 1000:.0f} ms "
            f"| {outcome.refused / outcome.asked:.0%} | {outcome.lost / outcome.asked:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run")
    parser.add_argument("--write", action="store_true", help="put the table into docs/resilience.md")
    parser.add_argument("--clients", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.clients:
        _be_clients(*json.loads(options.clients))
    text = table(*experiment(options.seconds))
    print(text)
    if options.write:
        page = PAGE.read_text()
        before, rest = page.split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END, 1)[1]}")


if __name__ == "__main__":
    main()
