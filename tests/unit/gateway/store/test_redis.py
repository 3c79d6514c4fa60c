"""The store that settings name."""

from __future__ import annotations

import asyncio

from gateway.settings import StateSettings
from gateway.store.redis import Store


def test_a_store_shows_no_secret_and_a_standalone_one_has_one_shard() -> None:
    async def main() -> None:
        store = Store.open(StateSettings(url="redis://user:hidden@host:1/2"))
        assert repr(store) == "<Store redis://user:***@host:1/2 shards=1>"
        assert {store.shard_of(f"user-{number}") for number in range(100)} == {0}
        assert store.shard_of("a") == store.shard_of(b"a")
        assert store.tag(0) == b"{s00}"
        await store.close()

    asyncio.run(main())
