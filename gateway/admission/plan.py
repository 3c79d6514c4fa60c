"""What a route's limits become at start, and the two ways across: from a request to bytes for the script, from its reply to a verdict."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from struct import pack
from typing import Protocol

from gateway.admission import limits as limit_rules
from gateway.admission.keys import Facts, Part, digest, home, home_of_limit, identity, key_part, of_principal_only
from gateway.admission.limits import ceil_seconds
from gateway.admission.reading import Reading
from gateway.admission.share import PartShare, PartVerdict, Share
from gateway.admission.verdict import Lease, Verdict
from gateway.auth.principal import Principal
from gateway.errors import ConfigError
from gateway.route import Limit, Route
from gateway.store.script import bulk

#: Times 128 requests a call stays far below the number of values that Lua can pass at once.
MAXIMUM_LIMITS = 32
#: Kinds whose keys have another name than they: what is stored of them was once something else, and old keys may still be there.
_RENAMED = {"sliding_window": b"sliding-log"}
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
        share: the limits that it asks about.
        shard: where.
        keys, key_count: the keys of its limits.
        arguments, argument_count: plan and who; a request with leases adds its lease's name.
        leased: where its concurrency limits are: (number in the share, key on the wire, life in microseconds).
        charged: False when it only peeks.
        rest: what must be asked on other shards as soon as this one admits.
        each_key: the keys again, one by one, of a request that asks several shards.
    """

    __slots__ = ("argument_count", "arguments", "charged", "each_key", "key_count", "keys", "leased", "rest", "shard", "share")

    def __init__(self, share: Share, shard: int, keys: Sequence[bytes], arguments: bytes, charged: bool) -> None:
        self.share = share
        self.shard = shard
        self.keys = b"".join(keys)
        self.key_count = len(keys)
        self.arguments = arguments
        self.leased = tuple((at, keys[at], life_us) for at, life_us in share.lease_limits)
        self.argument_count = 3 if self.leased else 2
        self.charged = charged
        self.rest: tuple[Ticket, ...] = ()
        self.each_key: Sequence[bytes] = ()

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
        # The kind and, where it says what still counts, the period are part of the key: what was stored under another declaration must
        # not be read as this one's.
        period = b"" if limit.kind in ("gcra", "concurrency") else b"%d" % ceil_seconds(limit.period_us)
        kind = (b"shadow-" if shadow else b"") + _RENAMED.get(limit.kind, limit.kind.encode()) + period
        keys = [b"gw:%b:%b:%b:" % (tag, kind, limit.name.encode()) for tag in tags]
        self._prefixes = [b"$%d\r\n%b" % (len(key) + 32, key) for key in keys]

    def key(self, shard: int, principal: Principal | None, facts: Facts) -> bytes:
        values = [value for part in self._parts for value in part(principal, facts)]
        return self._prefixes[shard] + digest(*values).hex().encode() + b"\r\n"

    def home(self, principal: Principal | None, facts: Facts) -> bytes:
        """What chooses the shard."""
        return home_of_limit([part(principal, facts) for part in self._parts])


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
        self.policy_line = limit_rules.policy_line(real)
        self._every = every
        self._sharding = sharding
        tags = [sharding.tag(shard) for shard in range(shards)]
        self._templates = [_Template(limit, at >= len(real), route.name, tags) for at, limit in enumerate(every)]
        self._kept_with_principal = all(of_principal_only(name) for limit in every for name in limit.key)
        self._whole = Share(real, shadow, route.cost, self.policy_line)
        self._ticket: Callable[[Principal | None, Facts, int], Ticket] = self._ticket_on if shards == 1 else self._ticket_anywhere
        # By the numbers of their limits
        self._parts: dict[tuple[int, ...], PartShare] = {}
        self._readings: dict[tuple[int, ...], Reading] = {}

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

    def each_key(self, principal: Principal | None, facts: Facts) -> list[bytes]:
        """The keys of the limits, shadow limits excepted, for whoever counts by himself."""
        return [template.key(0, principal, facts) for template in self._templates[: len(self.limits)]]

    def verdict(self, reply: Sequence[int], at: int) -> Verdict:
        """What the script's reply says about the request whose part begins `at`."""
        return self._whole.verdict(reply, at)

    def joined(self, decided: Sequence[tuple[Ticket, PartVerdict]]) -> Verdict:
        """What several shards have decided about one request, each about its limits. When the last one refuses, the others have been
        told to take back what they counted."""
        allowed = decided[-1][1].allowed
        numbers: dict[int, Sequence[int]] = {}
        for ticket, verdict in decided:
            assert isinstance(ticket.share, PartShare)
            cost = self.route.cost if ticket.charged and verdict.allowed and not allowed else 0
            numbers |= zip(ticket.share.numbers, verdict.lefts_and_waits(ticket.share, cost), strict=True)
        known = tuple(sorted(numbers))
        reply = [0 if allowed else -1, *(value for number in known for value in numbers[number])]
        return self._reading(known).read(reply, 0)

    def _ticket_on(self, principal: Principal | None, facts: Facts, cost: int, shard: int = 0) -> Ticket:
        keys = [template.key(shard, principal, facts) for template in self._templates]
        return Ticket(self._whole, shard, keys, self._whole.arguments(cost) + _who_of(principal), cost > 0)

    def _ticket_anywhere(self, principal: Principal | None, facts: Facts, cost: int) -> Ticket:
        """Where a limit that counts across principals may live on another shard than the principal."""
        shard_of = self._sharding.shard_of
        at_home = shard_of(home(principal, facts))
        # The principal's own shard first: it knows whether the token is revoked, and a refusal there costs the others nothing.
        placed: dict[int, list[int]] = {} if principal is None else {at_home: []}
        for number, template in enumerate(self._templates):
            placed.setdefault(shard_of(template.home(principal, facts)), []).append(number)
        if len(placed) <= 1:
            return self._ticket_on(principal, facts, cost, next(iter(placed), at_home))
        first, *rest = (
            self._part_ticket(shard, tuple(numbers), principal, facts, cost, principal if shard == at_home else None)
            for shard, numbers in placed.items()
        )
        first.rest = tuple(rest)
        return first

    def _part_ticket(
        self, shard: int, numbers: tuple[int, ...], principal: Principal | None, facts: Facts, cost: int, who: Principal | None
    ) -> Ticket:
        share = self._parts.get(numbers)
        if share is None:
            share = self._parts[numbers] = PartShare(numbers, *self._some(numbers), self.route.cost)
        keys = [self._templates[number].key(shard, principal, facts) for number in numbers]
        ticket = Ticket(share, shard, keys, share.arguments(cost) + _who_of(who), cost > 0)
        ticket.each_key = keys
        return ticket

    def _some(self, numbers: Sequence[int]) -> tuple[list[Limit], list[Limit]]:
        """Some of the limits and of the shadow limits."""
        first_shadow = len(self.limits)
        real = [self._every[number] for number in numbers if number < first_shadow]
        return real, [self._every[number] for number in numbers if number >= first_shadow]

    def _reading(self, numbers: tuple[int, ...]) -> Reading:
        reading = self._readings.get(numbers)
        if reading is None:
            reading = self._readings[numbers] = Reading(*self._some(numbers), self.policy_line)
        return reading


def _who_of(principal: Principal | None) -> bytes:
    return _NOBODY if principal is None else _who(principal)


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
