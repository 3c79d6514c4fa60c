"""What surrounds a peer: the backend and the span collector (one nginx), Redis, credentials, directories. All of it on the load core."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import redis

from benchmarks.sidebyside import template
from benchmarks.sidebyside.credentials import AUDIENCE, ISSUER, SCOPE, Credentials
from benchmarks.sidebyside.errors import BenchmarkError
from benchmarks.sidebyside.peer import Peer, Token
from benchmarks.sidebyside.peers import NGINX, REDIS
from benchmarks.sidebyside.process import Address, Child, free_address

PEER_CORE = 0
LOAD_CORE = 1
PATH = "/patients/123"
ANSWER = '{"id":"123","name":"Jane Doe","birth_date":"1970-01-01","active":true}'
_CALLS = re.compile(r"(\d+) (\d+) (\d+)")


@dataclass(frozen=True, slots=True)
class Running:
    """A peer that has been started, and what a client needs to use it."""

    peer: Peer
    child: Child
    address: Address
    admin: Address
    directory: Path
    headers: Mapping[str, str]

    @property
    def url(self) -> str:
        return f"http://{self.address}{PATH}"


class Lab:
    """A context manager: entering starts the surroundings, leaving ends them and removes their files."""

    def __init__(self) -> None:
        self.backend = free_address()
        self.collector = free_address()
        self.redis_address = free_address()
        self.credentials = Credentials.create()
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._directory = Path(tempfile.mkdtemp(prefix="gateway-bench-"))
            stack.callback(shutil.rmtree, self._directory, ignore_errors=True)
            self._write_secrets()
            self._start_backend(stack)
            self._redis_child = self._start_redis(stack)
            self.redis = stack.enter_context(redis.Redis(host=self.redis_address.host, port=self.redis_address.port, decode_responses=True))
            self.http = stack.enter_context(httpx.Client(trust_env=False, timeout=10))
            self._exit = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._exit.close()

    @property
    def redis_pid(self) -> int:
        return self._redis_child.pid

    @property
    def direct_url(self) -> str:
        return f"http://{self.backend}{PATH}"

    @contextmanager
    def running(self, peer: Peer) -> Iterator[Running]:
        """Start a peer with an empty Redis and a directory of its own, which stays until the lab closes."""
        directory = Path(tempfile.mkdtemp(prefix=f"{peer.name}-", dir=self._directory))
        self.redis.flushall()
        address, admin = free_address(), free_address()
        values = self._values(directory, address, admin) | dict(peer.values)
        for name in peer.configs:
            template.write(name, values, directory)
        command = [peer.program.path(), *(template.fill(argument, values, name=peer.name) for argument in peer.arguments)]
        with Child(peer.name, command, core=PEER_CORE, directory=directory, environment=peer.environment) as child:
            child.wait_until_listening(address, *((admin,) if peer.admin else ()))
            yield Running(peer, child, address, admin, directory, self.headers(peer.token))

    def headers(self, token: Token, *, text: str = "") -> dict[str, str]:
        """What a client sends: `text` or a fresh token, or nothing."""
        if token == "none":
            return {}
        return {"authorization": f"Bearer {text or self.credentials.token(token)}"}

    def redis_calls(self, command: str) -> int:
        """How often Redis has run a command since it started."""
        statistics = self.redis.info("commandstats").get(f"cmdstat_{command}")
        return int(statistics["calls"]) if statistics else 0

    def backend_connections(self) -> int:
        """How many connections the backend has accepted so far."""
        text = self.http.get(f"http://{self.backend}/backend-status").text
        found = _CALLS.search(text)
        if found is None:
            raise BenchmarkError(f"the backend's status page can't be read: {text!r}")
        return int(found[1])

    def collected_batches(self) -> int:
        """How many batches of spans have arrived."""
        log = self._directory / "collector.log"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    def _write_secrets(self) -> None:
        self.credentials.write_jwks(self._directory / "jwks.json")
        token_file = self._directory / "admin-token"
        token_file.touch(mode=0o600)
        token_file.write_text(self.credentials.admin_token)

    def _start_backend(self, stack: ExitStack) -> None:
        config = template.write("backend.conf", self._values(self._directory, self.backend, self.backend), self._directory)
        command = [NGINX.path(), "-c", str(config), "-p", str(self._directory)]
        child = stack.enter_context(Child("the backend", command, core=LOAD_CORE, directory=self._directory, environment={}))
        child.wait_until_listening(self.backend, self.collector)

    def _start_redis(self, stack: ExitStack) -> Child:
        directory = self._directory / "redis"
        directory.mkdir()
        command = [
            REDIS.path(),
            "--bind",
            self.redis_address.host,
            "--port",
            str(self.redis_address.port),
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        child = stack.enter_context(Child("Redis", command, core=LOAD_CORE, directory=directory, environment={}))
        child.wait_until_listening(self.redis_address)
        return child

    def _values(self, directory: Path, address: Address, admin: Address) -> dict[str, str]:
        return {
            "DIRECTORY": str(directory),
            "COLLECTOR_LOG": str(self._directory / "collector.log"),
            "ADMIN_TOKEN_FILE": str(self._directory / "admin-token"),
            "JWKS_FILE": str(self._directory / "jwks.json"),
            "ISSUER": ISSUER,
            "AUDIENCE": AUDIENCE,
            "SCOPE": SCOPE,
            "HS256_SECRET": self.credentials.hs256_secret,
            "ANSWER": ANSWER,
            **_address_values("", address),
            **_address_values("ADMIN_", admin),
            **_address_values("BACKEND_", self.backend),
            **_address_values("COLLECTOR_", self.collector),
            **_address_values("REDIS_", self.redis_address),
        }


def _address_values(prefix: str, address: Address) -> dict[str, str]:
    return {f"{prefix}ADDRESS": str(address), f"{prefix}HOST": address.host, f"{prefix}PORT": str(address.port)}
