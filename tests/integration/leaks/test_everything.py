"""O4, F-61, F-62, S-37, S-41: canaries in every place where a client, a service, an issuer, an administrator or a configuration may write,
requests with every outcome, and then every place where somebody may read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest

from tests.integration.leaks import battery
from tests.integration.leaks.scene import BEACON, Adapter, Reply, Scene, crash, dump, scene
from tests.support.canaries import Canary, leaks
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.redis_server import wait_until

EVERYWHERE = (
    "answers",
    "standard output",
    "standard error",
    "audit",
    "spans",
    "store: what it was told",
    "store: what it keeps",
    "files",
    "command lines",
    "crash",
)
#: Every sink that is searched, by adapter.
SINKS: dict[Adapter, tuple[str, ...]] = {"wire": (*EVERYWHERE, "answers: admin", "commands"), "uvicorn": EVERYWHERE}
ALL = [(adapter, sink) for adapter, sinks in SINKS.items() for sink in sinks]
#: Statuses and codes that have to have been among the answers of our own server.
OUTCOMES = {
    (200, ""),
    (400, "bad_request"),
    (401, "unauthorized"),
    (401, "token_invalid"),
    (401, "token_expired"),
    (401, "token_revoked"),
    (403, "forbidden"),
    (404, "not_found"),
    (405, "method_not_allowed"),
    (408, "request_timeout"),
    (413, "body_too_large"),
    (414, "uri_too_long"),
    (429, "rate_limited"),
    (426, "bad_request"),
    (431, "headers_too_large"),
    (500, "internal"),
    (502, "bad_gateway"),
    (503, "overloaded"),
    (503, "no_instance"),
    (503, "store_unavailable"),
    (504, "gateway_timeout"),
}
#: What another server refuses by itself, in its own words, or what needs an admin site.
OURS_ALONE = {(408, "request_timeout"), (414, "uri_too_long"), (431, "headers_too_large"), (401, "token_revoked"), (426, "bad_request")}


@dataclass
class Aftermath:
    """What was left behind: name and content of everything in each sink."""

    sinks: dict[str, list[tuple[str, bytes]]]
    canaries: list[Canary]
    replies: list[Reply]


@pytest.fixture(scope="module")
def traces() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def after(traces: OtlpReceiver, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Adapter], Aftermath]:
    """What is left behind of everything, which happens once for each adapter."""
    return lru_cache(lambda adapter: everything(adapter, tmp_path_factory.mktemp(f"{BEACON}-{adapter}"), traces))


def everything(adapter: Adapter, directory: Path, traces: OtlpReceiver) -> Aftermath:
    """Start, ask, look, end, look again."""
    traces.clear()
    sinks: dict[str, list[tuple[str, bytes]]] = defaultdict(list)
    with scene(directory, adapter, traces) as (place, monitor):
        battery.every_outcome(place)
        told_of_all(place, traces)
        if adapter == "wire":
            sinks["answers: admin"] += [(reply.name, reply.content) for reply in battery.administrators(place)]
            sinks["commands"] += [(reply.name, reply.content) for reply in battery.commands(place)]
        sinks["command lines"].append(("ps", Path(f"/proc/{place.gateway.process.pid}/cmdline").read_bytes()))
        sinks["store: what it keeps"].append(("keys and values", dump(place.store, place.planted("password of the store"))))
        battery.without_the_store(place)
        sinks["store: what it was told"].append(("MONITOR", monitor.close()))
        if adapter == "wire":
            battery.drained(place)
        place.gateway.stop()
        sinks["standard output"].append(("access log", place.gateway.output.encode()))
        sinks["standard error"].append(("log", place.gateway.said.encode()))
        sinks["audit"].append(("records", place.gateway.file.read_bytes()))
        sinks["spans"].append(("messages", traces.messages()))
        sinks["files"] += files(place)
        sinks["crash"].append(("faulthandler", crash(place)))
    sinks["answers"] += [(reply.name, reply.content) for reply in place.replies]
    return Aftermath(sinks, place.planted.all, place.replies)


def told_of_all(place: Scene, traces: OtlpReceiver) -> None:
    """Wait until everything that has to be told about the requests so far has been."""
    last = place.ask("the last one", "crash")
    assert last.status == 500
    request_id = last.field("x-request-id")
    trace_id = place.gateway.wait_for_record(lambda record: record.get("request_id") == request_id, "the last request")["trace_id"]
    traces.wait_for(lambda spans: any(span["trace_id"] == trace_id for span in spans))
    wait_until(lambda: request_id in place.gateway.output, "the access log")


def files(place: Scene) -> Iterator[tuple[str, bytes]]:
    """What the gateway has written: everything in its directory that the test has not put there, names included."""
    ours = {"gateway.yaml", "module.py", "client-secret", f"broken-{BEACON}.yaml", "stdout", "stderr", "audit.jsonl"}
    for file in sorted(place.directory.rglob("*")):
        name = file.relative_to(place.directory).as_posix()
        if file.is_file() and name not in ours and name not in place.secret_files and "__pycache__" not in name:
            yield name, name.encode() + b"\n" + file.read_bytes()


def canaries_for(aftermath: Aftermath, sink: str, name: str) -> list[Canary]:
    """Those that may not be there. A service's own words are the client's by right, where the answer is the service's, and so is what the
    other end of a WebSocket has to give back: pings and reasons of a Close (RFC 6455 sections 5.5.1 and 5.5.3)."""
    echo = sink == "answers" and any(reply.echo for reply in aftermath.replies if reply.name == name)
    return [canary for canary in aftermath.canaries if not (echo and canary.where.startswith(("upstream ", "echoed ")))]


@pytest.mark.parametrize(("adapter", "sink"), ALL)
def test_nothing_leaks(after: Callable[[Adapter], Aftermath], adapter: Adapter, sink: str) -> None:
    """O4, S-37, S-41, F-61, F-62: no canary, in no spelling."""
    aftermath = after(adapter)
    found = [
        f"{name}: {leak}" for name, content in aftermath.sinks[sink] for leak in leaks(sink, content, canaries_for(aftermath, sink, name))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("adapter", "sink"), ALL)
def test_the_same_search_finds_what_is_told_by_right(after: Callable[[Adapter], Aftermath], adapter: Adapter, sink: str) -> None:
    """O4: in each sink there is something, and the search would have found it."""
    told = Canary("beacon", BEACON)
    assert any(leaks(sink, content, [told]) for _, content in after(adapter).sinks[sink])


@pytest.mark.parametrize(("adapter", "sink"), ALL)
def test_a_planted_leak_is_found(after: Callable[[Adapter], Aftermath], adapter: Adapter, sink: str) -> None:
    """O4: any canary but those that the sink may tell, added anywhere to what is there."""
    aftermath = after(adapter)
    for canary in aftermath.canaries:
        name, content = aftermath.sinks[sink][-1]
        middle = len(content) // 2
        found = leaks(sink, content[:middle] + canary.text.encode() + content[middle:], [canary])
        assert bool(found) != any(pattern.rstrip("*") in sink for pattern in canary.told), (canary, name)


def test_every_outcome_was_among_them(after: Callable[[Adapter], Aftermath]) -> None:
    """O4: or the search has looked at less than it says."""
    assert {(reply.status, reply.code) for reply in after("wire").replies} >= OUTCOMES


def test_nearly_every_outcome_was_among_those_of_another_server(after: Callable[[Adapter], Aftermath]) -> None:
    """O4: except for what that server refuses by itself."""
    assert {(reply.status, reply.code) for reply in after("uvicorn").replies} >= OUTCOMES - OURS_ALONE
