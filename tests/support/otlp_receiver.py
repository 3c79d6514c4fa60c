"""A real OTLP/HTTP trace receiver in its own process, for tests: `python -m tests.support.otlp_receiver [--host H] [--port P]`.

It decodes `POST /v1/traces` with the official protobuf classes, keeps the spans, and shows them as JSON at `GET /spans`, and the messages
as they came at `GET /messages`. `PUT /behaviour`
with `{"delay_seconds": 2.0, "status": 503}` makes it slow, or makes it refuse; `DELETE /spans` forgets what it has.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

Json = dict[str, Any]
START_SECONDS = 30.0


class Received:
    """What has arrived, and how to answer. Shared by the server's threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[Json] = []
        self._messages: list[bytes] = []
        self.delay_seconds = 0.0
        self.status = 200

    def add(self, spans: list[Json], message: bytes) -> None:
        with self._lock:
            self._spans.extend(spans)
            self._messages.append(message)

    def clear(self) -> None:
        with self._lock:
            self._spans.clear()
            self._messages.clear()

    def messages(self) -> bytes:
        with self._lock:
            return b"\n".join(self._messages)

    def spans(self) -> list[Json]:
        with self._lock:
            return list(self._spans)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    received: Received

    def do_POST(self) -> None:
        body = self._body()
        if self.path != "/v1/traces":
            return self._answer(404, b"")
        time.sleep(self.received.delay_seconds)
        if self.received.status != 200:
            return self._answer(self.received.status, b"")
        try:
            spans = decode(body)
        except DecodeError:
            return self._answer(400, b"")
        self.received.add(spans, body)
        return self._answer(200, ExportTraceServiceResponse().SerializeToString(), "application/x-protobuf")

    def do_GET(self) -> None:
        if self.path == "/spans":
            return self._answer(200, json.dumps(self.received.spans()).encode(), "application/json")
        if self.path == "/messages":
            return self._answer(200, self.received.messages(), "application/octet-stream")
        return self._answer(404, b"")

    def do_PUT(self) -> None:
        behaviour = json.loads(self._body())
        self.received.delay_seconds = behaviour.get("delay_seconds", 0.0)
        self.received.status = behaviour.get("status", 200)
        self._answer(204, b"")

    def do_DELETE(self) -> None:
        self.received.clear()
        self._answer(204, b"")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        return gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body

    def _answer(self, status: int, body: bytes, content_type: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def decode(body: bytes) -> list[Json]:
    """The spans of an export request, ids as hex, enums by name, attributes as plain values."""
    request = ExportTraceServiceRequest.FromString(body)
    return [
        _span(span, {item.key: _value(item.value) for item in resource.resource.attributes}, scope.scope.name)
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _span(span: Span, resource: Json, scope: str) -> Json:
    return {
        "name": span.name,
        "kind": Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent_span_id": span.parent_span_id.hex(),
        "trace_state": span.trace_state,
        "status": Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        "start_ns": span.start_time_unix_nano,
        "end_ns": span.end_time_unix_nano,
        "attributes": {item.key: _value(item.value) for item in span.attributes},
        "links": [{"trace_id": link.trace_id.hex(), "span_id": link.span_id.hex()} for link in span.links],
        "resource": resource,
        "scope": scope,
    }


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Who waited too long for an answer has hung up."""


class OtlpReceiver:
    """The receiver's process, as a context manager.

    Args:
        host, port: where it listens; port 0 for a free one.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._host = host
        self._port = port
        self._process: subprocess.Popen[str] | None = None
        #: Base URL for `TraceSettings.endpoint`, once it runs.
        self.endpoint = ""

    def __enter__(self) -> OtlpReceiver:
        command = [sys.executable, "-m", "tests.support.otlp_receiver", "--host", self._host, "--port", str(self._port), "--child"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        assert self._process.stdout is not None
        # The program prints its URL when it listens, or ends; both end the wait.
        self.endpoint = self._process.stdout.readline().strip()
        if not self.endpoint:
            self.__exit__()
            raise RuntimeError("the OTLP receiver did not start")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def spans(self) -> list[Json]:
        """Everything received so far."""
        spans: list[Json] = json.loads(self._call("GET", "/spans"))
        return spans

    def messages(self) -> bytes:
        """Every message received so far, as it came over the wire, without its compression."""
        return self._call("GET", "/messages")

    def wait_for(self, condition: Callable[[list[Json]], bool], timeout_seconds: float = 30.0) -> list[Json]:
        """The spans, as soon as the condition holds for them.

        Raises:
            TimeoutError: it did not within that time.
        """
        deadline = time.monotonic() + timeout_seconds
        while not condition(spans := self.spans()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the condition does not hold for {spans}")
            time.sleep(0.02)
        return spans

    def clear(self) -> None:
        self._call("DELETE", "/spans")

    def behave(self, *, delay_seconds: float = 0.0, status: int = 200) -> None:
        """From now on wait so long before each answer, and answer so."""
        self._call("PUT", "/behaviour", json.dumps({"delay_seconds": delay_seconds, "status": status}).encode())

    def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.endpoint + path, data=body, method=method)
        with urllib.request.urlopen(request, timeout=START_SECONDS) as response:
            answer: bytes = response.read()
        return answer


def main() -> None:
    parser = argparse.ArgumentParser(description="OTLP/HTTP trace receiver for tests")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4318)
    parser.add_argument("--child", action="store_true", help="end with whoever holds the other side of standard input")
    arguments = parser.parse_args()
    handler = type("BoundHandler", (Handler,), {"received": Received()})
    server = _Server((arguments.host, arguments.port), handler)
    print(f"http://{arguments.host}:{server.server_address[1]}", flush=True)
    if arguments.child:
        threading.Thread(target=end_with_parent, daemon=True).start()
    server.serve_forever()


def end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
