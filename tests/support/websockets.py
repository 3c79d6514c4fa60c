"""Handshakes and frames as raw bytes, and services that switch protocols."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1

from tests.support.gateway_process import Client, Response
from tests.support.recording_upstream import Link, RecordedRequest, Script

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
#: The answer to `KEY`: both are the example of RFC 6455 section 1.3.
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
UPGRADE = (b"Connection: Upgrade", b"Upgrade: websocket")
KEYED = (b"Sec-WebSocket-Key: " + KEY, b"Sec-WebSocket-Version: 13")
MASK = b"\x37\xfa\x21\x3d"
#: A mask that changes nothing, for large frames.
NO_MASK = bytes(4)
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def handshake(*lines: bytes, target: bytes = b"/s/x", host: bytes = b"api.example.gov") -> bytes:
    """A sound handshake with further lines."""
    return b"GET %b HTTP/1.1\r\nHost: %b\r\n" % (target, host) + b"".join(line + b"\r\n" for line in (*UPGRADE, *KEYED, *lines)) + b"\r\n"


def accept_of(key: bytes) -> bytes:
    """What answers a key (RFC 6455 section 4.2.2)."""
    return b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


def switching(request: RecordedRequest, *lines: bytes) -> bytes:
    """The head of the 101 that agrees to a handshake."""
    accept = accept_of(request.values(b"sec-websocket-key")[0])
    all_lines = (*UPGRADE, b"Sec-WebSocket-Accept: " + accept, *lines)
    return b"HTTP/1.1 101 Switching Protocols\r\n" + b"".join(line + b"\r\n" for line in all_lines) + b"\r\n"


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bytes = MASK, reserved: int = 0) -> bytes:
    """A frame; an empty mask for a server's."""
    first = bytes(((0x80 if fin else 0) | reserved << 4 | opcode,))
    size = len(payload)
    length = bytes((size,)) if size < 126 else b"\x7e" + size.to_bytes(2, "big") if size < 65536 else b"\x7f" + size.to_bytes(8, "big")
    if not mask:
        return first + length + payload
    masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload)) if any(mask) else payload
    return first + bytes((length[0] | 0x80,)) + length[1:] + mask + masked


def close(code: int, *, mask: bytes = b"") -> bytes:
    """A Close frame with a status code; a server's unless there is a mask."""
    return frame(CLOSE, code.to_bytes(2, "big"), mask=mask)


async def echo(link: Link) -> None:
    """Switches, and gives back every byte that comes then."""
    request = await link.head()
    if request is None:
        return
    await link.send(switching(request))
    while data := await link.read():
        await link.send(data)


def silent(*first: bytes) -> Script:
    """Switches, sends this, and then says nothing until the other side has gone."""

    async def script(link: Link) -> None:
        request = await link.head()
        if request is not None:
            await link.send(switching(request), *first)
            await link.until_lost()

    return script


async def opened(client: Client, *lines: bytes, target: bytes = b"/s/x") -> Response:
    """Open a WebSocket."""
    await client.send(handshake(*lines, target=target))
    response = await client.head()
    assert response.status == 101, response
    assert response.values(b"sec-websocket-accept") == [ACCEPT]
    return response
