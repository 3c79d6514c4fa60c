"""The admin site of one process (CONTRACT section 6): probes and metrics for anybody who reaches the port, the rest for the admin token."""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gateway.admin import openapi
from gateway.admin.redaction import redacted
from gateway.admission.revocation import KINDS, Revocation
from gateway.config import ConfigProblems
from gateway.errors import (
    BadRequest,
    BodyTooLarge,
    ConfigError,
    GatewayError,
    Internal,
    MethodNotAllowed,
    NotFound,
    Unauthorized,
    Unavailable,
    problem,
)
from gateway.server.controls import Controls
from gateway.store.error import StoreError
from gateway.telemetry.exposition import content_type
from gateway.version import gateway_version

if TYPE_CHECKING:
    from gateway.assembly import Runtime
    from gateway.auth.api_keys import ApiKeyStore

Endpoint = Callable[[Request], Awaitable[Response]]

#: Everything else needs the admin token.
FOR_EVERYBODY = frozenset(("/livez", "/readyz", "/metrics"))
MAX_BODY_BYTES = 64 * 1024
#: In front of several workers: who asked, as the process that answers for all of them saw it. Believed on a Unix socket only.
SOURCE_FIELD = "x-admin-source"
#: Beyond it a time is a mistake, mostly milliseconds.
_YEAR_10000 = 253_402_300_800.0
_EVERY_METHOD = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_REVOCATION_KEYS = frozenset(("kind", "value", "issuer", "subject", "issued_before", "expires_at", "reason"))
_API_KEY_KEYS = frozenset(("subject", "scopes", "roles", "client", "expires_at"))
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")


class ConfigRefused(GatewayError):
    """A configuration that can't be used; the one before stays at work."""

    status = 422
    title = "Unprocessable Content"
    default_code = "config_refused"

    def __init__(self, error: ConfigError) -> None:
        super().__init__("The configuration can't be used; the one before stays at work.")
        problems = error.problems if isinstance(error, ConfigProblems) else []
        self._problems = [str(problem) for problem in problems] or [" ".join(str(error).split())]

    def members(self) -> dict[str, object]:
        return {"problems": self._problems}


