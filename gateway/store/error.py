"""One error for everything that can go wrong between us and the shared store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from redis import exceptions as redis_errors

from discovery.tls import failure_of

StoreErrorKind = Literal[
    "unavailable",  # not reachable, went away, is loading, has no primary, is busy
    "timeout",  # did not answer in time; what was sent may or may not have been done
    "redirected",  # nothing was done, and whoever sent it knows better now where to: it may be sent again
    "moved",  # the keys are on another server of the cluster: nothing was done
    "asked",  # they are just on their way to another server: nothing was done
    "try_again",  # some are here and some there: nothing was done
    "no_script",  # does not know the script: nothing was done, it may be sent again with its text
    "emptied",  # lost what it knew: nothing was done, it has to be told again what was revoked
    "read_only",  # a replica, or a primary that was demoted: look for the new one
    "out_of_memory",
    "permission",  # the user may not do this
    "authentication",  # the user or the password is wrong
    "script",  # the script or a command failed on what it found: wrong type, damaged value
]

#: First word of an error reply -> what it means to us. Words that are not here are failures of the script or of a command.
REPLY_KINDS: dict[str, StoreErrorKind] = {
    "NOSCRIPT": "no_script",
    # Our own word; see admission/lua/admit.lua.
    "EMPTIED": "emptied",
    "READONLY": "read_only",
    "OOM": "out_of_memory",
    "NOPERM": "permission",
    "NOAUTH": "authentication",
    "WRONGPASS": "authentication",
    "LOADING": "unavailable",
    "BUSY": "unavailable",
    "MASTERDOWN": "unavailable",
    "CLUSTERDOWN": "unavailable",
    "TRYAGAIN": "try_again",
    "MOVED": "moved",
    "ASK": "asked",
    "MISCONF": "unavailable",
    "NOREPLICAS": "unavailable",
    "UNKILLABLE": "unavailable",
}


class StoreError(Exception):
    """The store did not do what was asked.

    Args:
        kind: what to make of it; see `StoreErrorKind`.
        message: for operators only: it may carry the store's own words.
    """

    def __init__(self, kind: StoreErrorKind, message: str) -> None:
        self.kind = kind
        self.message = message
        super().__init__(f"{kind}: {message}")


#: What servers say before they repeat a command that they don't know: of HELLO that would be the password.
_REPEATED = ", with args beginning with"


def reply_error(message: str) -> StoreError:
    """The error that an error reply stands for; `message` is the reply without its leading `-`."""
    message = message.partition(_REPEATED)[0]
    word = message.split(" ", 1)[0]
    if message.startswith("ERR max number of clients"):
        return StoreError("unavailable", message)
    return StoreError(REPLY_KINDS.get(word, "script"), message)


#: Most specific first: redis-py derives some of these from each other.
_CLIENT_KINDS: tuple[tuple[type[Exception], StoreErrorKind], ...] = (
    (redis_errors.AuthenticationError, "authentication"),
    (redis_errors.AuthorizationError, "permission"),
    (redis_errors.NoPermissionError, "permission"),
    (redis_errors.NoScriptError, "no_script"),
    (redis_errors.ReadOnlyError, "read_only"),
    (redis_errors.OutOfMemoryError, "out_of_memory"),
    (redis_errors.TimeoutError, "timeout"),
    (redis_errors.ConnectionError, "unavailable"),
    (redis_errors.ClusterDownError, "unavailable"),
    # Redirected again and again.
    (redis_errors.ClusterError, "unavailable"),
    (redis_errors.TryAgainError, "unavailable"),
    (redis_errors.AskError, "unavailable"),
    (TimeoutError, "timeout"),
    (OSError, "unavailable"),
)


def client_error(exc: Exception) -> StoreError:
    """The error that an exception of redis-py, or of the socket below it, stands for."""
    for cls, kind in _CLIENT_KINDS:
        if isinstance(exc, cls):
            failure = failure_of(exc)
            told = f"TLS: {': '.join(failure)}" if failure is not None else str(exc).partition(_REPEATED)[0]
            return StoreError(kind, told or type(exc).__name__)
    return reply_error(str(exc))


@contextmanager
def translated() -> Iterator[None]:
    """Turns what redis-py raises inside the block into `StoreError`."""
    try:
        yield
    except (redis_errors.RedisError, OSError) as exc:
        raise client_error(exc) from exc
