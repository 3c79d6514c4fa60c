"""Telling Consul where a service is. For services, not for the gateway: nothing here may hurt the host process.

    async with Registration("patients", 9001):
        ...

    app = registered(app, Registration("patients", 9001))

A registration that can't be made is tried again in the background, for ever, and logged once an outage.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from random import random
from types import FrameType, TracebackType
from typing import Any, Literal, Self

from discovery.consul import Consul, agent_from_environment
from discovery.ending import end
from discovery.instance import NOTHING, ConsulAgent
from discovery.pacing import Backoff
from discovery.reply import ConsulError

logger = logging.getLogger("discovery.registration")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Message, Receive, Send], Awaitable[None]]

#: How long entering waits for the first attempt, so that with a healthy agent the service is known when the body runs.
FIRST_ATTEMPT_SECONDS = 1.0
#: How long leaving waits for Consul.
DEREGISTER_SECONDS = 2.0
#: How long a server may take to listen before it is registered all the same.
LISTEN_SECONDS = 10.0
LISTEN_POLL_SECONDS = 0.05


class Registration:
    """Keeps one instance of a service in Consul for as long as it is entered (SPEC D9).

    Args:
        name: of the service.
        port: where it listens.
        address: where it listens; the agent's node's address when empty.
        id: unique at the agent; made of name, host and port when empty, so that a restart replaces what it left behind.
        tags, meta: as in Consul.
        weight: relative share of the requests, at least 1.
        check: `ttl`: this process reports that it is alive; `http`: the agent asks `http_path`.
        ttl_seconds: silence after which the instance is critical; a third of it is the interval of heartbeats, and of HTTP checks.
        http_path: what an `http` check asks for; any 2xx answer passes.
        deregister_after_seconds: an instance that has been critical for so long is forgotten; Consul's least is 60.
        consul: the agent or its URL; what CONSUL_HTTP_ADDR and CONSUL_HTTP_TOKEN say when None.

    Raises:
        ValueError: an argument is out of range, or the agent's URL can't be used.
    """

    def __init__(
        self,
        name: str,
        port: int,
        *,
        address: str = "",
        id: str = "",  # noqa: A002 (the name that Consul's users know)
        tags: Sequence[str] = (),
        meta: Mapping[str, str] = NOTHING,
        weight: int = 1,
        check: Literal["ttl", "http"] = "ttl",
        ttl_seconds: float = 15.0,
        http_path: str = "/healthz",
        deregister_after_seconds: float = 60.0,
        consul: ConsulAgent | str | None = None,
    ) -> None:
        _validate(name, port, weight, check, ttl_seconds)
        self.name = name
        self.port = port
        self.address = address
        self.id = id or f"{name}-{address or socket.gethostname()}-{port}"
        self.registered = False
        self._check = check
        self._interval_seconds = ttl_seconds / 3
        self._definition: dict[str, object] = {
            "service_id": self.id,
            "address": address,
            "port": port,
            "tags": list(tags),
            "meta": dict(meta),
            "weights": {"Passing": weight, "Warning": 1},
            "check": {
                "CheckID": f"service:{self.id}",
                "DeregisterCriticalServiceAfter": f"{deregister_after_seconds:g}s",
                **_check(check, ttl_seconds, f"http://{_bracketed(address or '127.0.0.1')}:{port}{http_path}"),
            },
        }
        self._agent = consul if isinstance(consul, ConsulAgent) else _agent(consul)
        _connect(self._agent)  # what can't be used is told now, not when the service is up
        # State while it is entered
        self._consul: Consul | None = None
        self._task: asyncio.Task[None] | None = None
        self._attempted = asyncio.Event()
        self._failing = False

    def __repr__(self) -> str:
        return f"<Registration {self.name} id={self.id} {'registered' if self.registered else 'not registered'}>"

    async def __aenter__(self) -> Self:
        self.start()
        try:
            async with asyncio.timeout(FIRST_ATTEMPT_SECONDS):
                await self._attempted.wait()
        except TimeoutError:
            logger.warning("%s: Consul does not answer; the registration goes on in the background", self.id)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        await self.stop()

    def start(self, *, when_listening: bool = False) -> None:
        """Begin to register and to send heartbeats, in the background. Does nothing when it has begun.

        Args:
            when_listening: register only once the port accepts connections, so that no request comes too early.
        """
        if self._task is None:
            self._consul = _connect(self._agent)
            self._attempted.clear()
            self._task = asyncio.create_task(self._keep(self._consul, when_listening), name=f"registration {self.id}")

    async def stop(self) -> None:
        """Take the instance out of Consul, within `DEREGISTER_SECONDS`. Does nothing when it is out."""
        task, consul = self._task, self._consul
        if task is None or consul is None:
            return
        self._task = self._consul = None
        await end([task])
        try:
            async with asyncio.timeout(DEREGISTER_SECONDS):
                # Also when no registration succeeded: the answer to one may have been lost.
                await consul.deregister(self.id)
        except (ConsulError, TimeoutError) as error:
            logger.warning("%s: could not be deregistered (%s); its check will expire", self.id, error)
        self.registered = False
        await consul.close()

    async def _keep(self, consul: Consul, when_listening: bool) -> None:
        if when_listening and not await _listening(self.address or "127.0.0.1", self.port):
            logger.warning("%s: nothing listens on port %d yet; it is registered all the same", self.id, self.port)
        backoff = Backoff(cap_seconds=self._interval_seconds)
        while True:
            delay_seconds = self._interval_seconds * (1 - random() / 10)
            try:
                await self._refresh(consul)
                backoff.succeeded()
            except ConsulError as error:
                self._note(error)
                delay_seconds = backoff.failed()
            except Exception:
                logger.exception("%s: the heartbeat failed", self.id)
            self._attempted.set()
            await asyncio.sleep(delay_seconds)

    async def _refresh(self, consul: Consul) -> None:
        if self.registered:
            # An agent that was restarted, or has reaped us, knows nothing of us.
            beat = consul.beat(f"service:{self.id}") if self._check == "ttl" else consul.knows(self.id)
            self.registered = await beat
        if not self.registered:
            await consul.register(self.name, **self._definition)
            if self._check == "ttl":
                # An agent that has a check of this id already keeps its state, which may be critical.
                await consul.beat(f"service:{self.id}")
            self.registered = True
            logger.info("%s: registered", self.id)
        self._failing = False

    def _note(self, error: ConsulError) -> None:
        if not self._failing:
            logger.warning("%s: %s; trying again", self.id, error)
        self._failing = True


def registered(app: ASGIApp, *registrations: Registration, drain_seconds: float = 0.5) -> ASGIApp:
    """An ASGI application that is in Consul while its server serves it.

    It registers when the application has started and its port accepts connections, and deregisters first of all: on SIGTERM and SIGINT
    before the server hears of them, where the server runs in the main thread and handles these signals, else when the lifespan ends.

    Args:
        app: what to serve. It need not know the lifespan protocol.
        registrations: one for each service that it offers.
        drain_seconds: time between deregistering and telling the server to stop, in which gateways learn of it.
    """

    async def wrapped(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _Lifespan(app, registrations, drain_seconds).run(scope, receive, send)
        else:
            await app(scope, receive, send)

    return wrapped


class _Lifespan:
    """One run of the lifespan protocol, with registrations around the application's own part in it."""

    def __init__(self, app: ASGIApp, registrations: Sequence[Registration], drain_seconds: float) -> None:
        self._app = app
        self._registrations = registrations
        self._signals = _Signals(self._leave, drain_seconds)
        self._received_startup = False
        self._answered_startup = False

    async def run(self, scope: Message, receive: Receive, send: Send) -> None:
        """The application's lifespan, or one in its place when it has none."""

        async def hear() -> Message:
            message = await receive()
            self._received_startup = True
            if message["type"] == "lifespan.shutdown":
                await self._close()
            return message

        async def say(message: Message) -> None:
            self._answered_startup = True
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                self._open()

        try:
            await self._app(scope, hear, say)
        except Exception:
            if self._answered_startup:
                raise
        finally:
            if self._answered_startup:
                await self._close()
        if not self._answered_startup:
            await self._stand_in(hear, say)

    async def _stand_in(self, hear: Receive, say: Send) -> None:
        # An application that returns or raises without an answer does not support the protocol (ASGI, "Lifespan").
        if not self._received_startup:
            await hear()
        await say({"type": "lifespan.startup.complete"})
        await hear()
        await say({"type": "lifespan.shutdown.complete"})

    def _open(self) -> None:
        for registration in self._registrations:
            registration.start(when_listening=True)
        self._signals.install()

    async def _leave(self) -> None:
        await asyncio.gather(*(registration.stop() for registration in self._registrations))

    async def _close(self) -> None:
        self._signals.restore()
        await self._leave()


