"""Connections of redis-py, opened with our deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.store.address import Address, Node
from gateway.store.error import StoreError, client_error

T = TypeVar("T")

_CONNECT_SECONDS = 1.0
#: For ordinary use (revocations, API keys, heartbeats): long enough for a listing, short enough for a dead server to be noticed.
CALL_SECONDS = 2.0
#: For a connection of admission where there may be another server to turn to: a request waits for its verdict much shorter than this.
_SWITCH_SECONDS = 0.5
#: How long those that have not answered are waited for once another has.
_GRACE_SECONDS = 0.05
POOL_CONNECTIONS = 16
POOL_WAIT_SECONDS = 1.0
HEALTH_CHECK_SECONDS = 15


def connection_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of redis-py for any connection of ours.

    No retries: a script that was sent and not answered may have counted. The defaults would send it eleven times over a minute.
    """
    return {
        "socket_timeout": CALL_SECONDS,
        "socket_connect_timeout": _CONNECT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "gateway",
        **arguments,
    }


async def connect(address: Address, **arguments: Any) -> AbstractConnection:
    """A new connection of its own: connected, authenticated, database selected, speaking RESP2 (a reply follows each command and nothing
    else comes). The caller disconnects it.

    Args:
        arguments: what the address does not say: host and port.

    Raises:
        StoreError: no server, or it does not let us in.
    """
    connection = address.connection_class(protocol=2, **connection_arguments(address.arguments | arguments))
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except Exception as exc:
        raise client_error(exc) from exc
    except BaseException:
        # Cancelled in the middle of the handshake.
        await connection.disconnect(nowait=True)
        raise
    return connection


async def connect_soon(address: Address, node: Node) -> AbstractConnection:
    """`connect` to one of several servers, given up early: the next one may be the right one already. Raises StoreError."""
    try:
        async with asyncio.timeout(_SWITCH_SECONDS):
            return await connect(address, host=node.host, port=node.port)
    except TimeoutError as exc:
        raise StoreError("timeout", f"no connection to {node} within {_SWITCH_SECONDS} s") from exc


async def ask(connection: AbstractConnection, *words: str) -> Any:
    """One command on a connection of one's own. Raises StoreError."""
    try:
        await connection.send_command(*words)
        return await connection.read_response()
    except Exception as exc:
        raise client_error(exc) from exc


async def answers(questions: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What several servers answer, asked at once; those that take long are left out.

    Raises:
        StoreError: nobody answered.
    """
    pending = {asyncio.ensure_future(question) for question in questions}
    found: list[T] = []
    failure = StoreError("unavailable", "there is nobody to ask")
    try:
        while pending:
            done, pending = await asyncio.wait(pending, timeout=_GRACE_SECONDS if found else None, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for task in done:
                if isinstance(error := task.exception(), StoreError):
                    failure = error
                else:
                    found.append(task.result())
    finally:
        for task in pending:
            task.cancel()
    if not found:
        raise failure
    return found
