"""A real Consul for tests: `shared_agent()` for those that only register and read, which `CONSUL_HTTP_ADDR` may name,
`consul_agent()` for those that kill, restart or configure it, and `consul_cluster()` for those that take servers away.

Where the program of our own agents comes from, in this order: a container, where an engine answers; `consul` on PATH; the Debian package
that `scripts/get-debian-package.sh` puts into the cache directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import httpx

from discovery.consul import agent_from_environment
from tests.support.certificates import Files

IMAGE = "hashicorp/consul:1.20"
READY_SECONDS = 20.0
_SCRIPT = Path(__file__).parents[2] / "scripts" / "get-debian-package.sh"


class ConsulNotFound(RuntimeError):
    """No Consul can be had on this machine."""


class Runner(Protocol):
    """Runs `consul ARGUMENTS` and ends it."""

    def start(self, arguments: list[str], directory: Path) -> None:
        """Run it in the background."""

    def stop(self, *, kill: bool) -> None:
        """End it, if it runs; with SIGKILL when asked to."""

    def pause(self) -> None:
        """Let it run no further: it takes connections and says nothing."""


class ProcessRunner:
    """A program on this machine."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, arguments: list[str], directory: Path) -> None:
        """Run it in the background; what it says goes to a file."""
        with (directory / "consul.log").open("ab") as log:
            self._process = subprocess.Popen([self._program, *arguments], stdout=log, stderr=log)

    def stop(self, *, kill: bool) -> None:
        """End it by its handle."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.kill() if kill else process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def pause(self) -> None:
        """SIGSTOP, until it is ended."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)


class ContainerRunner:
    """A container on the host's network, since agents listen on 127.x addresses."""

    def __init__(self) -> None:
        self._container: Any = None

    def start(self, arguments: list[str], directory: Path) -> None:
        """Run it in the background."""
        from testcontainers.core.container import DockerContainer

        container = DockerContainer(IMAGE).with_kwargs(network_mode="host").with_volume_mapping(str(directory), str(directory), "rw")
        self._container = container.with_command(["consul", *arguments]).start()

    def stop(self, *, kill: bool) -> None:
        """Remove it."""
        container, self._container = self._container, None
        if container is not None:
            if kill:
                container.get_wrapped_container().kill("SIGKILL")
            container.stop()

    def pause(self) -> None:
        """Freeze it."""
        self._container.get_wrapped_container().pause()


