"""The error tree, and what each error looks like to a client.

GatewayError
├── BadRequest 400            bad_request
├── Unauthorized 401          unauthorized | token_invalid | token_expired | token_revoked
├── Forbidden 403             forbidden
├── NotFound 404              not_found
├── MethodNotAllowed 405      method_not_allowed
├── RequestTimeout 408        request_timeout
├── BodyTooLarge 413          body_too_large
├── UriTooLong 414            uri_too_long
├── RateLimited 429           rate_limited
├── UpgradeRequired 426       bad_request
├── HeadersTooLarge 431       headers_too_large
├── Internal 500              internal
├── BadGateway 502            bad_gateway
├── Unavailable 503           store_unavailable | no_instance | overloaded | draining
└── GatewayTimeout 504        gateway_timeout

ConfigError stands beside the tree: it is raised at start, never during a request.

Answers are `application/problem+json` (RFC 9457). `detail` is a fixed sentence an error class or its raiser chose: it never repeats a
token, a header value, a body or an upstream address. What an operator needs beyond it goes into `reason`, which only records see.
"""

from __future__ import annotations

from typing import ClassVar

import orjson

Headers = list[tuple[bytes, bytes]]


class ConfigError(Exception):
    """The configuration can't be used. The message says which value, where, and what is allowed."""


class GatewayError(Exception):
    """Base of every refusal and failure that a client is told about.

    Args:
        detail: a sentence for the client; the class's own when empty.
        code: one of the codes that the class allows; the class's own when empty.
        reason: a short machine-readable word for records only (`upstream_connect_failure`); the code when empty.
        headers: extra response fields, such as `Retry-After`.
    """

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal Server Error"
    default_code: ClassVar[str] = "internal"
    default_detail: ClassVar[str] = "The request could not be completed."
    #: Whether the connection is closed after the answer.
    close: ClassVar[bool] = False

    def __init__(self, detail: str = "", *, code: str = "", reason: str = "", headers: Headers | None = None) -> None:
        self.detail = detail or self.default_detail
        self.code = code or self.default_code
        self.reason = reason or self.code
        self.headers: Headers = headers if headers is not None else []
        super().__init__(self.detail)

    def members(self) -> dict[str, object]:
        """Members of the problem document beyond the common ones."""
        return {}


class BadRequest(GatewayError):
    """Malformed HTTP, path, or body."""

    status = 400
    title = "Bad Request"
    default_code = "bad_request"
    default_detail = "The request is malformed."


class MalformedMessage(BadRequest):
    """The message itself can't be trusted, so neither can what follows it on the connection (RFC 9112 section 11.2)."""

    close = True


class Unauthorized(GatewayError):
    """No credentials, or credentials that do not hold (RFC 6750 section 3).

    The `WWW-Authenticate` field carries `error="invalid_token"` only when credentials came.
    """

    status = 401
    title = "Unauthorized"
    default_code = "unauthorized"
    default_detail = "Authentication is required."

    def __init__(self, detail: str = "", *, code: str = "", reason: str = "", realm: str = "gateway") -> None:
        super().__init__(detail, code=code, reason=reason)
        challenge = f'Bearer realm="{realm}"'
        if self.code != "unauthorized":
            challenge += ', error="invalid_token"'
        self.headers = [(b"www-authenticate", challenge.encode())]


class Forbidden(GatewayError):
    """The principal is known but may not do this (RFC 6750 section 3.1).

    Args:
        scope: the space-separated scopes that would have been enough, when scopes are what was missing.
    """

    status = 403
    title = "Forbidden"
    default_code = "forbidden"
    default_detail = "The token does not permit this request."

    def __init__(self, detail: str = "", *, scope: str = "", reason: str = "", realm: str = "gateway") -> None:
        super().__init__(detail, reason=reason)
        challenge = f'Bearer realm="{realm}", error="insufficient_scope"' + (f', scope="{scope}"' if scope else "")
        self.headers = [(b"www-authenticate", challenge.encode())]


class CertificateForbidden(Forbidden):
    """The client's certificate, or that there is none, forbids this on its connection. Another token would change nothing."""

    default_detail = "The client certificate does not permit this request."

    def __init__(self, detail: str = "", *, reason: str = "") -> None:
        super().__init__(detail, reason=reason)
        self.headers = []


