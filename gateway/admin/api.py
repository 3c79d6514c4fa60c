"""The admin site of one process (CONTRACT section 6)."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from gateway.telemetry.exposition import content_type

if TYPE_CHECKING:
    from gateway.assembly import Runtime

Endpoint = Callable[[Request], Awaitable[Response]]


class AdminSite:
    """Answers for one process.

    Args:
        runtime: what is told about.
        token: bearer token of everything but livez, readyz and metrics.
    """

    def __init__(self, runtime: Runtime, token: str) -> None:
        self._runtime = runtime
        self._token = token.encode()

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/livez", self.livez),
                Route("/readyz", self.readyz),
                Route("/metrics", self.metrics),
            ]
        )

    async def livez(self, request: Request) -> Response:
        """200 while the event loop turns; no dependency is asked (F-52)."""
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """200 once the process can do its job, 503 with what is missing before, and while it drains."""
        if self._runtime.ready:
            return JSONResponse({"ready": True})
        return JSONResponse({"ready": False, "waiting_for": self._runtime.not_ready_because()}, 503)

    async def metrics(self, request: Request) -> Response:
        """Prometheus exposition."""
        accept = request.headers.get("accept", "")
        return Response(self._runtime.telemetry.render(accept), headers={"content-type": content_type(accept)})

    def permitted(self, request: Request) -> bool:
        """Whether the request carries the admin token; compared in constant time."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), self._token)


def admin_app(runtime: Runtime) -> Starlette:
    """The admin site of a process."""
    return AdminSite(runtime, runtime.settings.admin.token).app()
