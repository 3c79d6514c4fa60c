"""Requests that are sent again, on real sockets: for which failures, to whom, when, and how many."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from gateway.telemetry.exposition import render
from gateway.telemetry.observation import Observation
from gateway.telemetry.spans import SpanBuilder
from tests.integration.wire.conftest import Fleet
from tests.support.gateway_process import ADAPTERS, GET, Adapter, Client, RunningGateway, run
from tests.support.ports import free_port
from tests.support.recording_upstream import OK, Link, RecordingUpstream, Script, answering, in_turn
from tests.support.redis_server import until

both = pytest.mark.parametrize("adapter", ADAPTERS)
POST = b"POST /s/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
PUT = b"PUT /s/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
EMPTY_POST = b"POST /s/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"


#: No instance is taken out, whatever it does.
STEADY: dict[str, Any] = {"outlier": {"consecutive_failures": 0}}


def answer(status: int, *lines: bytes) -> bytes:
    return b"HTTP/1.1 %d Whatever\r\n" % status + b"".join(line + b"\r\n" for line in lines) + b"Content-Length: 2\r\n\r\nno"


async def resetting(link: Link) -> None:
    """Reads a request and resets the connection."""
    await link.request()
    link.reset()


async def silent(link: Link) -> None:
    """Reads everything and says nothing."""
    await link.until_lost()


def seen(upstreams: list[RecordingUpstream]) -> list[int]:
    return [len(upstream.requests) for upstream in upstreams]


def refused() -> str:
    return f"http://127.0.0.1:{free_port()}"


def metric(gateway: RunningGateway, name: str) -> float:
    lines = render(gateway.runtime.telemetry.metrics).decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f'{name}{{service="s"'))


#: What one instance does, and the methods that another one is asked with afterwards.
FAILURES: dict[str, tuple[Callable[[], Script | str], tuple[bytes, ...], tuple[bytes, ...]]] = {
    "refused": (refused, (GET, PUT, POST), ()),
    "reset": (lambda: resetting, (GET, PUT), (POST, EMPTY_POST)),
    "502": (lambda: answering(answer(502)), (GET, PUT), (POST,)),
    "503": (lambda: answering(answer(503)), (GET, PUT), (POST,)),
    "504": (lambda: answering(answer(504)), (GET, PUT), (POST,)),
    "429": (lambda: answering(answer(429)), (), (GET, PUT, POST)),
    "500": (lambda: answering(answer(500)), (), (GET, PUT, POST)),
    "nonsense": (lambda: answering(b"SSH-2.0-OpenSSH_9.2\r\n"), (), (GET, POST)),
}


@both
@pytest.mark.parametrize("name", FAILURES)
def test_another_instance_is_asked_when_that_can_do_no_harm(fleet: Fleet, adapter: Adapter, name: str) -> None:
    """R1, R2, F-30: after a failed connection any request, after a reset or a gateway error only an idempotent one, otherwise none."""
    make, again, once = FAILURES[name]
    if adapter == "asgi":
        # There a body comes after the head, so it is never known to be here as a whole.
        again = tuple(request for request in again if request != PUT or name == "refused")

    async def main() -> None:
        async with fleet(answering(OK), make(), adapter=adapter, service=STEADY) as (gateway, upstreams):
            client = await gateway.connect()
            for request in again:
                # Taken in turn: one of two begins at the instance that fails.
                for _ in range(2):
                    response = await client.ask(request)
                    assert (response.status, response.body) == (200, b"ok"), request
            before = seen(upstreams)
            for request in once:
                statuses = Counter([(await (await gateway.connect()).ask(request)).status for _ in range(4)])
                assert statuses[200] == 2, statuses
            assert sum(seen(upstreams)) - sum(before) == 4 * len(once)
            await gateway.idle()

    run(main())


@both
def test_a_body_that_is_streamed_is_never_sent_twice(fleet: Fleet, adapter: Adapter) -> None:
    """R1: what went out piece by piece is not here any more."""

    async def script(link: Link) -> None:
        await link.head()
        await link.read()
        link.reset()

    async def main() -> None:
        async with fleet(script, script, adapter=adapter) as (gateway, upstreams):
            client = await gateway.connect()
            await client.send(b"PUT /s/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500)
            assert (await client.response()).status == 502
            assert sum(seen(upstreams)) == 1

    run(main())


@both
def test_a_kept_connection_that_ends_under_a_request_is_no_retry(fleet: Fleet, adapter: Adapter) -> None:
    """F-31: also with retries off and nothing left of the budget."""

    async def once(link: Link) -> None:
        await link.request()
        await link.send(OK)
        await link.request()
        link.close()

    async def main() -> None:
        service = {"retry": {"attempts": 0, "budget": {"ratio": 0, "minimum": 0}}}
        async with fleet(once, adapter=adapter, service=service) as (gateway, upstreams):
            client = await gateway.connect()
            for _ in range(4):
                assert (await client.ask(GET)).status == 200
                await gateway.idle()
            assert (len(upstreams[0].links), seen(upstreams)) == (4, [7])
            (endpoint,) = gateway.runtime.directory.service("s").snapshot.endpoints
            assert endpoint.failures == 0

    run(main())


@both
def test_an_early_refusal_is_delivered_and_not_asked_for_again(fleet: Fleet, adapter: Adapter) -> None:
    """R8, R1: a 503 that comes while the client still sends is its answer: what was sent is gone."""

    async def script(link: Link) -> None:
        await link.head()
        await link.send(answer(503, b"Connection: close"))
        await link.until_lost()

    async def main() -> None:
        async with fleet(script, script, adapter=adapter) as (gateway, upstreams):
            client = await gateway.connect()
            await client.send(b"PUT /s/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500)
            response = await client.response()
            assert (response.status, response.body) == (503, b"no")
            assert sum(seen(upstreams)) == 1

    run(main())


def test_every_try_has_a_span_of_its_own(fleet: Fleet) -> None:
    """O2: CLIENT spans with `http.request.resend_count`, and the instance gets the one of its own try."""

    async def main() -> None:
        service = {"retry": {"attempts": 2}, **STEADY}
        async with fleet(answering(answer(503)), resetting, answering(OK), service=service) as (gateway, upstreams):
            observed: list[Observation] = []
            observer = gateway.runtime.telemetry
            gateway.runtime.pipeline._observer = Watching(observer, observed)
            while not observed or len(observed[-1].tries) < 3:
                assert (await gateway.ask(GET)).status == 200
            spans = list(SpanBuilder(service_name="g", version="1", replica="r").build(observed[-1]))
            assert [span.kind.name for span in spans] == ["SERVER", "CLIENT", "CLIENT", "CLIENT"]
            attributes = [dict(span.attributes or {}) for span in spans[1:]]
            assert [each.get("http.request.resend_count") for each in attributes] == [None, 1, 2]
            assert {each.get("error.type") for each in attributes} == {"503", "upstream_reset", None}
            parents = [request.values(b"traceparent")[0].split(b"-")[2] for upstream in upstreams for request in upstream.requests[-1:]]
            assert {b"%016x" % span.context.span_id for span in spans[1:]} == set(parents)

    run(main())


class Watching:
    """Lets another observer observe, and keeps what it saw."""

    def __init__(self, observer: Any, observed: list[Observation]) -> None:
        self._observer = observer
        self._observed = observed

    def accepts(self) -> bool:
        return bool(self._observer.accepts())

    def observe(self, observation: Observation) -> None:
        self._observed.append(observation)
        self._observer.observe(observation)


@both
def test_the_records_tell_every_try(fleet: Fleet, adapter: Adapter) -> None:
    """R2, O2: attempts in the audit, the retry in the metrics, and the instance that answered."""

    async def main() -> None:
        scripts = (answering(answer(503)), answering(answer(503)), answering(OK))
        async with fleet(*scripts, adapter=adapter, service={"retry": {"attempts": 2}, **STEADY}) as (gateway, upstreams):
            for _ in range(3):
                assert (await gateway.ask(GET)).status == 200
            await until(lambda: len(gateway.records()) == 3, "the records")
            records = gateway.records()
            retried = sum(seen(upstreams)) - 3
            assert retried >= 1
            assert sum(record["upstream"]["attempts"] - 1 for record in records) == retried
            assert {record["upstream"]["instance"] for record in records} == {f"127.0.0.1:{upstreams[2].port}"}
            assert {record["response"]["status"] for record in records} == {200}
            assert metric(gateway, "gateway_retries_total") == retried

    run(main())


def test_the_same_instance_is_asked_again_when_there_is_no_other(fleet: Fleet) -> None:
    """R2, R3: after a pause."""

    async def main() -> None:
        async with fleet(in_turn(answering(answer(503)), answering(OK))) as (gateway, upstreams):
            assert (await gateway.ask(GET)).status == 200
            assert seen(upstreams) == [2]

    run(main())


def test_the_last_answer_is_the_clients(fleet: Fleet) -> None:
    """R1: an answer that may not be asked for again is passed on as it came."""

    async def main() -> None:
        async with fleet(answering(answer(503, b"X-Why: tired")), service={"retry": {"attempts": 3}}) as (gateway, upstreams):
            response = await gateway.ask(GET)
            assert (response.status, response.body, response.values(b"x-why")) == (503, b"no", [b"tired"])
            assert seen(upstreams) == [4]

    run(main())


def test_all_tries_together_keep_the_total_time_out(fleet: Fleet) -> None:
    """R3, F-36: and nothing is sent after it."""

    async def slow(link: Link) -> None:
        while await link.request() is not None:
            await asyncio.sleep(0.2)
            await link.send(answer(503))

    async def main() -> None:
        service = {"retry": {"attempts": 10}, "timeouts": {"total": "900ms"}, **STEADY}
        async with fleet(slow, service=service) as (gateway, upstreams):
            started = time.monotonic()
            assert (await gateway.ask(GET)).status in (503, 504)
            assert time.monotonic() - started < 10
            assert 2 <= seen(upstreams)[0] <= 5
            await gateway.idle()

    run(main())


class TestRetryAfter:
    """R5: `Retry-After` of an upstream is respected."""

    def test_the_instance_that_named_a_time_is_not_asked_before(self, fleet: Fleet) -> None:
        """R5: without another instance the client is told when to come back."""

        async def main() -> None:
            async with fleet(answering(answer(503, b"Retry-After: 7")), service={"retry": {"attempts": 3}}) as (gateway, upstreams):
                response = await gateway.ask(GET)
                assert (response.status, response.values(b"retry-after")) == (503, [b"7"])
                assert seen(upstreams) == [1]

        run(main())

    def test_another_instance_is_asked_meanwhile(self, fleet: Fleet) -> None:
        """R5, R2: it did not ask for a pause. Once both did, the first answer is passed on."""
        busy = answer(503, b"Retry-After: 60")

        async def main() -> None:
            async with fleet(answering(busy), answering(busy), service={"retry": {"attempts": 5}, **STEADY}) as (gateway, upstreams):
                for asked in ([1, 1], [1, 2]):
                    assert (await gateway.ask(GET)).values(b"retry-after") == [b"60"]
                    assert sorted(seen(upstreams)) == asked

        run(main())

    def test_no_time_at_all_is_no_obstacle(self, fleet: Fleet) -> None:
        """R5."""

        async def main() -> None:
            async with fleet(in_turn(answering(answer(503, b"Retry-After: 0")), answering(OK))) as (gateway, upstreams):
                assert (await gateway.ask(GET)).status == 200
                assert seen(upstreams) == [2]

        run(main())


class TestPerTry:
    """R1: a slow try is given up for another instance where that is allowed."""

    @both
    def test_another_instance_is_asked(self, fleet: Fleet, adapter: Adapter) -> None:
        """R2, F-35: and the slow one's work is cancelled."""

        async def main() -> None:
            async with fleet(silent, answering(OK), adapter=adapter, service={"retry": {"per_try": "200ms"}}) as (gateway, upstreams):
                for _ in range(2):
                    assert (await gateway.ask(GET)).status == 200
                await upstreams[0].links[0].lost.wait()
                record = await gateway.record(lambda record: record["upstream"]["attempts"] == 2)
                assert 150 < record["duration_ms"] < 10_000

        run(main())

    @pytest.mark.parametrize(("instances", "request_"), [(1, GET), (2, POST)], ids=["no other instance", "not idempotent"])
    def test_otherwise_it_goes_on(self, fleet: Fleet, instances: int, request_: bytes) -> None:
        """F-30, F-36: nothing is sent twice, and an answer that comes within `response` is delivered."""

        async def slow(link: Link) -> None:
            while await link.request() is not None:
                await asyncio.sleep(0.5)
                await link.send(OK)

        async def main() -> None:
            async with fleet(*[slow] * instances, service={"retry": {"per_try": "100ms"}}) as (gateway, upstreams):
                assert (await gateway.ask(request_)).status == 200
                assert sum(seen(upstreams)) == 1

        run(main())

    def test_slow_tries_that_find_no_budget_ask_again(self, fleet: Fleet) -> None:
        """R4: many become slow at once, and all are answered elsewhere, a few at a time."""

        async def main() -> None:
            service = {"retry": {"per_try": "200ms", "budget": {"ratio": 0, "minimum": 2}}, **STEADY}
            async with fleet(silent, answering(OK), service=service) as (gateway, _):
                started = time.monotonic()
                tasks = [asyncio.create_task(gateway.ask(GET)) for _ in range(24)]
                assert [(await task).status for task in tasks] == [200] * 24
                assert time.monotonic() - started < 14
                assert metric(gateway, "gateway_retries_denied_total") > 0

        run(main())

    def test_the_wait_ends_with_the_response_time_out(self, fleet: Fleet) -> None:
        """F-36: `per_try` does not make it longer."""

        async def main() -> None:
            service = {"retry": {"per_try": "100ms"}, "timeouts": {"response": "400ms"}}
            async with fleet(silent, service=service) as (gateway, upstreams):
                started = time.monotonic()
                response = await gateway.ask(GET)
                assert (response.status, len(upstreams[0].links)) == (504, 1)
                assert 0.35 < time.monotonic() - started < 10
                assert (await gateway.record())["reason"] == "upstream_response_timeout"

        run(main())


