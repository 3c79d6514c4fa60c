"""What clients are told: one document for every error, and nothing in it that they should not see."""

import inspect
from collections.abc import Iterator

import orjson
import pytest

from gateway import errors
from gateway.errors import GatewayError, problem

TRACE = "0af7651916cd43dd8448eb211c80319c"

#: CONTRACT 5, the whole table.
CODES = {
    400: {"bad_request"},
    401: {"unauthorized"},
    403: {"forbidden"},
    404: {"not_found"},
    405: {"method_not_allowed"},
    408: {"request_timeout"},
    413: {"body_too_large"},
    414: {"uri_too_long"},
    426: {"bad_request"},
    429: {"rate_limited"},
    431: {"headers_too_large"},
    500: {"internal"},
    502: {"bad_gateway"},
    503: {"overloaded"},
    504: {"gateway_timeout"},
}


def leaves() -> Iterator[type[GatewayError]]:
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, GatewayError) and kind is not GatewayError:
            yield kind


def document(error: GatewayError) -> dict[str, object]:
    loaded = orjson.loads(problem(error, TRACE))
    assert isinstance(loaded, dict)
    return loaded


def test_the_tree_has_every_status_of_the_contract() -> None:
    """CONTRACT 5: status and default code of every error."""
    found: dict[int, set[str]] = {}
    for kind in leaves():
        found.setdefault(kind.status, set()).add(kind.default_code)
    assert found == CODES


def test_an_error_is_a_problem_document() -> None:
    """CONTRACT 5, RFC 9457: the members, and no others."""
    assert document(errors.NotFound()) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "No route matches this request.",
        "code": "not_found",
        "trace_id": TRACE,
    }


def test_a_reason_is_for_records_only() -> None:
    """S-41: what an operator needs is not what a client sees."""
    error = errors.BadGateway(reason="upstream_connect_failure")
    assert error.reason == "upstream_connect_failure"
    assert "upstream_connect_failure" not in str(document(error))
    assert errors.BadGateway().reason == "bad_gateway"


@pytest.mark.parametrize("code", ["token_invalid", "token_expired", "token_revoked"])
def test_credentials_that_do_not_hold_are_called_invalid(code: str) -> None:
    """RFC 6750 section 3.1."""
    assert errors.Unauthorized(code=code).headers == [(b"www-authenticate", b'Bearer realm="gateway", error="invalid_token"')]


def test_missing_credentials_get_a_challenge_without_an_error() -> None:
    """CONTRACT 5: no `error=` when no credentials came."""
    assert errors.Unauthorized(realm="hms").headers == [(b"www-authenticate", b'Bearer realm="hms"')]


def test_a_missing_scope_is_named() -> None:
    """CONTRACT 5: 403 with the scope that would have been enough."""
    challenge = b'Bearer realm="gateway", error="insufficient_scope"'
    assert errors.Forbidden(scope="claims:write").headers == [(b"www-authenticate", challenge + b', scope="claims:write"')]
    assert errors.Forbidden().headers == [(b"www-authenticate", challenge)]


def test_a_rate_limit_names_every_violated_policy() -> None:
    """CONTRACT 5: `violated-policies` on a 429."""
    error = errors.RateLimited(("per-client", "daily"), [(b"retry-after", b"3")])
    assert document(error)["violated-policies"] == ["per-client", "daily"]
    assert error.headers == [(b"retry-after", b"3")]


def test_unavailable_says_when_to_come_back() -> None:
    """CONTRACT 5: `Retry-After` on a 503."""
    error = errors.Unavailable("store_unavailable", retry_after=7)
    assert (error.code, error.headers) == ("store_unavailable", [(b"retry-after", b"7")])


def test_headers_of_one_error_are_not_those_of_another() -> None:
    one, two = errors.NotFound(), errors.NotFound()
    one.headers.append((b"x", b"y"))
    assert two.headers == []


def test_only_messages_that_cannot_be_trusted_close_the_connection() -> None:
    """RFC 9112 section 11.2: a bad body leaves the framing intact, a bad message does not."""
    assert {kind.__name__ for kind in leaves() if kind.close} == {
        "BodyTooLarge",
        "HeadersTooLarge",
        "MalformedMessage",
        "RequestTimeout",
        "UriTooLong",
    }


def test_a_configuration_error_is_no_answer() -> None:
    assert not issubclass(errors.ConfigError, GatewayError)
