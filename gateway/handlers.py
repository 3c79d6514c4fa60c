"""Python functions as route targets: the request they get, and what may come back."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Address, Headers, QueryParams, State
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.errors import BadRequest, GatewayError, Internal
from gateway.route import ASGIApp
from gateway.upstream.http1 import ClientGone

if TYPE_CHECKING:
    from gateway.auth.principal import Principal
    from gateway.certificates import ClientCertificate
    from gateway.exchange import Exchange
    from gateway.route import Route

logger = logging.getLogger("gateway.handlers")

HandlerResult = Mapping[str, Any] | Response
Handler = Callable[["GatewayRequest"], HandlerResult | Awaitable[HandlerResult]]

#: Codes of CONTRACT section 5 for a status that a handler chose with HTTPException.
_CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    429: "rate_limited",
    500: "internal",
    502: "bad_gateway",
    503: "overloaded",
    504: "gateway_timeout",
}
_RESULT_KEYS = frozenset(("status", "data", "headers"))
#: A name in a program. Identifiers of records have digits in them.
_WORD = re.compile(r"[A-Za-z_]{1,40}")
_TOLD_KEYS = 8


class GatewayRequest:
    """What a handler gets.

    Args:
        request: Starlette's, whose body has been read.
        exchange: the gateway's side of it.
        body: the whole body, within the route's bound.
    """

    __slots__ = ("_exchange", "_json", "_request", "body")

    def __init__(self, request: Request, exchange: Exchange, body: bytes) -> None:
        self._request = request
        self._exchange = exchange
        self._json: tuple[Any] | None = None
        self.body = body

    def __repr__(self) -> str:
        return f"<GatewayRequest {self.method} route={self.route.name}>"

    @property
    def method(self) -> str:
        """As it came, upper case."""
        return self._request.method

    @property
    def path(self) -> str:
        """The decoded path."""
        return cast(str, self._request.scope["path"])

    @property
    def path_params(self) -> Mapping[str, Any]:
        """Parameters of the route's path, converted: `{id:int}` is an int."""
        return self._exchange.path_params

    @property
    def query_params(self) -> QueryParams:
        """Decoded query parameters."""
        return self._request.query_params

    @property
    def headers(self) -> Headers:
        """Request fields, names without case."""
        return self._request.headers

    @property
    def cookies(self) -> Mapping[str, str]:
        """Cookies by name."""
        return self._request.cookies

    @property
    def client(self) -> Address:
        """The client's address, as trusted proxies report it; the port is the socket's."""
        return Address(self._exchange.client_ip, self._exchange.peer.port)

    @property
    def principal(self) -> Principal | None:
        """Who is asking; None on a route that needs no authentication and got none."""
        return self._exchange.principal

    @property
    def client_certificate(self) -> ClientCertificate | None:
        """The certificate that the client has shown, verified; None where it showed none, or none is asked for."""
        return self._exchange.certificate

    @property
    def route(self) -> Route:
        """The route that matched."""
        plan = self._exchange.plan
        assert plan is not None
        return plan.route

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits; also in the audit record and in error answers."""
        return self._exchange.observation.trace.trace_id_hex

    @property
    def state(self) -> State:
        """Free for the application's own use during this request."""
        return self._request.state

    @property
    def json_body(self) -> Any:
        """The body parsed as JSON.

        Raises:
            BadRequest: it is no JSON (RFC 8259); not raised when nobody reads it.
        """
        if self._json is None:
            try:
                self._json = (orjson.loads(self.body),)
            except orjson.JSONDecodeError as exc:
                raise BadRequest("The request body is not valid JSON.", reason="body_json") from exc
        return self._json[0]


class HandlerRefusal(GatewayError):
    """A handler's HTTPException, with whatever status it chose."""

    def __init__(self, exc: HTTPException) -> None:
        status = exc.status_code
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in (exc.headers or {}).items()]
        super().__init__(exc.detail, code=_CODES.get(status, "handler"), reason=f"handler_{status}", headers=headers)
        self.status = status  # type: ignore[misc]  # an instance's status instead of the class's
        self.title = _phrase(status)  # type: ignore[misc]


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def handler_app(handler: Handler, where: str) -> ASGIApp:
    """An ASGI application that calls a handler: sync ones in a worker thread, async ones on the event loop.

    Args:
        handler: takes a `GatewayRequest`; returns a mapping with `data`, optional `status` and `headers`, or a Starlette `Response`.
        where: its name in logs.
    """
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None)):  # noqa: B004
        call = cast("Callable[[GatewayRequest], Awaitable[HandlerResult]]", handler)
    else:
        sync = cast("Callable[[GatewayRequest], HandlerResult]", handler)

        async def call(request: GatewayRequest) -> HandlerResult:
            return await run_in_threadpool(sync, request)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        starlette_request = Request(scope, receive, send)
        exchange = scope["state"]["exchange"]
        try:
            request = GatewayRequest(starlette_request, exchange, await starlette_request.body())
            result = await call(request)
        except ClientDisconnect as exc:
            raise ClientGone from exc
        except HTTPException as exc:
            raise HandlerRefusal(exc) from exc
        response = handler_response(result, where)
        await response(scope, receive, send)

    return app


def handler_response(result: object, where: str) -> Response:
    """The response that a handler's result stands for.

    Raises:
        Internal: it is nothing that a handler may return; the log says what came back.
    """
    if isinstance(result, Response):
        return result
    problem = _result_problem(result)
    if problem:
        logger.error("handler %s returned %s", where, problem)
        raise Internal(reason="handler_result")
    mapping = cast("Mapping[str, Any]", result)
    headers = {str(name): str(value) for name, value in (mapping.get("headers") or {}).items()}
    try:
        body = orjson.dumps(mapping.get("data"), option=orjson.OPT_NON_STR_KEYS)
    except TypeError as exc:
        logger.error("handler %s returned data that is no JSON: %s", where, exc)
        raise Internal(reason="handler_result") from exc
    status = mapping.get("status", 200)
    if status in (204, 304):
        body = b""
    return Response(body, status_code=status, headers=headers, media_type="application/json")


def _told(keys: Sequence[object]) -> str:
    """Keys for a log: those that a programmer may have written, because others may be anybody's data too."""
    words = [repr(key) if isinstance(key, str) and _WORD.fullmatch(key) else f"(a {type(key).__name__})" for key in keys[:_TOLD_KEYS]]
    return ", ".join(words) + (", ..." if len(keys) > _TOLD_KEYS else "")


def _result_problem(result: object) -> str:
    """What is wrong with a handler's result; empty when nothing is. Names types and keys only: values may be anybody's data."""
    if not isinstance(result, Mapping):
        return f"a {type(result).__name__}; a mapping with 'status', 'data', 'headers' or a Starlette Response is needed"
    unknown = [key for key in result if key not in _RESULT_KEYS]
    if unknown:
        return f"a mapping with the keys {_told(unknown)}; only 'status', 'data' and 'headers' are allowed"
    status = result.get("status", 200)
    if type(status) is not int or not 200 <= status <= 599:
        return f"a status of type {type(status).__name__} or out of range; an integer from 200 to 599 is needed"
    headers = result.get("headers")
    if headers is not None and not isinstance(headers, Mapping):
        return f"headers of type {type(headers).__name__}; a mapping is needed"
    return ""
