"""Calls that nobody waits for: corrections of what the store holds."""

from __future__ import annotations

from typing import Any

from gateway.store.error import StoreError
from gateway.store.lines import Line
from gateway.store.script import Script

#: How often the same call follows its keys to another server.
_MAXIMUM_REDIRECTS = 5


def send(line: Line, script: Script, arguments: tuple[int, bytes]) -> None:
    """Runs a script, whatever comes of it. What was not done because the server does not know the script, or because the keys live
    elsewhere, is sent again; other failures are for the expiry of the keys to heal.

    Args:
        line: where to. Only while it is up.
        arguments: how many follow the script in the call, and all of them as they go over the wire.
    """
    _Call(line, script, arguments).send(script.by_sha)


class _Call:
    __slots__ = ("_arguments", "_line", "_redirects", "_script")

    def __init__(self, line: Line, script: Script, arguments: tuple[int, bytes]) -> None:
        self._line = line
        self._script = script
        self._arguments = arguments
        self._redirects = 0

    def send(self, verb: bytes) -> None:
        count, arguments = self._arguments
        self._line.send(b"*%d\r\n%b%b" % (2 + count, verb, arguments), self._answered)

    def _answered(self, reply: Any) -> None:
        if not isinstance(reply, StoreError) or not self._line.up:
            return
        if reply.kind == "no_script":
            self.send(self._script.by_text)
        elif reply.kind == "redirected" and self._redirects < _MAXIMUM_REDIRECTS:
            self._redirects += 1
            self.send(self._script.by_sha)
