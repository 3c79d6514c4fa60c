"""A whole gateway and everything around it, for tests: services that tell what reached them, an issuer, and the gateway as a process of its
own, under an ASGI server, or in this process.

The same document (the keys of `gateway.yaml`) starts a gateway through either face: as a file, or by a script that declares it in Python.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import httpx
import jwt

from hms_etl.gateway import BackendAPIGateway
from tests.support.identity_provider import Answer, IdentityProvider, Question
from tests.support.ports import free_port
from tests.support.redis_server import wait_until
from tests.support.tokens import AUDIENCE, ec_key, jwk, jwks, rsa_key

Json = dict[str, Any]
Face = Literal["file", "decorators"]
Adapter = Literal["wire", "uvicorn", "in process"]
T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
ADMIN_TOKEN = "the-admin-token-of-tests"
LISTENING = re.compile(r"Gateway listening on (https?://\S+)(?: with \d+ workers)?, admin on (http://\S+)")
UVICORN_LISTENING = re.compile(r"Uvicorn running on (http://\S+)")
START_SECONDS = 60.0
STOP_SECONDS = 60.0


# Services


@dataclass
class Upstream:
    """A service on a real socket that answers with what reached it.

    The last segment of the path may ask for something else: `status-503`, `slow-0.5`. A request with `X-Gate: NAME` waits until the test
    opens that gate.
    """

    name: str
    host: str = "127.0.0.1"
    port: int = 0
    seen: list[str] = field(default_factory=list)
    gates: dict[str, threading.Event] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @contextlib.contextmanager
    def gate(self, name: str) -> Iterator[None]:
        """Requests that name the gate wait until the end of the block."""
        event = self.gates[name] = threading.Event()
        try:
            yield
        finally:
            event.set()


class _UpstreamHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: Upstream

    def answer(self) -> None:
        body = self._body()
        self.upstream.seen.append(self.path)
        self._wait()
        word, _, value = self.path.partition("?")[0].rpartition("/")[2].partition("-")
        if word == "slow":
            time.sleep(float(value))
        status = int(value) if word == "status" else 201 if self.command == "POST" else 200
        fields = [[name.lower(), text] for name, text in self.headers.items()]
        told = {
            "instance": self.upstream.name,
            "method": self.command,
            "target": self.path,
            "fields": fields,
            "body": body.decode("latin-1"),
        }
        content = json.dumps(told).encode()
        self.send_response(status)
        for name, text in (("Content-Type", "application/json"), ("X-Served-By", self.upstream.name), ("X-Internal", "secret")):
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = answer

    def _wait(self) -> None:
        gate = self.headers.get("X-Gate", "")
        if gate in self.upstream.gates:
            self.upstream.waiting.add(gate)
            self.upstream.gates[gate].wait(20)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """The gateway may hang up whenever it likes."""


@contextlib.contextmanager
def upstream(name: str, host: str = "127.0.0.1") -> Iterator[Upstream]:
    """A service that answers until the end of the block."""
    service = Upstream(name, host)
    handler = type("Handler", (_UpstreamHandler,), {"upstream": service})
    with _Server((host, 0), handler) as server:
        service.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()


# Tokens


@dataclass(frozen=True)
class Login:
    """An issuer whose key set is served over HTTP, with an RSA and an elliptic key, and which also knows opaque tokens (RFC 7662)."""

    provider: IdentityProvider
    client_secret: Path

    @classmethod
    def at(cls, provider: IdentityProvider, directory: Path) -> Login:
        keys = jwks(jwk(rsa_key(), kid="rsa", alg="RS256"), jwk(ec_key(), "ES256", kid="ec", alg="ES256"))
        provider.answers["/jwks"] = Answer(keys)
        provider.answers["/introspect"] = _introspect
        secret = directory / "client-secret"
        secret.write_text("secret-of-the-introspection-client")
        return cls(provider, secret)

    @property
    def authentication(self) -> Json:
        """The section of the configuration that trusts it."""
        issuer = {"name": "login", "issuer": self.provider.url, "audience": [AUDIENCE], "algorithms": ["RS256", "ES256"]}
        return {
            "issuers": [{**issuer, "jwks_url": f"{self.provider.url}/jwks"}],
            "introspection": {
                "url": f"{self.provider.url}/introspect",
                "client_id": "gateway",
                "client_secret_file": str(self.client_secret),
            },
            "api_keys": {"header": "X-API-Key"},
        }

    def token(self, subject: str, *scopes: str, algorithm: str = "RS256", **claims: Any) -> str:
        """A signed token of the subject, good for ten minutes."""
        now = int(time.time())
        good = {"iss": self.provider.url, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + 600, "scope": " ".join(scopes)}
        key, kid = (rsa_key(), "rsa") if algorithm == "RS256" else (ec_key(), "ec")
        return jwt.encode({**good, "jti": f"jti-{subject}-{now}", **claims}, key, algorithm=algorithm, headers={"kid": kid})

    def bearer(self, subject: str, *scopes: str, **claims: Any) -> dict[str, str]:
        """The field that carries such a token."""
        return {"Authorization": f"Bearer {self.token(subject, *scopes, **claims)}"}


def _introspect(question: Question) -> Answer:
    """Tokens like `opaque.alice` are active."""
    token = httpx.QueryParams(question.body.decode())["token"]
    active = token.startswith("opaque.")
    answer = (
        {"active": True, "sub": token.removeprefix("opaque."), "scope": "patients:read", "client_id": "kiosk"}
        if active
        else {"active": False}
    )
    return Answer(json.dumps(answer).encode(), headers={"Content-Type": "application/json"})


# The gateway


class Gateway(Protocol):
    """A running gateway, whatever it runs in."""

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Send one request to the data port."""

    def records(self, condition: Any = None) -> list[Json]:
        """The audit records so far, those for which the condition holds."""


