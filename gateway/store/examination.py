"""Whether the store can be relied on: shared, writable, running scripts, forgetting nothing, its clock near ours."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection

from gateway.finding import Finding
from gateway.store.error import StoreError, translated
from gateway.store.script import Script

#: Leases, revocations and quotas are timed by the store's clock, tokens by ours; issuers' leeway is 30 s by default.
DANGEROUS_OFFSET_SECONDS = 1.0
_NONCE_SECONDS = 30
_CLUSTER_SLOTS = 16384
_TIME = Script("local time = redis.call('TIME')\nreturn {time[1], time[2]}\n")

Facts = Mapping[str, Any]


class Store(Protocol):
    """What is examined."""

    @property
    def shards(self) -> int: ...

    def tag(self, shard: int) -> bytes: ...

    async def connect(self, shard: int = 0) -> AbstractConnection: ...

    async def run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | int]) -> Any: ...

    async def command(self, *words: bytes | str | int) -> Any: ...


async def examine(store: Store, clock: Callable[[], float] = time.time) -> list[Finding]:
    """Everything about the store; nothing stays in it. Never raises: that it can't be asked is a finding."""
    findings = []
    try:
        findings.append(await _written(store))
        findings.append(await _scripts(store, clock))
    except StoreError as error:
        return [*findings, Finding("store", "problem", f"it can't be used: {error}")]
    return [*findings, *await _facts(store)]


async def _written(store: Store) -> Finding:
    """A value written by one connection is read by another: replicas of ours would see each other's, too."""
    for shard in range(store.shards):
        key, nonce = b"gw:%b:doctor" % store.tag(shard), secrets.token_hex(8).encode()
        await store.command("SET", key, nonce, "EX", _NONCE_SECONDS)
        try:
            found = await _read_by_another(store, shard, key)
        finally:
            await store.command("DEL", key)
        if found != nonce:
            return Finding("store", "problem", "what one connection wrote another one does not read: it leads to several servers")
    shards = f", on each of {store.shards} shards" if store.shards > 1 else ""
    return Finding("store", "good", f"written by one connection and read by another{shards}")


async def _read_by_another(store: Store, shard: int, key: bytes) -> Any:
    connection = await store.connect(shard)
    try:
        with translated():
            await connection.send_command("GET", key)
            return await connection.read_response()
    finally:
        await connection.disconnect(nowait=True)


async def _scripts(store: Store, clock: Callable[[], float]) -> Finding:
    asked = clock()
    try:
        seconds, microseconds = await store.run(_TIME, [b"gw:%b:doctor" % store.tag(0)], [])
    except StoreError as error:
        if error.kind not in ("permission", "script"):
            raise
        return Finding("scripts", "problem", f"the store refuses scripts, which every decision is made by: {error}")
    offset = int(seconds) + int(microseconds) / 1e6 - (asked + clock()) / 2
    told = f"scripts run; the store's clock is {abs(offset):.3f} s {'ahead of' if offset > 0 else 'behind'} ours"
    return Finding("clock", "warning" if abs(offset) > DANGEROUS_OFFSET_SECONDS else "good", told)


async def _facts(store: Store) -> list[Finding]:
    try:
        facts: Facts = await store.command("INFO")
        findings = [*_judged(facts), await _persistence(store, facts)]
        if facts.get("cluster_enabled"):
            findings.append(_slots(await store.command("CLUSTER INFO")))
    except StoreError as error:
        return [Finding("server", "warning", f"it does not say how it is set up: {error}")]
    return findings


def _judged(facts: Facts) -> Iterator[Finding]:
    version = facts.get("valkey_version") or facts.get("redis_version") or "unknown"
    role = facts.get("role", "master")
    if role != "master":
        yield Finding("server", "problem", f"the server is a {role}, which can't be written")
    policy = facts.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        yield Finding("eviction", "good", f"noeviction (version {version})")
    else:
        told = f"maxmemory-policy is {policy}: revocations and limits may be forgotten; it must be noeviction"
        yield Finding("eviction", "problem", told)


async def _persistence(store: Store, facts: Facts) -> Finding:
    try:
        configured = await store.command("CONFIG GET", "save")
    except StoreError:
        # Many users may not ask that. The log of commands is told of in INFO.
        configured = {}
    if facts.get("aof_enabled") or configured.get("save"):
        return Finding("persistence", "good", "the store keeps its data over a restart")
    told = "the store keeps nothing over a restart: limits start full then, and what is revoked comes back from the replicas only"
    return Finding("persistence", "warning", told)


def _slots(facts: Facts) -> Finding:
    state, served = facts.get("cluster_state", "unknown"), int(facts.get("cluster_slots_ok", 0))
    good = state == "ok" and served == _CLUSTER_SLOTS
    return Finding("slots", "good" if good else "problem", f"cluster_state is {state}, {served} of {_CLUSTER_SLOTS} slots are served")
