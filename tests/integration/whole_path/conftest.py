"""One laboratory for all tests here, and gateways in it: every store, face and adapter occurs with every other at least once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from discovery.registration import Registration
from tests.support.consul_agent import Agent, consul_agent
from tests.support.identity_provider import identity_provider
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.ports import free_port
from tests.support.redis_server import any_server
from tests.support.whole_gateway import (
    Adapter,
    Face,
    InProcessGateway,
    Json,
    Login,
    LoopThread,
    ProcessGateway,
    Upstream,
    base_document,
    in_process,
    running,
    under_uvicorn,
    upstream,
)


@dataclass
class Laboratory:
    """What gateways are put between."""

    directory: Path
    login: Login
    consul: Agent
    traces: OtlpReceiver
    patients: tuple[Upstream, Upstream]
    claims: Upstream
    stores: dict[str, str] = field(default_factory=dict)
    nobody: int = field(default_factory=free_port)

    def document(self, directory: Path, store: str) -> Json:
        """The configuration that all gateways share but for the store."""
        return base_document(
            directory,
            state={"url": self.stores[store], "budget": "250ms"},
            discovery={"consul": {"url": self.consul.url}},
            authentication=self.login.authentication,
            services={
                "patients": {"consul": "patients", "balance": "round_robin"},
                "claims": {"instances": [self.claims.url]},
                "gone": {"instances": [f"http://127.0.0.1:{self.nobody}"], "timeouts": {"connect": "500ms"}},
                "hasty": {"instances": [self.claims.url], "timeouts": {"response": "200ms"}},
                "unregistered": {"consul": "nobody-registers-this"},
            },
            limits=LIMITS,
            routes=ROUTES,
            telemetry={"traces": {"endpoint": self.traces.endpoint, "trust": "continue", "service_name": f"gateway-{directory.name}"}},
        )


LIMITS: Json = {
    "burst": {"rate": "1/hour", "burst": 3, "key": "subject"},
    "daily": {"quota": "4/day", "key": "subject"},
    "window": {"rate": "3/hour", "algorithm": "sliding_window", "key": "subject"},
    "parallel": {"concurrency": 2, "key": "subject"},
    "wide": {"rate": "1000/hour", "key": ["subject", "path:id"]},
}


def _route(name: str, path: str, service: str = "patients", **values: Any) -> Json:
    return {"name": name, "path": path, "service": service, "methods": ["GET"], **values}


ROUTES: list[Json] = [
    _route(
        "get-patient",
        "/patients/{id}",
        rewrite="/v1/patients/{id}",
        scopes=["patients:read"],
        limits=["wide"],
        audit={"path_params": ["id"]},
        cors={"origins": ["https://app.example.gov"], "headers": ["authorization"], "expose": ["x-request-id"], "max_age": "1h"},
        request_headers={"set": {"X-Gateway": "hms"}, "remove": ["X-Debug"]},
        response_headers={"set": {"X-Frame-Options": "DENY"}, "remove": ["X-Internal"]},
    ),
    _route(
        "submit-claim", "/claims", "claims", methods=["POST"], rewrite="/v1/claims", scopes=["claims:write"], max={"body_bytes": "1KiB"}
    ),
    _route("any-scope", "/any-scope", any_scope=["patients:read", "patients:admin"]),
    _route("by-role", "/by-role", roles=["doctor", "nurse"]),
    _route("by-claim", "/by-claim", claims={"dept": ["cardio", "er"]}),
    _route("public", "/public/{rest:path}", strip_prefix="/public", authentication="none"),
    _route("greeting", "/greeting", authentication="optional"),
    _route("burst", "/burst", limits=["burst"]),
    _route("daily", "/daily", limits=["daily"]),
    _route("window", "/window", limits=["window"]),
    _route("parallel", "/parallel", limits=["parallel"]),
    _route("several", "/several", limits=["burst", "daily"]),
    _route("costly", "/costly", limits=["burst"], cost=2),
    _route("shadowed", "/shadowed", shadow_limits=["burst"]),
    _route("gone", "/gone", "gone"),
    _route("hasty", "/hasty/{id}", "hasty"),
    _route("unregistered", "/unregistered", "unregistered"),
    _route("upstream-says", "/says/{what}", add_prefix="/v1"),
]


@pytest.fixture(scope="package")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    directory = tmp_path_factory.mktemp("laboratory")
    with contextlib.ExitStack() as stack:
        provider, consul = stack.enter_context(identity_provider()), stack.enter_context(consul_agent())
        patients = (stack.enter_context(upstream("patients-1")), stack.enter_context(upstream("patients-2")))
        login, traces = Login.at(provider, directory), stack.enter_context(OtlpReceiver())
        found = Laboratory(directory, login, consul, traces, patients, stack.enter_context(upstream("claims-1")))
        found.stores = {kind: stack.enter_context(any_server(kind)).url for kind in ("redis", "valkey")} | {"embedded": "embedded://"}
        thread = stack.enter_context(LoopThread())
        for instance in patients:
            registration = Registration(
                "patients",
                instance.port,
                id=instance.name,
                address=instance.host,
                consul=consul.url,
                ttl_seconds=6.0,
                meta={"name": instance.name},
            )
            thread.run(registration.__aenter__())
            stack.callback(_stop, thread, registration)
        yield found


def _stop(thread: LoopThread, registration: Registration) -> None:
    thread.run(registration.stop())


#: Store, face, adapter.
COMBINATIONS: tuple[tuple[str, Face, Adapter], ...] = (
    ("redis", "file", "wire"),
    ("valkey", "decorators", "wire"),
    ("redis", "decorators", "uvicorn"),
    ("embedded", "file", "uvicorn"),
    ("valkey", "file", "in process"),
    ("embedded", "decorators", "in process"),
)
AnyGateway = ProcessGateway | InProcessGateway


def _gateway(laboratory: Laboratory, store: str, face: Face, adapter: Adapter) -> contextlib.AbstractContextManager[AnyGateway]:
    directory = laboratory.directory / f"{store}-{face}-{adapter}".replace(" ", "-")
    directory.mkdir()
    document = laboratory.document(directory, store)
    if adapter == "wire":
        return running(directory, document, face)
    return under_uvicorn(directory, document, face) if adapter == "uvicorn" else in_process(directory, document, face)


@pytest.fixture(scope="package", params=COMBINATIONS, ids=lambda combination: "-".join(combination))
def gateway(request: pytest.FixtureRequest, laboratory: Laboratory) -> Iterator[AnyGateway]:
    """A gateway of each combination."""
    with _gateway(laboratory, *request.param) as started:
        yield started
