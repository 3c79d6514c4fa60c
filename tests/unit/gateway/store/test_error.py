"""Errors of the store, whatever words they came in."""

from __future__ import annotations

import pytest
from redis import exceptions as redis_errors

from gateway.store.error import StoreError, reply_error, translated


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("NOSCRIPT No matching script. Please use EVAL.", "no_script"),
        ("READONLY You can't write against a read only replica. script: on @user_script:1.", "read_only"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "out_of_memory"),
        ("NOPERM this user has no permissions to run the 'evalsha' command", "permission"),
        ("NOAUTH Authentication required.", "authentication"),
        ("WRONGPASS invalid username-password pair or user is disabled.", "authentication"),
        ("LOADING Redis is loading the dataset in memory", "unavailable"),
        ("BUSY Redis is busy running a script.", "unavailable"),
        ("MASTERDOWN Link with MASTER is down", "unavailable"),
        ("CLUSTERDOWN The cluster is down", "unavailable"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "try_again"),
        ("MOVED 3999 127.0.0.1:6381", "moved"),
        ("ASK 3999 127.0.0.1:6381", "asked"),
        ("MISCONF Redis is configured to save RDB snapshots", "unavailable"),
        ("NOREPLICAS Not enough good replicas to write.", "unavailable"),
        ("ERR max number of clients reached", "unavailable"),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", "script"),
        ("ERR bad argument #1 to 'unpack'", "script"),
        ("CROSSSLOT Keys in request don't hash to the same slot", "script"),
        ("", "script"),
    ],
)
def test_each_reply_has_its_kind(reply: str, kind: str) -> None:
    """F-6: one case an error string."""
    error = reply_error(reply)
    assert error.kind == kind
    assert error.message == reply


@pytest.mark.parametrize(
    ("exception", "kind"),
    [
        (redis_errors.ConnectionError("refused"), "unavailable"),
        (redis_errors.BusyLoadingError("loading"), "unavailable"),
        (redis_errors.TimeoutError("slow"), "timeout"),
        (redis_errors.AuthenticationError("wrong"), "authentication"),
        (redis_errors.AuthorizationError("no"), "permission"),
        (redis_errors.NoPermissionError("no"), "permission"),
        (redis_errors.NoScriptError("none"), "no_script"),
        (redis_errors.ReadOnlyError("replica"), "read_only"),
        (redis_errors.OutOfMemoryError("full"), "out_of_memory"),
        (redis_errors.MasterDownError("down"), "unavailable"),
        (redis_errors.TryAgainError("later"), "unavailable"),
        (redis_errors.ResponseError("MISCONF can't save"), "unavailable"),
        (redis_errors.ResponseError("WRONGTYPE no"), "script"),
        (redis_errors.MaxConnectionsError(), "unavailable"),
        (TimeoutError(), "timeout"),
        (ConnectionResetError("reset"), "unavailable"),
    ],
)
def test_each_exception_of_the_client_has_its_kind(exception: Exception, kind: str) -> None:
    """F-6, and the cause is kept."""
    with pytest.raises(StoreError) as caught, translated():
        raise exception
    assert caught.value.kind == kind
    assert caught.value.__cause__ is exception
    assert str(caught.value).startswith(f"{kind}: ")


_OLD_SERVER = "ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' 'hidden' "


def test_a_command_that_the_server_repeats_is_cut_off() -> None:
    """O4: a server or proxy that knows no HELLO repeats it, and the password is in it."""
    assert reply_error(_OLD_SERVER).message == "ERR unknown command 'HELLO'"
    with pytest.raises(StoreError) as caught, translated():
        raise redis_errors.ResponseError(_OLD_SERVER)
    assert "hidden" not in str(caught.value)


def test_our_own_mistakes_are_not_translated() -> None:
    with pytest.raises(KeyError), translated():
        raise KeyError("ours")
