"""What an ASGI server may hand over that never came as HTTP/1.1."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway import BackendAPIGateway
from tests.conformance.http.conftest import Loop
from tests.conformance.http.scene import Scene

#: Fields that HTTP/2 can carry and HTTP/1.1 can't (RFC 9113 section 8.2.1).
BROKEN: dict[str, tuple[bytes, bytes]] = {
    "a line end in a value": (b"x-a", b"1\r\nx-auth-subject: root"),
    "a bare LF in a value": (b"x-a", b"1\nx-auth-subject: root"),
    "a bare CR in a value": (b"x-a", b"1\rx"),
    "a NUL in a value": (b"x-a", b"\x00"),
    "a line end in a name": (b"x-a: 1\r\nx-auth-subject", b"root"),
    "a colon in a name": (b"x-auth-subject:", b"root"),
    "a space in a name": (b"x-auth-subject ", b"root"),
    "an empty name": (b"", b"1"),
    "a pseudo-header": (b":path", b"/s/other"),
    "a name outside ASCII": (b"x-\xc3\xa9", b"1"),
}


async def called(app: BackendAPIGateway, *fields: tuple[bytes, bytes], version: str = "2") -> int:
    """The status of the answer to a request that a server hands over."""
    answers: list[Any] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": version,
        "method": "GET",
        "scheme": "https",
        "path": "/s/x",
        "raw_path": b"/s/x",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"api.example.gov"), *fields],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 443),
        "state": {},
    }
    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        if not messages:
            await asyncio.Event().wait()  # The client stays.
        return messages.pop()

    async def send(message: Any) -> None:
        answers.append(message)

    await app(scope, receive, send)
    status: int = answers[0]["status"]
    return status


@pytest.mark.parametrize("name", BROKEN)
def test_a_field_that_would_be_two_upstream_is_refused(loop: Loop, scene: Scene, name: str) -> None:
    """H1, S-5, S-12a (RFC 9110 section 5.5): whatever the server has let through."""

    async def main() -> None:
        scene.clear()
        assert await called(scene.gateways["asgi"].app, BROKEN[name]) == 400
        assert scene.whole == []

    loop.run(main())


@pytest.mark.parametrize("version", ["1.1", "2", "3"])
def test_via_tells_the_version_that_came(loop: Loop, scene: Scene, version: str) -> None:
    """H11, S-10 (RFC 9110 section 7.6.3)."""

    async def main() -> None:
        scene.clear()
        assert await called(scene.gateways["asgi"].app, (b"x-a", b"1"), version=version) == 200
        (request,) = scene.whole
        assert request.line == b"GET /s/x HTTP/1.1"
        assert request.values(b"via") == [version.encode() + b" hms-gateway"]
        assert request.values(b"x-forwarded-proto") == [b"https"]

    loop.run(main())
