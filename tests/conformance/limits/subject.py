"""What is judged: any limiter that answers over HTTP. Ours is started here; another one is named by the environment.

    GATEWAY_CONFORMANCE_URLS      its replicas, separated by blanks
    GATEWAY_CONFORMANCE_PATHS     JSON: which path has the limit of which case, {"L1": "/l1", ...}; cases without one are left out
    GATEWAY_CONFORMANCE_HEADERS   JSON: fields of every request; {client} in a value is another name in each case

Limits have to be counted by that name, or by path. The limit of each case is in `LIMITS`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.plain_service import service_process
from tests.support.redis_server import RedisServer
from tests.support.skewed_clock import skewed_clock
from tests.support.whole_gateway import Json, ProcessGateway, base_document, process_gateway

URLS, PATHS, HEADERS = (f"GATEWAY_CONFORMANCE_{name}" for name in ("URLS", "PATHS", "HEADERS"))
#: Case to its limits, as `gateway.yaml` says them.
LIMITS: dict[str, list[Json]] = {
    "L1": [{"rate": "100/second"}],
    "L2": [{"rate": "10/second", "burst": 1000}],
    "L3": [{"rate": "5/second"}, {"rate": "100/minute"}],
    "L4": [{"rate": "5/second"}],
    "L5": [{"rate": "5/minute"}],
    "L6": [{"rate": "10/second"}],
    "L7-sliding": [{"rate": "40/2s", "algorithm": "sliding_window"}],
    "L7-fixed": [{"quota": "20/minute"}],
}
SPREADS_MS = (0, 5, 20, 50, 200, 1000)


@dataclass(frozen=True, slots=True)
class Subject:
    """A limiter.

    Attributes:
        urls: its replicas.
        paths: case to path.
        headers: fields of each request, with `{client}` where the case's name goes.
        constellations: replicas that L1 asks together, by what is said of them.
    """

    urls: tuple[str, ...]
    paths: Mapping[str, str]
    headers: Mapping[str, str]
    constellations: Mapping[str, tuple[str, ...]]

    def fields(self, client: str) -> dict[str, str]:
        """The fields of a client's requests."""
        return {name: text.replace("{client}", client) for name, text in self.headers.items()}


def named_subject(environ: Mapping[str, str] = os.environ) -> Subject | None:
    """The limiter that the environment names; None when it names none. Raises ValueError for JSON that is none."""
    urls = tuple(environ.get(URLS, "").split())
    if not urls:
        return None
    paths = json.loads(environ.get(PATHS) or json.dumps({case: f"/{case.lower()}" for case in LIMITS}))
    headers = json.loads(environ.get(HEADERS) or '{"X-Client": "{client}"}')
    return Subject(urls, paths, headers, {f"{len(urls)} replicas:": urls})


def document(directory: Path, store: str, service: str, **sections: object) -> Json:
    """A gateway of ours with a public path for each case, counted by a header."""
    limits = {f"{case}-{number}": {**limit, "key": "header:X-Client"} for case, each in LIMITS.items() for number, limit in enumerate(each)}
    routes = [
        {
            "name": case,
            "path": f"/{case.lower()}",
            "service": "backend",
            "authentication": "none",
            "limits": [name for name in limits if name.startswith(f"{case}-")],
        }
        for case in LIMITS
    ]
    return base_document(
        directory,
        **{
            # What is judged is who is admitted: a machine that is busy with other tests must not turn waiting into refusals.
            "state": {"url": store, "budget": "2s"},
            "services": {"backend": {"instances": [service]}},
            "limits": limits,
            "routes": routes,
            **sections,
        },
    )


@contextlib.contextmanager
def our_replicas(directory: Path, server: RedisServer, offsets_ms: Sequence[int]) -> Iterator[list[ProcessGateway]]:
    """A gateway for each offset of its clock, on one store, before one service."""
    with service_process("backend") as service, contextlib.ExitStack() as stack:
        gateways = []
        for number, offset_ms in enumerate(offsets_ms):
            home = directory / f"replica-{number}"
            gateway = process_gateway(home, document(home, server_url(server), service.url), "file", **skewed_clock(offset_ms / 1000))
            stack.callback(gateway.kill)
            gateways.append(gateway)
        for gateway in gateways:
            gateway.wait_until_listening()
        yield gateways


def server_url(server: RedisServer) -> str:
    """The server by TCP, as in production, where it was started for the test."""
    return f"redis://127.0.0.1:{server.port}/0" if server.port else server.url


def our_subject(clocked: Sequence[tuple[int, ProcessGateway]]) -> Subject:
    """Ours as a subject: 2 and 4 replicas at every spread. Four must have a true clock, and one each of the others."""
    true = tuple(gateway.url for offset, gateway in clocked if not offset)
    ahead = {offset: gateway.url for offset, gateway in clocked if offset}
    constellations: dict[str, tuple[str, ...]] = {}
    for spread in SPREADS_MS:
        last = ahead.get(spread, true[3])
        constellations[f"2 replicas, {spread} ms:"] = (true[0], last)
        constellations[f"4 replicas, {spread} ms:"] = (*true[:3], last)
    return Subject(true[:2], {case: f"/{case.lower()}" for case in LIMITS}, {"X-Client": "{client}"}, constellations)
