"""A property over random faults: whatever instances do, a request that is not idempotent reaches at most one of them, once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from tests.integration.wire.conftest import Fleet
from tests.support.gateway_process import ADAPTERS, Adapter, Client, run
from tests.support.ports import free_port
from tests.support.recording_upstream import OK, Link

BAD = b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno"
ATTEMPTS = 2
CLIENTS = 12
REQUESTS = 40


class Faults:
    """Instances that fail in every way at every stage, and remember which request they saw how often."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.seen: Counter[bytes] = Counter()

    async def script(self, link: Link) -> None:
        """One connection."""
        while True:
            if self._random.random() < 0.1:
                # As the next request may be on its way: a kept connection that ends.
                return link.reset() if self._random.random() < 0.5 else link.close()
            request = await link.request()
            if request is None:
                return None
            self.seen[request.values(b"x-number")[0]] += 1
            await self._misbehave(link)

    async def _misbehave(self, link: Link) -> None:
        fault = self._random.choice(["none", "none", "reset", "close", "503", "half", "slow", "idle 408"])
        if fault == "reset":
            link.reset()
        elif fault == "close":
            link.close()
        elif fault == "half":
            await link.send(OK[:10])
            link.reset()
        else:
            await asyncio.sleep(0.06 if fault == "slow" else 0)
            await link.send(BAD if fault == "503" else OK)
            if fault == "idle 408":
                await link.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                link.close()


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_request_that_is_not_idempotent_is_sent_at_most_once(fleet: Fleet, adapter: Adapter, seed: int) -> None:
    """R1, F-30: over random faults; an idempotent one at most as often as the policy says; every request gets one answer."""
    faults = Faults(seed)
    #: Number -> the status that its client was told.
    told: dict[bytes, int] = {}

    async def main() -> None:
        service = {
            "retry": {"attempts": ATTEMPTS, "per_try": "50ms", "budget": {"ratio": "100%"}},
            "outlier": {"base_ejection": "100ms", "maximum_ejected": "100%"},
        }
        gone = f"http://127.0.0.1:{free_port()}"
        async with fleet(faults.script, faults.script, faults.script, gone, adapter=adapter, service=service) as (gateway, _):

            async def client(name: int) -> None:
                own: Client = await gateway.connect()
                for turn in range(REQUESTS):
                    method, body = (b"POST", b"hello") if turn % 2 else (b"GET", b"")
                    number = b"%b-%d-%d" % (method, name, turn)
                    head = b"%b /s/x HTTP/1.1\r\nHost: a\r\nX-Number: %b\r\nContent-Length: %d\r\n\r\n"
                    response = await own.ask(head % (method, number, len(body)) + body)
                    told[number] = response.status
                    if not response.whole or response.values(b"connection") == [b"close"]:
                        own = await gateway.connect()

            await asyncio.gather(*[client(name) for name in range(CLIENTS)])
            assert len(told) == CLIENTS * REQUESTS
            # A 408 that comes as a POST goes out may be its answer, and asking again may be doing twice.
            assert {status for number, status in told.items() if number.startswith(b"POST")} <= {200, 408, 502, 503}
            assert {status for number, status in told.items() if number.startswith(b"GET")} <= {200, 502, 503}
            await gateway.idle()
        posts = {number: count for number, count in faults.seen.items() if number.startswith(b"POST")}
        gets = {number: count for number, count in faults.seen.items() if number.startswith(b"GET")}
        assert max(posts.values()) == 1, "a POST was sent twice"
        assert max(gets.values()) <= ATTEMPTS + 1
        assert {200} < {told[number] for number, count in gets.items() if count > 1}, "some are answered after a failure, not all"
        assert any(told[number] == 200 for number in posts)

    run(main())