class AdminSite:
    """Answers for one process.

    Args:
        runtime: what is told about.
        controls: what it can be told to do.
    """

    def __init__(self, runtime: Runtime, controls: Controls) -> None:
        self._runtime = runtime
        self._controls = controls

    def app(self) -> Starlette:
        """The ASGI application."""
        return admin_application(
            [
                resource(path, **endpoints) if path in FOR_EVERYBODY else self._guarded(path, **endpoints)
                for path, endpoints in self.resources().items()
            ]
        )

    def resources(self) -> dict[str, dict[str, Endpoint]]:
        """Every path with its methods, as `gateway.admin.openapi` describes them."""
        return {
            "/livez": {"GET": self.livez},
            "/readyz": {"GET": self.readyz},
            "/metrics": {"GET": self.metrics},
            "/v1/openapi.json": {"GET": self.openapi},
            "/v1/routes": {"GET": self.routes},
            "/v1/services": {"GET": self.services},
            "/v1/replicas": {"GET": self.replicas},
            "/v1/config": {"GET": self.config},
            "/v1/reload": {"POST": self.reload},
            "/v1/drain": {"POST": self.drain},
            "/v1/revocations": {"GET": self.revocations, "POST": self.revoke},
            "/v1/revocations/{kind}/{value:path}": {"DELETE": self.unrevoke},
            "/v1/api-keys": {"GET": self.api_keys, "POST": self.create_api_key},
            "/v1/api-keys/{id}": {"DELETE": self.delete_api_key},
        }

    # For everybody

    async def livez(self, request: Request) -> Response:
        """200 while the event loop turns; no dependency is asked (F-52)."""
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """200 once the process can do its job, 503 with what is missing before, and while it drains."""
        if self._runtime.ready:
            return _json({"ready": True})
        return _json({"ready": False, "waiting_for": self._runtime.not_ready_because()}, 503)

    async def metrics(self, request: Request) -> Response:
        """Prometheus exposition."""
        accept = request.headers.get("accept", "")
        self._runtime.telemetry.tell()
        return Response(self._runtime.telemetry.render(accept), headers={"content-type": content_type(accept)})

    # For the admin token

    async def openapi(self, request: Request) -> Response:
        """What this API is, for clients and editors."""
        return Response(openapi.text(gateway_version()), media_type="application/json")

    async def routes(self, request: Request) -> Response:
        """The route table, in match order, and what services published that is not in it."""
        runtime = self._runtime
        return _json(
            {
                "generation": runtime.generation,
                "routes": [redacted(route) for route, _ in runtime.routes.entries],
                "conflicts": [asdict(conflict) for conflict in runtime.publisher.table.conflicts],
            }
        )

    async def services(self, request: Request) -> Response:
        """Services with their instances and live state."""
        return _json({"services": self._runtime.directory.describe()})

    async def replicas(self, request: Request) -> Response:
        """The replicas that live, from their heartbeats in the store; by name only, as last known, while the store is away."""
        heartbeat = self._runtime.together.heartbeat
        answer: dict[str, object] = {"this": self._runtime.replica, "store": self._runtime.admission.mode}
        try:
            answer["replicas"] = await heartbeat.describe()
        except StoreError:
            answer["replicas"] = [{"name": name} for name in heartbeat.live]
        return _json(answer)

    async def config(self, request: Request) -> Response:
        """The settings at work, secrets redacted."""
        runtime = self._runtime
        return _json({"generation": runtime.generation, "replica": runtime.replica, "config": redacted(runtime.settings)})

    async def revocations(self, request: Request) -> Response:
        """All entries that have not expired."""
        return _json({"revocations": [_described(entry) for entry in await self._runtime.revocations.list()]})

    async def revoke(self, request: Request) -> Response:
        """Write an entry; when this answers 201, every replica refuses what it concerns."""
        body = await _body(request, _REVOCATION_KEYS)
        entry = await self._runtime.revocations.revoke(await self._revocation(body))
        self._recorded("revoke", request, kind=entry.kind, value=entry.value, subject=entry.subject, reason=entry.reason)
        return _json(_described(entry), 201)

    async def unrevoke(self, request: Request) -> Response:
        """Remove an entry."""
        kind, value = request.path_params["kind"], request.path_params["value"]
        if kind not in KINDS:
            raise BadRequest(f"The kind is none of {', '.join(KINDS)}.")
        if not await self._runtime.revocations.remove(kind, value):
            raise NotFound("Nothing of this kind and value is revoked.")
        self._recorded("unrevoke", request, kind=kind, value=value)
        return Response(status_code=204)

    async def api_keys(self, request: Request) -> Response:
        """What is known of every API key, without their secrets."""
        return _json({"api_keys": [asdict(key) for key in await self._key_store().list()]})

    async def create_api_key(self, request: Request) -> Response:
        """Make a key; its text is in this answer and nowhere else."""
        body = await _body(request, _API_KEY_KEYS)
        created = await self._key_store().create(
            _text(body, "subject"),
            scopes=_texts(body, "scopes"),
            roles=_texts(body, "roles"),
            client=_text(body, "client") if body.get("client") is not None else None,
            expires_at=int(_moment(body, "expires_at") or 0),
        )
        self._recorded("create_api_key", request, id=created.key.id, subject=created.key.subject)
        return _json({**asdict(created.key), "key": created.text}, 201)

    async def delete_api_key(self, request: Request) -> Response:
        """End a key."""
        key_id = request.path_params["id"]
        if not await self._key_store().delete(key_id):
            raise NotFound("There is no such API key.")
        self._recorded("delete_api_key", request, id=key_id)
        return Response(status_code=204)

    async def reload(self, request: Request) -> Response:
        """Load the configuration again; 422 with everything that is wrong when the one before stays."""
        self._recorded("reload", request)
        try:
            reloaded = await self._controls.reload()
        except ConfigError as error:
            raise ConfigRefused(error) from error
        return _json({"generation": reloaded.generation, "changed": reloaded.changed})

    async def drain(self, request: Request) -> Response:
        """Begin the end, as SIGTERM does; 202 also when it has begun."""
        if not self._runtime.draining:
            self._recorded("drain", request)
            self._controls.end()
        return _json({"draining": True}, 202)

    # Details

    def _guarded(self, path: str, **endpoints: Endpoint) -> Route:
        """A resource for those who have the admin token."""

        def checked(endpoint: Endpoint) -> Endpoint:
            async def guarded(request: Request) -> Response:
                if not self._is_admin(request):
                    self._recorded("refused", request, method=request.method, path=path)
                    raise Unauthorized("The admin token is needed.", realm="gateway-admin")
                try:
                    response = await endpoint(request)
                except GatewayError as error:
                    self._recorded("failed", request, method=request.method, path=path, code=error.code)
                    raise
                except StoreError:
                    self._recorded("failed", request, method=request.method, path=path, code="store_unavailable")
                    raise
                if request.method in ("GET", "HEAD"):
                    self._recorded("read", request, path=path)
                return response

            return guarded

        return resource(path, **{method: checked(endpoint) for method, endpoint in endpoints.items()})

    def _is_admin(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # That of the configuration at work: a reload may have brought another one.
        token = self._runtime.settings.admin.token.encode()
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token)

    def _recorded(self, action: str, request: Request, **detail: Any) -> None:
        """Write an audit record: what was done, and from where (SP 800-53 AU-3)."""
        source = request.client.host if request.client is not None and request.client.host else request.headers.get(SOURCE_FIELD, "")
        self._runtime.telemetry.event("admin", {"action": action, "source": source, **detail})

    def _key_store(self) -> ApiKeyStore:
        store = self._runtime.authenticator.api_keys
        if store is None:
            raise NotFound("API keys are not configured; see authentication.api_keys.")
        return store

    async def _revocation(self, body: Mapping[str, Any]) -> Revocation:
        kind = _text(body, "kind")
        value = _text(body, "value")
        issued_before = _moment(body, "issued_before")
        reason = _text(body, "reason") if body.get("reason") not in (None, "") else ""
        expires_at = _moment(body, "expires_at") or 0.0
        if kind == "token":
            return replace(await self._of_token(value, expires_at), issued_before=issued_before, reason=reason)
        if kind not in KINDS:
            raise BadRequest(f"The kind is none of token, {', '.join(KINDS)}.")
        issuer = _text(body, "issuer") if body.get("issuer") is not None else None
        subject = _text(body, "subject") if body.get("subject") is not None else None
        return Revocation(
            kind=kind,
            value=value,
            issuer=issuer,
            subject=subject,
            issued_before=issued_before,
            expires_at=expires_at,
            reason=reason,
        )

    async def _of_token(self, token: str, expires_at: float) -> Revocation:
        """The entry for a token in hand: its id, of its subject and issuer, until it expires (S-30: never by its text)."""
        if not _TOKEN.fullmatch(token):
            raise BadRequest("The value is not a token.")
        try:
            principal = await self._runtime.authenticator.authenticate(b"Bearer " + token.encode("ascii"), None)
        except Unauthorized as error:
            raise BadRequest("The token is not one that this gateway accepts, so there is nothing to revoke.") from error
        assert principal is not None
        if principal.token_id is None:
            raise BadRequest("The token is opaque and has no jti; revoke it where it was issued, or its subject, session or client here.")
        return Revocation(
            kind="jti",
            value=principal.token_id,
            issuer=principal.issuer,
            subject=principal.subject,
            expires_at=expires_at or principal.expires_at + self._leeway(principal.issuer),
        )

    def _leeway(self, issuer: str) -> float:
        return max((one.leeway for one in self._runtime.settings.authentication.issuers if one.issuer == issuer), default=0.0)


