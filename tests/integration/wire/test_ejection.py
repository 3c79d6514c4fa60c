"""Instances that fail are left alone for a while, on real sockets and with real processes that are killed and stopped."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from discovery.endpoint import Endpoint
from discovery.instance import Balance
from gateway.route import Circuit
from gateway.telemetry.exposition import render
from tests.integration.wire.conftest import Fleet
from tests.support.gateway_process import GET, RunningGateway, run
from tests.support.plain_service import ServiceProcess, service_process
from tests.support.recording_upstream import OK, Link, RecordingUpstream, answering, in_turn, recording_upstream
from tests.support.redis_server import until

POST = b"POST /s/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
BAD = b"HTTP/1.1 503 Whatever\r\nContent-Length: 2\r\n\r\nno"
NO_RETRIES = {"retry": {"attempts": 0}}


def endpoints(gateway: RunningGateway) -> list[Endpoint]:
    return list(gateway.runtime.directory.service("s").snapshot.endpoints)


def states(gateway: RunningGateway) -> list[str]:
    return [endpoint.state for endpoint in endpoints(gateway)]


def metric(gateway: RunningGateway, name: str, *labels: str) -> float:
    lines = render(gateway.runtime.telemetry.metrics).decode().splitlines()
    wanted = "".join(f",{label}" for label in labels)
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f'{name}{{service="s"{wanted}}}')), 0.0)


async def statuses(gateway: RunningGateway, count: int, request: bytes = GET) -> Counter[int]:
    client = await gateway.connect()
    return Counter([(await client.ask(request)).status for _ in range(count)])


def seen(upstreams: list[RecordingUpstream]) -> list[int]:
    return [len(upstream.requests) for upstream in upstreams]


@pytest.fixture
def processes() -> Iterator[list[ServiceProcess]]:
    with ExitStack() as stack:
        yield [stack.enter_context(service_process(name)) for name in ("one", "two", "three")]


async def resetting(link: Link) -> None:
    await link.request()
    link.reset()


@pytest.mark.parametrize(
    ("script", "status", "out"),
    [
        (answering(BAD), 503, True),
        (answering(BAD.replace(b"503", b"502")), 502, True),
        (resetting, 502, True),
        (answering(b"SSH-2.0-OpenSSH_9.2\r\n"), 502, True),
        (answering(BAD.replace(b"503", b"429")), 429, False),
        (answering(BAD.replace(b"503", b"500")), 500, False),
    ],
    ids=["503", "502", "reset", "nonsense", "429", "500"],
)
def test_five_failures_in_a_row_take_an_instance_out(fleet: Fleet, script: Any, status: int, out: bool) -> None:
    """B4: gateway errors and resets count, 429 never does, and neither does an error of the application."""

    async def main() -> None:
        async with fleet(script, answering(OK), service=NO_RETRIES) as (gateway, upstreams):
            told = await statuses(gateway, 40)
            assert told == ({status: 5, 200: 35} if out else {status: 20, 200: 20})
            assert seen(upstreams)[0] == told[status]
            assert states(gateway) == ["ejected" if out else "available", "available"]
            assert metric(gateway, "gateway_ejections_total") == out
            assert metric(gateway, "gateway_endpoints", 'state="ejected"') == out
            assert metric(gateway, "gateway_endpoints", 'state="available"') == 2 - out
            assert metric(gateway, "gateway_service_panic") == 0

    run(main())


def test_a_stream_that_lasts_too_long_is_no_failure_of_its_instance(fleet: Fleet) -> None:
    """B4: what was answered and then cut by `timeouts.total` says nothing against an instance."""

    async def endless(link: Link) -> None:
        await link.request()
        await link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await link.until_lost()

    async def main() -> None:
        service = {**NO_RETRIES, "timeouts": {"total": "400ms"}, "outlier": {"consecutive_failures": 1}}
        async with fleet(endless, endless, service=service) as (gateway, _):
            for _ in range(4):
                response = await gateway.ask(GET)
                assert (response.status, response.whole) == (200, False)
            assert states(gateway) == ["available", "available"]
            await gateway.idle()

    run(main())


def test_the_last_one_is_never_taken_out(fleet: Fleet) -> None:
    """B4: at most half, and never the last one: both fail, one goes on getting requests."""

    async def main() -> None:
        async with fleet(answering(BAD), answering(BAD), service=NO_RETRIES) as (gateway, upstreams):
            assert await statuses(gateway, 60) == {503: 60}
            assert sorted(states(gateway)) == ["available", "ejected"]
            assert min(seen(upstreams)) == 5

    run(main())


def test_an_instance_comes_back_on_trial_and_stays_away_longer_each_time(fleet: Fleet) -> None:
    """F-37, B4: one request tries it; it fails and is out again, twice as long; another one succeeds and it is back."""
    service = {**NO_RETRIES, "outlier": {"base_ejection": "300ms"}}

    async def main() -> None:
        script = in_turn(*[answering(BAD)] * 2, answering(OK))
        async with fleet(script, answering(OK), service=service) as (gateway, upstreams):
            failing = endpoints(gateway)[0]

            async def trial() -> float:
                """Wait for the next trial, and carry it out with many others at the same time; how long it was out."""
                out_at = asyncio.get_running_loop().time()
                await until(lambda: failing.state == "half_open", "the end of the ejection")
                out = asyncio.get_running_loop().time() - out_at
                before = seen(upstreams)[0]
                await asyncio.gather(*[gateway.ask(GET) for _ in range(20)])
                assert failing.state != "ejected" or seen(upstreams)[0] == before + 1
                return out

            await statuses(gateway, 12)
            assert failing.state == "ejected"
            upstreams[0].links[0].close()  # the next connection gets the next script
            first = await trial()
            assert (failing.state, failing.ejections) == ("ejected", 2)
            upstreams[0].links[-1].close()
            second = await trial()
            assert (failing.state, failing.ejections) == ("available", 2)
            assert second > first
            before = seen(upstreams)[0]
            assert await statuses(gateway, 20) == {200: 20}
            assert seen(upstreams)[0] - before == 10

    run(main())


def test_a_client_that_leaves_a_trial_decides_nothing(fleet: Fleet) -> None:
    """F-37, R7: the next request is the trial then."""
    asked = asyncio.Event()

    async def hanging(link: Link) -> None:
        await link.request()
        asked.set()
        await link.until_lost()

    async def main() -> None:
        service = {**NO_RETRIES, "outlier": {"base_ejection": "200ms", "consecutive_failures": 1}}
        async with fleet(in_turn(resetting, hanging, answering(OK)), answering(OK), service=service) as (gateway, _):
            failing = endpoints(gateway)[0]
            await statuses(gateway, 2)
            await until(lambda: failing.state == "half_open", "the end of the ejection")
            leaving = await gateway.connect()
            await leaving.send(GET)
            await asked.wait()
            leaving.close()
            await until(lambda: failing.standing == "half_open", "the end of the trial")
            assert await statuses(gateway, 1) == {200: 1}
            assert failing.state == "available"

    run(main())


def test_an_unhealthy_instance_gets_no_request_and_with_too_few_left_all_are_tried(fleet: Fleet) -> None:
    """B5: active checks take instances out before a request finds out; with fewer than half left all are tried, and a metric says so."""
    well = {0: True, 1: True, 2: True}

    def checked(index: int) -> Any:
        async def script(link: Link) -> None:
            while (request := await link.request()) is not None:
                bad = request.line.startswith(b"GET /healthz") and not well[index]
                await link.send(BAD if bad else OK)

        return script

    async def main() -> None:
        health = {"path": "/healthz?deep=1", "interval": "100ms", "timeout": "2s", "healthy": 1, "unhealthy": 2}
        async with fleet(checked(0), checked(1), checked(2), service={"health": health}) as (gateway, upstreams):

            def asked() -> list[int]:
                lines = [[request.line for request in upstream.requests] for upstream in upstreams]
                return [sum(line.startswith(b"GET /s/x") for line in each) for each in lines]

            well[0] = False
            await until(lambda: states(gateway) == ["unhealthy", "available", "available"], "the failed checks")
            assert await statuses(gateway, 20) == {200: 20}
            assert asked() == [0, 10, 10]
            assert metric(gateway, "gateway_endpoints", 'state="unhealthy"') == 1
            well[1] = False
            await until(lambda: metric(gateway, "gateway_service_panic") == 1, "panic")
            assert await statuses(gateway, 30) == {200: 30}
            assert asked() == [10, 20, 20]
            well[0] = well[1] = True
            await until(lambda: states(gateway) == ["available"] * 3, "good checks")
            assert metric(gateway, "gateway_service_panic") == 0
            check = next(request for request in upstreams[0].requests if request.line == b"GET /healthz?deep=1 HTTP/1.1")
            assert check.values(b"host") == [f"127.0.0.1:{upstreams[0].port}".encode()]

    run(main())


def test_a_key_stays_with_its_instance_while_others_come_and_go(fleet: Fleet) -> None:
    """B3: only the keys of an ejected instance move, and they return."""
    named = [OK.replace(b"ok", name) for name in (b"aa", b"bb", b"cc")]
    service = {"balance": {"consistent_hash": {"by": "header:X-Key"}}, **NO_RETRIES, "outlier": {"base_ejection": "1s"}}

    async def main() -> None:
        async with fleet(*[answering(answer) for answer in named], service=service) as (gateway, _):
            client = await gateway.connect()

            async def owners() -> list[bytes]:
                requests = [GET.replace(b"\r\n\r\n", b"\r\nX-Key: %d\r\n\r\n" % key) for key in range(60)]
                return [(await client.ask(request)).body for request in requests]

            before = await owners()
            assert set(before) == {b"aa", b"bb", b"cc"}
            victim = endpoints(gateway)[0]
            for _ in range(5):
                gateway.runtime.directory.service("s").failed(victim)
            during = await owners()
            assert {old for old, new in zip(before, during, strict=True) if old != new} == {b"aa"}
            assert set(during) == {b"bb", b"cc"}
            await until(lambda: victim.state == "half_open", "the end of the ejection")
            await owners()
            assert await owners() == before

    run(main())


class TestProcesses:
    """What happens to instances of the real world."""

    @pytest.mark.parametrize("request_", [GET, POST], ids=["GET", "POST"])
    def test_an_instance_that_is_killed_costs_no_request_and_comes_back(
        self, fleet: Fleet, processes: list[ServiceProcess], request_: bytes
    ) -> None:
        """B4, R1, R2: kill -9 between requests: nobody sees an error; after a restart it gets its share again."""
        service = {"outlier": {"base_ejection": "300ms"}}

        async def main() -> None:
            async with fleet(*[process.url for process in processes], service=service) as (gateway, _):
                assert await statuses(gateway, 9, request_) == {200: 9}
                processes[0].kill()
                assert await statuses(gateway, 60, request_) == {200: 60}
                assert metric(gateway, "gateway_ejections_total") >= 1
                await asyncio.to_thread(processes[0].start_again)
                await until(lambda: states(gateway)[0] == "half_open", "the end of the ejection")
                assert await statuses(gateway, 3, request_) == {200: 3}
                client = await gateway.connect()
                assert Counter([(await client.ask(request_)).body for _ in range(30)]) == {b"one": 10, b"two": 10, b"three": 10}

        run(main())

    def test_requests_under_way_at_an_instance_that_is_killed_are_sent_to_another(
        self, fleet: Fleet, processes: list[ServiceProcess]
    ) -> None:
        """R1, R4: kill -9 under idempotent requests: all are answered as far as the budget goes."""
        slow = GET.replace(b"/s/x", b"/s/slow-0.5")

        async def main() -> None:
            async with fleet(*[process.url for process in processes[:2]]) as (gateway, _):
                tasks = [asyncio.create_task(gateway.ask(slow)) for _ in range(6)]
                await until(lambda: [endpoint.active for endpoint in endpoints(gateway)] == [3, 3], "the requests")
                await asyncio.sleep(0.1)
                processes[0].kill()
                assert [(await task).body for task in tasks] == [b"two"] * 6
                await gateway.idle()

        run(main())

    def test_an_instance_that_is_stopped_is_left_alone(self, fleet: Fleet, processes: list[ServiceProcess]) -> None:
        """B4, F-36: SIGSTOP: the kernel accepts, nobody answers; slow tries go elsewhere, then it is out; SIGCONT and it is back."""
        service = {"retry": {"per_try": "150ms"}, "outlier": {"base_ejection": "500ms", "consecutive_failures": 2}}

        async def main() -> None:
            async with fleet(*[process.url for process in processes[:2]], service=service) as (gateway, _):
                assert await statuses(gateway, 4) == {200: 4}
                processes[0].pause()
                try:
                    assert await statuses(gateway, 20) == {200: 20}
                    assert endpoints(gateway)[0].ejections >= 1
                finally:
                    processes[0].resume()
                await until(lambda: states(gateway)[0] == "half_open", "the end of the ejection")
                await statuses(gateway, 3)
                await until(lambda: states(gateway) == ["available", "available"], "a good trial")

        run(main())


class TestReload:
    """G3: what is known about an address is not lost when the settings change."""

    def test_an_ejection_and_the_requests_in_flight_survive(self, fleet: Fleet) -> None:
        """B4, R6, G3: other limits apply to what is under way."""
        release = asyncio.Event()

        async def holding(link: Link) -> None:
            while (request := await link.request()) is not None:
                if b"slow" in request.line:
                    await release.wait()
                await link.send(OK)

        async def main() -> None:
            async with fleet(resetting, holding, service=NO_RETRIES) as (gateway, upstreams):
                await statuses(gateway, 12)
                assert states(gateway) == ["ejected", "available"]
                slow = asyncio.create_task(gateway.ask(GET.replace(b"/s/x", b"/s/slow")))
                await until(lambda: any(b"slow" in request.line for request in upstreams[1].requests), "the request")
                settings = gateway.runtime.settings
                service = replace(settings.services["s"], circuit=Circuit(requests=1), balance=Balance("random"))
                assert await gateway.runtime.adopt(replace(settings, services={"s": service})) == 2
                assert states(gateway) == ["ejected", "available"]
                assert await statuses(gateway, 1) == {503: 1}
                release.set()
                assert (await slow).status == 200
                before = seen(upstreams)[0]
                assert await statuses(gateway, 10) == {200: 10}
                assert seen(upstreams)[0] == before

        run(main())

    def test_an_instance_that_joins_starts_slowly(self, fleet: Fleet) -> None:
        """B6, G3: a tenth of its share at first, all of it in the end."""

        async def main() -> None:
            async with fleet(answering(OK), service={"slow_start": "1s"}) as (gateway, _), recording_upstream() as newcomer:
                settings = gateway.runtime.settings
                service = settings.services["s"]
                joining = replace(service.instances[0], id="newcomer", port=newcomer.port)
                both = replace(service, instances=(*service.instances, joining))
                await gateway.runtime.adopt(replace(settings, services={"s": both}))
                await statuses(gateway, 22)
                assert 1 <= len(newcomer.requests) <= 8, "a machine that is busy for long makes the share grow"
                await until(lambda: gateway.runtime.directory.service("s").snapshot.balancer is _everybody(gateway), "the whole share")
                before = len(newcomer.requests)
                await statuses(gateway, 20)
                assert len(newcomer.requests) - before == 10

        run(main())


def _everybody(gateway: RunningGateway) -> object:
    return gateway.runtime.directory.service("s").snapshot.selector.everybody