class Records:
    """The audit in a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def records(self, condition: Any = None) -> list[Json]:
        whole = self.file.read_bytes().rpartition(b"\n")[0] if self.file.exists() else b""
        found = [json.loads(line) for line in whole.splitlines()]
        return [record for record in found if condition is None or condition(record)]

    def wait_for_record(self, condition: Any, what: str = "a record") -> Json:
        """The first record for which the condition holds, once it is there."""
        wait_until(lambda: bool(self.records(condition)), f"{what} in the audit")
        return self.records(condition)[0]


class ProcessGateway(Records):
    """A gateway as a process.

    Args:
        command: starts it.
        directory: where its output is kept.
        audit: the file that its configuration names as the sink.
        listening: finds its URLs in what it says.
    """

    def __init__(
        self, command: list[str], directory: Path, audit: Path, environ: Mapping[str, str], listening: re.Pattern[str] = LISTENING
    ) -> None:
        super().__init__(audit)
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("GATEWAY_") and key != "CONSUL_HTTP_ADDR"}
        environment = {**inherited, "PYTHONPATH": str(ROOT), "GATEWAY_ADMIN_TOKEN": ADMIN_TOKEN, "PYTHONUNBUFFERED": "1", **environ}
        self._errors = directory / "stderr"
        self._output = directory / "stdout"
        self._listening = listening
        self.url = self.admin_url = ""
        with self._errors.open("wb") as errors, self._output.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, process_group=0
            )
        self._client = httpx.Client(trust_env=False, timeout=20, limits=httpx.Limits(max_connections=100))

    @property
    def said(self) -> str:
        """What it has written to standard error so far."""
        return self._errors.read_text()

    @property
    def output(self) -> str:
        """What it has written to standard output so far."""
        return self._output.read_text()

    def wait_until_listening(self) -> ProcessGateway:
        """Return when it says that it listens; it is killed when it does not."""

        def listens() -> bool:
            assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.said}"
            return self._listening.search(self.said) is not None

        try:
            wait_until(listens, "the gateway to listen", START_SECONDS)
        except BaseException:
            self.kill()
            raise
        found = self._listening.search(self.said)
        assert found is not None
        self.url, self.admin_url = (*found.groups(), "")[:2]
        return self

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        return self._client.request(method, self.url + path, **arguments)

    @property
    def live_replicas(self) -> int:
        """How many replicas live as far as this one knows: what it divides limits by while the store is away."""
        found = re.search(r"(?m)^gateway_replicas (\S+)", self.admin("GET", "/metrics").text)
        return int(float(found[1])) if found is not None else 0

    def admin(self, method: str, path: str, *, token: str = ADMIN_TOKEN, **arguments: Any) -> httpx.Response:
        """Send one request to the admin port; without credentials when the token is empty."""
        headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **arguments.pop("headers", {})}
        return self._client.request(method, self.admin_url + path, headers=headers, **arguments)

    def stop(self) -> int:
        """End it in an orderly way; its exit code."""
        self._client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Its exit code, once it has ended; it is killed when it does not."""
        try:
            return self.process.wait(STOP_SECONDS)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it at once, whatever state it is in."""
        self._client.close()
        self.process.kill()
        self.process.wait()


class LoopThread:
    """An event loop in a thread, for what has to run beside a test."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)

    def __enter__(self) -> LoopThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.loop.shutdown_default_executor())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """What the coroutine returns, which runs there."""
        return asyncio.run_coroutine_threadsafe(main, self.loop).result(60)


