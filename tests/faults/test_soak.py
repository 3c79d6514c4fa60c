"""Everything together: mixed load for minutes, with one fault after the other."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.fault_scene import assert_quiet, scene_document, store_url
from tests.support.faults import Form, Measured, fault
from tests.support.load import Ask, Load, Reply
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.plain_service import ServiceProcess, service_process
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, redis_server, wait_until
from tests.support.whole_gateway import Json, Login, ProcessGateway, process_gateway

RATE = 150
BUDGET_SECONDS = 1.0
#: Requests that may wait for the whole budget although Redis is well, because the machine is busy with other things.
SLOW_SHARE = 0.002
#: How long after a fault its excuse holds: a time-out of an instance, a probe of the store, and a machine that is busy with other things.
GRACE_SECONDS = 3.0
#: Resident memory that may come and go without a leak: pages that the allocator has not given back.
RSS_SLACK_BYTES = 12 * 1024 * 1024
#: Connections that are kept for later: after a short soak those of one outage count, after a long one they have come and gone often.
DESCRIPTOR_SLACKS = (100, 24)


@dataclass(frozen=True, slots=True)
class Trouble:
    """A fault that begins and ends, and what it excuses: codes of problem documents; an empty one stands for no answer at all."""

    name: str
    begin: Callable[[], None]
    end: Callable[[], None]
    excuses: frozenset[str]
    longest_seconds: float = 1.5


@dataclass(frozen=True, slots=True)
class Spell:
    """When a trouble lasted."""

    trouble: Trouble
    began_at: float
    ended_at: float

    def excuses(self, reply: Reply) -> bool:
        overlaps = reply.sent_at <= self.ended_at + GRACE_SECONDS and self.began_at <= reply.ended_at
        return overlaps and reply.code in self.trouble.excuses


class Replica:
    """A gateway at one place, which can be killed and started again."""

    def __init__(self, directory: Path, document: Json) -> None:
        self._directory = directory
        self._document = {**document, "server": {"host": "127.0.0.1", "port": free_port()}}
        self.gateway = self._started()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._document['server']['port']}"

    def kill(self) -> None:
        self.gateway.kill()

    def start_again(self) -> None:
        self.gateway = self._started()

    def _started(self) -> ProcessGateway:
        started = process_gateway(self._directory, self._document)
        try:
            return started.wait_until_listening()
        except BaseException:
            started.kill()
            raise


@dataclass(frozen=True, slots=True)
class Place:
    """All that the soak is made of: one replica that has to stay whole, and what may fail around it."""

    steady: Replica
    other: Replica
    server: RedisServer
    instances: Sequence[ServiceProcess]
    collector: OtlpReceiver

    def troubles(self) -> list[Trouble]:
        """What can happen."""
        store, gone = frozenset({"store_unavailable"}), frozenset({"bad_gateway", "gateway_timeout"})
        found = [
            Trouble("Redis stopped", self.server.pause, self.server.resume, store),
            Trouble("Redis killed", self.server.kill, self.server.start_again, store),
            Trouble("scripts flushed", self._flush, _nothing, frozenset()),
            Trouble("collector refuses", lambda: self.collector.behave(status=503), self.collector.behave, frozenset()),
            Trouble("collector slow", lambda: self.collector.behave(delay_seconds=1.0), self.collector.behave, frozenset()),
            Trouble("replica killed", self.other.kill, self.other.start_again, frozenset({"ConnectionRefusedError", *_CUT}), 0.5),
        ]
        for instance in self.instances:
            found.append(Trouble(f"instance {instance.name} killed", instance.kill, instance.start_again, gone))
            found.append(Trouble(f"instance {instance.name} stopped", instance.pause, instance.resume, gone))
        return found

    def _flush(self) -> None:
        with self.server.client() as client:
            client.script_flush()


_CUT = ("IncompleteReadError", "ConnectionResetError", "BrokenPipeError")


def _nothing() -> None:
    """An instant has no end."""


@pytest.fixture
def place(tmp_path: Path, login: Login) -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        server, collector = stack.enter_context(redis_server("redis")), stack.enter_context(OtlpReceiver())
        instances = [stack.enter_context(service_process(name)) for name in ("one", "two")]
        replicas = []
        for name in ("steady", "other"):
            document = scene_document(
                tmp_path / name,
                login,
                store_url(server),
                [],
                state={"url": store_url(server), "budget": f"{BUDGET_SECONDS:.0f}s"},
                # One address sends all the forged tokens; its other requests are not to be refused for them.
                authentication={"issuers": login.authentication["issuers"], "failures": "off"},
                services={
                    "patients": {
                        "instances": [each.url for each in instances],
                        "timeouts": {"connect": "300ms", "response": "1s"},
                        "outlier": {"base_ejection": "1s"},
                    }
                },
                telemetry={"traces": {"endpoint": collector.endpoint, "sample_ratio": 0.2}},
            )
            document["limits"]["parallel"]["lease"] = "2s"
            replicas.append(Replica(tmp_path / name, document))
            stack.callback(replicas[-1].kill)
        yield Place(replicas[0], replicas[1], server, instances, collector)


#: What each path answers when nothing is wrong.
ORDINARY = {
    "/limited": {200},
    "/limited?post": {200},
    "/checked": {200},
    "/checked?anonymous": {401},
    "/checked?forged": {401},
    "/public": {200},
    "/scarce": {200, 429},
    "/parallel/slow-0.02": {200, 429},
    "/nowhere": {404},
}


def mixed(place: Place, login: Login) -> list[Ask]:
    """Every kind of request to both replicas."""
    alice, bob = login.bearer("alice"), login.bearer("bob")
    forged = {"Authorization": alice["Authorization"][:-8] + "AAAAAAAA"}
    kinds = [
        Ask("", "/limited", alice),
        Ask("", "/limited?post", bob, "POST", b"x" * 20_000),
        Ask("", "/checked", bob),
        Ask("", "/checked?anonymous"),
        Ask("", "/checked?forged", forged),
        Ask("", "/public"),
        Ask("", "/scarce", alice),
        Ask("", "/parallel/slow-0.02", bob),
        Ask("", "/nowhere"),
    ]
    assert {kind.path for kind in kinds} == set(ORDINARY)
    return [Ask(replica.url, kind.path, kind.headers, kind.method, kind.body) for kind in kinds for replica in (place.steady, place.other)]


@dataclass(frozen=True, slots=True)
class Size:
    """What a process holds."""

    rss_bytes: int
    descriptors: int

    @classmethod
    def of(cls, gateway: ProcessGateway) -> Size:
        status = Path(f"/proc/{gateway.process.pid}/status").read_text()
        kilobytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
        return cls(kilobytes * 1024, len(list(Path(f"/proc/{gateway.process.pid}/fd").iterdir())))


def make_trouble(place: Place, load: Load, chance: random.Random, until: float) -> list[Spell]:
    """One trouble after the other, each once before any comes again."""
    spells: list[Spell] = []
    left: list[Trouble] = []
    while time.monotonic() < until:
        left = left or chance.sample(place.troubles(), len(place.troubles()))
        trouble = left.pop()
        began_at = time.monotonic()
        trouble.begin()
        _go_on(load, chance.uniform(0.1, trouble.longest_seconds))
        trouble.end()
        spells.append(Spell(trouble, began_at, time.monotonic()))
        _go_on(load, chance.uniform(0.2, 1.0))
    return spells


def under_trouble(place: Place, login: Login, chance: random.Random, seconds: float) -> tuple[list[Reply], list[Spell]]:
    """Mixed load and its replies, with trouble for so long; then everything is well, and clients have gone."""
    with Load(mixed(place, login), RATE) as load:
        spells = make_trouble(place, load, chance, time.monotonic() + seconds)
        _go_on(load, GRACE_SECONDS)
    return load.replies, spells


def _go_on(load: Load, seconds: float) -> None:
    moment = time.monotonic() + seconds
    wait_until(lambda: bool(load.since(moment)), "load", seconds + 20)


def _told(unexcused: Sequence[Reply], spells: Sequence[Spell]) -> str:
    """What was not excused, and what had happened before the first of it, in seconds from then."""
    first = unexcused[0]
    near = [spell for spell in spells if first.sent_at - 15 < spell.ended_at and spell.began_at < first.ended_at + 2]
    lines = [f"{each.trouble.name}: {each.began_at - first.sent_at:.2f} to {each.ended_at - first.sent_at:.2f}" for each in near]
    waits = f"sent {first.sent_at - unexcused[-1].sent_at:.2f} before the last, waited {first.seconds:.2f}"
    kinds = Counter((reply.url, reply.path, reply.status, reply.code) for reply in unexcused)
    return "\n".join([str(kinds), waits, *lines])


@pytest.mark.timeout(900)
@fault(
    "soak",
    "mixed load with one fault after the other: Redis and instances stopped and killed, scripts flushed, the collector slow or refusing, "
    "the other replica killed",
    "no 5xx that is not promised above; memory and open files of a replica stay flat; its audit has every request",
)
def test_soak(measured: Measured, form: Form, login: Login, place: Place) -> None:
    """G4, L9, L10, O5, O6, F-1, F-12: ten minutes in the long form."""
    seconds = form.seconds(20, 600)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    gateway = place.steady.gateway
    before, spells = under_trouble(place, login, chance, seconds / 4)
    warm = Size.of(gateway)
    replies, more_spells = under_trouble(place, login, chance, seconds * 3 / 4)
    after = Size.of(gateway)
    replies, spells = before + replies, spells + more_spells

    unusual = [reply for reply in replies if reply.status not in ORDINARY[reply.path]]
    unexcused = [reply for reply in unusual if not any(spell.excuses(reply) for spell in spells)]
    slow = [reply for reply in unexcused if reply.code == "store_unavailable" and reply.seconds >= BUDGET_SECONDS]
    unexcused = [reply for reply in unexcused if reply not in slow]
    measured.under(f"2 replicas, {RATE} requests/s of 9 kinds for {seconds:.0f} s, {len(spells)} faults of {len(place.troubles())} kinds")
    measured("requests", len(replies))
    measured("excused by the fault", len(unusual) - len(unexcused) - len(slow))
    measured("503 after waiting for the whole budget", len(slow))
    measured("others", len(unexcused))
    measured("memory after a quarter", warm.rss_bytes / 1e6, "MB")
    measured("at the end", after.rss_bytes / 1e6, "MB")
    measured("open files after a quarter", warm.descriptors)
    measured("at the end, open files", after.descriptors)
    assert not unexcused, _told(unexcused, spells)
    assert len(slow) <= SLOW_SHARE * len(replies), _told(slow, spells)
    assert after.rss_bytes <= warm.rss_bytes + RSS_SLACK_BYTES
    assert after.descriptors <= warm.descriptors + form.seconds(*DESCRIPTOR_SLACKS)
    assert_quiet(gateway)
    numbers = [record["seq"] for record in gateway.records()]
    assert all(later == earlier + 1 for earlier, later in pairwise(numbers))
    assert gateway.stop() == 0, gateway.said
    heard = sum(reply.url == place.steady.url for reply in replies)
    assert len(gateway.records(lambda each: each["event"] == "request")) >= heard
