"""Who gets a connection, and what becomes of one on which something went wrong."""

import asyncio

import httpx
import pytest

from discovery.lanes import Lanes


class Made:
    """The clients that were made."""

    def __init__(self) -> None:
        self.clients: list[httpx.AsyncClient] = []

    def __call__(self) -> httpx.AsyncClient:
        self.clients.append(httpx.AsyncClient())
        return self.clients[-1]


def test_never_more_requests_at_once_than_lanes_and_all_get_their_turn() -> None:
    """F-19: no storm of connections."""
    made = Made()
    most = busy = 0
    served: list[int] = []

    async def request(lanes: Lanes, number: int) -> None:
        nonlocal most, busy
        async with lanes.one():
            busy += 1
            most = max(most, busy)
            served.append(number)
            await asyncio.sleep(0)
            busy -= 1

    async def scenario() -> None:
        lanes = Lanes(made, 5)
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(request(lanes, number))
        assert lanes.demand == 0
        await lanes.close()

    asyncio.run(scenario())
    assert (most, len(made.clients)) == (5, 5)
    assert served == list(range(100))
    assert all(client.is_closed for client in made.clients)


@pytest.mark.parametrize("error", [RuntimeError("broken"), asyncio.CancelledError()])
def test_a_client_whose_request_failed_is_used_no_more(error: BaseException) -> None:
    """F-35: also after a cancellation, which may leave half an answer on the connection."""
    made = Made()

    async def scenario() -> None:
        lanes = Lanes(made, 1)
        with pytest.raises(type(error)):
            async with lanes.one():
                raise error
        async with lanes.one() as client:
            assert client is made.clients[1]
        async with lanes.one() as client:
            assert client is made.clients[1], "one whose request was answered is used again"
        assert made.clients[0].is_closed
        await lanes.close()

    asyncio.run(scenario())