def admin_app(runtime: Runtime, controls: Controls) -> Starlette:
    """The admin site of a process."""
    return AdminSite(runtime, controls).app()


def admin_application(routes: list[Route]) -> Starlette:
    """An application whose every error is a problem document, like those of the data port."""
    handlers = {GatewayError: _render, StoreError: _render_store, HTTPException: _render_http, Exception: _render_internal}
    app = Starlette(routes=routes, exception_handlers=handlers)
    # `/v1/routes/` is no resource, rather than a detour to one.
    app.router.redirect_slashes = False
    return app


def resource(path: str, **endpoints: Endpoint) -> Route:
    """One path with an endpoint for each method; GET answers HEAD too."""

    async def endpoint(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        if method not in endpoints:
            raise MethodNotAllowed(("HEAD", *endpoints) if "GET" in endpoints else tuple(endpoints))
        return await endpoints[method](request)

    return Route(path, endpoint, methods=_EVERY_METHOD)


async def bounded_body(request: Request) -> bytes:
    """The body that came.

    Raises:
        BodyTooLarge: it is longer than anything that the admin API takes.
    """
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY_BYTES:
            raise BodyTooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes.")
    return data


def _json(content: object, status: int = 200) -> Response:
    return Response(orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS), status, media_type="application/json")


