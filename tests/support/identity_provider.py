"""An identity provider on a real socket, whose answers a test decides: good, slow, garbage, huge, gone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOST = "127.0.7.1"


@dataclass(frozen=True, slots=True)
class Question:
    """One request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Answer:
    """What to say. With `gate` the answer waits until the test sets it; `declared` lies about the length; `cut` hangs up instead."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    gate: threading.Event | None = None
    declared: int | None = None
    cut: bool = False


class IdentityProvider:
    """`answers[path]` is what each path says; `questions` is what came, in order."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | Callable[[Question], Answer]] = {}
        self.questions: list[Question] = []
        self.url = ""

    def asked(self, path: str) -> int:
        return sum(question.path == path for question in self.questions)

    def answer(self, question: Question) -> Answer:
        self.questions.append(question)
        answer = self.answers.get(question.path, Answer(b"nothing here", 404))
        return answer(question) if callable(answer) else answer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    provider: IdentityProvider

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.provider.answer(Question(self.command, self.path, headers, body))
        if answer.gate is not None:
            answer.gate.wait(10)
        if not answer.cut:
            self._send(answer)
        self.close_connection = answer.cut or answer.declared is not None

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("content-length", str(len(answer.body) if answer.declared is None else answer.declared))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(answer.body)
        except OSError:
            # The gateway hung up on an answer that is too long.
            self.close_connection = True

    do_GET = do_POST = _respond

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """The gateway may hang up whenever it likes."""


@contextmanager
def identity_provider(port: int = 0) -> Iterator[IdentityProvider]:
    """A provider that answers until the end of the block."""
    provider = IdentityProvider()
    handler = type("Handler", (_Handler,), {"provider": provider})
    with _Server((HOST, port), handler) as server:
        provider.url = f"http://{HOST}:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield provider
        finally:
            server.shutdown()
            thread.join()