class Client:
    """What tests say to an agent directly.

    Args:
        url: of its HTTP API.
        token: sent with every request; none when empty.
    """

    def __init__(self, url: str, token: str = "") -> None:
        self.url = url
        self.http = httpx.Client(base_url=url, headers={"X-Consul-Token": token} if token else {}, trust_env=False, timeout=10)

    def put(self, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Any:
        """PUT to the agent's API; what it answers, decoded."""
        response = self.http.put(path, json=body, headers=headers).raise_for_status()
        return response.json() if response.content else None

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Any:
        """GET from the agent's API."""
        return self.http.get(path, headers=headers).raise_for_status().json()

    def register(self, name: str, port: int, **fields: object) -> None:
        """Register a service; `fields` are those of Consul's API."""
        self.put("/v1/agent/service/register", {"Name": name, "Port": port, "Address": "127.0.0.1", **fields})

    def deregister(self, service_id: str) -> None:
        """Take a service out."""
        self.put(f"/v1/agent/service/deregister/{service_id}")


class Agent(Client):
    """An agent at an address of its own: `consul agent -dev`, or with a data directory, so that it remembers."""

    def __init__(self, runner: Runner, directory: Path, settings: Mapping[str, object], *, dev: bool = True) -> None:
        self._runner = runner
        self._directory = directory
        self._settings = settings
        #: Where it speaks TLS besides, if it does; before it starts.
        self.https_port = -1
        self._kind = ["-dev"] if dev else ["-data-dir", str(directory / "data")]
        # Everybody who tests on this machine at the same time gets another address.
        now = time.monotonic_ns()
        self.host = f"127.{2 + os.getpid() % 250}.{now % 250}.{1 + now // 1000 % 250}"
        self._ports = dict(zip(("http", "server", "serf_lan", "serf_wan"), _free_ports(self.host, 4), strict=True))
        super().__init__(f"http://{self.host}:{self._ports['http']}")

    @property
    def gossip(self) -> str:
        """Where others of its datacenter join it."""
        return f"{self.host}:{self._ports['serf_lan']}"

    @property
    def wide_gossip(self) -> str:
        """Where servers of other datacenters join it."""
        return f"{self.host}:{self._ports['serf_wan']}"

    def start(self, **more: object) -> Self:
        """Start, and wait until it knows a leader. `more` settings go beside those that it was made with."""
        self.launch(**more)
        self.wait_until_ready()
        return self

    def launch(self, **more: object) -> None:
        """Start, without waiting."""
        ports = {**self._ports, "dns": -1, "grpc": -1, "https": self.https_port}
        file = self._directory / "agent.json"
        file.write_text(json.dumps({"ports": ports, **self._settings, **more}))
        self._directory.chmod(0o755)  # in a container the agent is another user
        address = ["-bind", self.host, "-client", self.host]
        self._runner.start(["agent", *self._kind, *address, "-config-file", str(file)], self._directory)

    @property
    def alive(self) -> bool:
        """Whether it answers."""
        with contextlib.suppress(httpx.HTTPError):
            return self.http.get("/v1/status/peers").status_code < 600
        return False

    def kill(self) -> None:
        """End it as a crash does. A dev agent forgets everything."""
        self._runner.stop(kill=True)

    def pause(self) -> None:
        """Let it hang, until it is killed."""
        self._runner.pause()

    def close(self) -> None:
        """End it."""
        self._runner.stop(kill=False)
        self.http.close()

    def wait_until_ready(self) -> None:
        """Return once it knows a leader."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError, ValueError):
                if self.http.get("/v1/status/leader").raise_for_status().json():
                    return
            time.sleep(0.02)
        raise TimeoutError(f"consul at {self.url} had no leader within {READY_SECONDS} s; its log: {self._log()}")

    def _log(self) -> str:
        log = self._directory / "consul.log"
        return log.read_text(errors="replace")[-2000:] if log.exists() else "none"


@contextlib.contextmanager
def shared_agent() -> Iterator[Client]:
    """The agent that `CONSUL_HTTP_ADDR` names, else one of our own. Tests neither stop nor configure it, and leave nothing in it."""
    if not os.environ.get("CONSUL_HTTP_ADDR"):
        with consul_agent() as own:
            yield own
        return
    named = agent_from_environment()
    client = Client(named.url, named.token)
    with client.http:
        yield client


@contextlib.contextmanager
def secure_consul_agent(issue: Callable[[str], Files], clients: Path) -> Iterator[Agent]:
    """An agent that speaks HTTPS too, and there lets in nobody but those whom the authorities in `clients` vouch for.

    Args:
        issue: a certificate for its address.
    """
    with tempfile.TemporaryDirectory(prefix="consul-test-") as directory:
        agent = Agent(_runner(), Path(directory), {})
        files = issue(agent.host)
        settings: dict[str, object] = {"verify_incoming_https": True}
        for name, path in {"cert_file": files.certificate, "key_file": files.key, "ca_file": clients}.items():
            # In a container the agent is another user, who sees nothing but this directory.
            copy = Path(directory) / name
            copy.write_bytes(path.read_bytes())
            settings[name] = str(copy)
        agent.https_port = _free_ports(agent.host, 1)[0]
        try:
            yield agent.start(**settings)
        finally:
            agent.close()


@contextlib.contextmanager
def consul_agent(**settings: object) -> Iterator[Agent]:
    """A running agent of our own. `settings` are those of Consul's configuration file."""
    with tempfile.TemporaryDirectory(prefix="consul-test-") as directory:
        agent = Agent(_runner(), Path(directory), settings)
        try:
            yield agent.start()
        finally:
            agent.close()


class Cluster:
    """Servers of one datacenter, started together."""

    def __init__(self, servers: list[Agent]) -> None:
        self.servers = servers

    def start(self) -> Self:
        """Start, and wait until each knows the leader."""
        for server in self.servers:
            self.launch(server)
        for server in self.servers:
            server.wait_until_ready()
        return self

    def launch(self, server: Agent) -> None:
        """Start one of them, again if it was killed."""
        server.launch(retry_join=[other.gossip for other in self.servers], retry_interval="1s")

    def leader(self) -> Agent:
        """The server that leads."""
        rpc = next(server for server in self.servers if server.alive).http.get("/v1/status/leader").raise_for_status().json()
        return next(server for server in self.servers if rpc.startswith(f"{server.host}:"))

    def close(self) -> None:
        """End all."""
        for server in self.servers:
            server.kill()
            server.http.close()


@contextlib.contextmanager
def consul_cluster(size: int = 3) -> Iterator[Cluster]:
    """A cluster of servers that remember what they knew when they are started again."""
    with contextlib.ExitStack() as stack:
        directories = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="consul-test-"))) for _ in range(size)]
        settings = {"server": True, "bootstrap_expect": size, "performance": {"raft_multiplier": 1}, "disable_update_check": True}
        servers = [
            Agent(_runner(), directory, {**settings, "node_name": f"server-{number}"}, dev=False)
            for number, directory in enumerate(directories)
        ]
        cluster = Cluster(servers)
        try:
            yield cluster.start()
        finally:
            cluster.close()


def _runner() -> Runner:
    if _engine_answers():
        return ContainerRunner()
    return ProcessRunner(_program())


def _engine_answers() -> bool:
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if host.startswith("unix://") and not Path(host.removeprefix("unix://")).is_socket():
        return False
    import docker  # type: ignore[import-untyped]

    try:
        client = docker.from_env(timeout=2)
        try:
            return bool(client.ping())
        finally:
            client.close()
    except docker.errors.DockerException:
        return False


def _program() -> str:
    if found := shutil.which("consul"):
        return found
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hms-gateway" / "consul"
    program = cache / "usr" / "bin" / "consul"
    if not program.exists():
        _install(cache)
    return str(program)


def _install(cache: Path) -> None:
    # Suites come and go; the first one that has the package will do.
    done = subprocess.run([str(_SCRIPT), "bullseye", "consul", str(cache)], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise ConsulNotFound(
            "no Consul: CONSUL_HTTP_ADDR is not set, no container engine answers, `consul` is not on PATH, and "
            f"scripts/get-debian-package.sh failed: {done.stderr.strip()[-300:]}"
        )


def _free_ports(host: str, count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((host, 0))
        return [each.getsockname()[1] for each in sockets]
