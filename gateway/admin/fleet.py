"""The admin site of a machine with several workers: every answer is the whole machine's.

Each worker answers for itself on a Unix socket; this asks them and puts the answers together. What is stored is stored once for all, so
one worker is enough to be asked about it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from gateway.admin.api import SOURCE_FIELD, admin_application, bounded_body, resource
from gateway.errors import Unavailable, problem
from gateway.telemetry import exposition

TIMEOUT_SECONDS = 5.0
#: A new generation may wait for first answers of discovery and for keys.
RELOAD_SECONDS = 30.0
#: Members of an instance's description that each worker counts for itself.
_COUNTED = ("active", "requests", "failures")
#: A worker says which of them a resource has.
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Fleet:
    """Answers for all workers.

    Args:
        sockets: where they answer.
    """

    def __init__(self, sockets: Sequence[Path]) -> None:
        self._workers = [
            httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://worker", timeout=TIMEOUT_SECONDS, trust_env=False
            )
            for path in sockets
        ]

    def app(self) -> Starlette:
        """The ASGI application."""
        return admin_application(
            [
                resource("/livez", GET=self.livez),
                resource("/readyz", GET=self.readyz),
                resource("/metrics", GET=self.metrics),
                resource("/v1/services", GET=self.services),
                resource("/v1/reload", POST=self.reload),
                resource("/{path:path}", **dict.fromkeys(_METHODS, self.one)),
            ]
        )

    async def livez(self, request: Request) -> Response:
        """200 while this process turns; workers that end are replaced."""
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """200 when every worker is ready."""
        answers = await self._all("/readyz", {})
        waiting = [answer for answer in answers if answer is None or answer.status_code != 200]
        if not waiting:
            return _json({"ready": True})
        missing = sorted({reason for answer in waiting for reason in (answer.json()["waiting_for"] if answer is not None else ["worker"])})
        return _json({"ready": False, "waiting_for": missing}, 503)

    async def metrics(self, request: Request) -> Response:
        """The sum of the workers' metrics."""
        accept = request.headers.get("accept", "")
        texts = [answer.content for answer in await self._all("/metrics", {}) if answer is not None and answer.is_success]
        return Response(exposition.merge(texts, accept), headers={"content-type": exposition.content_type(accept)})

    async def services(self, request: Request) -> Response:
        """Services with the requests of all workers added up."""
        answers = [answer for answer in await self._all("/v1/services", _asker(request)) if answer is not None]
        good = [answer for answer in answers if answer.is_success]
        if not good:
            return _passed_on(answers[0]) if answers else _nobody()
        return _json({"services": merged_services([answer.json()["services"] for answer in good])})

    async def reload(self, request: Request) -> Response:
        """Every worker loads the configuration again. One that refuses it tells why; a worker that is being replaced begins with the
        newest."""
        answers = [answer for answer in await self._all("/v1/reload", _asker(request), "POST", RELOAD_SECONDS) if answer is not None]
        if not answers:
            return _nobody()
        refused = [answer for answer in answers if not answer.is_success]
        if refused:
            return _passed_on(refused[0])
        told = [answer.json() for answer in answers]
        generation, changed = max(each["generation"] for each in told), any(each["changed"] for each in told)
        return _json({"generation": generation, "changed": changed, "workers": len(told)})

    async def one(self, request: Request) -> Response:
        """Any worker's answer, from the first that gives one."""
        body = await bounded_body(request)
        target = request.scope["raw_path"].decode("ascii")
        headers = {**_asker(request), "content-type": "application/json"}
        for worker in self._workers:
            try:
                return _passed_on(await worker.request(request.method, target, content=body, headers=headers))
            except httpx.ConnectError:
                continue
            except httpx.HTTPError:
                # It may have been done; asking another would do it twice.
                break
        return _nobody()

    async def _all(
        self, path: str, headers: dict[str, str], method: str = "GET", timeout_seconds: float = TIMEOUT_SECONDS
    ) -> list[httpx.Response | None]:
        async def ask(worker: httpx.AsyncClient) -> httpx.Response | None:
            try:
                return await worker.request(method, path, headers=headers, timeout=timeout_seconds)
            except httpx.HTTPError:
                return None

        return list(await asyncio.gather(*map(ask, self._workers)))


def fleet_app(sockets: Sequence[Path]) -> Starlette:
    """The admin site of all workers."""
    return Fleet(sockets).app()


def merged_services(answers: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Several workers' descriptions of the services as one: the first worker's, with what each counts for itself added up."""
    services: dict[str, dict[str, Any]] = {}
    for service in (service for answer in answers for service in answer):
        known = services.setdefault(service["name"], service)
        if known is service:
            continue
        instances = {instance["id"]: instance for instance in known["instances"]}
        for instance in service["instances"]:
            same = instances.get(instance["id"])
            if same is None:
                known["instances"].append(instance)
            else:
                same.update({name: same[name] + instance[name] for name in _COUNTED})
    return list(services.values())


def _asker(request: Request) -> dict[str, str]:
    """Fields that tell a worker who asks."""
    fields = {SOURCE_FIELD: request.client.host if request.client is not None else ""}
    authorization = request.headers.get("authorization")
    return fields if authorization is None else {**fields, "authorization": authorization}


def _passed_on(answer: httpx.Response) -> Response:
    kept = {name: value for name, value in answer.headers.items() if name in ("content-type", "www-authenticate", "retry-after", "allow")}
    return Response(answer.content, answer.status_code, kept)


def _json(content: object, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")


def _nobody() -> Response:
    error = Unavailable("overloaded", "No worker answered.")
    return Response(problem(error, ""), error.status, {"retry-after": "1"}, "application/problem+json")
