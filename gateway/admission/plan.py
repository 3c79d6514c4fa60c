"""What a route's limits become at start, and the two ways across: from a request to bytes for the script, from its reply to a verdict."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import permutations
from math import gcd
from struct import pack
from typing import Protocol

from gateway.admission import limits as limit_rules
from gateway.admission.keys import Facts, Part, digest, identity, key_part, of_principal_only
from gateway.admission.limits import SECOND_US, ceil_seconds
from gateway.admission.verdict import ALLOWED, REVOKED, Lease, Verdict
from gateway.auth.principal import Principal
from gateway.errors import ConfigError
from gateway.route import Limit, Route
from gateway.store.script import bulk

_KIND_CODES = {"gcra": 1, "sliding_window": 2, "quota": 3, "concurrency": 4}
#: Times 128 requests a call stays far below the number of values that Lua can pass at once.
MAXIMUM_LIMITS = 32
_PARAMETER = re.compile(r"\{([^}:]+)(?::[^}]*)?\}")
#: Where a principal keeps what the revocation check needs to know of it; the same for all plans.
_WHO = "admission.who"
_NOBODY = bulk(b"")


class Sharding(Protocol):
    """How keys are spread: the store."""

    def shard_of(self, key: bytes | str) -> int: ...

    def tag(self, shard: int) -> bytes: ...


class Ticket:
    """What one request needs to ask the script, ready for the wire. It is used again for the next request of the same principal.

    Attributes:
        keys, key_count: the keys of its limits.
        arguments, argument_count: plan and who; a request with leases adds its lease's name.
        leased: where its concurrency limits are: (number in the plan, key on the wire, life in microseconds).
        charged: False when it only peeks.
    """

    __slots__ = ("argument_count", "arguments", "charged", "key_count", "keys", "leased", "plan", "shard")

    def __init__(self, plan: AdmissionPlan, shard: int, keys: Sequence[bytes], arguments: bytes, charged: bool) -> None:
        self.plan = plan
        self.shard = shard
        self.keys = b"".join(keys)
        self.key_count = len(keys)
        self.arguments = arguments
        self.leased = tuple((at, keys[at], life_us) for at, life_us in plan.lease_limits)
        self.argument_count = 3 if self.leased else 2
        self.charged = charged

    def leases(self, reply: Sequence[int], at: int, name: bytes, now: float) -> tuple[Lease, ...]:
        """The leases that the script has given to this admitted request; a shadow limit that was full has given none."""
        if not self.charged:
            return ()
        return tuple(Lease(self.shard, key, name, life_us, now) for number, key, life_us in self.leased if reply[at + 1 + 2 * number] >= 0)


class _Template:
    """How one limit's key is made: a prefix for each shard, the parts that follow as one digest."""

    __slots__ = ("_parts", "_prefixes")

    def __init__(self, limit: Limit, shadow: bool, route: str, tags: Sequence[bytes]) -> None:
        self._parts: tuple[Part, ...] = tuple(key_part(name, route) for name in limit.key)
        # The kind and, where windows are numbered by it, the period are part of the key: what was stored under another declaration
        # must not be read as this one's.
        period = b"" if limit.kind in ("gcra", "concurrency") else b"%d" % ceil_seconds(limit.period_us)
        kind = (b"shadow-" if shadow else b"") + limit.kind.encode() + period
        keys = [b"gw:%b:%b:%b:" % (tag, kind, limit.name.encode()) for tag in tags]
        self._prefixes = [b"$%d\r\n%b" % (len(key) + 32, key) for key in keys]

    def key(self, shard: int, principal: Principal | None, facts: Facts) -> bytes:
        values = [value for part in self._parts for value in part(principal, facts)]
        return self._prefixes[shard] + digest(*values).hex().encode() + b"\r\n"