class _Signals:
    """Stands before the server's signal handlers: on the first signal we leave Consul, then the server is told."""

    def __init__(self, leave: Callable[[], Awaitable[None]], drain_seconds: float) -> None:
        self._leave = leave
        self._drain_seconds = drain_seconds
        self._previous: dict[int, Callable[[int, FrameType | None], object]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leaving: asyncio.Task[None] | None = None

    def install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            previous = signal.getsignal(number)
            if callable(previous):
                self._previous[number] = previous
                signal.signal(number, self._handle)

    def restore(self) -> None:
        for number, previous in self._previous.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, previous)
        self._previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Python runs this between two steps of whatever the main thread does; the loop has to be woken up for the rest.
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._begin, number)

    def _begin(self, number: int) -> None:
        previous = self._previous.get(number)
        if previous is None:
            return
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._leave_then(previous, number))
        else:
            previous(number, None)  # a second signal is meant: stop now

    async def _leave_then(self, previous: Callable[[int, FrameType | None], object], number: int) -> None:
        try:
            await self._leave()
            await asyncio.sleep(self._drain_seconds)
        finally:
            previous(number, None)


async def _listening(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(LISTEN_SECONDS):
            while True:
                try:
                    _, writer = await asyncio.open_connection(host, port)
                except OSError:
                    await asyncio.sleep(LISTEN_POLL_SECONDS)
                else:
                    writer.close()
                    return True
    except TimeoutError:
        return False


def _validate(name: str, port: int, weight: int, check: str, ttl_seconds: float) -> None:
    if not name:
        raise ValueError("a registration needs the name of a service")
    if not 1 <= port <= 65535:
        raise ValueError(f"the port of {name!r} is {port}; allowed are 1..65535")
    if not 1 <= weight <= 65535:
        raise ValueError(f"the weight of {name!r} is {weight}; allowed are 1..65535")
    if check not in ("ttl", "http"):
        raise ValueError(f"the check of {name!r} is {check!r}; allowed are 'ttl' and 'http'")
    if ttl_seconds < 1:
        raise ValueError(f"ttl_seconds of {name!r} is {ttl_seconds}; the least is 1")


def _check(check: Literal["ttl", "http"], ttl_seconds: float, url: str) -> dict[str, object]:
    if check == "ttl":
        # We say so ourselves: this process runs, or it could not register.
        return {"TTL": f"{ttl_seconds:g}s", "Status": "passing"}
    interval_seconds = ttl_seconds / 3
    return {"HTTP": url, "Interval": f"{interval_seconds:g}s", "Timeout": f"{min(interval_seconds, 5.0):g}s"}


def _agent(url: str | None) -> ConsulAgent:
    from_environment = agent_from_environment()
    return from_environment if url is None else ConsulAgent(url=url, token=from_environment.token)


def _connect(agent: ConsulAgent) -> Consul:
    try:
        return Consul(agent)
    except ConsulError as exc:
        raise ValueError(str(exc)) from exc


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