class OriginRefused(GatewayError):
    """A page of this origin may not open a WebSocket here; another token would not help."""

    status = 403
    title = "Forbidden"
    default_code = "forbidden"
    default_detail = "Pages of this origin may not open a connection here."

    def __init__(self) -> None:
        super().__init__(reason="origin")


class NotFound(GatewayError):
    """No route has this host and path."""

    status = 404
    title = "Not Found"
    default_code = "not_found"
    default_detail = "No route matches this request."


class MethodNotAllowed(GatewayError):
    """The path exists, the method does not.

    Args:
        allow: the methods that would match, in table order.
    """

    status = 405
    title = "Method Not Allowed"
    default_code = "method_not_allowed"
    default_detail = "This path does not accept the method."

    def __init__(self, allow: tuple[str, ...]) -> None:
        super().__init__(headers=[(b"allow", ", ".join(allow).encode())])
        self.allow = allow


class RequestTimeout(GatewayError):
    """The client took too long to send its request."""

    status = 408
    title = "Request Timeout"
    default_code = "request_timeout"
    default_detail = "The request was not received in time."
    close = True


class BodyTooLarge(GatewayError):
    """The body is larger than the route or the server accepts."""

    status = 413
    title = "Content Too Large"
    default_code = "body_too_large"
    default_detail = "The request body is larger than this route accepts."
    close = True


class UriTooLong(GatewayError):
    """The request target is longer than the server accepts."""

    status = 414
    title = "URI Too Long"
    default_code = "uri_too_long"
    default_detail = "The request target is too long."
    close = True


class UpgradeRequired(GatewayError):
    """The protocol that the client offers exists, but not in this version (RFC 9110 section 15.5.22, RFC 6455 section 4.4).

    Args:
        protocol: its name.
        headers: fields that say which version there is.
    """

    status = 426
    title = "Upgrade Required"
    default_code = "bad_request"
    default_detail = "This version of the protocol is not supported."

    def __init__(self, protocol: bytes, headers: Headers) -> None:
        super().__init__(reason="upgrade_version", headers=[(b"connection", b"upgrade"), (b"upgrade", protocol), *headers])


class HeadersTooLarge(GatewayError):
    """More header bytes or fields than the server accepts (RFC 6585 section 5)."""

    status = 431
    title = "Request Header Fields Too Large"
    default_code = "headers_too_large"
    default_detail = "The request header is too large."
    close = True


class RateLimited(GatewayError):
    """One or more limits refused the request.

    Args:
        policies: names of every violated limit.
        headers: `Retry-After`, `RateLimit` and `RateLimit-Policy`.
    """

    status = 429
    title = "Too Many Requests"
    default_code = "rate_limited"
    default_detail = "A rate limit refused the request; Retry-After says when to come back."

    def __init__(self, policies: tuple[str, ...], headers: Headers) -> None:
        super().__init__(headers=headers)
        self.policies = policies

    def members(self) -> dict[str, object]:
        return {"violated-policies": list(self.policies)}


class Internal(GatewayError):
    """A handler failed, or we did."""


class BadGateway(GatewayError):
    """The upstream could not be reached or did not speak HTTP; `reason` starts with `upstream_`."""

    status = 502
    title = "Bad Gateway"
    default_code = "bad_gateway"
    default_detail = "The service behind the gateway did not answer properly."


class Unavailable(GatewayError):
    """We can't take the request now.

    Args:
        code: `store_unavailable`, `no_instance`, `overloaded` or `draining`.
        retry_after: whole seconds for `Retry-After`.
    """

    status = 503
    title = "Service Unavailable"
    default_code = "overloaded"
    default_detail = "The request can't be served now."

    def __init__(self, code: str, detail: str = "", *, reason: str = "", retry_after: int = 1) -> None:
        super().__init__(detail, code=code, reason=reason, headers=[(b"retry-after", b"%d" % retry_after)])


class GatewayTimeout(GatewayError):
    """The upstream did not answer in time."""

    status = 504
    title = "Gateway Timeout"
    default_code = "gateway_timeout"
    default_detail = "The service behind the gateway did not answer in time."


def problem(error: GatewayError, trace_id: str) -> bytes:
    """The problem document of an error, as UTF-8 JSON (RFC 9457 section 3)."""
    document: dict[str, object] = {
        "type": "about:blank",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "trace_id": trace_id,
    }
    document.update(error.members())
    return orjson.dumps(document)
