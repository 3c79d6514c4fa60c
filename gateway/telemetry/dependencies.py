"""Which of the things that a gateway depends on answer: told in the audit when that changes (S-34)."""

from __future__ import annotations

from collections.abc import Callable, Mapping


class Dependencies:
    """Hears of `store`, `discovery:SERVICE`, `issuer:NAME` and `introspection`, and records changes. What is not heard of answers.

    Before `begin` and after `close` nothing is recorded: a process that starts or ends has connections come and go, and its records begin
    with `start` and end with `stop`.

    Args:
        record: writes the detail of a record.
    """

    def __init__(self, record: Callable[[Mapping[str, object]], None]) -> None:
        self._record = record
        self._away: set[str] = set()
        self._recording = False

    def __repr__(self) -> str:
        return f"<Dependencies away={sorted(self._away)}>"

    def note(self, name: str, answers: bool) -> None:
        """Whether the dependency of this name answers, as somebody who asks it knows."""
        if answers == (name not in self._away):
            return
        (self._away.discard if answers else self._away.add)(name)
        if self._recording:
            self._tell(name)

    def begin(self) -> None:
        """Record what is away at the start, and from now on every change."""
        self._recording = True
        for name in sorted(self._away):
            self._tell(name)

    def close(self) -> None:
        """Record nothing more."""
        self._recording = False

    def _tell(self, name: str) -> None:
        self._record({"dependency": name, "state": "away" if name in self._away else "back"})