class InProcessGateway(Records):
    """A gateway as an ASGI application in this process, without a server."""

    def __init__(self, thread: LoopThread, app: Any, audit: Path) -> None:
        super().__init__(audit)
        self.app = app
        self._thread = thread
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("127.0.0.9", 4711))
        self._client = httpx.AsyncClient(transport=transport, base_url="http://gateway.test", timeout=20)

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        return self._thread.run(self._client.request(method, path, **arguments))


@contextlib.asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    """What an ASGI server does around the requests."""
    inbox: asyncio.Queue[Json] = asyncio.Queue()
    outbox: asyncio.Queue[Json] = asyncio.Queue()
    task = asyncio.ensure_future(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, inbox.get, outbox.put))
    for phase in ("startup", "shutdown"):
        await inbox.put({"type": f"lifespan.{phase}"})
        answer = await asyncio.wait_for(outbox.get(), 30)
        assert answer["type"] == f"lifespan.{phase}.complete", answer
        if phase == "startup":
            yield
    await task


def declared(document: Mapping[str, Any]) -> BackendAPIGateway:
    """A `BackendAPIGateway` that was declared in Python with what the document says."""
    apart = ("version", "services", "limits", "routes")
    gateway = BackendAPIGateway(**{key: value for key, value in document.items() if key not in apart})
    for name, values in document.get("limits", {}).items():
        gateway.limit(name, **values)
    for name, values in document.get("services", {}).items():
        gateway.service(name, **values)
    for values in document.get("routes", ()):
        gateway.proxy(**values)
    _declare_handlers(gateway)
    return gateway


def _declare_handlers(gateway: BackendAPIGateway) -> None:
    """What only Python can declare: functions that answer."""

    @gateway.route("/local/{number:int}", methods=["GET", "POST"], scopes=["patients:read"], name="local")
    def local(request: Any) -> Json:
        number, subject = request.path_params["number"], request.principal.subject
        return {"status": 203, "data": {"number": number, "subject": subject, "trace_id": request.trace_id}, "headers": {"X-Local": "yes"}}

    @gateway.route("/calls/{id}", methods=["GET"], name="calls")
    async def calls(request: Any) -> Json:
        reply = await gateway.client("patients").get(f"/v1/patients/{request.path_params['id']}")
        return {"data": reply.json()}

    @gateway.route("/broken", methods=["GET"], authentication="none", name="broken")
    def broken(request: Any) -> Json:
        raise RuntimeError("secret-in-an-exception")


_MODULE = """
import json, pathlib
from tests.support.whole_gateway import declared

gateway = declared(json.loads(pathlib.Path({document!r}).read_text()))

if __name__ == "__main__":
    gateway.start()
"""


