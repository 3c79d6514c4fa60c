"""What one request costs between the sockets: parse, route, dispatch, send upstream, parse the answer, relay it, be done.

    python benchmarks/micro/wire.py [--profile] [--requests N]

A `GatewayProtocol` and an `UpstreamConnection` with transports that do nothing but call the other side back on the next turn of the loop,
so the figures are CPU time of this process without any socket: the event loop's own turns are in it, the kernel is not. `loop` is
the same back and forth without the gateway, to be subtracted. Authentication, limits and records are off.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import time
from collections.abc import Callable
from typing import Any

import uvicorn
import uvloop
from uvicorn.server import ServerState

from discovery.endpoint import Endpoint
from discovery.instance import Instance
from gateway.admission.plan import AdmissionPlan
from gateway.admission.verdict import ALLOWED, Verdict
from gateway.auth.authorization import compile_rule
from gateway.cors import compile_cors
from gateway.deadlines import Deadlines
from gateway.headers import FieldTable
from gateway.peer import TrustedProxies
from gateway.pipeline import Pipeline
from gateway.plan import RoutePlan, request_shape
from gateway.route import Route, Service
from gateway.router import Router
from gateway.server.protocol import Front, server_protocol
from gateway.settings import Maxima, ServerTimeouts
from gateway.telemetry.observation import Observation
from gateway.telemetry.trace_context import Propagator
from gateway.upstream.circuit import Circuit
from gateway.upstream.forward import Forwarder
from gateway.upstream.http1 import UpstreamConnection
from gateway.upstream.pool import Pool
from gateway.upstream.repeated import RepeatedHeads
from gateway.upstream.tls import context_source

GET = (
    b"GET /patients/17?fields=name HTTP/1.1\r\nHost: api.example.gov\r\nUser-Agent: wrk/4.1\r\nAccept: application/json\r\n"
    b"Accept-Encoding: gzip\r\nAuthorization: Bearer abc.def.ghi\r\n\r\n"
)
POST = (
    b"POST /patients/17 HTTP/1.1\r\nHost: api.example.gov\r\nUser-Agent: wrk/4.1\r\nAccept: application/json\r\n"
    b"Content-Type: application/json\r\nContent-Length: 256\r\n\r\n" + b"x" * 256
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 00:58:45 GMT\r\nServer: backend\r\nContent-Type: application/json\r\n"
    b"Content-Length: 64\r\nCache-Control: no-store\r\n\r\n" + b'{"id": 17}' + b" " * 54
)
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 00:58:45 GMT\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"40\r\n" + b"y" * 64 + b"\r\n0\r\n\r\n"
)


class Wire:
    """A transport whose writes are handed to a callback."""

    def __init__(self, written: Callable[[bytes], None]) -> None:
        self.write = written

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 50000) if name in ("peername", "sockname") else None

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int) -> None:
        """No buffer."""

    def pause_reading(self) -> None:
        """Never asked for here."""

    resume_reading = abort = close = pause_reading


class NoObserver:
    """Forgets every request."""

    def accepts(self) -> bool:
        return True

    def observe(self, observation: Observation) -> None:
        """Nothing."""


class OneEndpoint:
    """A service with one instance."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def pick(self, key: bytes | None = None, exclude: object = ()) -> Endpoint:
        return self._endpoint

    def failed(self, endpoint: Endpoint) -> None:
        """Never here."""


class OneShard:
    """Where keys of limits would live, if there were any."""

    def shard_of(self, key: bytes | str) -> int:
        return 0

    def tag(self, shard: int) -> bytes:
        return b""


class Unused:
    """Authentication and admission of a route that has neither."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} is not used here")


async def no_application(scope: object, receive: object, send: object) -> None:
    """Never called: the route leads to a service."""


async def unasked(principal: object, exchange: object) -> Verdict:
    """Never called: the route is public and has no limits."""
    return ALLOWED


async def bench(request: bytes, answer: bytes, requests: int, profile: cProfile.Profile | None) -> float:
    """CPU microseconds a request."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(1.0)
    endpoint = Endpoint(Instance("one", "127.0.0.1", 9001))
    service = Service(name="patients", instances=(endpoint.instance,))
    route = Route(name="patient", path="/patients/{id}", target="patients", methods=("GET", "POST"), authentication="none")
    forwarder = Forwarder(service, OneEndpoint(endpoint), context_source(service), deadlines, Circuit(service.circuit))
    plan = RoutePlan(
        route,
        authorize=compile_rule(route),
        admission=AdmissionPlan(route, OneShard(), 1),
        gate=unasked,
        cors=compile_cors(None, (), ""),
        max_body_bytes=1 << 20,
        shape=request_shape(route, service),
    )
    plan.forwarder = forwarder
    pipeline = Pipeline(
        routes=Router([(route, plan)]),
        fields=FieldTable(),
        tracer=Propagator("link", 0.0),
        authenticator=Unused(),
        admission=Unused(),
        observer=NoObserver(),
    )
    upstream = UpstreamConnection(loop, RepeatedHeads())
    upstream.connection_made(Wire(lambda data: loop.call_soon(upstream.data_received, answer) and None))  # type: ignore[arg-type]
    pool = Pool("127.0.0.1", 9001)
    pool.give_back(upstream)
    endpoint.connections = {None: pool}
    config = uvicorn.Config(no_application, log_config=None, http="httptools", ws="none", lifespan="off")
    front = Front(pipeline, Maxima(), ServerTimeouts(), TrustedProxies(()), deadlines)
    protocol = server_protocol(front)(config=config, server_state=ServerState(), app_state={}, _loop=loop)
    left = requests
    finished = loop.create_future()

    def answered(data: bytes) -> None:
        nonlocal left
        assert data.startswith(b"HTTP/1.1 200 OK\r\n"), data
        left -= 1
        if left:
            loop.call_soon(protocol.data_received, request)
        else:
            finished.set_result(None)

    protocol.connection_made(Wire(answered))  # type: ignore[arg-type]
    protocol.data_received(request)
    started = time.process_time()
    if profile is not None:
        profile.enable()
    await finished
    if profile is not None:
        profile.disable()
    used = time.process_time() - started
    pool.close()
    deadlines.close()
    return used / requests * 1e6


async def bench_loop(requests: int) -> float:
    """Two turns of the loop and a task's wake-up a request."""
    loop = asyncio.get_running_loop()
    started = time.process_time()
    for _ in range(requests):
        future: asyncio.Future[None] = loop.create_future()
        task = loop.create_task(_wait(future))
        loop.call_soon(loop.call_soon, future.set_result, None)
        await task
    return (time.process_time() - started) / requests * 1e6


async def _wait(future: asyncio.Future[None]) -> None:
    await future


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", action="store_true", help="where the time of a GET goes")
    parser.add_argument("--requests", type=int, default=20_000)
    options = parser.parse_args()
    if options.profile:
        profile = cProfile.Profile()
        uvloop.run(bench(GET, ANSWER, options.requests, profile))
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)
        return
    for name, request, answer in (("GET", GET, ANSWER), ("GET, chunked answer", GET, CHUNKED), ("POST 256 bytes", POST, ANSWER)):
        figures = [uvloop.run(bench(request, answer, options.requests, None)) for _ in range(5)]
        print(f"{name:24s} {min(figures):6.1f} us a request (best of 5; {max(figures):.1f} worst)")
    print(f"{'loop':24s} {min(uvloop.run(bench_loop(options.requests)) for _ in range(5)):6.1f} us a request")


if __name__ == "__main__":
    main()
