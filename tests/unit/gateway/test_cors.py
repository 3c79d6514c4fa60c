"""Cross-origin rules as header lines."""

import pytest

from gateway.cors import PREFLIGHT_STATUS, CorsRules, compile_cors
from gateway.errors import ConfigError
from gateway.route import Cors

CLINIC = b"https://clinic.example.gov"
OTHER = b"https://evil.example"


def fields(lines: bytes) -> dict[str, str]:
    """Header lines as a mapping; a field that comes twice is an error."""
    pairs = [line.split(": ", 1) for line in lines.decode("ascii").split("\r\n")[:-1]]
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


def rules(
    origins: tuple[str, ...] = ("https://clinic.example.gov",),
    *,
    methods: tuple[str, ...] = (),
    headers: tuple[str, ...] = (),
    expose: tuple[str, ...] = (),
    credentials: bool = False,
    max_age: int = 600,
) -> CorsRules:
    cors = Cors(origins=origins, methods=methods, headers=headers, expose=expose, credentials=credentials, max_age=max_age)
    return compile_cors(cors, ("GET", "POST"), "gateway.yaml:9")


def test_an_allowed_origin_may_read_the_answer() -> None:
    lines = rules(expose=("X-Request-Id", "RateLimit")).simple(CLINIC)
    assert fields(lines) == {
        "access-control-allow-origin": "https://clinic.example.gov",
        "access-control-expose-headers": "X-Request-Id, RateLimit",
        "vary": "origin",
    }


@pytest.mark.parametrize(
    "origin",
    [
        OTHER,
        b"https://CLINIC.example.gov",
        b"https://clinic.example.gov:443",
        b"http://clinic.example.gov",
        CLINIC + b".evil.example",
        b"null",
        b"",
        None,
    ],
)
def test_another_origin_is_told_nothing_but_caches_are(origin: bytes | None) -> None:
    """Origins are compared exactly; the answer varies with the origin either way."""
    assert rules().simple(origin) == b"vary: origin\r\n"


def test_a_wildcard_serves_everybody_without_vary() -> None:
    anyone = rules(("*",))
    assert anyone.simple(OTHER) == b"access-control-allow-origin: *\r\n"
    assert anyone.simple(None) == b"access-control-allow-origin: *\r\n"


def test_credentials_are_allowed_to_named_origins() -> None:
    assert fields(rules(credentials=True).simple(CLINIC))["access-control-allow-credentials"] == "true"
    assert b"credentials" not in rules(credentials=True).simple(OTHER)


def test_a_preflight_is_answered_with_what_is_allowed() -> None:
    assert PREFLIGHT_STATUS == 204
    lines = rules(headers=("Content-Type", "Authorization"), credentials=True, max_age=60).preflight(
        CLINIC, b"POST", b"content-type, AUTHORIZATION"
    )
    assert lines is not None
    assert fields(lines) == {
        "access-control-allow-origin": "https://clinic.example.gov",
        "access-control-allow-credentials": "true",
        "access-control-allow-methods": "GET, POST",
        "access-control-allow-headers": "Content-Type, Authorization",
        "access-control-max-age": "60",
        "vary": "origin, access-control-request-method, access-control-request-headers",
    }


@pytest.mark.parametrize(
    ("origin", "method", "headers"),
    [
        (OTHER, b"GET", b""),
        (CLINIC, b"DELETE", b""),
        (CLINIC, b"get", b""),
        (CLINIC, b"GET", b"x-secret"),
        (CLINIC, b"GET", b"content-type,x-secret"),
    ],
)
def test_a_preflight_that_asks_for_more_is_granted_nothing(origin: bytes, method: bytes, headers: bytes) -> None:
    lines = rules(headers=("Content-Type",)).preflight(origin, method, headers)
    assert lines is not None
    assert list(fields(lines)) == ["vary"]


def test_the_methods_of_the_rules_come_before_those_of_the_route() -> None:
    lines = rules(methods=("PUT",)).preflight(CLINIC, b"PUT", b"")
    assert lines is not None
    assert fields(lines)["access-control-allow-methods"] == "PUT"


def test_a_wildcard_preflight_serves_everybody() -> None:
    lines = rules(("*",)).preflight(OTHER, b"GET", b" , ")
    assert lines is not None
    assert fields(lines)["access-control-allow-origin"] == "*"


def test_a_route_without_rules_adds_nothing_and_answers_no_preflight() -> None:
    none = compile_cors(None, ("GET",))
    assert none.simple(CLINIC) == b""
    assert none.preflight(CLINIC, b"GET", b"") is None


@pytest.mark.parametrize(
    ("cors", "message"),
    [
        (Cors(origins=()), "at least one origin"),
        (Cors(origins=("*",), credentials=True), "excludes credentials"),
        (Cors(origins=("*", "https://a.example")), "excludes credentials"),
        (Cors(origins=("https://a.example/",)), "no path"),
        (Cors(origins=("https://A.example",)), "lower case"),
        (Cors(origins=("a.example",)), "scheme://host"),
        (Cors(origins=("https://*.example",)), "scheme://host"),
        (Cors(origins=("https://a.example\r\nx: y",)), "scheme://host"),
        (Cors(origins=("null",), credentials=True), "origin null"),
        (Cors(origins=("https://a.example",), headers=("x y",)), "'x y'"),
        (Cors(origins=("https://a.example",), headers=("*",)), r"'\*'"),
        (Cors(origins=("https://a.example",), expose=("a\r\nb",)), "no method or field name"),
        (Cors(origins=("https://a.example",), methods=("",)), "no method or field name"),
        (Cors(origins=("https://a.example",), max_age=-1), "0 or more"),
    ],
)
def test_unusable_rules_are_refused(cors: Cors, message: str) -> None:
    """CONTRACT 3: the message says which value, where, and what is allowed; no wildcard with credentials."""
    with pytest.raises(ConfigError, match=message) as problem:
        compile_cors(cors, ("GET",), "gateway.yaml:9")
    assert str(problem.value).startswith("gateway.yaml:9: cors")
