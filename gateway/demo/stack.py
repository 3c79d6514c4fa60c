"""The service processes behind the demonstration: started together, waited for, and ended together.

```python
with DemoStack() as stack:
    settings = load(stack.config_file, {**os.environ, **stack.environment})
    serve(settings)
```
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess  # nosec B404 # for programs of our own
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self

#: The configuration that the demonstration starts with; its `${...}` are the names in `DemoStack.environment`.
CONFIG_FILE: Final = Path(__file__).with_name("gateway.yaml")
#: Instance name -> service. The names are also what `X-Served-By` says.
INSTANCES: Final[Mapping[str, str]] = MappingProxyType(
    {"patients-1": "patients", "patients-2": "patients", "claims-1": "claims", "policies-1": "policies"}
)
#: Importing the service takes 0.4 s on an idle core; four start at once, perhaps on a busy machine.
START_SECONDS: Final = 20.0
#: A service gives open requests five seconds.
STOP_SECONDS: Final = 7.0

_LOOPBACK: Final = "127.0.0.1"
_NO_PORTS: Final[Mapping[str, int]] = MappingProxyType({})


class DemoError(Exception):
    """The demonstration could not be started. The message says which part, and why."""


@dataclass(frozen=True, slots=True)
class DemoInstance:
    """One running service process.

    Args:
        name: unique in the stack, and what the instance calls itself in `X-Served-By`.
        service: what it serves.
        port: where, on 127.0.0.1.
        process: its handle.
    """

    name: str
    service: str
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://{_LOOPBACK}:{self.port}"


class DemoStack:
    """Two `patients`, one `claims` and one `policies` process on 127.0.0.1. A context manager; `start` and `stop` do the same by hand.

    The processes end with this one, however it ends (on Linux; elsewhere they outlive a kill -9 of it). Linux ties them to the thread that
    started them, so `start` belongs into one that lives as long as the stack: the main thread.

    Args:
        ports: instance name -> port; instances that are not named get a free one.
        environment: environment of the processes; this process's own when None.
    """

    def __init__(self, *, ports: Mapping[str, int] = _NO_PORTS, environment: Mapping[str, str] | None = None) -> None:
        if unknown := sorted(set(ports) - set(INSTANCES)):
            raise DemoError(f"no demo instance is named {', '.join(unknown)}; there are {', '.join(INSTANCES)}")
        self._ports = ports
        self._process_environment = dict(os.environ if environment is None else environment)
        self._instances: tuple[DemoInstance, ...] = ()

    def __repr__(self) -> str:
        return f"<DemoStack {', '.join(f'{each.name}:{each.port}' for each in self._instances) or 'stopped'}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()

    @property
    def config_file(self) -> Path:
        """The gateway configuration that fits this stack."""
        return CONFIG_FILE

    @property
    def instances(self) -> tuple[DemoInstance, ...]:
        """The running processes; empty before `start` and after `stop`."""
        return self._instances

    @property
    def environment(self) -> dict[str, str]:
        """What the `${...}` of the configuration stand for: `DEMO_PATIENTS_1_PORT` and so on."""
        return {f"DEMO_{each.name.upper().replace('-', '_')}_PORT": str(each.port) for each in self._instances}

    def start(self) -> None:
        """Start every process and return when all of them answer. Raises DemoError, with nothing left running, when one doesn't."""
        deadline = time.monotonic() + START_SECONDS
        try:
            for name, service in INSTANCES.items():
                self._instances += (self._launch(name, service),)
            for instance in self._instances:
                _wait_until_healthy(instance, deadline)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every process, politely first. Does nothing when none runs."""
        instances, self._instances = self._instances, ()
        for instance in instances:
            instance.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for instance in instances:
            _end(instance.process, deadline)

    def _launch(self, name: str, service: str) -> DemoInstance:
        with _listening(name, self._ports.get(name, 0)) as listener:
            command = [sys.executable, "-m", "gateway.demo.services", service, f"--instance={name}"]
            process = subprocess.Popen(  # nosec B603 # noqa: S603 - our own module, our own arguments
                [*command, f"--listener={listener.fileno()}", f"--parent={os.getpid()}"],
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                env=self._process_environment,
                # A Ctrl-C in the terminal is for the gateway alone: it still needs the services while it drains.
                process_group=0,
            )
            return DemoInstance(name, service, listener.getsockname()[1], process)


@contextlib.contextmanager
def _listening(name: str, port: int) -> Iterator[socket.socket]:
    """The listening socket is made here and inherited, so that no other program can take a free port in between."""
    try:
        listener = socket.create_server((_LOOPBACK, port), backlog=1024)
    except OSError as exc:
        raise DemoError(f"demo service {name} cannot listen on {_LOOPBACK}:{port}: {os.strerror(exc.errno or 0)}") from exc
    except OverflowError as exc:
        raise DemoError(f"demo service {name} cannot listen on port {port}: a port is a number from 0 to 65535") from exc
    with listener:
        yield listener


def _wait_until_healthy(instance: DemoInstance, deadline: float) -> None:
    # The kernel accepts on the inherited socket before the service runs, so one request waits for exactly as long as needed.
    connection = http.client.HTTPConnection(_LOOPBACK, instance.port, timeout=max(0.1, deadline - time.monotonic()))
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/healthz")
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as exc:
            raise DemoError(f"demo service {instance.name} on {instance.url} {_fate(instance.process)}") from exc
    if status != 200:
        raise DemoError(f"demo service {instance.name} on {instance.url} says it is not healthy: {status}")


def _fate(process: subprocess.Popen[bytes]) -> str:
    try:
        return f"ended with exit code {process.wait(timeout=1)} before it answered"
    except subprocess.TimeoutExpired:
        return f"did not answer within {START_SECONDS:g} s"


def _end(process: subprocess.Popen[bytes], deadline: float) -> None:
    try:
        process.wait(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
