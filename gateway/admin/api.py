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

from gateway.admin.redaction import redacted
from gateway.admission.revocation import KINDS, Revocation
from gateway.errors import BadRequest, GatewayError, NotFound, Unauthorized, Unavailable, problem
from gateway.store.error import StoreError
from gateway.telemetry.exposition import content_type

if TYPE_CHECKING:
    from gateway.assembly import Runtime
    from gateway.auth.api_keys import ApiKeyStore

Endpoint = Callable[[Request], Awaitable[Response]]

MAX_BODY_BYTES = 64 * 1024
_REVOCATION_KEYS = frozenset(("kind", "value", "issuer", "subject", "issued_before", "expires_at", "reason"))
_API_KEY_KEYS = frozenset(("subject", "scopes", "roles", "client", "expires_at"))
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")


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
                Route("/v1/routes", self._guarded(self.routes)),
                Route("/v1/services", self._guarded(self.services)),
                Route("/v1/config", self._guarded(self.config)),
                Route("/v1/revocations", self._guarded(self.revocations)),
                Route("/v1/revocations", self._guarded(self.revoke), methods=["POST"]),
                Route("/v1/revocations/{kind}/{value:path}", self._guarded(self.unrevoke), methods=["DELETE"]),
                Route("/v1/api-keys", self._guarded(self.api_keys)),
                Route("/v1/api-keys", self._guarded(self.create_api_key), methods=["POST"]),
                Route("/v1/api-keys/{id}", self._guarded(self.delete_api_key), methods=["DELETE"]),
            ],
            exception_handlers={GatewayError: _render, StoreError: _render_store, HTTPException: _render_http},
        )

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
        return Response(self._runtime.telemetry.render(accept), headers={"content-type": content_type(accept)})

    # For the admin token

    async def routes(self, request: Request) -> Response:
        """The route table, in match order."""
        return _json({"generation": self._runtime.generation, "routes": [redacted(route) for route, _ in self._runtime.routes.entries]})

    async def services(self, request: Request) -> Response:
        """Services with their instances and live state."""
        return _json({"services": self._runtime.directory.describe()})

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
        self._recorded("revoke", kind=entry.kind, value=entry.value, subject=entry.subject, reason=entry.reason)
        return _json(_described(entry), 201)

    async def unrevoke(self, request: Request) -> Response:
        """Remove an entry."""
        kind, value = request.path_params["kind"], request.path_params["value"]
        if kind not in KINDS:
            raise BadRequest(f"The kind is none of {', '.join(KINDS)}.")
        if not await self._runtime.revocations.remove(kind, value):
            raise NotFound("Nothing of this kind and value is revoked.")
        self._recorded("unrevoke", kind=kind, value=value)
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
        self._recorded("create_api_key", id=created.key.id, subject=created.key.subject)
        return _json({**asdict(created.key), "key": created.text}, 201)

    async def delete_api_key(self, request: Request) -> Response:
        """End a key."""
        key_id = request.path_params["id"]
        if not await self._key_store().delete(key_id):
            raise NotFound("There is no such API key.")
        self._recorded("delete_api_key", id=key_id)
        return Response(status_code=204)

    # Details

    def _guarded(self, endpoint: Endpoint) -> Endpoint:
        async def guarded(request: Request) -> Response:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token):
                self._recorded("refused", path=request.scope["path"])
                raise Unauthorized("The admin token is needed.", realm="gateway-admin")
            return await endpoint(request)

        return guarded

    def _recorded(self, action: str, **detail: Any) -> None:
        self._runtime.telemetry.event("admin", {"action": action, **detail})

    def _key_store(self) -> ApiKeyStore:
        store = self._runtime.authenticator.api_keys
        if store is None:
            raise NotFound("API keys are not configured; see authentication.api_keys.")
        return store

    async def _revocation(self, body: Mapping[str, Any]) -> Revocation:
        kind = _text(body, "kind")
        value = _text(body, "value")
        issued_before = _moment(body, "issued_before")
        reason = _text(body, "reason") if body.get("reason") else ""
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
            raise BadRequest("The token has no jti; revoke its subject, session or client instead.")
        return Revocation(
            kind="jti",
            value=principal.token_id,
            issuer=principal.issuer,
            subject=principal.subject,
            expires_at=expires_at or principal.expires_at + self._leeway(principal.issuer),
        )

    def _leeway(self, issuer: str) -> float:
        return max((one.leeway for one in self._runtime.settings.authentication.issuers if one.issuer == issuer), default=0.0)


def admin_app(runtime: Runtime) -> Starlette:
    """The admin site of a process."""
    return AdminSite(runtime, runtime.settings.admin.token).app()


def _json(content: object, status: int = 200) -> Response:
    return Response(orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS), status, media_type="application/json")


def _described(entry: Revocation) -> dict[str, object]:
    return asdict(entry)


async def _body(request: Request, allowed: frozenset[str]) -> Mapping[str, Any]:
    """The JSON object that came, bounded, with no members but the allowed ones."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY_BYTES:
            raise BadRequest(f"The body is larger than {MAX_BODY_BYTES} bytes.")
    try:
        body = orjson.loads(data)
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
    if isinstance(value, str):
        try:
            parsed = datetime.fromisoformat(value)
        except ValueError:
            parsed = None
        if parsed is not None and parsed.tzinfo is not None:
            return parsed.timestamp()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise BadRequest(f"The member {name!r} must be seconds since the epoch, or a time like 2026-01-31T12:00:00Z.")


async def _render(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, GatewayError)
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in exc.headers}
    return Response(problem(exc, ""), exc.status, headers, "application/problem+json")


async def _render_store(request: Request, exc: Exception) -> Response:
    return await _render(request, Unavailable("store_unavailable", "The store did not answer; whether the change was made is unknown."))


async def _render_http(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    error = GatewayError(exc.detail, code={404: "not_found", 405: "method_not_allowed"}.get(exc.status_code, "bad_request"))
    error.status, error.title = exc.status_code, exc.detail  # type: ignore[misc]  # this instance's instead of the class's
    error.headers = [(name.lower().encode(), value.encode()) for name, value in (exc.headers or {}).items()]
    return await _render(request, error)
