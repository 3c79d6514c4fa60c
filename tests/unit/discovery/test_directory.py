"""What is known about services now."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from discovery.directory import Directory, ServiceView, Watched
from discovery.endpoint import Endpoint
from discovery.instance import Balance, HealthCheck, Instance, Outlier
from discovery.source import Publish, Source
from discovery.static import StaticSource
from tests.support.sources import ScriptedSource, until

A = Instance(id="n/a", host="10.0.0.1", port=80)
B = Instance(id="n/b", host="10.0.0.2", port=80)
C = Instance(id="n/c", host="10.0.0.3", port=80)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


class Watchful:
    """Remembers what a directory calls back."""

    def __init__(self) -> None:
        self.changed: list[str] = []
        self.left: list[str] = []

    def on_change(self, view: ServiceView) -> None:
        self.changed.append(repr(view))

    def on_left(self, endpoint: Endpoint) -> None:
        self.left.append(endpoint.address)


@asynccontextmanager
async def started(
    services: Mapping[str, Watched], watchful: Watchful | None = None, clock: Any = lambda: 1000.0
) -> AsyncIterator[Directory]:
    seen = watchful or Watchful()
    directory = Directory(services, on_change=seen.on_change, on_left=seen.on_left, clock=clock)
    await directory.start(timeout=0.02)
    try:
        yield directory
    finally:
        await directory.close()


def web(source: Source, balance: Balance | None = None) -> dict[str, Watched]:
    return {"web": Watched(source, balance or Balance())}


def test_static_instances_are_there_after_the_start() -> None:
    async def scenario() -> None:
        async with started(web(StaticSource((A, B)), Balance("round_robin"))) as directory:
            view = directory.service("web")
            assert {view.pick(), view.pick()} == set(view.snapshot.endpoints)
            assert [endpoint.address for endpoint in view.snapshot.endpoints] == ["10.0.0.1:80", "10.0.0.2:80"]
            assert directory.ready
            assert repr(view) == "<ServiceView web v1 instances=2>"

    run(scenario())


def test_an_unknown_service_is_a_key_error() -> None:
    async def scenario() -> None:
        async with started({}) as directory:
            assert directory.ready
            with pytest.raises(KeyError):
                directory.service("web")

    run(scenario())


def test_the_start_goes_on_without_a_source_that_is_silent() -> None:
    """F-19: not ready with nothing known."""

    async def scenario() -> None:
        silent = ScriptedSource()
        directory = Directory({"web": Watched(silent), "static": Watched(StaticSource((A,)))})
        assert await directory.start(timeout=0.02) == ("web",)
        assert not directory.ready
        assert directory.service("web").pick() is None
        silent.fail("down")
        assert not directory.ready
        silent.find(A)
        assert directory.ready
        assert directory.service("web").pick() is directory.service("static").pick()
        await directory.close()

    run(scenario())


def test_an_answer_with_no_instance_makes_ready() -> None:
    async def scenario() -> None:
        source = ScriptedSource()
        async with started(web(source)) as directory:
            source.find()
            assert directory.ready
            assert directory.service("web").pick() is None

    run(scenario())


def test_a_change_is_seen_by_the_next_pick() -> None:
    """D7: a change reaches the request path as soon as it is published."""

    async def scenario() -> None:
        source = ScriptedSource(A)
        async with started(web(source)) as directory:
            view = directory.service("web")
            source.find(B)
            picked = view.pick()
            assert picked is not None
            assert picked.address == B.address
            assert view.snapshot.version == 2

    run(scenario())


def test_a_failure_keeps_the_last_good_instances_and_their_age() -> None:
    """D3: never an empty list from an error, ages shown."""

    async def scenario() -> None:
        now = [1000.0]
        source, seen = ScriptedSource(A, B), Watchful()
        async with started(web(source), seen, clock=lambda: now[0]) as directory:
            view = directory.service("web")
            balancer = view.snapshot.balancer
            now[0] = 1030.0
            source.fail("HTTP 500")
            source.fail("HTTP 500")
            assert view.snapshot.balancer is balancer
            assert view.snapshot.stale
            (described,) = directory.describe()
            assert described["error"] == "HTTP 500"
            assert described["stale"] is True
            assert described["updated_seconds_ago"] == described["confirmed_seconds_ago"] == 30.0
            source.find(A, B)
            (described,) = directory.describe()
            assert (described["error"], described["updated_seconds_ago"], described["confirmed_seconds_ago"]) == ("", 30.0, 0.0)
        assert seen.changed == [
            "<ServiceView web v1 instances=2>",
            "<ServiceView web v1 instances=2 stale>",
            "<ServiceView web v1 instances=2>",
        ]

    run(scenario())


def test_an_unchanged_answer_changes_nothing() -> None:
    """D1: a return is no proof of change."""

    async def scenario() -> None:
        source, seen = ScriptedSource(A, B), Watchful()
        async with started(web(source), seen) as directory:
            before = directory.service("web").snapshot
            source.find(A, B)
            after = directory.service("web").snapshot
            assert (after.version, after.balancer, after.endpoints) == (1, before.balancer, before.endpoints)
        assert len(seen.changed) == 1

    run(scenario())


def test_an_answer_without_a_leader_is_stale() -> None:
    """F-17."""

    async def scenario() -> None:
        source = ScriptedSource()
        async with started(web(source)) as directory:
            source.find(A, known_leader=False, last_contact_seconds=4.5, rejected=("n/x: its port is 0",))
            (described,) = directory.describe()
            assert described["stale"] is True
            assert described["last_contact_seconds"] == 4.5
            assert described["rejected"] == ["n/x: its port is 0"]

    run(scenario())


def test_live_state_survives_updates_and_is_shared_between_services() -> None:
    async def scenario() -> None:
        one, other = ScriptedSource(A, B), ScriptedSource(A)
        async with started({"one": Watched(one), "other": Watched(other)}) as directory:
            (first, _), (shared,) = directory.service("one").snapshot.endpoints, directory.service("other").snapshot.endpoints
            assert first is shared
            first.finished(0.1, False)
            one.find(Instance(id="n/a2", host=A.host, port=A.port, weight=5), C)
            (again, _) = directory.service("one").snapshot.endpoints
            assert again is first
            assert (again.requests, again.instance.id) == (1, "n/a2")

    run(scenario())


def test_http_and_https_at_one_address_are_two_endpoints() -> None:
    async def scenario() -> None:
        secure = Instance(id="n/s", host=A.host, port=A.port, scheme="https")
        async with started(web(StaticSource((A, secure)))) as directory:
            assert len(set(directory.service("web").snapshot.endpoints)) == 2

    run(scenario())


def test_an_address_registered_twice_is_one_place() -> None:
    async def scenario() -> None:
        async with started(web(StaticSource((A, Instance(id="n/old", host=A.host, port=A.port))))) as directory:
            snapshot = directory.service("web").snapshot
            assert [instance.id for instance in snapshot.instances] == ["n/a"]
            assert len(snapshot.endpoints) == 1

    run(scenario())


def test_an_idle_endpoint_that_left_is_dropped_at_once() -> None:
    async def scenario() -> None:
        source, seen = ScriptedSource(A, B), Watchful()
        async with started(web(source), seen) as directory:
            source.find(B)
            assert seen.left == [A.address]
            assert "endpoints=1" in repr(directory)

    run(scenario())


def test_a_busy_endpoint_that_left_is_dropped_when_its_last_request_is_over() -> None:
    """D7: its open requests finish."""

    async def scenario() -> None:
        source, seen = ScriptedSource(A, B), Watchful()
        async with started(web(source), seen) as directory:
            leaver = directory.service("web").snapshot.endpoints[0]
            leaver.active = 1
            source.find(B)
            assert seen.left == []
            leaver.active -= 1
            leaver.finished(0.1, False)
            assert seen.left == [A.address]

    run(scenario())


def test_an_endpoint_that_comes_back_while_busy_is_the_same() -> None:
    async def scenario() -> None:
        source, seen = ScriptedSource(A, B), Watchful()
        async with started(web(source), seen) as directory:
            leaver = directory.service("web").snapshot.endpoints[0]
            leaver.active = 1
            source.find(B)
            source.find(A, B)
            assert directory.service("web").snapshot.endpoints[0] is leaver
            leaver.active = 0
            leaver.finished(0.1, False)
            assert seen.left == []

    run(scenario())


def test_a_late_request_on_a_dropped_endpoint_does_not_drop_its_successor() -> None:
    async def scenario() -> None:
        source, seen = ScriptedSource(A, B), Watchful()
        async with started(web(source), seen) as directory:
            dropped = directory.service("web").snapshot.endpoints[0]
            source.find(B)
            source.find(A, B)
            successor = directory.service("web").snapshot.endpoints[0]
            assert successor is not dropped
            dropped.finished(0.1, False)
            source.find(A, B, C)
            assert directory.service("web").snapshot.endpoints[0] is successor

    run(scenario())


class TestReplace:
    """Reload: live state is keyed by address and survives (ARCHITECTURE 2.10)."""

    def test_a_service_that_has_not_changed_keeps_its_view_and_watch(self) -> None:
        async def scenario() -> None:
            source = ScriptedSource(A)
            async with started(web(source)) as directory:
                view = directory.service("web")
                assert await directory.replace({**web(source), "static": Watched(StaticSource((B,)))}) == ()
                assert directory.service("web") is view
                assert (source.watches, source.cancelled) == (1, 0)

        run(scenario())

    def test_another_balance_starts_with_what_is_known(self) -> None:
        async def scenario() -> None:
            source = ScriptedSource(A, B)
            async with started(web(source)) as directory:
                old = directory.service("web")
                await directory.replace(web(source, Balance("round_robin")))
                new = directory.service("web")
                assert new is not old
                assert new.snapshot.endpoints == old.snapshot.endpoints
                assert type(new.snapshot.balancer) is not type(old.snapshot.balancer)
                await until(lambda: source.watches == 2 and source.cancelled == 1)

        run(scenario())

    def test_an_address_keeps_its_state_when_its_service_is_found_elsewhere(self) -> None:
        async def scenario() -> None:
            seen = Watchful()
            async with started(web(ScriptedSource(A, B)), seen) as directory:
                endpoint = directory.service("web").snapshot.endpoints[0]
                await directory.replace(web(StaticSource((A,))))
                assert directory.service("web").snapshot.endpoints == (endpoint,)
                assert seen.left == [B.address]

        run(scenario())

    def test_a_service_that_is_gone_is_watched_no_more(self) -> None:
        async def scenario() -> None:
            source, seen = ScriptedSource(A), Watchful()
            async with started(web(source), seen) as directory:
                await directory.replace({})
                assert source.cancelled == 1
                assert seen.left == [A.address]
                with pytest.raises(KeyError):
                    directory.service("web")

        run(scenario())


class Bug:
    """A source that breaks its promise."""

    def __init__(self) -> None:
        self.watches = 0

    async def watch(self, publish: Publish) -> None:
        self.watches += 1
        if self.watches == 1:
            raise RuntimeError("a bug")
        await StaticSource((A,)).watch(publish)


def test_a_source_that_raises_is_told_of_and_started_again(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with started(web(Bug())) as directory:
            assert directory.service("web").snapshot.error == "RuntimeError: a bug"
            await until(lambda: directory.ready)
            assert directory.service("web").snapshot.error == ""

    run(scenario())
    assert "is started again" in caplog.text


def test_the_description_is_plain_values() -> None:
    async def scenario() -> None:
        async with started(web(StaticSource((Instance(id="x", host="::1", port=80, weight=2, tags=("v2",)),)))) as directory:
            directory.service("web").snapshot.endpoints[0].finished(0.25, True)
            (described,) = directory.describe()
            assert described["name"] == "web"
            assert described["source"] == "static"
            assert described["balance"] == "least_request"
            assert described["instances"] == [
                {
                    "id": "x",
                    "address": "[::1]:80",
                    "scheme": "http",
                    "weight": 2,
                    "health": "passing",
                    "state": "available",
                    "ejections": 0,
                    "tags": ["v2"],
                    "active": 0,
                    "requests": 1,
                    "failures": 1,
                    "latency_seconds": 1.0,
                }
            ]

    run(scenario())


def test_requests_that_are_under_way_can_read_after_the_close() -> None:
    async def scenario() -> None:
        source = ScriptedSource(A)
        async with started(web(source)) as directory:
            view = directory.service("web")
        assert view.pick() is not None
        assert source.cancelled == 1

    run(scenario())


def slow(seconds: float = 0.0, outlier: Outlier | None = None) -> Watched:
    return Watched(ScriptedSource(), Balance("round_robin"), slow_start_seconds=seconds, outlier=outlier or Outlier(base_seconds=0.05))


def picks(view: ServiceView, count: int = 60) -> set[str]:
    return {endpoint.address for _ in range(count) if (endpoint := view.pick()) is not None}


def fail(view: ServiceView, endpoint: Endpoint, times: int = 5) -> None:
    for _ in range(times):
        view.failed(endpoint)
        endpoint.finished(0.01, True)


def test_an_ejected_endpoint_gets_no_request_until_its_time_is_over() -> None:
    """B4, F-37: then one as a trial, and after that its share."""

    async def scenario() -> None:
        watched = slow()
        ejected: list[tuple[str, str]] = []
        directory = Directory({"web": watched}, on_ejected=lambda service, endpoint: ejected.append((service, endpoint.address)))
        await directory.start(timeout=0.02)
        assert isinstance(watched.source, ScriptedSource)
        watched.source.find(A, B, C)
        view = directory.service("web")
        one, *others = view.snapshot.endpoints
        fail(view, one)
        assert ejected == [("web", one.address)]
        assert picks(view) == {other.address for other in others}
        await until(lambda: one.standing == "half_open")
        assert [view.pick() for _ in range(20)].count(one) == 1
        one.finished(0.01, False)
        assert picks(view) == {A.address, B.address, C.address}
        await directory.close()

    run(scenario())


def test_an_ejection_outlives_snapshots_reloads_and_leaving() -> None:
    """B4: state is the address's."""

    async def scenario() -> None:
        watched = slow(outlier=Outlier(base_seconds=60))
        assert isinstance(watched.source, ScriptedSource)
        async with started({"web": watched}) as directory:
            watched.source.find(A, B, C)
            view = directory.service("web")
            fail(view, view.snapshot.endpoints[0])
            for instances in ((A, B), (B, C), (B, C), (A, B, C)):
                watched.source.find(*instances)
                assert picks(view) == {each.address for each in instances} - {A.address}
            await directory.replace({"web": replace(watched, balance=Balance("random"))}, timeout=0.02)
            again = directory.service("web")
            assert again is not view
            assert picks(again) == {B.address, C.address}

    run(scenario())


