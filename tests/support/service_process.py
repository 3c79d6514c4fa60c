"""A service as a process of its own, to be killed, stopped, continued and started again on the same port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.support.redis_server import free_port, wait_until

#: Answers every request with its name; `/slow-SECONDS` after that time, and `/status-CODE` with that status. Says who asked how often.
_PROGRAM = """
import sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length", "0")))
        word, _, value = self.path.rpartition("/")[2].partition("-")
        if word == "slow":
            time.sleep(float(value))
        body = sys.argv[2].encode()
        self.send_response(int(value) if word == "status" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_POST = do_PUT = do_GET
    def log_message(self, *arguments):
        pass

ThreadingHTTPServer.daemon_threads = True
ThreadingHTTPServer.request_queue_size = 128
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@dataclass
class ServiceProcess:
    """An instance that answers with its name."""

    name: str
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, again if it was killed, and return when it listens."""
        self.process = subprocess.Popen([sys.executable, "-c", _PROGRAM, str(self.port), self.name], stdin=subprocess.DEVNULL)
        wait_until(self._listens, f"{self.name} to listen")

    def _listens(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def service_processes(*names: str) -> Iterator[list[ServiceProcess]]:
    """Instances that run until the end of the block."""
    services = [ServiceProcess(name) for name in names]
    try:
        for service in services:
            service.start()
        yield services
    finally:
        for service in services:
            service.kill()
