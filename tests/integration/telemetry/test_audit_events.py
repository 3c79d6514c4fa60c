"""S-34, S-35: every event that has to leave a record leaves one, with its fields; AU-12: what is recorded is chosen."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.identity_provider import Answer, identity_provider
from tests.support.redis_server import RedisServer, any_server
from tests.support.whole_gateway import Json, Login, ProcessGateway, Upstream, base_document, running, upstream

#: Members that every record has (AU-3), and those of a request's.
EVERY = {"time", "seq", "replica", "event", "prev", "hash"}
REQUEST = {
    "trace_id",
    "request_id",
    "source",
    "principal",
    "request",
    "decision",
    "reason",
    "limits",
    "response",
    "upstream",
    "duration_ms",
    "generation",
}


@dataclass
class Scene:
    gateway: ProcessGateway
    login: Login
    server: RedisServer
    configuration: Path
    document: Json

    def get(self, path: str, *scopes: str, subject: str = "alice", **claims: Any) -> str:
        """The request id of a request with a token."""
        return self.ask(path, self.login.bearer(subject, *scopes, **claims))

    def ask(self, path: str, headers: dict[str, str]) -> str:
        return self.gateway.request("GET", path, headers=headers).headers["X-Request-Id"]

    def raw(self, message: bytes) -> str:
        """The request id of a message that is sent as it is."""
        host, _, port = self.gateway.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), 10) as connection:
            connection.sendall(message)
            answer = b""
            while data := connection.recv(65536):
                answer += data
        return next(line.split()[1] for line in answer.decode().splitlines() if line.lower().startswith("x-request-id:"))


@pytest.fixture(scope="module")
def around(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Login, RedisServer, Upstream]]:
    with identity_provider() as provider, any_server("redis") as server, upstream("patients-1") as service:
        yield Login.at(provider, tmp_path_factory.mktemp("login")), server, service


@contextmanager
def scene(directory: Path, around: tuple[Login, RedisServer, Upstream], **audit: object) -> Iterator[Scene]:
    login, server, service = around
    document = base_document(
        directory,
        state={"url": f"redis://127.0.0.1:{server.port}/0", "budget": "2s"},
        authentication=login.authentication,
        services={"patients": {"instances": [service.url]}, "gone": {"instances": ["http://127.0.0.1:1"]}},
        limits={"scarce": {"rate": "1/hour", "key": "subject"}},
        routes=[
            {"name": "open", "path": "/open", "service": "patients", "when_unavailable": "open"},
            {"name": "scoped", "path": "/scoped", "service": "patients", "scopes": ["patients:write"]},
            {"name": "limited", "path": "/limited", "service": "patients", "limits": ["scarce"]},
            {"name": "gone", "path": "/gone", "service": "gone", "authentication": "none"},
        ],
    )
    document["audit"] |= audit
    with running(directory, document) as gateway:
        yield Scene(gateway, login, server, directory / "gateway.yaml", document)


def limited(scene: Scene) -> str:
    scene.get("/limited", subject="bob")
    return scene.get("/limited", subject="bob")


def revoked(scene: Scene) -> str:
    answer = scene.gateway.admin("POST", "/v1/revocations", json={"kind": "subject", "value": "mallory"})
    assert answer.status_code == 201
    return scene.get("/open", subject="mallory")


# What happens -> the request's id, and members of its record.
REQUESTS: dict[str, tuple[Callable[[Scene], str], Json]] = {
    "authentication succeeded": (lambda scene: scene.get("/open"), {"decision": "allow", "reason": None}),
    "no credentials": (lambda scene: scene.ask("/open", {}), {"decision": "deny", "reason": "unauthorized", "principal": None}),
    "a token that does not hold": (
        lambda scene: scene.ask("/open", {"Authorization": "Bearer a.b.c"}),
        {"decision": "deny", "reason": "token_invalid", "principal": None},
    ),
    "a token that has expired": (
        lambda scene: scene.get("/open", iat=1_000_000_000, exp=1_000_000_100),
        {"decision": "deny", "reason": "token_expired", "principal": None},
    ),
    "a revoked subject": (revoked, {"decision": "deny", "reason": "token_revoked", "detail": "revoked_subject"}),
    "a scope is missing": (lambda scene: scene.get("/scoped"), {"decision": "deny", "reason": "forbidden"}),
    "a limit refused": (limited, {"decision": "deny", "reason": "rate_limited", "limited": ["scarce"]}),
    "malformed": (
        lambda scene: scene.raw(b"GET /open HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        {"decision": "deny", "reason": "bad_request"},
    ),
    "unreadable": (lambda scene: scene.raw(b"\x16\x03\x01\r\n\r\n"), {"decision": "deny", "reason": "bad_request"}),
    "a path that can be read in two ways": (lambda scene: scene.ask("/a%2fb", {}), {"decision": "deny", "reason": "bad_request"}),
    "no route": (lambda scene: scene.ask("/nowhere", {}), {"decision": "deny", "reason": "not_found"}),
    "the upstream is not there": (lambda scene: scene.ask("/gone", {}), {"decision": "allow", "reason": "upstream_connect_failure"}),
}


def test_every_event_leaves_its_record(tmp_path: Path, around: tuple[Login, RedisServer, Upstream]) -> None:
    """S-34, S-35, S-36: by a table: what happened, what is recorded; who, from where, which route, and how it ended."""
    with scene(tmp_path, around) as here:
        gateway = here.gateway
        for what, (happen, expected) in REQUESTS.items():
            request_id = happen(here)
            record = gateway.wait_for_record(lambda each, request_id=request_id: each.get("request_id") == request_id, what)
            assert {name: record.get(name) for name in expected} == expected, what
            assert record.keys() >= EVERY | REQUEST, what
            assert record["time"].endswith("Z"), what
            assert record["source"]["ip"] == record["source"]["peer_ip"] == "127.0.0.1", what
            assert (record["principal"] is None) == (expected["reason"] not in (None, "token_revoked", "forbidden", "rate_limited")), what

        def told(what: str, event: str, **detail: object) -> None:
            def fits(each: Json) -> bool:
                return bool(each["event"] == event and detail.items() <= each["detail"].items())

            assert gateway.wait_for_record(fits, what).keys() >= EVERY | {"detail"}

        told("start", "start", generation=1)
        told("a revocation", "admin", action="revoke", kind="subject", value="mallory", source="127.0.0.1")
        assert gateway.admin("GET", "/v1/config").status_code == 200
        told("a look at the configuration", "admin", action="read", path="/v1/config", source="127.0.0.1")
        assert gateway.admin("GET", "/v1/config", token="").status_code == 401
        told("a call without the token", "admin", action="refused", path="/v1/config")
        assert gateway.admin("POST", "/v1/revocations", json={"kind": "nonsense", "value": "x"}).status_code == 400
        told("a call that failed", "admin", action="failed", path="/v1/revocations", code="bad_request")
        here.document["routes"].append({"name": "more", "path": "/more", "service": "patients"})
        here.configuration.write_text(json.dumps(here.document))
        told("a configuration", "config", result="accepted", generation=2)
        here.server.kill()
        told("the store is away", "dependency", dependency="store", state="away")
        record_id = here.get("/open")
        record = gateway.wait_for_record(lambda each: each.get("request_id") == record_id, "a decision without the store")
        assert (record["decision"], record["store_mode"]) == ("allow", "open")
        here.server.start_again()
        told("the store is back", "dependency", dependency="store", state="back")
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.wait() == 0
    told("a drain", "admin", action="drain")
    assert gateway.records()[-1]["event"] == "stop"


def test_what_is_recorded_is_chosen(tmp_path: Path, around: tuple[Login, RedisServer, Upstream]) -> None:
    """AU-12: some events and not others; the chain knows nothing of the rest, and the life of the process is always recorded."""
    with scene(tmp_path, around, events=["denied", "config"]) as here:
        for path in ("/open", "/scoped", "/open", "/nowhere"):
            here.get(path)
        assert here.gateway.admin("GET", "/v1/config").status_code == 200
    records = here.gateway.records()
    assert [record.get("reason", record["event"]) for record in records] == ["start", "forbidden", "not_found", "stop"]
    assert [record["seq"] for record in records] == [1, 2, 3, 4]


def test_an_issuer_that_goes_away_and_comes_back_is_recorded(tmp_path: Path, around: tuple[Login, RedisServer, Upstream]) -> None:
    """S-34: a start without its key server says so after the start, and the change when it comes."""
    login = around[0]
    login.provider.answers["/jwks"], good = Answer(b"", status=500), login.provider.answers["/jwks"]
    try:
        with scene(tmp_path, around) as here:
            away = here.gateway.wait_for_record(lambda each: each["event"] == "dependency", "the issuer to be away")
            login.provider.answers["/jwks"] = good
            back = here.gateway.wait_for_record(lambda each: each.get("detail", {}).get("state") == "back", "the issuer to be back")
    finally:
        login.provider.answers["/jwks"] = good
    assert away["detail"] == {"dependency": "issuer:login", "state": "away"}
    assert back["detail"] == {"dependency": "issuer:login", "state": "back"}
    assert here.gateway.records()[0]["event"] == "start"