def test_with_fewer_than_half_usable_all_are_tried_and_that_is_told() -> None:
    """B5."""

    async def scenario() -> None:
        watched = slow()
        assert isinstance(watched.source, ScriptedSource)
        async with started({"web": watched}) as directory:
            watched.source.find(A, B, C)
            view = directory.service("web")
            for endpoint in view.snapshot.endpoints[:2]:
                assert not view.snapshot.panic
                endpoint.checked("web", passed=False)
            assert picks(view) == {A.address, B.address, C.address}
            assert directory.describe()[0]["panic"] is True
            view.snapshot.endpoints[0].checked("web", passed=True)
            assert (view.snapshot.panic, picks(view)) == (False, {A.address, C.address})

    run(scenario())


def test_a_newcomer_begins_with_a_tenth_and_grows() -> None:
    """B6: by itself, without a further answer of the source."""

    async def scenario() -> None:
        watched = slow(seconds=0.5)
        assert isinstance(watched.source, ScriptedSource)
        async with started({"web": watched}) as directory:
            watched.source.find(A)
            watched.source.find(A, B)
            view = directory.service("web")
            newcomer = view.snapshot.endpoints[1]
            assert [view.pick() for _ in range(110)].count(newcomer) == 10
            await until(lambda: [view.pick() for _ in range(110)].count(newcomer) == 55)

    run(scenario())


