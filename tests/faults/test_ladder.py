"""The outage ladder: what routes that are not closed do while Redis is gone, and what was revoked before it went."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.fault_scene import SLACK_SECONDS, asks, assert_quiet, only, scene_document, store_url
from tests.support.faults import Form, Measured, fault
from tests.support.load import Ask, Load, Reply, percentile, statuses
from tests.support.namespace import black_hole
from tests.support.plain_service import ServiceProcess, service_process
from tests.support.redis_server import RedisServer, redis_server, wait_until
from tests.support.whole_gateway import Login, ProcessGateway, running

REPLICAS = 3
#: The default, which operators start from.
BUDGET_SECONDS = 0.025
#: What all replicas together may admit a second on the scarce route.
LIMIT = 10
BACK_SECONDS = 1.0


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    with service_process("patients-1") as started:
        yield started


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server("redis") as started:
        yield started


def replicas(stack: ExitStack, directory: Path, login: Login, store: str, service: ServiceProcess, mode: str) -> list[ProcessGateway]:
    """Gateways that know of each other."""
    found = []
    for number in range(REPLICAS):
        place = directory / f"replica-{number}"
        document = scene_document(place, login, store, [service.url], state={"url": store, "when_unavailable": mode})
        found.append(stack.enter_context(running(place, document)))
    wait_until(lambda: all(gateway.live_replicas == REPLICAS for gateway in found), "replicas to know of each other")
    return found


def _admin(gateway: ProcessGateway, method: str, path: str, body: object = None) -> dict[str, list[object]]:
    answer = gateway.admin(method, path, json=body)
    assert answer.is_success, answer.text
    parsed: dict[str, list[object]] = answer.json()
    return parsed


def revoke(gateway: ProcessGateway, subject: str) -> None:
    _admin(gateway, "POST", "/v1/revocations", {"kind": "subject", "value": subject})


def of(replies: Sequence[Reply], since: float, until: float) -> list[Reply]:
    return [reply for reply in replies if since <= reply.sent_at < until]


def in_turn(*every: Sequence[Ask]) -> list[Ask]:
    return [ask for each in zip(*every, strict=True) for ask in each]


@fault(
    "redis-killed-fair-share",
    "Redis is killed under `when_unavailable: fair_share` and started again",
    "all replicas together keep to the limit: at most limit x (1 + 1/N) a second in steady state, never nothing; "
    "a revoked token stays 401; nobody gets a 5xx; the store decides again within 1 s",
)
def test_redis_killed_fair_share(
    measured: Measured, form: Form, tmp_path: Path, login: Login, server: RedisServer, service: ServiceProcess
) -> None:
    """L11, V3, F-3: three replicas share a limit out; the mirror knows what another replica has revoked."""
    seconds = form.seconds(3, 15)
    measured.under(f"{REPLICAS} gateways, 90 requests/s on a limit of {LIMIT}/s with burst 20, Redis away for {seconds:.0f} s")
    with ExitStack() as stack:
        gateways = replicas(stack, tmp_path, login, store_url(server), service, "fair_share")
        revoke(gateways[0], "mallory")
        mixed = in_turn(asks(gateways, login.bearer("alice"), "/scarce"), asks(gateways, login.bearer("mallory"), "/checked"))
        with Load(mixed, 180) as load:
            wait_until(lambda: any(reply.status == 429 for reply in load.replies), "the limit to be reached")
            server.kill()
            gone_at = time.monotonic()
            wait_until(lambda: bool(load.since(gone_at + seconds)), "the outage to last", seconds + 5)
            ended_at = time.monotonic()
            server.start_again()
            back_at = time.monotonic()
            wait_until(lambda: all(_is_shared(gateway) for gateway in gateways), "the store to be used again", 5.0)
            shared_after = time.monotonic() - back_at
        for gateway in gateways:
            assert_quiet(gateway)
        assert set(statuses(only(load.replies, "/scarce"))) <= {200, 429}, "no 5xx"
        assert set(statuses(only(load.replies, "/checked"))) == {401}, "revoked stays revoked"
        # The first second has the burst in it.
        steady = of(only(load.replies, "/scarce"), gone_at + 1.0, ended_at)
        rate = statuses(steady).get(200, 0) / (ended_at - gone_at - 1.0)
        assert LIMIT / 2 < rate <= LIMIT * (1 + 1 / REPLICAS)
        for gateway in gateways:
            assert [reply for reply in steady if reply.status == 200 and reply.url == gateway.url], "never nothing"
        assert shared_after < BACK_SECONDS + SLACK_SECONDS
        outage = [reply.seconds for reply in of(load.replies, gone_at, ended_at)]
        measured("admitted a second, all together", rate, "requests")
        measured("wait, median", percentile(outage, 0.5) * 1000, "ms")
        measured("p99", percentile(outage, 0.99) * 1000, "ms")
        measured("the store decides again after", shared_after * 1000, "ms")


def _is_shared(gateway: ProcessGateway) -> bool:
    return 'gateway_store_state{mode="shared"} 1.0' in gateway.admin("GET", "/metrics").text


@fault(
    "redis-vanished",
    "packets to and from Redis are dropped, on connections new and old, and then pass again",
    "under `open`: nobody is refused; a request waits for the budget, then at most a moment; a revoked token stays 401; back within 2 s",
)
def test_redis_vanished(measured: Measured, form: Form, tmp_path: Path, login: Login, service: ServiceProcess) -> None:
    """L10, F-3, F-12, V3: nothing says that the connection is dead; what was decided without the store is marked as such."""
    seconds = form.seconds(2, 10)
    (tmp_path / "redis").mkdir()
    with black_hole(tmp_path / "redis") as store:
        measured.under(f"1 gateway, 200 requests/s, budget {BUDGET_SECONDS * 1000:.0f} ms, {store.how} for {seconds:.0f} s")
        state = {"url": store.url, "when_unavailable": "open", "budget": f"{BUDGET_SECONDS * 1000:.0f}ms"}
        document = scene_document(tmp_path, login, store.url, [service.url], state=state)
        with running(tmp_path, document) as gateway:
            revoke(gateway, "mallory")
            mixed = in_turn(asks([gateway], login.bearer("alice"), "/limited"), asks([gateway], login.bearer("mallory"), "/checked"))
            with Load(mixed, 200) as load:
                wait_until(lambda: len(load.replies) > 100, "load")
                gone_at = time.monotonic()
                store.vanish()
                wait_until(lambda: bool(load.since(gone_at + seconds)), "the outage to last", seconds + 5)
                store.come_back()
                back_at = time.monotonic()
                wait_until(lambda: _is_shared(gateway), "the store to be used again", 10.0)
                shared_after = time.monotonic() - back_at
            metrics = gateway.admin("GET", "/metrics").text
            assert_quiet(gateway)
        # Whoever was let in without the store is marked, and counted.
        marked = gateway.records(lambda record: record.get("store_mode") == "open")
        assert {(record["request"]["route"], record["decision"]) for record in marked} == {("limited", "allow"), ("checked", "deny")}
        for route, outcome in (("limited", "admitted"), ("checked", "revoked")):
            assert f'gateway_outage_requests_total{{mode="open",outcome="{outcome}",route="{route}"}}' in metrics
        assert set(statuses(only(load.replies, "/limited"))) == {200}
        assert set(statuses(only(load.replies, "/checked"))) == {401}
        waits = [reply.seconds for reply in of(load.replies, gone_at, back_at)]
        later = [reply.seconds for reply in of(load.replies, gone_at + 0.5, back_at)]
        assert percentile(waits, 0.99) < BUDGET_SECONDS + SLACK_SECONDS
        assert percentile(later, 0.5) < BUDGET_SECONDS / 2
        # A second for the attempt that was under way, a second for the next one on a busy machine.
        assert shared_after < 2 * BACK_SECONDS + SLACK_SECONDS
        measured("longest wait", max(waits) * 1000, "ms")
        measured("median after the first half second", percentile(later, 0.5) * 1000, "ms")
        measured("the store decides again after", shared_after * 1000, "ms")


@fault(
    "revocations-lost",
    "Redis loses everything, by `FLUSHALL` and by `kill -9` in turn, while a revoked token keeps knocking",
    "the token is never admitted: 401, or 503 while Redis is away; others are admitted again within 1 s",
)
def test_revocations_lost(
    measured: Measured, form: Form, tmp_path: Path, login: Login, server: RedisServer, service: ServiceProcess
) -> None:
    """V4: the mirrors write back before anybody is admitted, on closed routes too."""
    losses = int(form.seconds(4, 12))
    measured.under(f"{REPLICAS} gateways, 300 requests/s, 200 revocations, {losses} losses, `when_unavailable: closed`")
    with ExitStack() as stack:
        gateways = replicas(stack, tmp_path, login, store_url(server), service, "closed")
        for number in range(200):
            revoke(gateways[number % REPLICAS], f"somebody-{number}")
        revoke(gateways[0], "mallory")
        mixed = in_turn(asks(gateways, login.bearer("alice"), "/limited"), asks(gateways, login.bearer("mallory"), "/checked"))
        with Load(mixed, 300) as load:
            back = [_lose(load, server, loss) for loss in range(losses)]
        for gateway in gateways:
            assert_quiet(gateway)
        assert set(statuses(load.replies)) <= {200, 401, 503}
        mallory = statuses(only(load.replies, "/checked"))
        assert not mallory[200], "never admitted"
        assert not statuses(only(load.replies, "/limited"))[401]
        measured("refused as revoked", mallory[401], "requests")
        measured("everything is back after, longest", max(back) * 1000, "ms")


def _lose(load: Load, server: RedisServer, loss: int) -> float:
    """Loses everything, and waits until all of it is there again. Returns how long that took."""
    if loss % 2:
        server.kill()
        server.start_again()
    else:
        with server.client() as client:
            client.flushall()
    lost_at = time.monotonic()
    wait_until(lambda: _holds(server) == 201, "everything to be written back")
    took = time.monotonic() - lost_at
    wait_until(lambda: {200, 401} <= set(statuses(load.since(lost_at))), "others to be admitted, and the revoked one refused")
    return took


def _holds(server: RedisServer) -> int:
    with server.client() as client:
        held: int = client.hlen("gw:{s00}:revocations")
    return held