def _described(entry: Revocation) -> dict[str, object]:
    return asdict(entry)


async def _body(request: Request, allowed: frozenset[str]) -> Mapping[str, Any]:
    """The JSON object that came, bounded, with no members but the allowed ones."""
    try:
        body = orjson.loads(await bounded_body(request))
    except orjson.JSONDecodeError as exc:
        raise BadRequest("The body is not valid JSON.") from exc
    if not isinstance(body, dict):
        raise BadRequest("The body is not a JSON object.")
    unknown = sorted(body.keys() - allowed)
    if unknown:
        raise BadRequest(f"Unknown members; allowed are {', '.join(sorted(allowed))}.")
    return body


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise BadRequest(f"The member {name!r} must be a text that is not empty.")
    return value


def _texts(body: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = body.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadRequest(f"The member {name!r} must be a list of texts.")
    return tuple(value)


def _moment(body: Mapping[str, Any], name: str) -> float | None:
    """Seconds since the epoch, given so or as RFC 3339."""
    value = body.get(name)
    if value is None:
        return None
    seconds = _seconds(value)
    if seconds is None or not 0 <= seconds < _YEAR_10000:
        raise BadRequest(f"The member {name!r} must be seconds since the epoch, or a time like 2026-01-31T12:00:00Z.")
    return seconds


def _seconds(value: object) -> float | None:
    """What stands for a moment; None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        parsed = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    # Without an offset nobody knows which moment is meant.
    return parsed.timestamp() if parsed is not None and parsed.tzinfo is not None else None


async def _render(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, GatewayError)
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in exc.headers}
    return Response(problem(exc, ""), exc.status, headers, "application/problem+json")


async def _render_store(request: Request, exc: Exception) -> Response:
    return await _render(request, Unavailable("store_unavailable", "The store did not answer; whether the change was made is unknown."))


async def _render_http(request: Request, exc: Exception) -> Response:
    """Starlette's own: no route has the path, or the method is none that anything here answers to."""
    assert isinstance(exc, HTTPException)
    return await _render(
        request, NotFound("There is no such resource.") if exc.status_code == 404 else MethodNotAllowed(("GET", "POST", "DELETE"))
    )


async def _render_internal(request: Request, exc: Exception) -> Response:
    return await _render(request, Internal())
