"""A gateway with everything switched on, a canary in every place that takes a text, and ways to ask it and to see what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
import redis

from tests.support.canaries import Canary
from tests.support.consul_agent import shared_agent
from tests.support.identity_provider import Answer, Question, identity_provider
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, redis_server, wait_until
from tests.support.websockets import CLOSE, NO_MASK, TEXT, accept_of, close, frame
from tests.support.whole_gateway import (
    LISTENING,
    ROOT,
    UVICORN_LISTENING,
    Json,
    Login,
    ProcessGateway,
    base_document,
)

Adapter = Literal["wire", "uvicorn"]
#: Told in every sink by right: part of the names of the directory, a service, routes and limits. What doesn't find it is no search.
BEACON = Canary("the beacon").text
ENVIRONMENT_VARIABLE = "UPSTREAM_CREDENTIAL"
#: How a Close frame begins that is not masked; no canary has it.
CLOSE_FRAME = b"\x88"
SECRET_FILES = frozenset(("issuer secret", "introspection secret", "Consul token", "admin token"))


class Planted:
    """Every canary, by the place that it is put into."""

    def __init__(self) -> None:
        self.all: list[Canary] = []
        self._lock = threading.Lock()
        #: A request for `held` has come to the service, and may be answered.
        self.arrived = threading.Event()
        self.released = threading.Event()

    def __call__(self, where: str, *told: str) -> str:
        """The text for a place, the same one each time."""
        with self._lock:
            known = next((canary for canary in self.all if canary.where == where), None)
            if known is None:
                known = Canary(where, told=told)
                self.all.append(known)
        return known.text

    def adopt(self, where: str, text: str) -> None:
        """Something secret that somebody else made."""
        self.all.append(Canary(where, text))


# The service behind


class _Talkative(socketserver.StreamRequestHandler):
    """Answers as the last segment of the path says, and says too much in every part of the answer."""

    planted: Planted

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return
            head += line
        self._skip_body(head)
        what = head.split(b" ")[1].partition(b"?")[0].rpartition(b"/")[2].decode()
        with contextlib.suppress(OSError):
            if what.startswith("tunnel-"):
                self._tunnel(head, what.removeprefix("tunnel-"))
            else:
                self.wfile.write(self._answer(what))

    def _tunnel(self, head: bytes, how: str) -> None:
        """A WebSocket: it says something, and ends as it was asked to."""
        put = self.planted
        key = re.search(rb"(?i)\r\nsec-websocket-key: ([^\r]*)", head)
        assert key is not None
        accept = put("upstream proof") if how == "unproved" else accept_of(key[1]).decode()
        lines = [
            f"HTTP/1.1 101 {put('upstream reason phrase')}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            f"Sec-WebSocket-Accept: {accept}",
            f"Sec-WebSocket-Protocol: {put('upstream subprotocol')}",
            f"{put('upstream field name')}: {put('upstream field value')}",
            f"Set-Cookie: session={put('upstream cookie')}",
        ]
        self.wfile.write("\r\n".join([*lines, "", ""]).encode())
        self.wfile.write(frame(TEXT, put("upstream message").encode(), mask=b""))
        if how == "broken":
            self.wfile.write(frame(TEXT, put("upstream broken message").encode() + b"\xff", mask=b""))
        if how == "closed":
            self.wfile.write(frame(CLOSE, b"\x0f\xa0" + put("upstream close reason").encode(), mask=b""))
        else:
            while (opcode := self._skip_frame()) not in (None, CLOSE):
                pass
            if opcode == CLOSE:
                self.wfile.write(close(1000))

    def _skip_frame(self) -> int | None:
        """The kind of the client's next frame; None when there is none."""
        start = self.rfile.read(2)
        if len(start) < 2:
            return None
        size = start[1] & 0x7F
        self.rfile.read(4 + (size if size < 126 else int.from_bytes(self.rfile.read(2), "big")))
        return start[0] & 0x0F

    def _skip_body(self, head: bytes) -> None:
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if length is not None:
            self.rfile.read(int(length[1]))
        elif b"\r\ntransfer-encoding: chunked" in head.lower():
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                self.rfile.read(size + 2)
            while self.rfile.readline().strip():
                pass

    def _answer(self, what: str) -> bytes:
        put = self.planted
        body = put("upstream body")
        lines = [
            f"{put('upstream field name')}: {put('upstream field value')}",
            f"Set-Cookie: session={put('upstream cookie')}",
            f"Location: https://inside.example/{put('upstream location')}",
            f"Server: {put('upstream server field')}",
            f"WWW-Authenticate: Basic realm={put('upstream challenge')}",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        told = "\r\n".join(lines).encode()
        reason = put("upstream reason phrase")
        if what == "garbage":
            return f"HTTQ/9.9 {put('upstream garbage')} {reason}\r\n\r\n".encode()
        if what == "bad-field":
            return f"HTTP/1.1 200 {reason}\r\nbad {put('upstream bad field')}\0: x\r\n\r\n".encode()
        if what == "cut":
            return f"HTTP/1.1 200 {reason}\r\nContent-Length: 999\r\n\r\n{put('upstream cut body')}".encode()
        if what == "nothing":
            return b""
        if what == "slow":
            time.sleep(1.0)
        if what == "held":
            put.arrived.set()
            put.released.wait(20)
        early = f"HTTP/1.1 103 Early\r\nLink: <{put('upstream early hint')}>\r\n\r\n".encode() if what == "early" else b""
        status = int(what) if what.isdigit() else 200
        return early + f"HTTP/1.1 {status} {reason}\r\n".encode() + told + b"\r\n\r\n" + body.encode()


class _Threads(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64


@contextlib.contextmanager
def talkative_service(planted: Planted) -> Iterator[int]:
    """Its port."""
    handler = type("Handler", (_Talkative,), {"planted": planted})
    with _Threads(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


# The store, listened to


class Monitor:
    """Everything that clients and scripts send to a Redis, as MONITOR tells it."""

    def __init__(self, server: RedisServer, password: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port))
        self._socket.sendall(f"AUTH {password}\r\nMONITOR\r\n".encode())
        self._heard = bytearray()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._socket.recv(65536):
                self._heard += data

    def close(self) -> bytes:
        """What it heard."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        return bytes(self._heard)


def dump(server: RedisServer, password: str) -> bytes:
    """Every key and value."""
    readers: dict[bytes, Callable[[redis.Redis, bytes], Any]] = {
        b"string": lambda client, key: client.get(key),
        b"hash": lambda client, key: client.hgetall(key),
        b"zset": lambda client, key: client.zrange(key, 0, -1, withscores=True),
        b"set": lambda client, key: client.smembers(key),
        b"list": lambda client, key: client.lrange(key, 0, -1),
        b"stream": lambda client, key: client.xrange(key),
    }
    with redis.Redis(port=server.port, password=password) as client:
        return b"\n".join(repr((key, readers[client.type(key)](client, key))).encode() for key in client.scan_iter())


# What clients send


def fields(put: Planted) -> list[str]:
    """A canary in every field that a client may write."""
    return [
        f"Host: {put('Host', 'audit')}.example",
        f"User-Agent: {put('User-Agent', 'audit')}",
        f"{put('field name')}: {put('field value')}",
        f"X-Counted: {put('field that a limit counts by')}",
        f"Cookie: {put('cookie name')}={put('cookie value')}",
        f"Referer: https://{put('Referer')}.example/{put('Referer path')}",
        f"Origin: https://{put('Origin')}.example",
        f"Proxy-Authorization: Basic {put('Proxy-Authorization')}",
        f"X-Forwarded-For: {put('X-Forwarded-For')}",
        f"X-Forwarded-Host: {put('X-Forwarded-Host')}",
        f"Forwarded: for={put('Forwarded')}",
        f"X-Request-Id: {put('X-Request-Id')}",
        f"traceparent: 00-{put('traceparent')}",
        f"tracestate: a={put('tracestate')}",
        f"baggage: a={put('baggage')}",
        f"X-Auth-Subject: {put('X-Auth-Subject')}",
        f"Accept: text/{put('Accept')}",
        f"Content-Type: text/{put('Content-Type')}; boundary={put('boundary')}",
        "Connection: close",
    ]


def own_page(put: Planted) -> str:
    """The origin of the page that may open WebSockets. Administrators are told what is configured."""
    return f"https://{put('allowed Origin', 'answers: admin', 'commands')}.example"


def target_of(put: Planted, route: str, what: str = "200") -> str:
    """A path with a parameter, and a query."""
    return f"/{BEACON}/{route}/{put('path parameter')}/{what}?{put('query name')}={put('query value')}"


@dataclass
class Reply:
    """One answer. `echo` when the service's own words are the client's by right."""

    name: str
    content: bytes
    echo: bool = False

    @property
    def status(self) -> int:
        """The final status; 0 when nothing came."""
        found = re.findall(rb"(?:^|\r\n)HTTP/1\.1 (\d{3})", self.content)
        finals = [int(status) for status in found if not status.startswith(b"1")]
        return finals[0] if finals else 0

    def field(self, name: str) -> str:
        """The value of a field; empty when it is not there."""
        found = re.search(rb"(?i)\r\n" + name.encode() + rb": ([^\r]*)", self.content)
        return found[1].decode() if found is not None else ""

    @property
    def code(self) -> str:
        """Of a problem document."""
        found = re.search(rb'"code":"(\w+)"', self.content)
        return found[1].decode() if found is not None else ""


@dataclass
class Scene:
    """A running gateway between its neighbours, and what it was asked."""

    gateway: ProcessGateway
    adapter: Adapter
    login: Login
    store: RedisServer
    planted: Planted
    directory: Path
    environment: dict[str, str]
    secret_files: frozenset[str]
    replies: list[Reply] = field(default_factory=list)

    def send(self, name: str, data: bytes, *, echo: bool = False) -> Reply:
        """What comes back until the gateway hangs up."""
        host, _, port = self.gateway.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            content = b""
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
                while piece := connection.recv(65536):
                    content += piece
        reply = Reply(name, content, echo)
        self.replies.append(reply)
        return reply

    def converse(self, name: str, lines: Sequence[str], frames: Sequence[bytes] = (), then: Callable[[], None] = lambda: None) -> Reply:
        """A WebSocket: the handshake, what the client says once it is open and the service has spoken, and what comes back until the end.

        Args:
            then: what happens while it is open.
        """
        host, _, port = self.gateway.url.removeprefix("http://").rpartition(":")
        greeting = self.planted("upstream message").encode()
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            content = b""
            with contextlib.suppress(ConnectionError):
                connection.sendall("\r\n".join([*lines, "", ""]).encode())
                while piece := connection.recv(65536):
                    content += piece
                    if greeting in content:
                        then()
                        for each in frames:
                            connection.sendall(each)
                        break
                while CLOSE_FRAME not in content.partition(greeting)[2] and (piece := connection.recv(65536)):
                    content += piece
                # Without an answer another server would wait for ten seconds.
                connection.sendall(close(1000, mask=NO_MASK))
                while piece := connection.recv(65536):
                    content += piece
        reply = Reply(name, content, echo=True)
        self.replies.append(reply)
        return reply

    def ask(
        self,
        name: str,
        route: str,
        what: str = "200",
        *,
        method: str = "GET",
        authorization: str = "",
        body: bytes = b"",
        more: Sequence[str] = (),
        target: str = "",
        echo: bool = False,
    ) -> Reply:
        """One request that says as much as it can."""
        lines = [f"{method} {target or target_of(self.planted, route, what)} HTTP/1.1", *fields(self.planted), *more]
        if authorization:
            lines.append(f"Authorization: {authorization}")
        if body and not any(line.startswith("Transfer-Encoding") for line in lines):
            lines.append(f"Content-Length: {len(body)}")
        return self.send(name, "\r\n".join([*lines, "", ""]).encode("latin-1") + body, echo=echo)

    def token(self, name: str, *scopes: str, **claims: Any) -> str:
        """A signed token with claims that are nobody's business; its signature is a canary as well."""
        put = self.planted
        private = {
            "email": f"{put('claim')}@example.gov",
            "address": {"street": put("nested claim")},
            put("claim name"): [put("claim in a list")],
            "sid": put("session"),
        }
        text = self.login.token(f"subject-{name}", *scopes, **{**private, **claims})
        put.adopt(f"signature of {name}", text[-20:])
        return text


# Everything together


def document(directory: Path, planted: Planted, login: Login, ports: dict[str, int], consul: str, traces: str, adapter: Adapter) -> Json:
    """The configuration."""
    issuer = login.authentication["issuers"][0]
    files = {name: planted(f"file of {name}") for name in sorted(SECRET_FILES)}
    for name, text in files.items():
        (directory / name).write_text(text * 2)
    service = [f"http://127.0.0.1:{ports['service']}"]
    common = {"service": f"{BEACON}-records", "methods": ["GET", "POST"]}

    def route(name: str, **values: Any) -> Json:
        return {"name": f"{BEACON}-{name}", "path": f"/{BEACON}/{name}/{{id}}/{{what}}", **common, **values}

    return base_document(
        directory,
        server={"timeouts": {"header": "1s", "body": "1s"}, "drain": {"delay": "2s", "quiet": "500ms", "timeout": "5s"}},
        admin={"port": 0, "token_file": str(directory / "admin token")},
        state={"url": f"redis://:${{STORE_PASSWORD}}@127.0.0.1:{ports['store']}/0", "budget": "1s"},
        discovery={
            "consul": {"url": consul, "token_file": str(directory / "Consul token")},
            "cache_dir": str(directory / "snapshots"),
        },
        authentication={
            "issuers": [
                {**issuer, "jwks_url": f"{issuer['jwks_url']}?key={planted('query of jwks_url')}"},
                {
                    "name": "internal",
                    "issuer": "internal",
                    "audience": ["hms"],
                    "algorithms": ["HS256"],
                    "secret_file": str(directory / "issuer secret"),
                },
            ],
            "introspection": {**login.authentication["introspection"], "client_secret_file": str(directory / "introspection secret")},
            "api_keys": {"header": "X-API-Key"},
            "failures": "off",
        },
        services={
            f"{BEACON}-records": {"instances": service, "outlier": {"consecutive_failures": 0}},
            "hasty": {"instances": service, "timeouts": {"response": "300ms"}},
            "narrow": {"instances": service, "circuit": {"requests": 1}},
            "gone": {"instances": [f"http://127.0.0.1:{ports['nobody']}"]},
            "nobody": {"consul": f"{BEACON}-nobody"},
        },
        limits={
            f"{BEACON}-wide": {"rate": "10000/minute", "key": ["subject", "path:id", "header:X-Counted"]},
            f"{BEACON}-scarce": {"rate": "1/hour", "key": "global"},
        },
        routes=[
            route(
                "open",
                scopes=["records:read"],
                limits=[f"{BEACON}-wide"],
                max={"body_bytes": "4KiB"},
                request_headers={"set": {"X-Api-Token": f"${{{ENVIRONMENT_VARIABLE}}}"}},
            ),
            route("scarce", limits=[f"{BEACON}-scarce"], authentication="none"),
            route("closed", scopes=[f"{BEACON}:admin"]),
            route("gone", service="gone", authentication="none", limits=[f"{BEACON}-wide"]),
            route("nobody", service="nobody", authentication="none"),
            route("hasty", service="hasty", authentication="none"),
            route("narrow", service="narrow", authentication="none"),
            route("public", authentication="none", cors={"origins": ["https://app.example.gov"]}),
            route("optional", authentication="optional"),
            route(
                "socket",
                scopes=["records:read"],
                limits=[f"{BEACON}-wide"],
                websocket={"origins": [own_page(planted)]},
                max={"body_bytes": "4KiB"},
            ),
        ],
        telemetry={
            "traces": {"endpoint": traces},
            "access_log": {"format": "json" if adapter == "wire" else "text", "sink": "stdout"},
        },
    )


_MODULE = f"""
from starlette.responses import StreamingResponse
from gateway import BackendAPIGateway

gateway = BackendAPIGateway(config="gateway.yaml")

def careless(request):
    # What programs do: the text of an exception is made of what it failed on.
    told = (str(request.body), dict(request.query_params), dict(request.path_params), dict(request.headers), request.cookies)
    try:
        {{}}[str(told)]
    except KeyError:
        raise ValueError(f"can't use {{told}}")

@gateway.route("/{BEACON}/crash/{{id}}/{{what}}", methods=["GET", "POST"], authentication="none")
def crash_{BEACON}(request):
    careless(request)

@gateway.route("/{BEACON}/crash-later/{{id}}/{{what}}", methods=["GET"], authentication="none")
async def crash_later(request):
    async def pieces():
        yield b"first"
        careless(request)
    return StreamingResponse(pieces())

@gateway.route("/{BEACON}/strange/{{id}}/{{what}}", methods=["GET"], authentication="none")
def strange(request):
    return {{request.path_params["id"]: 1, **request.headers}}

@gateway.route("/{BEACON}/no-json/{{id}}/{{what}}", methods=["GET"], authentication="none")
def no_json(request):
    return {{"data": {{request.path_params["id"]}}}}

@gateway.route("/{BEACON}/json/{{id}}/{{what}}", methods=["POST"], authentication="none")
def json(request):
    return {{"data": len(request.json_body)}}

if __name__ == "__main__":
    gateway.start()
"""


def _introspect(planted: Planted) -> Callable[[Question], Answer]:
    def answer(question: Question) -> Answer:
        token = httpx.QueryParams(question.body.decode())["token"]
        if token.startswith("broken."):
            return Answer(planted("broken reply of the introspection endpoint").encode(), 200)
        reply = {
            "active": token.startswith("opaque."),
            "sub": "subject-opaque",
            "scope": "records:read",
            "email": planted("introspected claim"),
        }
        return Answer(json.dumps(reply).encode(), headers={"X-Told": planted("field of the introspection endpoint")})

    return answer


@contextlib.contextmanager
def scene(directory: Path, adapter: Adapter, traces: OtlpReceiver) -> Iterator[tuple[Scene, Monitor]]:
    """The gateway, started, and the monitor of its store."""
    planted = Planted()
    password, pepper, credential = planted("password of the store"), planted("pepper"), planted("value from the environment")
    with contextlib.ExitStack() as stack:
        provider = stack.enter_context(identity_provider())
        login = Login.at(provider, directory)
        provider.answers[f"/jwks?key={planted('query of jwks_url')}"] = provider.answers["/jwks"]
        provider.answers["/introspect"] = _introspect(planted)
        store = stack.enter_context(redis_server("redis", "--requirepass", password))
        consul = stack.enter_context(shared_agent())
        ports = {"service": stack.enter_context(talkative_service(planted)), "store": store.port, "nobody": free_port()}
        told = document(directory, planted, login, ports, consul.url, traces.endpoint, adapter)
        (directory / "gateway.yaml").write_text(json.dumps(told))
        (directory / "module.py").write_text(_MODULE)
        monitor = Monitor(store, password)
        environment = {
            "STORE_PASSWORD": password,
            "GATEWAY_API_KEY_PEPPER": pepper * 2,
            ENVIRONMENT_VARIABLE: credential,
            "GATEWAY_ADMIN_TOKEN": "",
            "PYTHONFAULTHANDLER": "1",
        }
        gateway = ProcessGateway(
            _command(directory, adapter),
            directory,
            directory / "audit.jsonl",
            environment,
            LISTENING if adapter == "wire" else UVICORN_LISTENING,
        )
        stack.callback(gateway.kill)
        gateway.wait_until_listening()
        yield Scene(gateway, adapter, login, store, planted, directory, environment, SECRET_FILES), monitor


def _command(directory: Path, adapter: Adapter) -> list[str]:
    if adapter == "wire":
        return [sys.executable, str(directory / "module.py")]
    options = ["--no-proxy-headers", "--http", "h11", "--host", "127.0.0.1", "--port", str(free_port()), "--no-access-log"]
    return [sys.executable, "-m", "uvicorn", "module:gateway", *options, "--app-dir", str(directory)]


def command(scene: Scene, *arguments: str) -> bytes:
    """What a command says, on both streams."""
    planted = scene.planted
    environment = {
        "PATH": "",
        "PYTHONPATH": str(ROOT),
        "STORE_PASSWORD": planted("password of the store"),
        ENVIRONMENT_VARIABLE: planted("value from the environment"),
        "GATEWAY_ADMIN_TOKEN": planted("file of admin token") * 2,
    }
    done = subprocess.run([sys.executable, "-m", "gateway", *arguments], capture_output=True, env=environment, timeout=60, check=False)
    return done.stdout + done.stderr


def crash(scene: Scene) -> bytes:
    """What a crash in C, or somebody who looks into a process that hangs, leaves behind of another gateway with the same configuration that
    has just been asked something."""
    scene.store.start_again()
    directory = scene.directory / "crash"
    directory.mkdir()
    command = [sys.executable, str(scene.directory / "module.py")]
    gateway = ProcessGateway(command, scene.directory, scene.directory / "audit.jsonl", {**scene.environment, "TMPDIR": str(directory)})
    try:
        scene.gateway.url = gateway.wait_until_listening().url
        scene.ask("before the crash", "crash")
        gateway.process.send_signal(signal.SIGABRT)
        wait_until(lambda: gateway.process.poll() is not None, "the process to end")
        assert "Fatal Python error: Aborted" in gateway.said
        return gateway.said.encode()
    finally:
        gateway.kill()
