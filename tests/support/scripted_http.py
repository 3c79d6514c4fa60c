"""An HTTP server whose answers a test writes byte by byte, for what a real Consul never says, or not when it is asked to."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Answer = bytes | None


@dataclass(slots=True)
class ScriptedServer:
    """What it was asked, and what it answers: `answer(target)` gives the bytes, or None for silence."""

    answer: Callable[[str], Answer]
    url: str = ""
    heads: list[str] = field(default_factory=list)

    @property
    def targets(self) -> list[str]:
        """The request targets so far."""
        return [head.split(" ", 2)[1] for head in self.heads]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.heads.append(head)
            answer = self.answer(head.split(" ", 2)[1])
            if answer is None:
                await reader.read()
            else:
                writer.write(answer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def reply(body: object, index: int | str | None = 7, status: str = "200 OK", **fields: str) -> bytes:
    """A reply as Consul writes it; a body of bytes goes out as it is."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(content)}", "Connection: close"]
    if index is not None:
        lines.append(f"X-Consul-Index: {index}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


@asynccontextmanager
async def scripted_server(
    answer: Callable[[str], Answer], unix_path: str = "", tls: ssl.SSLContext | None = None
) -> AsyncIterator[ScriptedServer]:
    """The server on a free port of a 127.x address, or on a Unix socket."""
    scripted = ScriptedServer(answer)
    if unix_path:
        server = await asyncio.start_unix_server(scripted.serve, unix_path)
        scripted.url = f"unix://{unix_path}"
    else:
        server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0, ssl=tls)
        scripted.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield scripted
