"""From the script's reply to a verdict: what is left, what refuses, and the header lines that say so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations

from gateway.admission import limits as limit_rules
from gateway.admission.limits import SECOND_US, ceil_seconds
from gateway.admission.verdict import ALLOWED, Verdict
from gateway.route import Limit

#: Reads the part of a reply that begins at a place and belongs to one request that is not revoked; see lua/admit.lua.
Read = Callable[[Sequence[int], int], Verdict]
_LINE = b"ratelimit: "
#: Up to so many limits have a template for each order.
_FEW_LIMITS = 4
_FORWARD, _BACKWARD = (0, 1), (1, 0)


class Reading:
    """Reads replies about some limits.

    Args:
        real, shadow: the limits, in the order of the reply.
        policy_line: the `ratelimit-policy` line of the route.

    Attributes:
        width: integers of the reply that a request which is not revoked takes.
        read: the quickest way to read a reply about these limits.
    """

    def __init__(self, real: Sequence[Limit], shadow: Sequence[Limit], policy_line: bytes) -> None:
        self.width = 1 + 2 * (len(real) + len(shadow))
        self._shadow = shadow
        self._policy_line = policy_line
        self._names = tuple(limit.name for limit in real)
        self._items = tuple(_item_template(limit) for limit in real)
        self._capacities = tuple(limit_rules.capacity(limit) for limit in real)
        self._blocks = _block_templates(self._items, policy_line) if len(real) <= _FEW_LIMITS else {}
        self.read: Read = self._quickest()

    def _quickest(self) -> Read:
        if self.width == 1:
            return lambda _, __: ALLOWED
        if self.width == 3 and self._names:
            return self._read_single
        if self._blocks and not self._shadow:
            return self._read_admitted
        return self._read_all

    def _read_single(self, reply: Sequence[int], at: int) -> Verdict:
        remaining, wait_us = reply[at + 1], reply[at + 2]
        if remaining < 0:
            return self._read_all(reply, at)
        seconds = -(-wait_us // SECOND_US)
        name = self._names[0]
        return Verdict(True, "", (), ((name, remaining),), (), 0, self._items[0] % (remaining, seconds) + self._policy_line)

    def _read_admitted(self, reply: Sequence[int], at: int) -> Verdict:
        """The common outcome of a route with a few limits and no shadow limits: nothing refuses."""
        if reply[at]:
            return self._read_all(reply, at)
        lefts = reply[at + 1 : at + self.width : 2]
        waits = reply[at + 2 : at + self.width : 2]
        capacities = self._capacities
        if len(lefts) == 2:
            nearest: tuple[int, ...] = _FORWARD if lefts[0] * capacities[1] <= lefts[1] * capacities[0] else _BACKWARD
        else:
            nearest = tuple(sorted(range(len(lefts)), key=lambda i: lefts[i] / capacities[i]))
        numbers = [number for i in nearest for number in (lefts[i], -(-waits[i] // SECOND_US))]
        return Verdict(True, "", (), tuple(zip(self._names, lefts, strict=True)), (), 0, self._blocks[nearest] % tuple(numbers))

    def _read_all(self, reply: Sequence[int], at: int) -> Verdict:
        names = self._names
        count = len(names)
        numbers = [(reply[i], reply[i + 1]) for i in range(at + 1, at + self.width, 2)]
        remaining = tuple((names[i], left if left >= 0 else -1 - left) for i, (left, _) in enumerate(numbers[:count]))
        violated = tuple(names[i] for i, (left, _) in enumerate(numbers[:count]) if left < 0)
        shadow = tuple(limit.name for limit, (left, _) in zip(self._shadow, numbers[count:], strict=True) if left < 0)
        wait_us = max((wait for left, wait in numbers[:count] if left < 0), default=0)
        allowed = reply[at] == 0
        return Verdict(
            allowed,
            "",
            violated,
            remaining,
            shadow,
            0 if allowed else max(1, ceil_seconds(wait_us)),
            self._header_block(numbers[:count]),
        )

    def _header_block(self, numbers: Sequence[tuple[int, int]]) -> bytes:
        """Both lines; the policy nearest exhaustion first, those that refuse before all."""
        if not numbers:
            return b""
        nearest = sorted(range(len(numbers)), key=lambda i: numbers[i][0] / self._capacities[i] if numbers[i][0] >= 0 else -1.0)
        items = [_fill(self._items[i], *numbers[i]) for i in nearest]
        return b"ratelimit: " + b", ".join(item.removeprefix(_LINE).removesuffix(b"\r\n") for item in items) + b"\r\n" + self._policy_line


def _item_template(limit: Limit) -> bytes:
    """A whole `ratelimit` line for one limit, to be filled with remaining events and seconds."""
    return b'ratelimit: "%b";r=%%d;t=%%d\r\n' % limit.name.replace("%", "%%").encode()


def _block_templates(items: Sequence[bytes], policy_line: bytes) -> dict[tuple[int, ...], bytes]:
    """Both header lines for every order in which a few limits may be nearest to exhaustion, to be filled with their numbers."""
    bare = [item.removeprefix(_LINE).removesuffix(b"\r\n") for item in items]
    tail = b"\r\n" + policy_line.replace(b"%", b"%%")
    return {order: _LINE + b", ".join(bare[i] for i in order) + tail for order in permutations(range(len(bare)))}


def _fill(template: bytes, left: int, wait_us: int) -> bytes:
    return template % (left if left >= 0 else -1 - left, ceil_seconds(wait_us))