class AdmissionPlan:
    """A route's limits, compiled. Made by `Admission.plan`.

    Args:
        route: where the limits are declared.
        sharding: which shard a principal's keys live on.
        shards: how many there are.

    Raises:
        ConfigError: a limit is malformed, named twice, asks for a path parameter that the route does not have, or can never be met
            because one request costs more than it ever allows.
    """

    def __init__(self, route: Route, sharding: Sharding, shards: int) -> None:
        where = f"{route.line or 'routes'}: route {route.name!r}"
        real = [limit_rules.validated(limit, f"{where}, limit {limit.name!r}") for limit in route.limits]
        shadow = [limit_rules.validated(limit, f"{where}, shadow limit {limit.name!r}") for limit in route.shadow_limits]
        _check(route, real, shadow, where)
        every = [*real, *shadow]
        self.route = route
        self.name = route.name
        self.limits: tuple[Limit, ...] = tuple(real)
        self.shadow_limits: tuple[Limit, ...] = tuple(shadow)
        #: Integers of the reply that a request which is not revoked takes.
        self.width = 1 + 2 * len(every)
        self.lease_limits = tuple((at, limit.period_us) for at, limit in enumerate(every) if limit.kind == "concurrency")
        self.policy_line = limit_rules.policy_line(real)
        self._sharding = sharding
        tags = [sharding.tag(shard) for shard in range(shards)]
        self._templates = [_Template(limit, at >= len(real), route.name, tags) for at, limit in enumerate(every)]
        self._charged = bulk(_parameters(real, shadow, route.cost))
        self._peeked = bulk(_parameters(real, shadow, 0))
        self._kept_with_principal = all(of_principal_only(name) for limit in every for name in limit.key)
        self._names = tuple(limit.name for limit in real)
        self._items = tuple(_item_template(limit) for limit in real)
        self._capacities = tuple(limit_rules.capacity(limit) for limit in real)
        self._blocks = _block_templates(self._items, self.policy_line) if len(real) <= _FEW_LIMITS else {}
        self._read = _reader(self)

    def __repr__(self) -> str:
        return f"<AdmissionPlan {self.name} limits={len(self.limits)} shadow={len(self.shadow_limits)}>"

    def needs(self, principal: Principal | None) -> bool:
        """Whether a request must be admitted by the store: not on a route without limits when nobody in particular asks (SPEC V5)."""
        return principal is not None or bool(self._templates)

    def ticket(self, principal: Principal | None, facts: Facts) -> Ticket:
        """What this request asks, from the principal's memo where the keys are made of nothing else."""
        if principal is None:
            return self._ticket(None, facts, self.route.cost)
        if not self._kept_with_principal:
            return self._ticket(principal, facts, self.route.cost)
        kept: Ticket | None = principal.memo.get(self)
        if kept is None:
            kept = principal.memo[self] = self._ticket(principal, facts, self.route.cost)
        return kept

    def peek_ticket(self, principal: Principal | None, facts: Facts) -> Ticket:
        """The same with a cost of 0: it tells and takes nothing."""
        return self._ticket(principal, facts, 0)

    def verdict(self, reply: Sequence[int], at: int) -> Verdict:
        """What the script's reply says about the request whose part begins `at`."""
        code = reply[at]
        return REVOKED[code] if code > 0 else self._read(reply, at)

    def _ticket(self, principal: Principal | None, facts: Facts, cost: int) -> Ticket:
        shard = self._sharding.shard_of(facts.client_ip if principal is None else principal.subject)
        keys = [template.key(shard, principal, facts) for template in self._templates]
        who = _NOBODY if principal is None else _who(principal)
        return Ticket(self, shard, keys, (self._charged if cost else self._peeked) + who, cost > 0)

    def _read_single(self, reply: Sequence[int], at: int) -> Verdict:
        remaining, wait_us = reply[at + 1], reply[at + 2]
        if remaining < 0:
            return self._read_all(reply, at)
        seconds = -(-wait_us // SECOND_US)
        name = self._names[0]
        return Verdict(True, "", (), ((name, remaining),), (), 0, self._items[0] % (remaining, seconds) + self.policy_line)

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
        shadow = tuple(limit.name for limit, (left, _) in zip(self.shadow_limits, numbers[count:], strict=True) if left < 0)
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
        return b"ratelimit: " + b", ".join(item.removeprefix(_LINE).removesuffix(b"\r\n") for item in items) + b"\r\n" + self.policy_line


_LINE = b"ratelimit: "
#: Up to so many limits have a template for each order.
_FEW_LIMITS = 4
_FORWARD, _BACKWARD = (0, 1), (1, 0)
_Read = Callable[[Sequence[int], int], Verdict]


def _reader(plan: AdmissionPlan) -> _Read:
    """The quickest way to read a reply for this plan."""
    if plan.width == 1:
        return lambda _, __: ALLOWED
    if plan.width == 3 and plan.limits:
        return plan._read_single
    if plan._blocks and not plan.shadow_limits:
        return plan._read_admitted
    return plan._read_all


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


def _parameters(real: Sequence[Limit], shadow: Sequence[Limit], cost: int) -> bytes:
    """The plan as the script reads it; see lua/admit.lua."""
    if not real and not shadow:
        return b""
    parts = [pack("<BBddd", _KIND_CODES[limit.kind], 0, *_numbers(limit)) for limit in real]
    parts += [pack("<BBddd", _KIND_CODES[limit.kind], 1, *_numbers(limit)) for limit in shadow]
    return pack("<d", cost) + b"".join(parts)


def _numbers(limit: Limit) -> tuple[float, float, float]:
    if limit.kind != "gcra":
        return float(limit.count), float(limit.period_us), 0.0
    # A bucket in units of 1/count microseconds: an event adds `period`, each microsecond drains `count`. All whole numbers, so no rate
    # is rounded; dividing by what they share keeps them small.
    shared = gcd(limit.period_us, limit.count)
    increment = limit.period_us // shared
    return float(increment), float(limit.burst * increment), float(limit.count // shared)


def _who(principal: Principal) -> bytes:
    kept: bytes | None = principal.memo.get(_WHO)
    if kept is None:
        values = (
            ("jti", principal.token_id),
            ("subject", principal.subject),
            ("session", principal.session),
            ("client", principal.client),
            ("issuer", principal.issuer),
        )
        kept = bulk(pack("<d", principal.issued_at) + b"".join(identity(kind, value) for kind, value in values))
        principal.memo[_WHO] = kept
    return kept


def _check(route: Route, real: Sequence[Limit], shadow: Sequence[Limit], where: str) -> None:
    every = [*real, *shadow]
    if len(every) > MAXIMUM_LIMITS:
        raise ConfigError(f"{where}: {len(every)} limits are too many; up to {MAXIMUM_LIMITS} are allowed")
    if route.cost < 0:
        raise ConfigError(f"{where}: cost {route.cost} must be 0 or more")
    for declared in (real, shadow):
        names = [limit.name for limit in declared]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"{where}: the limit {name!r} is listed twice")
    for limit in every:
        if limit.kind != "concurrency" and route.cost > limit_rules.capacity(limit):
            most = limit_rules.capacity(limit)
            raise ConfigError(f"{where}: cost {route.cost} can never be met by limit {limit.name!r}, which allows at most {most} at once")
        _check_path_parameters(route, limit, where)


def _check_path_parameters(route: Route, limit: Limit, where: str) -> None:
    known = {name.removesuffix(":path") for name in _PARAMETER.findall(route.path)}
    for name in limit.key:
        if name.startswith("path:") and name.removeprefix("path:") not in known:
            raise ConfigError(f"{where}: limit {limit.name!r} counts by {name!r}, but {route.path!r} has no such parameter")