class Checks:
    """A probe whose results a test says."""

    def __init__(self) -> None:
        self.bad: set[str] = set()
        self.asked: list[str] = []

    async def __call__(self, service: str, instance: Instance, check: HealthCheck) -> bool:
        self.asked.append(f"{service} {instance.id} {check.path}")
        return instance.id not in self.bad


def test_active_checks_follow_the_instances() -> None:
    """B5: those that left are checked no more, and a service that goes takes its verdicts along."""

    async def scenario() -> None:
        checks = Checks()
        check = HealthCheck("/healthz", 0.01, 0.01, healthy=2, unhealthy=2)
        watched = replace(slow(), health=check)
        other = slow()
        assert isinstance(watched.source, ScriptedSource)
        assert isinstance(other.source, ScriptedSource)
        directory = Directory({"web": watched, "other": other}, probe=checks)
        await directory.start(timeout=0.02)
        watched.source.find(A, B, C)
        other.source.find(A)
        view = directory.service("web")
        checks.bad = {A.id}
        await until(lambda: picks(view) == {B.address, C.address})
        watched.source.find(A, B)
        await asyncio.sleep(0)
        checks.asked.clear()
        await until(lambda: len(checks.asked) > 4)
        assert set(checks.asked) == {"web n/a /healthz", "web n/b /healthz"}
        endpoint = directory.service("other").snapshot.endpoints[0]
        assert endpoint.failing_checks == {"web"}
        await directory.replace({"other": other}, timeout=0.02)
        assert endpoint.usable
        await directory.close()

    run(scenario())