def write(directory: Path, document: Mapping[str, Any], face: Face) -> Path:
    """The document as a configuration file (JSON is YAML), or a module named `module` that declares it, or takes the file."""
    file = directory / "gateway.yaml"
    file.write_text(json.dumps(document))
    module = directory / "module.py"
    if face == "decorators":
        module.write_text(_MODULE.format(document=str(file)))
        return module
    module.write_text(f"from gateway import BackendAPIGateway\n\ngateway = BackendAPIGateway(config={str(file)!r})\n")
    return file


def process_gateway(directory: Path, document: Mapping[str, Any], face: Face = "file", **environ: str) -> ProcessGateway:
    """A gateway on the wire path that was just started; `wait_until_listening` waits for it."""
    directory.mkdir(parents=True, exist_ok=True)
    entry = write(directory, document, face)
    command = [sys.executable, str(entry)] if face == "decorators" else [sys.executable, "-m", "gateway", "run", "-c", str(entry)]
    return ProcessGateway(command, directory, directory / "audit.jsonl", environ)


@contextlib.contextmanager
def running(directory: Path, document: Mapping[str, Any], face: Face = "file", **environ: str) -> Iterator[ProcessGateway]:
    """A gateway on the wire path that serves until the end of the block, and then ends as it should."""
    gateway = process_gateway(directory, document, face, **environ)
    try:
        yield gateway.wait_until_listening()
        assert gateway.stop() == 0, gateway.said
    finally:
        gateway.kill()


@contextlib.contextmanager
def under_uvicorn(directory: Path, document: Mapping[str, Any], face: Face, **environ: str) -> Iterator[ProcessGateway]:
    """`uvicorn module:gateway` with uvicorn's own parser in Python, so that nothing of ours is in between."""
    directory.mkdir(parents=True, exist_ok=True)
    write(directory, document, face)
    # Whose forwarding fields are believed is for the gateway to decide: by default uvicorn believes everybody on 127.0.0.1.
    options = [
        "--no-proxy-headers",
        "--http",
        "h11",
        "--host",
        "127.0.0.1",
        "--port",
        str(free_port()),
        "--no-access-log",
        "--app-dir",
        str(directory),
    ]
    command = [sys.executable, "-m", "uvicorn", "module:gateway", *options]
    gateway = ProcessGateway(command, directory, directory / "audit.jsonl", environ, UVICORN_LISTENING)
    try:
        yield gateway.wait_until_listening()
        # uvicorn ends in order and then by the signal that it got.
        assert gateway.stop() in (0, -signal.SIGTERM), gateway.said
    finally:
        gateway.kill()


@contextlib.contextmanager
def in_process(directory: Path, document: Mapping[str, Any], face: Face) -> Iterator[InProcessGateway]:
    """The application in a thread of this process, inside its lifespan."""
    directory.mkdir(parents=True, exist_ok=True)
    file = write(directory, document, face)
    with LoopThread() as thread:
        app = declared(document) if face == "decorators" else _from_file(file)
        span = lifespan(app)
        thread.run(_entered(span))
        try:
            yield InProcessGateway(thread, app, directory / "audit.jsonl")
        finally:
            thread.run(_left(span))


def _from_file(file: Path) -> BackendAPIGateway:
    return BackendAPIGateway(config=file)


async def _entered(span: contextlib.AbstractAsyncContextManager[None]) -> None:
    await span.__aenter__()


async def _left(span: contextlib.AbstractAsyncContextManager[None]) -> None:
    await span.__aexit__(None, None, None)


def base_document(directory: Path, **sections: Any) -> Json:
    """What every gateway of the tests has: free ports, an end without a delay, an audit file of its own, and patience with its store."""
    server = {"host": "127.0.0.1", "port": 0, "drain": {"delay": 0}, **sections.pop("server", {})}
    return {
        "version": 1,
        "server": server,
        "admin": {"host": "127.0.0.1", "port": 0},
        "audit": {"sink": [f"file:{directory / 'audit.jsonl'}"]},
        **sections,
        # The default of 25 ms is less than a busy machine may let a process wait for its turn.
        "state": {"budget": "1s", **sections.get("state", {})},
    }


def values_of(fields: list[list[str]], name: str) -> list[str]:
    """The values of a field among those that an `Upstream` tells."""
    return [text for other, text in fields if other == name]
