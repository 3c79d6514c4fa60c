"""Stores of several servers: over TLS, with users and passwords, with one server away, on Redis and Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.settings import StateSettings
from gateway.store.error import StoreError
from gateway.store.lines import Lines
from gateway.store.redis import Store
from gateway.store.script import Script
from tests.support.certificates import issue
from tests.support.redis_groups import ClusterGroup, SentinelGroup, Tls, cluster_group, sentinel_group
from tests.support.redis_server import ServerKind, run, until

ECHO = Script("return {KEYS[1], ARGV[1]}")
ADDRESSES = [f"127.0.{third}.{last}" for third in (2, 3) for last in (1, 2, 3, 4, 5, 6, 11, 12, 13)]
_Start = Callable[..., AbstractContextManager[SentinelGroup | ClusterGroup]]
GROUPS: dict[str, _Start] = {"sentinel": sentinel_group, "cluster": cluster_group}


async def answers(settings: StateSettings) -> None:
    """The client, a connection of one's own and the line of each shard all get through. Raises StoreError when one does not."""
    store = Store.open(settings)
    changes: list[tuple[int, StoreError | None]] = []
    lines: Lines = store.lines([ECHO.load], lambda shard, why: changes.append((shard, why)))
    try:
        for shard in range(store.shards):
            key = b"gw:%b:key" % store.tag(shard)
            assert await store.run(ECHO, [key], [b"value"]) == [key, b"value"]
            await (await store.connect(shard)).disconnect()
        await lines.open()
        assert dict(changes) == dict.fromkeys(range(store.shards))
        for shard in range(store.shards):
            replies: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            lines.line(shard).send(ECHO.call([b"gw:%b:key" % store.tag(shard)], [7]), replies.set_result)
            assert await replies == [b"gw:%b:key" % store.tag(shard), b"7"]
    finally:
        await lines.close()
        await store.close()


@pytest.mark.parametrize("kind", GROUPS)
def test_every_connection_is_encrypted_and_verified(kind: str, tmp_path: Path) -> None:
    """SC-8(1): to the servers, and to the sentinels; a server of another authority is refused. Debian's Redis speaks TLS."""
    certificates = issue(tmp_path, ADDRESSES)
    tls = Tls(certificates.ca, certificates.server, certificates.server_key)
    with GROUPS[kind]("redis", tls=tls) as group:
        settings = StateSettings(url=group.url, ca_file=str(certificates.ca))
        assert group.url.startswith(f"rediss+{kind}://")

        async def main() -> None:
            await answers(settings)
            for wrong in (
                replace(settings, ca_file=str(certificates.other_ca)),
                StateSettings(url=group.url.replace("rediss", "redis", 1)),
            ):
                with pytest.raises(StoreError) as caught:
                    await answers(wrong)
                assert caught.value.kind in ("unavailable", "timeout")

        run(main())


KINDS: dict[str, ServerKind] = {"sentinel": "valkey", "cluster": "valkey"}


@pytest.mark.parametrize("kind", GROUPS)
def test_users_and_passwords_are_those_of_the_url(kind: str) -> None:
    """Of the servers, and, where they have one, of the sentinels. With Valkey."""
    options = ("--user", "gateway", "on", ">p@ss", "~*", "&*", "+@all")
    with GROUPS[kind](KINDS[kind], *options) as group:

        async def main() -> None:
            for member in group.nodes if isinstance(group, ClusterGroup) else group.sentinels:
                if isinstance(group, SentinelGroup):
                    member.call("ACL", "SETUSER", "watcher", "on", ">secret", "+@all", "~*", "&*")
            sentinels = "?sentinel_username=watcher&sentinel_password=secret"
            url = group.url_with("gateway:p%40ss@", sentinels) if isinstance(group, SentinelGroup) else group.url_with("gateway:p%40ss@")
            await answers(StateSettings(url=url))
            for wrong in {url.replace("p%40ss", "other"), url.replace("secret", "other")} - {url}:
                with pytest.raises(StoreError) as caught:
                    await answers(StateSettings(url=wrong))
                assert caught.value.kind in ("authentication", "unavailable")

        run(main())


def test_nobody_there_is_unavailable_and_taken_when_somebody_comes() -> None:
    """L9, L10: for every kind of store, at the start."""
    with cluster_group() as group:
        for node in group.nodes:
            node.kill()

        async def main() -> None:
            store = Store.open(StateSettings(url=group.url))
            up: set[int] = set()
            lines = store.lines([], lambda shard, why: up.add(shard) if why is None else up.discard(shard))
            for call in (store.connect(), store.run(ECHO, [b"gw:{s00}:key"], [1])):
                with pytest.raises(StoreError) as caught:
                    await call
                assert caught.value.kind == "unavailable"
            await lines.open()
            assert up == set()
            for node in group.nodes:
                node.start()
            await until(lambda: len(up) == store.shards, "every shard to be there", 20)
            await lines.close()
            await store.close()

        run(main())