@both
def test_a_client_that_leaves_between_two_tries_gets_no_other_one(fleet: Fleet, adapter: Adapter) -> None:
    """R7, F-30: never while the client is gone."""
    asked = asyncio.Event()

    async def script(link: Link) -> None:
        await link.request()
        asked.set()
        await asyncio.sleep(0.2)
        await link.send(answer(503))

    async def main() -> None:
        async with fleet(script, adapter=adapter) as (gateway, upstreams):
            client = await gateway.connect()
            await client.send(GET)
            await asked.wait()
            client.close()
            record = await gateway.record()
            assert (record["reason"], record["upstream"]["attempts"]) == ("client_gone", 1)
            await gateway.idle()
            assert seen(upstreams) == [1]

    run(main())


@pytest.mark.parametrize("fault", ["503", "reset"])
def test_a_service_that_always_fails_gets_little_more_than_it_would_without_retries(fleet: Fleet, fault: str) -> None:
    """R4: 100 requests in flight at a service that fails 100 %: at most 1.2 requests for one."""
    count = 100

    async def failing(link: Link) -> None:
        while await link.request() is not None:
            await asyncio.sleep(0.02)
            if fault == "reset":
                link.reset()
            else:
                await link.send(answer(503))

    async def main() -> None:
        service = {"retry": {"attempts": 3}, **STEADY}
        async with fleet(failing, failing, service=service) as (gateway, upstreams):

            async def client() -> int:
                own: Client = await gateway.connect()
                return sum([(await own.ask(GET)).status in (502, 503, 504) for _ in range(10)])

            assert sum(await asyncio.gather(*[client() for _ in range(count)])) == 10 * count
            sent = sum(seen(upstreams))
            assert 10 * count < sent <= 12 * count + 3
            await until(lambda: metric(gateway, "gateway_retries_total") == sent - 10 * count, "the retries in the metrics")
            assert metric(gateway, "gateway_retries_denied_total") > 0
            await gateway.idle()

    run(main())
