"""One client can't have all the connections."""

from __future__ import annotations

import asyncio

from tests.integration.wire.conftest import Stage
from tests.support.gateway_process import GET, Client, RunningGateway, run
from tests.support.redis_server import until

CAPPED = {"max": {"connections_per_client": 2}, "trusted_proxies": ["127.0.0.9"]}


async def connected(gateway: RunningGateway, address: str) -> Client:
    """A connection from an address."""
    client = Client(*await asyncio.open_connection("127.0.0.1", gateway.port, local_addr=(address, 0)))
    gateway.clients.append(client)
    return client


def test_one_address_has_its_share_of_the_connections(stage: Stage) -> None:
    """H10: beyond it 503 `overloaded`, and only for that address; what is closed can be opened again. A trusted proxy speaks for many."""

    async def main() -> None:
        async with stage(server=CAPPED) as (gateway, _):
            held = [await connected(gateway, "127.0.0.2") for _ in range(2)]
            assert [(await client.ask(GET)).status for client in held] == [200, 200]
            response = await (await connected(gateway, "127.0.0.2")).response()
            assert (response.status, response.problem["code"]) == (503, "overloaded")
            assert (await gateway.record(lambda record: record["decision"] == "deny"))["reason"] == "overloaded"
            assert (await (await connected(gateway, "127.0.0.3")).ask(GET)).status == 200
            proxied = [await connected(gateway, "127.0.0.9") for _ in range(4)]
            assert [(await client.ask(GET)).status for client in proxied] == [200] * 4
            # Those that it has go on.
            assert [(await client.ask(GET)).status for client in held] == [200, 200]

            for client in gateway.clients:
                client.close()
            await until(lambda: not gateway.connections, "the connections to end")
            assert (await (await connected(gateway, "127.0.0.2")).ask(GET)).status == 200

    run(main())
